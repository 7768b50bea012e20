"""The scrubber: block after block of resident state against its digest, at a share of the time that work takes.

Memory that nobody reads is hit as often as memory in use. The scrubber goes round through all blocks for ever; how
fast follows the orbit, by the ``share`` that its caller gives with every turn.

**Budget.** Work of w seconds at share s earns s·w seconds; what a turn *took*, by the clock, is paid from that. A
turn that took longer leaves a debt that later turns wait for, so the share holds in the long run whatever a block
costs, and no estimate can make it drift: the estimate only decides how many blocks to begin. At share 0 nothing is
earned and nothing is done. Earnings are kept up to ``CREDIT_MAX_S``, and a turn takes no more than ``TURN_MAX_S``
of them, or what it has just earned if that is more.

**The gate of answers.** An answer may leave if the weights were good all the time it was made. ``mark()`` at its
start; ``mark(since=start)`` after its last token; it may leave when ``begun_after(mark)``: every block has been
looked at after the mark, in whatever order the round stood, nothing is damaged, and from the start on nothing was
found to be hit, *not even what was repaired*: the answer was made with it. ``spoiled(mark)`` says that this can no
longer become true. ``finish_pass`` goes ahead of the budget for a gate that cannot wait; its time is owed.
"""

import math
import time
from collections.abc import Callable
from typing import Final

import msgspec
import torch

from flightsw.gpu.integrity.resident import Resident

CREDIT_MAX_S: Final = 1.0
TURN_MAX_S: Final = 0.02
"""Longest turn that is planned, unless work was so long that its own share is longer."""
BLOCKS_MAX: Final = 4096
"""Blocks looked at in one go: 1 GiB. Between two such goes a deadline is looked at."""
COST_SMOOTHING: Final = 0.2
"""Weight of the newest turn in the cost of a block."""


class Budget(msgspec.Struct, frozen=True):
    """What is left to spend, and what a block costs; both in seconds. A cost of 0 is unknown yet."""

    credit_s: float = 0.0
    block_s: float = 0.0


