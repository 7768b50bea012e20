"""Bounds of the results of one module's layers: learnt while its owner vouches for the passes, held from then on.

What a bound is and what it sees is in ``ranges``; here is whose results are noted in which passes, and what becomes
of one that is out of bounds. If all else in the passes was looked at and is clean, the bound was too narrow and is
widened; else the passes are tainted, and the owner runs them again. A result that is not finite always taints.
"""

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.pass_looks import PassLooks
from flightsw.gpu.integrity.ranges import FACTOR, Ranges, leaves
from flightsw.link.integrity import Level


class Calibration:
    """Of ``module``, whose passes are ``looks``. Nothing is noted, and no hook is set, before ``learning``."""

    def __init__(self, module: nn.Module, looks: PassLooks, report: Report) -> None:
        self._module = module
        self._looks = looks
        self._report = report
        self._ranges = Ranges()
        self._learning = False
        self._handles: list[Any] = []

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Passes within are known to be clean."""
        if not self._handles:
            self._handles = [
                part.register_forward_hook(functools.partial(self._note, name))
                for name, part in leaves(self._module)
            ]
        self._learning = True
        try:
            yield
            self._ranges.learn()
        finally:
            self._learning = False
            self._ranges.forget()

    def within(self, *, vouched: bool) -> bool:
        """Whether no layer was out of bounds since the last call, while nothing is learnt. ``vouched``: everything
        else in these passes was looked at, and is clean."""
        if self._learning:
            return True
        out = self._ranges.verdicts()
        for name, magnitude in out:
            finite = math.isfinite(magnitude)
            if vouched and finite:
                self._ranges.largest[name] = max(self._ranges.largest[name], magnitude)
                continue
            bound = f", its bound {FACTOR * self._ranges.largest.get(name, math.inf):g}"
            self._report(
                Finding(
                    detector="range" if finite else "finite",
                    outcome="contained",
                    where=name,
                    detail=f"largest magnitude {magnitude:g}{bound if finite else ''}",
                )
            )
        return not any(not (vouched and math.isfinite(magnitude)) for _, magnitude in out)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _note(self, name: str, part: nn.Module, args: Any, result: Any) -> None:
        if self._looks.inside and (self._learning or self._looks.level is not Level.OFF):
            self._ranges.note(name, result)
