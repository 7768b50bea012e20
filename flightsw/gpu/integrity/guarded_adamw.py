"""AdamW that verifies what it reads and digests what it writes, so that training state is never out of sight.

Weights, both moments and the step count of a parameter come with the digests of their storages. An update reads
them, holds them against those digests, writes new values and new digests. What is read is read once: block by
block, each while it is in the caches; on CUDA in registers, by one kernel for all parameters (``kernels_adamw``).

*Where nothing is amiss* the results are those of torch's fused AdamW, bit for bit: on the CPU they are its results,
on CUDA the kernel does the same operations in the same order.

*A block that does not match its digest.* On the CPU it is looked at before it is used: a single damaged word is
put back and the block goes on; a block with more damage is left alone, values and digests as they were, while the
others go on. On CUDA the sums of a block are known only when its last word has been updated, and there is no second
buffer to go back to. So the kernel writes the block's new digests with S3 + 1: then S2 + S3 is odd, which is the
digest of no memory at all (see ``digest``). The mark cannot be taken for single-word damage, no further damage can
undo it, every later verification sees it, and a block that was marked stays marked by every later update. In both
cases what differed comes back as ``differences``, and the owner rolls back: a step with an unusable block is not to
be used.

*Never from unverified data.* A new digest is made of values in registers or cache that were computed from values
whose sums were right, on their way to memory; it is never read back. Where the sums were wrong there is no new
digest (CPU), or one that matches nothing (CUDA). Gradients are not resident: what guards them is the check of the
backward pass and the replay of steps.
"""

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import digest, kernels
from flightsw.gpu.integrity.adamw_slot import KINDS, Kind, Slot
from flightsw.gpu.integrity.damage import located, put_right


class Place(msgspec.Struct, frozen=True):
    """What one row of ``differences`` is about: a block of the storage of this kind of slot number ``slot``."""

    slot: int
    kind: Kind
    block: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an update found. Nothing here has been waited for: ``bool(unusable)`` is what synchronises."""

    differences: Tensor
    """int64 (places, 3): sums of what was read less the stored digests; zero where they matched.
    ``damage.located`` says what a row means."""
    unusable: Tensor
    """bool, 0-d: a block was damaged and could not be put back, so the step's results are not to be used."""


class GuardedAdamW:
    """The update of some parameters that lie on one device."""

    def __init__(self, slots: Sequence[Slot], *, betas: tuple[float, float], epsilon: float) -> None:
        assert slots, "an update of no parameter"
        self.slots = tuple(slots)
        self._betas = betas
        self._epsilon = epsilon
        self._device = device = self.slots[0].parameter.device
        self._units = _units(self.slots)
        rows = [
            Place(piece.slot, kind, piece.block) for unit in self._units for piece in unit for kind in KINDS[:3]
        ]
        self.places = (*rows, *(Place(number, "step", 0) for number in range(len(self.slots))))
        """Of each row of ``differences``."""
        self._kernel = kernels.adamw(device) if all(slot.suits_kernel for slot in self.slots) else None
        if self._kernel and self._units:
            pieces = [piece for unit in self._units for piece in unit]
            self._table = self._kernel.table([(p.slot, p.start, p.tensors, p.sums) for p in pieces])
            self._decays = torch.tensor([slot.weight_decay for slot in self.slots], device=device)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> Outcome:
        """Apply gradients, one for each slot, of its shape and dtype."""
        differences = torch.empty((len(self.places), 3), dtype=torch.int64, device=self._device)
        lost = _count(self.slots, differences[-len(self.slots) :])
        if self._kernel:
            return self._launch(gradients, learning_rate, lost, differences)
        usable = [not bad for bad in lost.tolist()]
        flat = [gradient.reshape(-1) for gradient in gradients]
        whole, row = all(usable), 0
        for unit in self._units:
            found = differences[row : row + 3 * len(unit)]
            whole &= self._advance(unit, usable, flat, learning_rate, found)
            row += len(found)
        return Outcome(differences=differences, unusable=torch.tensor(not whole))

    def _launch(
        self, gradients: Sequence[Tensor], learning_rate: float, lost: Tensor, differences: Tensor
    ) -> Outcome:
        """One kernel for all blocks; nothing here waits for it."""
        assert self._kernel is not None, "a kernel to launch"
        blocks = len(differences) - len(self.slots)
        if blocks:
            self._kernel.update(
                self._table,
                [gradient.contiguous() for gradient in gradients],
                torch.stack([slot.step for slot in self.slots]),
                self._decays,
                lost,
                differences[:blocks],
                learning_rate=learning_rate,
                betas=self._betas,
                epsilon=self._epsilon,
            )
        return Outcome(differences=differences, unusable=differences[:blocks].ne(0).any() | lost.any())

    def _advance(
        self, unit: list["_Piece"], usable: list[bool], flat: list[Tensor], learning_rate: float, found: Tensor
    ) -> bool:
        """Verify, update and digest the pieces of a unit while the caches hold them; whether all could be used."""
        stored = torch.stack([sums for piece in unit for sums in piece.sums])
        torch.sub(digest.digest_all([memory for piece in unit for memory in piece.memories]), stored, out=found)
        good = unit
        if found.any() or not all(usable):
            sound = [_put_back(piece, rows) for piece, rows in zip(unit, found.view(-1, 3, 3), strict=True)]
            good = [piece for piece, is_sound in zip(unit, sound, strict=True) if is_sound and usable[piece.slot]]
        if not good:
            return False
        for decay in {self.slots[piece.slot].weight_decay for piece in good}:
            these = [piece for piece in good if self.slots[piece.slot].weight_decay == decay]
            torch._fused_adamw_(
                [piece.tensors[0] for piece in these],
                [flat[piece.slot][piece.start : piece.end] for piece in these],
                [piece.tensors[1] for piece in these],
                [piece.tensors[2] for piece in these],
                [],
                [self.slots[piece.slot].step for piece in these],
                lr=learning_rate,
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=decay,
                eps=self._epsilon,
                amsgrad=False,
                maximize=False,
            )
        new = digest.digest_all([memory for piece in good for memory in piece.memories])
        torch._foreach_copy_([sums for piece in good for sums in piece.sums], list(new.unbind()))
        return len(good) == len(unit)


