"""The guard of a trainer's compute path: ``integrity.protect`` without the memory, which training guards itself.

On a card the trainer computes in bfloat16, and a product that is checked before it is rounded is a float32
product. That form is the job's own, at every level and in its undisturbed twin, so that a level changes no bit.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import nn

from flightsw.gpu.integrity.coverage import Coverage
from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.protect import protect
from flightsw.link.integrity import Level


class Passes(Protocol):
    """A guard of the compute path, as ``guarded`` needs one."""

    level: Level

    @property
    def checks(self) -> int:
        """Operations checked so far."""

    @property
    def keeps_gradients(self) -> bool:
        """Whether the next pass, if it is looked at as the last one was, sees what happened to each gradient."""

    def running(self, *, everything: bool = False, adds: bool = False) -> AbstractContextManager[None]:
        """One pass, all of whose checks are made with ``everything``; with ``adds`` the next one looks at what this
        one leaves in the gradients, or ``look_at_gradients`` does."""

    def look_at_gradients(self) -> None:
        """There is no next pass."""

    def settle(self) -> bool:
        """Whether the passes since the last call may be used."""

    def renew(self) -> None:
        """Weights have changed, rightly."""


class ComputePath:
    """``Passes`` by ``protect``."""

    def __init__(self, model: nn.Module, level: Level, report: Report, *, compiled: bool) -> None:
        self._level = level
        device = next(model.parameters()).device
        self._gradients = sum(parameter.requires_grad for parameter in model.parameters())
        # A compiled model is left as it is: its operations are not seen, and a hook would only cut its graph.
        self._guard = None if compiled else protect(model, level=level, report=report, wide=device.type == "cuda")

    @property
    def level(self) -> Level:
        """Of the passes that come."""
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level = level
        if self._guard is not None:
            self._guard.level = level

    @property
    def checks(self) -> int:
        """Operations checked so far."""
        return self._guard.tally.checks if self._guard is not None else 0

    @property
    def keeps_gradients(self) -> bool:
        """Whether the next pass, if it is looked at as the last one was, sees what happened to each gradient."""
        return self._guard is not None and self._guard.mode.sums_kept >= self._gradients

    def running(self, *, everything: bool = False, adds: bool = False) -> AbstractContextManager[None]:
        """One pass, all of whose checks are made with ``everything``; with ``adds`` the next one looks at what this
        one leaves in the gradients, or ``look_at_gradients`` does."""
        if self._guard is None:
            return nullcontext()
        return self._guard.running(everything=everything, adds=adds)

    def look_at_gradients(self) -> None:
        """There is no next pass."""
        if self._guard is not None:
            self._guard.mode.look_at_sums()

    def settle(self) -> bool:
        """Whether the passes since the last call may be used."""
        return self._guard is None or self._guard.settle()

    def renew(self) -> None:
        """Weights have changed, rightly: their sums are void, and taken anew while they are known to be good."""
        if self._guard is not None:
            self._guard.mode.renew(now=self._guard.vigilance.checksum_every == 1)

    def coverage(self) -> Coverage | None:
        """What is checked, operation by operation, and what is not; None for a compiled model: nothing is seen."""
        return self._guard.coverage() if self._guard is not None else None
