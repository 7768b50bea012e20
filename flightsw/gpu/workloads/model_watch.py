"""The watch over one served model: its passes, the rows of its cache, its weights.

**Passes.** A pass runs under the guard of ``protect``, which judges it when it ends. A pass that did not settle is
taken back and run again, with every check; so is one whose logits are not finite. When that fails, too, its answers
are damaged, and all weights are looked at once, because arithmetic that goes wrong twice hints at memory.

**Decoding twice.** Every ``replay_every``-th decode step is done again as a whole (the same tokens into the same slots)
and compared bit by bit, logits and tokens. It sees any arithmetic that came out differently, in operations that no
check sums know, and inputs that were hurt on their way to the device. It does not see what both runs read: weights
and older slots of the cache, which are the scrubber's and the rows' digests'; nor a fault that both runs repeat, of a
broken unit. Of three runs two that agree win.

**Weights.** Digests are taken when the model has been loaded, at any level, so that a rise from off need not believe
what lies in memory then. From there the scrubber goes round. ``trouble`` says that damage was found since it was asked
last, repaired or not; ``broken`` that some of it is there still.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

import torch

from flightsw.gpu.integrity.finding import Finding, Outcome, Report
from flightsw.gpu.integrity.kv import Rows
from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.integrity.scrub import Mark
from flightsw.gpu.integrity.tally import Tally
from flightsw.gpu.workloads.generation import Drawn, Engine
from flightsw.link.integrity import Level

RUNS_MAX: Final = 3
"""Runs of one pass, the first included."""


class WatchedEngine(Engine, Protocol):
    """An engine whose parts can be watched."""

    module: torch.nn.Module

    def watch_rows(self, report: Report) -> Rows:
        """Digests of its cache, which it tells from now on what is written."""


class ModelWatch:
    """``generation.Watch`` and ``answers.Marks`` over an engine whose weights have just been loaded.

    ``wide`` is that of ``protect``: how half-precision products are computed, which is fixed for the job.
    """

    def __init__(self, engine: WatchedEngine, level: Level, tally: Tally, wide: bool | None = None) -> None:
        self._tally = tally
        self._rows = engine.watch_rows(tally.add)
        self._guard = protect(engine.module, level=level, report=tally.add, wide=wide)
        self._resident = self._guard.resident
        self._scrubber = self._guard.scrubber
        began_s = time.monotonic()
        self._resident.verify()
        self.pass_s = time.monotonic() - began_s
        """What a whole pass over the weights takes."""
        self._hits = self._resident.hits
        self._checks = 0
        self._steps = 0
        self.level = level

    @property
    def level(self) -> Level:
        """How hard it looks."""
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level = self._guard.level = level
        self._rows.watching = self.watching

    @property
    def watching(self) -> bool:
        """Whether there is anything to look at."""
        return self._level is not Level.OFF

    @property
    def scrubs(self) -> int:
        """Complete passes over the weights."""
        return self._scrubber.passes

    @property
    def broken(self) -> str:
        """Which weights are damaged and cannot be repaired; empty when none are known to be."""
        return ", ".join(sorted(self._resident.damaged)) if self.watching else ""

    def passed(
        self, run: Callable[[], Drawn], undo: Callable[[], None], *, decode: bool
    ) -> tuple[Drawn, str]:
        """Run a pass until it settles, and twice when it is its turn to be replayed."""
        if not self.watching:
            with self._guard.running():
                return run(), ""
        self._steps += decode
        every = LEVELS[self._level].replay_every
        wanted = 2 if decode and every and self._steps % every == 0 else 1
        sound: list[Drawn] = []
        for number in range(RUNS_MAX):
            if number:
                undo()
            with self._guard.running(everything=number > len(sound)):
                drawn = run()
            settled = self._guard.settle()
            self._count(compared=len(sound))
            if not (settled and all(drawn.finite)):
                continue
            if 1 + sum(_same(other, drawn) for other in sound) >= wanted:
                if number >= wanted:
                    self._found("recomputed", f"run {number + 1} was used")
                return drawn, ""
            sound.append(drawn)
        self._found("contained", f"of {RUNS_MAX} runs no {wanted} were sound and equal")
        self.look_at_all()
        # Rows whose logits are not finite say so themselves; the others of such a pass are sound.
        return drawn, "" if settled else "a pass failed its checks each time it was run"

    def row(self, row: int, length: int) -> str:
        """What is wrong with a row of the cache."""
        self._tally.checked()
        return "" if self._rows.verify(row, length) else "its row of the key-value cache was damaged"

    def scrub(self, worked_s: float) -> None:
        """Paced scrubbing after ``worked_s`` of other work."""
        share = LEVELS[self._level].scrub_share
        if share:
            self._scrubber.turn(worked_s, share)

    def hurry(self, max_s: float, mark: Mark) -> None:
        """Scrub for at most about ``max_s``, until ``clean_since(mark)``; what it takes is owed by paced scrubbing."""
        self._scrubber.finish_pass(max_s, mark)

    def look_at_all(self) -> None:
        """Verify all weights now."""
        self._resident.verify()

    def trouble(self) -> str:
        """What was found in the weights since this was asked last; empty when nothing was."""
        if self._resident.hits == self._hits:
            return ""
        self._hits = self._resident.hits
        return "weights that it was computed from were damaged"

    def mark(self) -> Mark:
        """This moment, for ``clean_since``."""
        return self._scrubber.mark()

    def clean_since(self, mark: Mark) -> bool:
        """Whether all weights were looked at after ``mark`` and found good."""
        return self._scrubber.begun_after(mark)

    def _count(self, compared: int) -> None:
        checks = self._guard.tally.checks
        self._tally.checked(checks - self._checks + compared)
        self._checks = checks

    def _found(self, outcome: Outcome, detail: str) -> None:
        self._tally.add(Finding(detector="replay", outcome=outcome, where="pass of served model", detail=detail))


def _same(one: Drawn, other: Drawn) -> bool:
    """Equal bit by bit; NaN equals the same NaN."""
    return one.tokens == other.tokens and torch.equal(
        one.logits.view(torch.int32), other.logits.view(torch.int32)
    )
