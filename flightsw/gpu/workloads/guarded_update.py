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

*Fused* (``GuardedAdamW``) verifies what it reads while it reads it and digests what it writes: no extra traffic
on a card, and no time in which damage could be sealed in. But by then the gradients have been used, and they were
made with what was hit: there is nothing to run again from, so damage that it finds ends in a checkpoint.

Bits: rehearsed or not, digested or not, the update is the same calls of the same kernel on the same chunks; the
fused one does the same operations on each word.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import digest_all
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.guarded_adamw import GuardedAdamW, Slot
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.optimiser import BETAS, EPSILON, AdamW, Chunk, Rows

ATTEMPTS_MAX: Final = 3
"""Tries of one chunk; the rehearsal counts as the first."""


class Rehearsal(msgspec.Struct, frozen=True):
    """``sums``: of each chunk the digests of what it will hold, int64 (3 · blocks, 3). ``update``: ‖Δw‖ / ‖w‖."""

    sums: tuple[Tensor, ...]
    update: float


class Unsettled(Exception):
    """No two tries of an update agree; weights and moments are not to be used."""


class GuardedUpdate:
    """Updates of ``optimiser`` whose state, ``AdamW.flat``, is guarded by ``resident``."""

    def __init__(self, optimiser: AdamW, resident: Resident, report: Report) -> None:
        self._optimiser = optimiser
        self._resident = resident
        self._report = report
        self._regions = [[_region(resident, row) for row in group.rows.state] for group in optimiser.groups]
        self._counts = [_region(resident, group.count) for group in optimiser.groups]
        self._fused: GuardedAdamW | None = None
        words = max(len(chunk.rows.weights) for chunk in optimiser.chunks)
        # Allocated once, so that an update never fails for want of memory.
        device = optimiser.chunks[0].rows.weights.device
        self._scratch = torch.empty((3, words), dtype=torch.float32, device=device)

    @torch.no_grad()
    def rehearse(self, learning_rate: float, scale: Tensor) -> Rehearsal:
        """What ``apply`` will arrive at; changes nothing. ``scale`` (0-d) multiplies the gradients."""
        self._optimiser.gather()
        counts = self._optimiser.next_counts()
        sums: list[Tensor] = []
        moved: list[Tensor] = []
        size: list[Tensor] = []
        for chunk in self._optimiser.chunks:
            copy = self._copy(chunk)
            self._optimiser.update(chunk, copy, counts, learning_rate, scale)
            sums.append(_sums(copy))
            moved.append(torch.linalg.vector_norm(copy.weights.sub_(chunk.rows.weights)))
            size.append(torch.linalg.vector_norm(chunk.rows.weights))
        ratio = torch.linalg.vector_norm(torch.stack(moved)) / torch.linalg.vector_norm(torch.stack(size))
        return Rehearsal(tuple(sums), float(ratio.item()))

    @torch.no_grad()
    def apply(self, learning_rate: float, scale: Tensor, rehearsal: Rehearsal | None = None) -> None:
        """Change weights and moments, and their digests with them. Raises ``Unsettled``."""
        self._optimiser.gather()
        counts = self._optimiser.next_counts()
        for number, chunk in enumerate(self._optimiser.chunks):
            if rehearsal is None:
                self._optimiser.update(chunk, chunk.rows, counts, learning_rate, scale)
                found = _sums(chunk.rows)
            else:
                found = self._settled(chunk, counts, learning_rate, scale, rehearsal.sums[number])
            for index, sums in zip(self._regions[chunk.group], found.chunk(3), strict=True):
                self._resident.digests(index)[chunk.first : chunk.last] = sums
        self._optimiser.count_on()
        self._resident.adopt_emitted([index for regions in self._regions for index in regions])
        self._resident.adopt_update(self._counts)

    @torch.no_grad()
    def apply_fused(self, learning_rate: float, scale: Tensor) -> None:
        """Verify, change and digest in one go. Raises ``Unsettled`` when something was not as it was left."""
        self._optimiser.gather()
        if self._fused is None:
            self._fused = self._slots()
        gradients = self._optimiser.gradients()
        for row in gradients:
            row.mul_(scale)
        outcome = self._fused.step(gradients, learning_rate)
        if bool(outcome.unusable) or bool(outcome.differences.any()):
            raise Unsettled("the update met weights, moments or a step count that were not as they were left")
        self._resident.adopt_emitted([*(index for regions in self._regions for index in regions), *self._counts])

    def _slots(self) -> GuardedAdamW:
        return GuardedAdamW(
            [
                Slot(
                    parameter=group.rows.weights,
                    exp_avg=group.rows.averages,
                    exp_avg_sq=group.rows.squares,
                    step=group.count,
                    digests=tuple(self._resident.digests(index) for index in (*regions, count)),  # type: ignore[arg-type]
                    weight_decay=group.decay,
                )
                for group, regions, count in zip(self._optimiser.groups, self._regions, self._counts, strict=True)
            ],
            betas=BETAS,
            epsilon=EPSILON,
        )

    def _settled(
        self, chunk: Chunk, counts: Sequence[Tensor], learning_rate: float, scale: Tensor, expected: Tensor
    ) -> Tensor:
        """Update a chunk until two results agree, the rehearsal's among them; its digests."""
        old = self._copy(chunk)
        seen = [expected]
        while len(seen) < ATTEMPTS_MAX:
            self._optimiser.update(chunk, chunk.rows, counts, learning_rate, scale)
            found = _sums(chunk.rows)
            if any(torch.equal(found, earlier) for earlier in seen):
                if len(seen) > 1:
                    self._report(Finding(detector="repeat", outcome="recomputed", where=_name(chunk)))
                return found
            seen.append(found)
            for row, before in zip(chunk.rows.state, old.state, strict=True):
                row.copy_(before)
        raise Unsettled(f"no two of {ATTEMPTS_MAX} results of {_name(chunk)} agree")

    def _copy(self, chunk: Chunk) -> Rows:
        """The chunk's state in the scratch memory, with the chunk's own gradients."""
        scratch = [row[: len(chunk.rows.weights)] for row in self._scratch]
        for copy, row in zip(scratch, chunk.rows.state, strict=True):
            copy.copy_(row)
        return Rows(weights=scratch[0], gradients=chunk.rows.gradients, averages=scratch[1], squares=scratch[2])


def _sums(rows: Rows) -> Tensor:
    """Digests of weights, then averages, then squares: int64 (3 · blocks, 3)."""
    return digest_all([row.view(torch.uint8) for row in rows.state])


def _region(resident: Resident, tensor: Tensor) -> int:
    index = resident.index_of(tensor)
    assert index is not None, "all of the optimiser's state is guarded"
    return index


def _name(chunk: Chunk) -> str:
    return f"update of blocks {chunk.first} to {chunk.last - 1} of group {chunk.group}"
