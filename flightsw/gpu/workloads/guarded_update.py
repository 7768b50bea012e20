"""The optimiser's update, so that it neither errs unseen nor seals damage in.

It starts from weights and moments that have just been verified against their digests (``Resident.verify``), and
ends with new digests taken chunk by chunk of what was just written, while it still lies in the cache. On some
updates (how many is the level's) the arithmetic itself is checked: it is *rehearsed* first on a copy of each
chunk, of which only the digests of the results and the size of the update are kept. The update must then arrive
at the same digests. One that does not is done again from the old values of its chunk, and two of three that agree
are right.

So a rehearsed update sees an error of its arithmetic, damage of the state since it was verified, and damage of
the gradients since they were rehearsed. One that was not rehearsed sees none of these, and damage within the time
of the update itself is sealed in: on a card some milliseconds of a step.

Bits: rehearsed or not, digested or not, the update is the same calls of the same kernel on the same chunks.
"""

import math
from typing import Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import BLOCK_BYTES, digest
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.optimiser import AdamW, Chunk, Part

ATTEMPTS_MAX: Final = 3
"""Tries of one chunk; the rehearsal counts as the first."""


class Rehearsal(msgspec.Struct, frozen=True):
    """``sums`` int64 (3, blocks, 3): digests of weights, mean and square of the gradients as they will be.

    ``update`` is ‖Δw‖ / ‖w‖.
    """

    sums: Tensor
    update: float


class Unsettled(Exception):
    """No two tries of an update agree; weights and moments are not to be used."""


class GuardedUpdate:
    """Updates of ``optimiser`` whose state ``resident`` guards, region by region of ``AdamW.flat``."""

    def __init__(self, optimiser: AdamW, resident: Resident, report: Report) -> None:
        self._optimiser = optimiser
        self._resident = resident
        self._report = report
        rows = (optimiser.weights, optimiser.averages, optimiser.squares)
        indices = [resident.index_of(row) for row in rows]
        self._regions = [index for index in indices if index is not None]
        counts = resident.index_of(optimiser.counts)
        assert len(self._regions) == len(rows) and counts is not None, "the optimiser's state is guarded"
        self._counts = counts
        self._memory = [row.view(torch.uint8) for row in rows]
        words = max(_words(chunk) for chunk in optimiser.chunks)
        # Allocated once, so that an update never fails for want of memory.
        self._scratch = torch.empty((3, words), dtype=torch.float32, device=optimiser.weights.device)
        self._old = torch.empty_like(self._scratch)

    @torch.no_grad()
    def rehearse(self, learning_rate: float, scale: Tensor) -> Rehearsal:
        """What ``apply`` will arrive at; changes nothing. ``scale`` (0-d) multiplies the gradients."""
        self._optimiser.gather()
        count = self._optimiser.next_count()
        blocks = self._optimiser.chunks[-1].last
        sums = torch.empty((3, blocks, 3), dtype=torch.int64, device=self._scratch.device)
        moved, size = 0.0, 0.0
        for chunk in self._optimiser.chunks:
            self._copy(chunk, self._scratch)
            for part, copy in self._copies(chunk, self._scratch):
                self._optimiser.update(copy, part, count, learning_rate, scale)
            words = _words(chunk)
            for row, found in zip(self._scratch, sums, strict=True):
                found[chunk.first : chunk.last] = digest(row[:words].view(torch.uint8))
            for part, copy in self._copies(chunk, self._scratch):
                moved += float(torch.linalg.vector_norm(copy.weights - part.weights).item()) ** 2
                size += float(torch.linalg.vector_norm(part.weights).item()) ** 2
        return Rehearsal(sums, math.sqrt(moved / size) if size else math.inf)

    @torch.no_grad()
    def apply(self, learning_rate: float, scale: Tensor, rehearsal: Rehearsal | None = None) -> None:
        """Change weights and moments, and their digests with them. Raises ``Unsettled``."""
        self._optimiser.gather()
        count = self._optimiser.next_count()
        for chunk in self._optimiser.chunks:
            if rehearsal is None:
                self._change(chunk, count, learning_rate, scale)
                found = self._sums(chunk)
            else:
                expected = rehearsal.sums[:, chunk.first : chunk.last]
                found = self._settled(chunk, count, learning_rate, scale, expected)
            for index, sums in zip(self._regions, found, strict=True):
                self._resident.digests(index)[chunk.first : chunk.last] = sums
        self._optimiser.counts.add_(1.0)
        self._resident.adopt_emitted(self._regions)
        self._resident.adopt_update([self._counts])

    def _settled(
        self, chunk: Chunk, count: Tensor, learning_rate: float, scale: Tensor, expected: Tensor
    ) -> Tensor:
        """Update a chunk until two results agree, the rehearsal's among them."""
        self._copy(chunk, self._old)
        seen = [expected]
        while len(seen) < ATTEMPTS_MAX:
            self._change(chunk, count, learning_rate, scale)
            found = self._sums(chunk)
            if any(torch.equal(found, earlier) for earlier in seen):
                if len(seen) > 1:
                    self._report(
                        Finding(detector="repeat", outcome="recomputed", where=f"update of blocks from {chunk.first}")
                    )
                return found
            seen.append(found)
            for part, copy in self._copies(chunk, self._old):
                part.weights.copy_(copy.weights)
                part.averages.copy_(copy.averages)
                part.squares.copy_(copy.squares)
        raise Unsettled(f"no two of {ATTEMPTS_MAX} updates of blocks from {chunk.first} agree")

    def _change(self, chunk: Chunk, count: Tensor, learning_rate: float, scale: Tensor) -> None:
        for part in chunk.parts:
            self._optimiser.update(part, part, count, learning_rate, scale)

    def _sums(self, chunk: Chunk) -> Tensor:
        """Digests (3, blocks, 3) of a chunk's live memory."""
        pieces = slice(chunk.first * BLOCK_BYTES, chunk.last * BLOCK_BYTES)
        return torch.stack([digest(memory[pieces]) for memory in self._memory])

    def _copy(self, chunk: Chunk, target: Tensor) -> None:
        for part, copy in self._copies(chunk, target):
            copy.weights.copy_(part.weights)
            copy.averages.copy_(part.averages)
            copy.squares.copy_(part.squares)

    @staticmethod
    def _copies(chunk: Chunk, memory: Tensor) -> list[tuple[Part, Part]]:
        """Parts of a chunk, each with one of the same words in ``memory`` float32 (3, words)."""
        pairs, start = [], 0
        for part in chunk.parts:
            stop = start + len(part.weights)
            weights, averages, squares = (row[start:stop] for row in memory)
            copy = Part(
                weights=weights, gradients=part.gradients, averages=averages, squares=squares, decay=part.decay
            )
            pairs.append((part, copy))
            start = stop
        return pairs


def _words(chunk: Chunk) -> int:
    return sum(len(part.weights) for part in chunk.parts)
