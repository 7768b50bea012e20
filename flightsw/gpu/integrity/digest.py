"""The digest that guards resident state: three integer sums over the words of a block.

Memory is seen as signed 32-bit words x_0 … x_{n−1}, in blocks of at most ``BLOCK_WORDS``; a shorter last word is
filled up with zero bytes. Of each block

    S1 = Σ x_i        S2 = Σ (i+1) x_i        S3 = Σ (i+1)² x_i                 as 64-bit integers, modulo 2⁶⁴

*Two words.* Any damage confined to two words of a block is detected: with e₁ + e₂ = 0 and i e₁ + j e₂ = 0 follows
(i − j) e₁ = 0, and as |i − j| < 2¹⁶ and |e₁| < 2³², the product cannot wrap to zero. So every flip of one or two
bits is seen, every burst within eight bytes, every word that was replaced.

*Three words.* With S3 the same argument holds for three: |(i − j)(i − k) e| < 2⁶⁴.

*Repair.* Damage of a single word e at i leaves ΔS1 = e, ΔS2 = (i+1) e, ΔS3 = (i+1)² e: the place follows by
division, the old word by subtraction. Two damaged words cannot pass for one at a place p: e₁ (i − p) + e₂ (j − p)
= 0 and e₁ (i − p)² + e₂ (j − p)² = 0 modulo 2⁶⁴ give e₁ (i − p)(i − j) = 0, which is under 2⁶⁴, and so i = p = j.
What does not divide is reported as more than one word, and left alone.

*Same values everywhere.* The sums are integers, so this module and the Triton kernel agree bit for bit. Here they
are computed with float64 matrix products on rows of ``ROW_WORDS`` words, which is exact: 2³¹ · Σ (b+1)² < 2⁵³.

A digest is taken of memory that is known to be good (just written, just verified), never of live data that nobody
has checked: that would seal the damage in. Source of the two-sum form: Fletcher's checksum; the theorem is that of
the radiation reference, section 8.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import torch

BLOCK_WORDS: Final = 1 << 16
"""Words of a block: 256 KiB. The proofs above need no more than 2¹⁶."""
ROW_WORDS: Final = 128
"""Words of a row of the exact float64 product: 2³¹ · 128·129·257/6 < 2⁵³."""
WORD_BYTES: Final = 4
BLOCK_BYTES: Final = BLOCK_WORDS * WORD_BYTES
ROW_BYTES: Final = ROW_WORDS * WORD_BYTES
_ROWS: Final = BLOCK_WORDS // ROW_WORDS


class Damage(msgspec.Struct, frozen=True):
    """One block that does not match its digest.

    ``word`` is the damaged word's index in the region and ``error`` what was added to it, when the damage is that
    of one word; None when it is more than that.
    """

    block: int
    word: int | None = None
    error: int | None = None

    @property
    def repairable(self) -> bool:
        """Whether the old value follows from the digest."""
        return self.word is not None


def block_count(size_bytes: int) -> int:
    """Blocks of a region of this many bytes."""
    return -(-size_bytes // BLOCK_BYTES)


def digest(memory: torch.Tensor) -> torch.Tensor:
    """Sums of every block of ``memory`` (uint8, 1-d, contiguous): int64 tensor (blocks, 3) on the same device.

    Raises ``ValueError`` for anything that is no row of bytes.
    """
    if memory.dtype is not torch.uint8 or memory.dim() != 1 or not memory.is_contiguous():
        raise ValueError(f"memory is {memory.dtype}, {memory.dim()}-d: bytes in one contiguous row are needed")
    sums = torch.empty((block_count(memory.numel()), 3), dtype=torch.int64, device=memory.device)
    for block in range(len(sums)):
        sums[block] = digest_block(memory, block)
    return sums


def digest_block(memory: torch.Tensor, block: int) -> torch.Tensor:
    """Sums (3,) of one block of ``memory``, int64, exact."""
    part = memory[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
    if part.numel() % ROW_BYTES:
        filled = torch.zeros(-(-part.numel() // ROW_BYTES) * ROW_BYTES, dtype=torch.uint8, device=memory.device)
        filled[: part.numel()] = part
        part = filled
    rows = part.view(torch.int32).view(-1, ROW_WORDS).to(torch.float64)
    columns, starts = _weights(memory.device)
    # Of each row: Σ x, Σ (b+1) x, Σ (b+1)² x, with b counted within the row that starts at word a.
    plain, linear, square = (rows @ columns).to(torch.int64).unbind(dim=1)
    start = starts[: len(rows)]
    return torch.stack(
        (
            plain.sum(),
            (start * plain + linear).sum(),
            (start * start * plain + 2 * start * linear + square).sum(),
        )
    )


def compare(expected: torch.Tensor, found: torch.Tensor) -> list[Damage]:
    """Blocks in which two digests of the same region differ, and what the difference says; empty when none do."""
    difference = found - expected
    blocks = torch.nonzero(difference.ne(0).any(dim=1)).flatten().tolist()
    return [located(block, difference[block].tolist()) for block in blocks]


def located(block: int, difference: Sequence[int]) -> Damage:
    """What the three differences of a block say: signed 64-bit, not all zero, the third may have wrapped."""
    first, second, third = difference
    if first == 0 or second % first:
        return Damage(block)
    place = second // first
    if not 1 <= place <= BLOCK_WORDS or (third - place * second) % (1 << 64) or not -(1 << 32) < first < 1 << 32:
        return Damage(block)
    return Damage(block, block * BLOCK_WORDS + place - 1, first)


def repair(memory: torch.Tensor, damage: Damage) -> None:
    """Put the old value of a single damaged word back, in place. ``damage`` must be repairable.

    Raises ``ValueError`` when the old value would be none: then more than one word was damaged.
    """
    assert damage.word is not None, "more than one word: nothing to put back"
    assert damage.error is not None, "a located word comes with its error"
    start = damage.word * WORD_BYTES
    place = memory[start : start + WORD_BYTES]
    held = bytes(place.tolist())
    old = int.from_bytes(held.ljust(WORD_BYTES, b"\0"), "little", signed=True) - damage.error
    fits = -(1 << 31) <= old < 1 << 31
    raw = old.to_bytes(WORD_BYTES, "little", signed=True) if fits else b""
    if not fits or not held or any(raw[len(held) :]):
        raise ValueError(f"word {damage.word}: {old} is no value of it, so the damage was not that of one word")
    place.copy_(torch.tensor(list(raw[: len(held)]), dtype=torch.uint8))


_WEIGHTS: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}


def _weights(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights within a row (ROW_WORDS, 3) and the first word of each row of a block, made once for a device."""
    if device not in _WEIGHTS:
        place = torch.arange(1, ROW_WORDS + 1, dtype=torch.float64, device=device)
        starts = torch.arange(_ROWS, dtype=torch.int64, device=device) * ROW_WORDS
        _WEIGHTS[device] = torch.stack((torch.ones_like(place), place, place * place), dim=1), starts
    return _WEIGHTS[device]
