"""Range guards: how large a layer's results were in clean passes, and an alarm when they are much larger.

The cheapest look at a pass, for levels at which most passes are not looked at operation by operation: one reduction
over each leaf module's result. It sees what is far out of bounds (an exponent's high bits, infinity, NaN), which is
most of what changes an answer, and nothing of what stays within. (The idea is that of Ranger, DSN 2021.)

*Calibration.* The bound of a layer is ``FACTOR`` times the largest magnitude of the passes that the owner ran under
``calibrate``. Bounds are statistical: a legitimate input can cross one. So an alarm taints its pass, and its owner
runs it again with every operation checked; if such a pass is clean in all else, the bound was too narrow, and is
widened to what it has seen. A result that is not finite is never learnt.
"""

import math
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

FACTOR: Final = 2.0
"""Bound over the largest clean magnitude. The reference (7.1) saw no false alarm at 1.25 in 120 batches."""


class Ranges:
    """Largest magnitudes by layer. Results wait on their device until ``verdicts`` reads them, all at once."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}
        """Largest clean magnitude of each layer's results."""
        self._waiting: list[tuple[str, torch.Tensor]] = []

    def note(self, name: str, result: Any) -> None:
        """A layer has given a result; only floating-point tensors have a magnitude."""
        if isinstance(result, torch.Tensor) and result.is_floating_point() and result.numel():
            with _disable_current_modes(), torch.no_grad():
                low, high = torch.aminmax(result.detach())
                # Not a number wins in both, and so does what is not finite.
                self._waiting.append((name, torch.maximum(low.abs(), high.abs()).to(torch.float64)))

    def learn(self) -> None:
        """What was noted is clean: bounds follow it."""
        for name, magnitude in self._read():
            if math.isfinite(magnitude):
                self.largest[name] = max(self.largest.get(name, 0.0), magnitude)

    def verdicts(self) -> list[tuple[str, float]]:
        """Layers whose results were out of bounds or not finite, with the magnitude; forgets what was noted."""
        return [
            (name, magnitude)
            for name, magnitude in self._read()
            if not magnitude <= FACTOR * self.largest.get(name, math.inf) or not math.isfinite(magnitude)
        ]

    def forget(self) -> None:
        """What was noted is of no interest."""
        self._waiting.clear()

    def _read(self) -> Iterator[tuple[str, float]]:
        waiting, self._waiting = self._waiting, []
        if waiting:
            magnitudes = torch.stack([magnitude for _, magnitude in waiting]).tolist()
            yield from zip((name for name, _ in waiting), magnitudes, strict=True)


def leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules without children, by name; the module itself when it is one."""
    for name, part in module.named_modules():
        if next(part.children(), None) is None:
            yield name or "the module", part
