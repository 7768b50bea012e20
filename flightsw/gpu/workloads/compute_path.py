"""The guard of a trainer's compute path: ``integrity.protect`` without the memory, which training guards itself.

On a card the trainer computes in bfloat16, and a product that is checked before it is rounded is a float32
product. That form is the job's own, at every level and in its undisturbed twin, so that a level changes no bit.
"""

from contextlib import AbstractContextManager

from torch import nn

from flightsw.gpu.integrity.coverage import Coverage
from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.protect import protect
from flightsw.link.integrity import Level


class ComputePath:
    """A ``guarded.Passes``."""

    def __init__(self, model: nn.Module, level: Level, report: Report, *, compiled: bool) -> None:
        device = next(model.parameters()).device
        self._guard = protect(
            model, level=level, report=report, wide=device.type == "cuda" and not compiled, compute=not compiled
        )

    @property
    def level(self) -> Level:
        """Of the passes that come."""
        return self._guard.level

    @level.setter
    def level(self, level: Level) -> None:
        self._guard.level = level

    @property
    def checks(self) -> int:
        """Operations checked so far."""
        return self._guard.tally.checks

    def running(self, *, everything: bool = False) -> AbstractContextManager[None]:
        """One pass, all of whose checks are made with ``everything``."""
        return self._guard.running(everything=everything)

    def settle(self) -> bool:
        """Whether the passes since the last call may be used."""
        return self._guard.settle()

    def renew(self) -> None:
        """Weights have changed, rightly: their sums are void, and taken anew while they are known to be good."""
        self._guard.mode.renew(now=self._guard.compute and self._guard.vigilance.checksum_every == 1)

    def coverage(self) -> Coverage:
        """What is checked, operation by operation, and what is not."""
        return self._guard.coverage()
