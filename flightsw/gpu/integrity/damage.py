"""What the difference of two digests says of a block, and the old value of a damaged word put back.

*Repair.* Damage of a single word e at i leaves ΔS1 = e, ΔS2 = (i+1) e, ΔS3 = (i+1)² e: the place follows by
division, the old word by subtraction. Two damaged words cannot pass for one at a place p: e₁ (i − p) + e₂ (j − p)
= 0 and e₁ (i − p)² + e₂ (j − p)² = 0 modulo 2⁶⁴ give e₁ (i − p)(i − j) = 0, which is under 2⁶⁴, and so i = p = j.
What does not divide is reported as more than one word, and left alone.
"""

from collections.abc import Sequence

import msgspec
import torch

from flightsw.gpu.integrity.digest import BLOCK_WORDS, WORD_BYTES


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


def put_right(memory: torch.Tensor, damage: Damage) -> bool:
    """``repair`` what must be repairable; False when there was more to it, and nothing was done."""
    try:
        repair(memory, damage)
    except ValueError:
        return False
    return True