class _Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One block of a slot's three storages, in the order of ``KINDS``: flat views of values, bytes and digests."""

    slot: int
    block: int
    start: int
    end: int
    tensors: tuple[Tensor, ...]
    memories: tuple[Tensor, ...]
    sums: tuple[Tensor, ...]


def marked(digests: Tensor) -> Tensor:
    """Of digests (…, 3), which carry the mark that they match nothing: bool (…)."""
    return (digests[..., 1] + digests[..., 2]).bitwise_and(1).bool()


def _units(slots: Sequence[Slot]) -> list[list[_Piece]]:
    """What is done at once: a whole block, or shorter ones that together are not more than one."""
    units: list[list[_Piece]] = []
    short: list[_Piece] = []
    short_bytes = 0
    for number, slot in enumerate(slots):
        values = tuple(tensor.reshape(-1) for tensor in slot.tensors[:3])
        length = digest.BLOCK_BYTES // slot.parameter.element_size()
        for block, start in enumerate(range(0, slot.parameter.numel(), length)):
            tensors = tuple(value[start : start + length] for value in values)
            piece = _Piece(
                slot=number,
                block=block,
                start=start,
                end=start + tensors[0].numel(),
                tensors=tensors,
                memories=tuple(tensor.view(torch.uint8) for tensor in tensors),
                sums=tuple(sums[block] for sums in slot.digests[:3]),
            )
            size_bytes = piece.memories[0].numel()
            if size_bytes == digest.BLOCK_BYTES:
                units.append([piece])
                continue
            if short_bytes + size_bytes > digest.BLOCK_BYTES:
                units.append(short)
                short, short_bytes = [], 0
            short.append(piece)
            short_bytes += size_bytes
    return [*units, short] if short else units


def _count(slots: Sequence[Slot], differences: Tensor) -> Tensor:
    """Verify the step counts, count on, digest them; which slots' counts cannot be used: bool (slots).

    The digest of a single word holds that word three times, so a damaged count is taken from there.
    """
    steps = [slot.step for slot in slots]
    sums = [slot.digests[3][0] for slot in slots]
    stored = torch.stack(sums)
    found = torch.stack(steps).view(torch.int32)
    torch.sub(found.to(torch.int64).unsqueeze(1), stored, out=differences)
    damaged = differences.ne(0).any(dim=1)
    word = stored[:, 0].to(torch.int32)
    known = stored.eq(word.unsqueeze(1)).all(dim=1)
    counted = torch.where(damaged & known, word, found).view(torch.float32) + 1
    new = counted.view(torch.int32).to(torch.int64).unsqueeze(1).repeat(1, 3)
    lost = damaged & ~known
    new[:, 2] += lost
    torch._foreach_copy_(steps, list(counted.unbind()))
    torch._foreach_copy_(sums, list(new.unbind()))
    return lost


def _put_back(piece: _Piece, differences: Tensor) -> bool:
    """Repair a piece from its digests where that can be done; whether it matches them now."""
    for memory, sums, difference in zip(piece.memories, piece.sums, differences, strict=True):
        if not difference.any():
            continue
        damage = located(0, difference.tolist())
        if not damage.repairable or not put_right(memory, damage):
            return False
        if not torch.equal(digest.digest(memory)[0], sums):
            return False
    return True