class Mark(msgspec.Struct, frozen=True):
    """A moment of the round. Opaque to its holder."""

    looked: int
    hits: int
    generation: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the round stands, for people."""

    block: int
    """Blocks looked at in this pass."""
    blocks: int
    passes: int
    """Complete passes."""
    last_pass_s: float
    """How long the last complete pass took, from its first block to its last; 0 before there was one."""
    busy_s: float
    """Time spent looking, in all."""
    gb_per_s: float
    """Speed of looking, 10⁹ bytes per second of ``busy_s``; 0 before the first block."""


def earn(budget: Budget, worked_s: float, share: float) -> tuple[Budget, int]:
    """The budget after ``worked_s`` (from 0) of work at ``share`` (0 to 1), and how many blocks to look at now.

    Raises ``ValueError`` when one of them is out of its range.
    """
    if not (math.isfinite(worked_s) and worked_s >= 0.0):
        raise ValueError(f"worked_s is {worked_s:g}; finite numbers from 0 are allowed")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share is {share:g}; 0 to 1 are allowed")
    earned_s = worked_s * share
    credit_s = min(budget.credit_s + earned_s, max(CREDIT_MAX_S, earned_s))
    budget = Budget(credit_s, budget.block_s)
    if earned_s <= 0.0 or credit_s <= 0.0:
        return budget, 0
    if budget.block_s <= 0.0:
        return budget, 1  # To learn what one costs.
    return budget, min(int(min(credit_s, max(TURN_MAX_S, earned_s)) / budget.block_s), BLOCKS_MAX)


def spend(budget: Budget, blocks: int, took_s: float) -> Budget:
    """The budget after ``blocks`` (at least one) took ``took_s``."""
    cost_s = took_s / blocks
    known = budget.block_s > 0.0
    block_s = budget.block_s + COST_SMOOTHING * (cost_s - budget.block_s) if known else cost_s
    return Budget(budget.credit_s - took_s, block_s)


class Scrubber:
    """Goes round through a resident's blocks. Not for several threads."""

    def __init__(self, resident: Resident, clock: Callable[[], float] = time.monotonic) -> None:
        self._resident = resident
        self._clock = clock
        self._budget = Budget()
        self._next = 0
        self._looked = 0
        self._generation = resident.generation
        self._pass_began_s = 0.0
        self._last_pass_s = 0.0
        self._busy_s = 0.0
        self._bytes = 0.0
        self.passes = 0
        """Complete passes, clean or not."""

    @property
    def progress(self) -> Progress:
        """Where the round stands."""
        return Progress(
            block=self._next,
            blocks=self._resident.blocks,
            passes=self.passes,
            last_pass_s=self._last_pass_s,
            busy_s=self._busy_s,
            gb_per_s=self._bytes / self._busy_s / 1e9 if self._busy_s > 0.0 else 0.0,
        )

    def turn(self, worked_s: float, share: float) -> bool:
        """Spend at most what ``worked_s`` of work at ``share`` (0 to 1, it may change with every turn) has earned.

        False when something looked at in this turn is not good. Raises ``ValueError`` for numbers out of range.
        """
        self._budget, blocks = earn(self._budget, worked_s, share)
        return self._look(min(blocks, self._resident.blocks))

    def mark(self, since: Mark | None = None) -> Mark:
        """Now; with ``since`` the end of something that began then."""
        start = since or Mark(self._looked, self._resident.hits, self._resident.generation)
        return Mark(self._looked, start.hits, start.generation)

    def begun_after(self, mark: Mark) -> bool:
        """Whether all blocks were looked at after ``mark``, are good, and no hit was found since its start."""
        return (
            not self.spoiled(mark)
            and self._looked - mark.looked >= self._resident.blocks
            and not self._resident.damaged
        )

    def spoiled(self, mark: Mark) -> bool:
        """Whether ``begun_after`` can never become true: something was hit, or the state was adopted anew."""
        return mark.hits != self._resident.hits or mark.generation != self._resident.generation

    def finish_pass(self, max_s: float, mark: Mark | None = None) -> bool:
        """Look on without regard to the budget, at most about ``max_s``, until all blocks have been looked at after
        ``mark`` (None: once round from here), or it is spoiled. True when it ended clean. What it takes is owed.
        """
        mark = mark or self.mark()
        until_s = self._clock() + max_s
        while not self.begun_after(mark) and not self.spoiled(mark) and self._clock() < until_s:
            missing = self._resident.blocks - (self._looked - mark.looked)
            left_s = until_s - self._clock()
            fits = max(int(left_s / self._budget.block_s), 1) if self._budget.block_s > 0.0 else 1
            if missing <= 0 or not self._look(min(missing, fits, BLOCKS_MAX)):
                break
        return self.begun_after(mark)

    def _look(self, blocks: int) -> bool:
        """Look at the next blocks, round the end; True when they are good."""
        good = True
        if self._generation != self._resident.generation:
            self._generation = self._resident.generation
            self._next = min(self._next, max(self._resident.blocks - 1, 0))
        while blocks > 0:
            count = min(blocks, self._resident.blocks - self._next)
            began_s = self._now()
            if self._next == 0:
                self._pass_began_s = began_s
            good &= self._resident.verify(self._next, count)
            ended_s = self._now()
            self._budget = spend(self._budget, count, ended_s - began_s)
            self._busy_s += ended_s - began_s
            self._bytes += self._resident.size_bytes * count / self._resident.blocks
            self._looked += count
            self._next += count
            blocks -= count
            if self._next == self._resident.blocks:
                self._next = 0
                self.passes += 1
                self._last_pass_s = ended_s - self._pass_began_s
        return good

    def _now(self) -> float:
        """The clock, with nothing of the work before still running on a GPU: that is not the scrubber's time."""
        for device in self._resident.devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return self._clock()
