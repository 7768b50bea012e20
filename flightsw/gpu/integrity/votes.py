"""When a training step is run again, and which of its runs counts.

A step may be run as often as is wanted before its update: weights are untouched until then, and a deterministic
job arrives at the same gradients bit for bit. A run ends *clean*, with the fingerprint of what it computed, or
*tainted*: something was found on the way, and whatever came of it is thrown away.

    clean, nobody asked for proof, none ran before      its gradients are used
    clean, proof is asked for (suspect, sampled)        again
    clean, as an earlier clean one                      proven: used
    clean, unlike all earlier ones                      again, until two of ``CLEAN_MAX`` agree
    tainted                                             again, at most ``RUNS_MAX`` runs in all

A job that is not deterministic has no fingerprint to compare: proof is then one more clean run, which is used.
"""

from typing import Final, Literal

import msgspec

CLEAN_MAX: Final = 3
"""Clean runs of a step of which no two agree; then it is lost."""
RUNS_MAX: Final = 6
"""Runs of a step in all."""
Decision = Literal["use", "again", "lost"]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Runs of one step so far."""

    clean: tuple[bytes, ...] = ()
    runs: int = 0
    proven: bool = False
    """The run that is used equals an earlier one."""

    @property
    def recomputed(self) -> bool:
        """Some run came out otherwise, or tainted."""
        return self.runs - len(self.clean) > 0 or len(set(self.clean)) > 1


def vote(state: State, fingerprint: bytes | None, *, wanted: bool, exact: bool = True) -> tuple[State, Decision]:
    """What becomes of a run. ``fingerprint`` is None when it is tainted; ``wanted``: its gradients need a proof;
    ``exact``: runs of this job agree bit for bit."""
    runs = state.runs + 1
    if fingerprint is None:
        state = msgspec.structs.replace(state, runs=runs)
        return state, "again" if runs < RUNS_MAX else "lost"
    proven = fingerprint in state.clean or (not exact and bool(state.clean))
    state = State(clean=(*state.clean, fingerprint), runs=runs, proven=proven)
    if proven or not (wanted or len(state.clean) > 1):
        return state, "use"
    return state, "again" if len(state.clean) < CLEAN_MAX and runs < RUNS_MAX else "lost"
