"""The judge of a training step: which of its runs counts, by the training guard, by vote, and by what was found.

The guard asks for proof of a step that stands out; a proof is a second run with the same bits (``votes``). A loss
or a norm that is not finite always wants one, at whatever level: an upset does not come twice, a broken recipe
does.
"""

import math
from collections.abc import Callable

from flightsw.gpu.integrity import training_guard, votes


class Judge:
    """Of one training; ``begin`` comes first in each step. ``exact``: runs of a step agree bit for bit."""

    def __init__(self, *, exact: bool) -> None:
        self.suspects = 0
        """Runs that the training guard wanted a proof of."""
        self._exact = exact
        self._guard = training_guard.State()
        self._config = training_guard.Config()
        self._votes = votes.State()
        self._causes: list[str] = []

    def begin(self) -> None:
        """A step begins."""
        self._votes, self._causes = votes.State(), []

    @property
    def runs(self) -> int:
        """Runs of this step that have ended."""
        return self._votes.runs

    @property
    def recomputed(self) -> bool:
        """Whether a run of this step came out otherwise than the one that is used."""
        return self._votes.recomputed

    @property
    def causes(self) -> str:
        """Why it was run again, for people."""
        return "; ".join(self._causes)

    def tainted(self, cause: str) -> votes.Decision:
        """A run is thrown away."""
        self._causes.append(cause)
        self._votes, decision = votes.vote(self._votes, None, wanted=True)
        return decision

    def ended(
        self,
        observed: training_guard.Observed,
        *,
        guards: bool,
        sampled: bool,
        fingerprint: Callable[[], bytes],
    ) -> votes.Decision:
        """A clean run has come to this; ``fingerprint`` of its gradients is taken only where they are compared."""
        guard, verdict = training_guard.step(self._guard, self._config, observed)
        suspect = not verdict.ok and (guards or not math.isfinite(observed.loss + observed.gradient_norm))
        wanted = suspect or (sampled and self._exact)
        asked = wanted or bool(self._votes.clean)
        self._votes, decision = votes.vote(
            self._votes, fingerprint() if asked else b"", wanted=wanted, exact=self._exact
        )
        if decision == "use":
            self._guard = guard
            if not verdict.ok:
                self._guard, _ = training_guard.step(guard, self._config, observed, proven=True)
        elif suspect:
            self.suspects += 1
            self._causes.append(verdict.reason)
        return decision
