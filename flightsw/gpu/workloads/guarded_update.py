"""The optimiser's update, so that it neither errs unseen nor seals damage in.

It starts from weights and moments that have just been verified against their digests (``Resident.verify``), and
ends with new digests taken chunk by chunk of what was just written, while it still lies in the cache. On some
updates (how many is the level's) the arithmetic itself is checked: it is *rehearsed* first on a copy of each
chunk, of which only the digests of the results and the size of the update are kept. The update must then arrive
at the same digests. One that does not is done again from the old values of its chunk, and two of three that agree
are right.

On a processor a kernel does both (``native_adamw``) where it rounds as torch does: it compares before it writes, so
nothing is copied, and a block that does not agree is done again by torch's own.

So a rehearsed update sees an error of its arithmetic, damage of the state since it was verified, and damage of
the gradients since they were rehearsed. One that was not rehearsed sees none of these, and damage within the time
of the update itself is sealed in: on a card some milliseconds of a step.

*Fused* (``GuardedAdamW``) verifies what it reads while it reads it and digests what it writes: no extra traffic
on a card, and no time in which damage could be sealed in. But by then the gradients have been used, and they were
made with what was hit: there is nothing to run again from, so damage that it finds ends in a checkpoint.

Bits: rehearsed or not, digested or not, the update is the same calls of the same kernel on the same chunks; the
fused one and the processor's do the same operations on each word.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.adamw_slot import Slot
from flightsw.gpu.integrity.digest import BLOCK_WORDS, digest_all
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.guarded_adamw import GuardedAdamW
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.optimiser import BETAS, EPSILON, AdamW, Chunk, Group, Rows

ATTEMPTS_MAX: Final = 3
"""Tries of one chunk; the rehearsal counts as the first."""


class Rehearsal(msgspec.Struct, frozen=True):
    """``sums``: of each group the digests of what its blocks will hold, int64 (blocks, 3, 3), by block and kind:
    weights, averages, squares. ``update``: ‖Δw‖ / ‖w‖."""

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

    def prepare(self) -> None:
        """Compile now what updates need: that takes seconds the first time on a machine."""
        _kernel(self._scratch.device)

    @torch.no_grad()
    def rehearse(self, learning_rate: float, scale: Tensor) -> Rehearsal:
        """What ``apply`` will arrive at; changes nothing. ``scale`` (0-d) multiplies the gradients."""
        self._optimiser.gather()
        counts = self._optimiser.next_counts()
        if kernel := _kernel(self._scratch.device):
            done = [
                kernel.advance(_rows(group), _scalars(kernel, group, count, learning_rate, scale), write=False)
                for group, count in zip(self._optimiser.groups, counts, strict=True)
            ]
            size_squared = sum(group.size for group in done)
            moved_squared = sum(group.moved for group in done)
            ratio = math.sqrt(moved_squared / size_squared) if size_squared > 0.0 else math.inf
            return Rehearsal(tuple(group.sums for group in done), ratio)
        sums: list[list[Tensor]] = [[] for _ in self._optimiser.groups]
        moved: list[Tensor] = []
        size: list[Tensor] = []
        for chunk in self._optimiser.chunks:
            copy = self._copy(chunk)
            self._optimiser.update(chunk, copy, counts, learning_rate, scale)
            sums[chunk.group].append(_sums(copy))
            moved.append(torch.linalg.vector_norm(copy.weights.sub_(chunk.rows.weights)))
            size.append(torch.linalg.vector_norm(chunk.rows.weights))
        update = torch.linalg.vector_norm(torch.stack(moved)) / torch.linalg.vector_norm(torch.stack(size))
        return Rehearsal(tuple(torch.cat(group) for group in sums), float(update.item()))

    @torch.no_grad()
    def apply(self, learning_rate: float, scale: Tensor, rehearsal: Rehearsal | None = None) -> None:
        """Change weights and moments, and their digests with them. Raises ``Unsettled``."""
        self._optimiser.gather()
        counts = self._optimiser.next_counts()
        if kernel := _kernel(self._scratch.device):
            for number in range(len(self._optimiser.groups)):
                self._advance(kernel, number, counts, learning_rate, scale, rehearsal)
        else:
            for chunk in self._optimiser.chunks:
                if rehearsal is None:
                    self._optimiser.update(chunk, chunk.rows, counts, learning_rate, scale)
                    found = _sums(chunk.rows)
                else:
                    expected = rehearsal.sums[chunk.group][chunk.first : chunk.last]
                    found = self._settled(chunk, counts, learning_rate, scale, [expected])
                self._digested(chunk.group, chunk.first, found)
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

    def _advance(
        self, kernel: ModuleType, number: int, counts: Sequence[Tensor], learning_rate: float, scale: Tensor,
        rehearsal: Rehearsal | None,
    ) -> None:  # fmt: skip
        """Update a group by the processor's kernel. Blocks that do not agree are not written, and done again."""
        group = self._optimiser.groups[number]
        expected = None if rehearsal is None else rehearsal.sums[number]
        scalars = _scalars(kernel, group, counts[number], learning_rate, scale)
        done = kernel.advance(_rows(group), scalars, write=True, expected=expected)
        for block in done.unlike:
            assert expected is not None, "with nothing to agree with, all do"
            rows = group.rows.cut(block * BLOCK_WORDS, (block + 1) * BLOCK_WORDS)
            seen = [sums[block : block + 1] for sums in (expected, done.sums)]
            chunk = Chunk(number, block, block + 1, rows)
            done.sums[block] = self._settled(chunk, counts, learning_rate, scale, seen)[0]
        self._digested(number, 0, done.sums)

    def _digested(self, group: int, first: int, sums: Tensor) -> None:
        """Digests (blocks, 3, 3) of what was written, from block ``first`` on."""
        for index, kind in zip(self._regions[group], sums.unbind(dim=1), strict=True):
            self._resident.digests(index)[first : first + len(sums)] = kind

    def _settled(
        self, chunk: Chunk, counts: Sequence[Tensor], learning_rate: float, scale: Tensor, seen: list[Tensor]
    ) -> Tensor:
        """Update a chunk until two results agree, those ``seen`` among them; its digests."""
        old = self._copy(chunk)
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
    """Digests of weights, averages and squares of each block: int64 (blocks, 3, 3)."""
    sums = digest_all([row.view(torch.uint8) for row in rows.state])
    return sums.view(3, -1, 3).transpose(0, 1).contiguous()


def _kernel(device: torch.device) -> ModuleType | None:
    """The processor's kernel, where it gives the bits that ``AdamW.update`` gives."""
    kernel = kernels.native(device, "native_adamw")
    return kernel if kernel and kernel.same_as_torch() else None


def _rows(group: Group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the kernel takes them."""
    return group.rows.weights, group.rows.gradients, group.rows.averages, group.rows.squares


def _scalars(
    kernel: ModuleType, group: Group, count: Tensor, learning_rate: float, scale: Tensor
) -> tuple[float, ...]:
    numbers: tuple[float, ...] = kernel.scalars(
        scale=float(scale), learning_rate=learning_rate, betas=BETAS, epsilon=EPSILON, decay=group.decay,
        count=float(count),
    )  # fmt: skip
    return numbers


def _region(resident: Resident, tensor: Tensor) -> int:
    index = resident.index_of(tensor)
    assert index is not None, "all of the optimiser's state is guarded"
    return index


def _name(chunk: Chunk) -> str:
    return f"update of blocks {chunk.first} to {chunk.last - 1} of group {chunk.group}"
