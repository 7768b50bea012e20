"""The restart ladder: each rung is tried a few times, then the next one, and the last one inside is SAFE.

    task (a worker, ``job``)      restarted with back-off, 3 times in 10 minutes
    → quarantine                  tried again slowly, for ever
    → daemon                      restarted in an orderly way when nothing works any more, here
    → SAFE (``restart_ladder``)   instead of a third restart of the daemon
    → outside                     service manager, ``/dev/watchdog`` or ``flightd --guard`` end a stuck daemon

The daemon is worth a restart in two cases only, told by the pure function ``trouble``: a mandatory adapter has been
failed for ``adapter_failed_s``, or *every* wanted job is in quarantine and has failed ``quarantine_retries`` slow
tries. One bad job beside a working one never restarts the daemon. Fault responses may ask for a restart too
(``request``); they get the same rung and the same count.

The count of restarts is a durable fact, so that it survives what it counts. It goes back to 0 after
``good_day_s`` without trouble, over restarts; the ground clears or raises it with ``ladder.set``. All timers are
machine time.
"""

from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from .events import Event
from .inputs import AdapterStatus
from .job import Job
from .lifecycle import Life

RESTARTS_COUNTED_MAX: Final = 100
"""Bound of the counter, also for ``ladder.set``."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the daemon restarts itself, and when it stops doing so; on the machine clock."""

    adapter_failed_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 120.0
    """A mandatory adapter that has been failed for this long is worth a restart of the daemon."""
    quarantine_retries: Annotated[int, Meta(ge=1, le=100)] = 3
    """Slow tries that every wanted job must have failed before the daemon restarts."""
    restarts_max: Annotated[int, Meta(ge=0, le=100)] = 2
    """Restarts of the daemon by the ladder; the next one is SAFE instead."""
    good_day_s: Annotated[float, Meta(ge=60.0, le=31_536_000.0)] = 86_400.0
    """Time without trouble after which the count of restarts is 0 again; restarts do not interrupt it."""


class State(Struct, frozen=True, kw_only=True):
    """``restarts`` of the daemon and ``quiet_s`` without trouble are durable.

    ``failed_s`` is for how long a mandatory adapter has been failed; ``requested`` is the reason of a restart that
    was asked for; ``exhausted`` says that a restart is due and none is left, which is a cause of SAFE.
    """

    restarts: int = 0
    quiet_s: float = 0.0
    failed_s: float = 0.0
    requested: str = ""
    exhausted: bool = False


def request(state: State, reason: str) -> State:
    """Ask for a restart of the daemon; it is decided on in the next frame. The first reason stands."""
    return replace(state, requested=state.requested or reason)


def trouble(config: Config, failed_s: float, failed: str, jobs: Iterable[Job]) -> str:
    """Why the daemon is worth a restart, or "". ``failed`` names the mandatory adapter that is failed."""
    if failed and failed_s >= config.adapter_failed_s:
        return f"adapter {failed} has been failed for {failed_s:.0f} s"
    wanted = [job for job in jobs if job.wanted]
    if wanted and all(j.life is Life.QUARANTINED and j.quarantines > config.quarantine_retries for j in wanted):
        return f"every wanted job has failed {config.quarantine_retries} tries in quarantine"
    return ""


def step(
    state: State,
    config: Config,
    adapters: tuple[AdapterStatus, ...],
    jobs: tuple[Job, ...],
    elapsed_s: float,
) -> tuple[State, str, tuple[Event, ...]]:
    """The ladder after ``elapsed_s``; the second value is the reason of a restart to order now, or ""."""
    failed = next((a.name for a in adapters if a.failed and a.mandatory), "")
    failed_s = state.failed_s + elapsed_s if failed else 0.0
    reason = state.requested or trouble(config, failed_s, failed, jobs)
    if not reason:
        quiet_s = state.quiet_s + elapsed_s
        if not state.restarts or quiet_s < config.good_day_s:
            quiet = State(restarts=state.restarts, quiet_s=quiet_s if state.restarts else 0.0, failed_s=failed_s)
            return quiet, "", ()
        cleared = Event("LADDER_CLEARED", {"restarts": state.restarts, "quiet_h": quiet_s / 3600.0})
        return State(failed_s=failed_s), "", (cleared,)
    if state.restarts >= config.restarts_max:
        held = State(restarts=state.restarts, failed_s=failed_s, exhausted=True)
        if state.exhausted:
            return held, "", ()
        return held, "", (Event("LADDER_EXHAUSTED", {"restarts": state.restarts, "reason": reason}),)
    restarts = state.restarts + 1
    ordered = Event("LADDER_RESTART", {"number": restarts, "of": config.restarts_max, "reason": reason})
    return State(restarts=restarts), reason, (ordered,)
