"""The watch over one served model: its passes, the rows of its cache, its weights.

**Passes.** A pass that the level samples (``checksum_every``) is either *looked at*, operation by operation, under
the guard of ``protect``, or *replayed*: taken back, done again as a whole, the same tokens into the same slots,
and compared bit by bit: logits, tokens, and what was written to the cache. Of three runs two that agree win. A
pass that did not settle, or whose logits are not finite, is taken back and run again with every check. Decode
steps are replayed every ``replay_every`` in any case. Of the two ways the cheaper one is taken (``pass_runs``).

A replay sees all arithmetic that comes out differently, of any operation, and inputs that were hurt on their way to
the device. It does not see what both runs read, weights and older slots of the cache: they are the scrubber's and
the row digests'. Nor does it see a broken unit that errs the same way twice; sums of operands do, at the next
trial.

**Weights.** Digests are taken when the model has been loaded, at any level, so that a rise from off need not
believe what lies in memory then. From there the scrubber goes round. ``trouble`` says that damage was found since
it was asked last, repaired or not; ``broken`` that some of it is there still. When a pass fails each time it is
run, all weights are looked at at once: arithmetic that goes wrong again and again hints at memory.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity.finding import Finding, Outcome, Report
from flightsw.gpu.integrity.kv import Rows
from flightsw.gpu.integrity.levels import LEVELS, due
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.integrity.scrub import Mark
from flightsw.gpu.integrity.tally import Tally
from flightsw.gpu.workloads import draws
from flightsw.gpu.workloads.generation import Drawn, Engine
from flightsw.gpu.workloads.pass_runs import Run, Way, agreed
from flightsw.link.integrity import Level

RUNS_MAX: Final = 3
"""Runs of one pass, the first included."""


class WatchedEngine(Engine, Protocol):
    """An engine whose parts can be watched."""

    module: torch.nn.Module
    row_memory: tuple[Tensor, ...]
    """Where the cache's rows are, when that is always the same memory. What is stored there is not stored twice to
    compare: digests of its rows are taken of what is written, and read back before an answer is released."""

    def watch_rows(self, report: Report) -> Rows:
        """Digests of its cache, which it tells from now on what is written."""


class ModelWatch:
    """``generation.Watch`` and ``answers.Marks`` over an engine whose weights have just been loaded.

    ``wide`` is that of ``protect``: how half-precision products are computed, which is fixed for the job.
    """

    def __init__(self, engine: WatchedEngine, level: Level, tally: Tally, wide: bool | None = None) -> None:
        self._tally = tally
        self._rows = engine.watch_rows(self._report)
        self._guard = protect(engine.module, level=level, report=self._report, wide=wide)
        self._guard.mode.leave(engine.row_memory)
        if self._rows.log is not None:
            self._guard.mode.hand_over(self._rows.log)
        self._resident = self._guard.resident
        self._scrubber = self._guard.scrubber
        began_s = time.monotonic()
        self._resident.verify()
        self.pass_s = time.monotonic() - began_s
        """What a whole pass over the weights takes."""
        self._hits = self._resident.hits
        self._checks = 0
        self._filling = Way(decode=False)
        self._decoding = Way(decode=True)
        self.level = level

    @property
    def level(self) -> Level:
        """How hard it looks."""
        return self._level

    @level.setter
    def level(self, level: Level) -> None:
        self._level = self._guard.level = level
        self._rows.watching = self.watching
        if self.watching:
            # What torch loads with the first pass that is looked at takes seconds: not within a micro-batch.
            with self._guard.running(everything=True):
                torch.zeros(1).add_(1)
            self._guard.settle()

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
        """Which weights are damaged and cannot be repaired; empty when none are known to be, at any level."""
        return ", ".join(sorted(self._resident.damaged))

    def passed(
        self, run: Callable[[], Drawn], undo: Callable[[], None], *, decode: bool, tokens: int
    ) -> tuple[Drawn, str]:
        """Run a pass until it is sound, and twice when it is its turn to be replayed."""
        if not self.watching:
            return self._run(run, looks=False).drawn, ""
        first, wanted = self._first(run, self._decoding if decode else self._filling, tokens)
        runs = [first]
        while not (usable := agreed(runs, wanted)) and len(runs) < RUNS_MAX:
            undo()
            # A replay that is due is as plain as the first run; a doubt is looked into with everything there is.
            replay = wanted > 1 and all(one.sound for one in runs)
            runs.append(self._run(run, looks=not replay))
        last = runs[-1]
        if usable:
            if len(runs) > wanted:
                self._found("recomputed", f"run {len(runs)} was used")
            return last.drawn, ""
        self._found("contained", f"of {RUNS_MAX} runs no {wanted} were sound and equal")
        self.look_at_all()
        # Rows whose logits are not finite say so themselves; the others of such a pass are sound.
        finite = all(last.drawn.finite)
        return last.drawn, "a pass failed its checks each time it was run" if finite else ""

    def chosen(self, choose: Callable[[], draws.Choice]) -> draws.Choice | None:
        """Made twice, and once more when these differ."""
        if not self.watching:
            return choose()
        choice, runs = draws.agreed(choose)
        self._tally.checked()
        if choice is None:
            self._found("contained", "no two draws from the same logits agree")
        elif runs > 2:
            self._found("recomputed", "one of two draws from the same logits was wrong")
        return choice

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
        """Scrub for at most about ``max_s``, until ``clean_since(mark)``; paced scrubbing rests as long."""
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

    def _first(self, run: Callable[[], Drawn], way: Way, tokens: int) -> tuple[Run, int]:
        """The first run of a pass of ``tokens`` tokens, and how many runs must agree."""
        at_hand = LEVELS[self._level]
        count = way.passes
        way.passes += 1
        replayed = way.decode and due(count, at_hand.replay_every)
        if not (replayed or due(count, at_hand.checksum_every)):
            done = self._run(run, looks=False)
            way.plain_s = min(way.plain_s, done.seconds / tokens)
            return done, 1
        if way.looks(replayed=replayed):
            self._guard.passes = count
            done = self._run(run, looks=True if way.decode else None)
            way.looked_s = min(way.looked_s, done.seconds / tokens)
            return done, 1
        done = self._run(run, looks=False)
        way.plain_s = min(way.plain_s, done.seconds / tokens)
        return done, 2

    def _run(self, run: Callable[[], Drawn], looks: bool | None) -> Run:
        """One run: looked at in everything, in nothing, or (None) as the level has it."""
        with self._at(Level.OFF if looks is False else self._level):
            began_s = time.monotonic()
            with self._guard.running(everything=bool(looks)):
                drawn = run()
            settled = self._guard.settle()
            seconds = time.monotonic() - began_s
        checks = self._guard.tally.checks
        self._tally.checked(checks - self._checks)
        self._checks = checks
        return Run(drawn, self._rows.written, settled and all(drawn.finite), seconds)

    @contextmanager
    def _at(self, level: Level) -> Iterator[None]:
        self._guard.level = level
        try:
            yield
        finally:
            self._guard.level = self._level

    def _report(self, finding: Finding) -> None:
        """Nothing stays open here: what cannot be repaired is loaded again, what was computed is thrown away."""
        contained = finding.outcome == "open"
        self._tally.add(msgspec.structs.replace(finding, outcome="contained") if contained else finding)

    def _found(self, outcome: Outcome, detail: str) -> None:
        self._tally.add(Finding(detector="replay", outcome=outcome, where="pass of served model", detail=detail))
