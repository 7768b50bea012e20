"""Sums of the slots of a key-value cache, wherever they are: of values on their way in, and of memory.

A slot's words are those of its heads one after the other, filled up with zero bytes at the end. Word w of slot s
of a chunk has the index i = s · W + w, from 0, in the sums of ``digest``; a chunk has at most ``CHUNK_SLOTS_MAX``
slots and 2¹⁶ words, as the proofs there ask for.
"""

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.digest import BLOCK_WORDS, WORD_BYTES, Damage, repair
from flightsw.gpu.integrity.sums import Sums

CHUNK_SLOTS_MAX: Final = 256
EXACT_WORDS: Final = 128
"""Words of one float64 product, which is exact: 2³¹ · 128·129·257/6 < 2⁵³."""
SHAPES_MAX: Final = 64
"""Shapes of slots whose weights are kept."""


class Token(NamedTuple):
    """A token that is stored: row of the cache and slot in it, and where its values are handed over."""

    row: int
    slot: int
    line: int
    """Row of the batch."""
    place: int
    """In that row."""


class Group:
    """Layers and kinds whose slots have the same number of words, and their sums: by row, member and chunk."""

    def __init__(self, words: int, members_max: int, rows: int, slots: int, device: torch.device) -> None:
        self.words = words
        self.chunk_slots = min(CHUNK_SLOTS_MAX, 1 << (BLOCK_WORDS // words).bit_length() - 1)
        self.chunks = -(-slots // self.chunk_slots)
        self.members: list[int] = []
        """Numbers 2 · layer + kind."""
        self.members_max = members_max
        self.sums = Sums(rows * members_max * self.chunks, device)

    def member(self, number: int) -> int:
        """The place of layer and kind among the members."""
        if number not in self.members:
            self.members.append(number)
        return self.members.index(number)

    def base(self, row: int, member: int = 0) -> int:
        """First row of the sums of a row of the cache."""
        return (row * self.members_max + member) * self.chunks


def mend(slot: Tensor, word: int, damage: Damage) -> bool:
    """Take the error off one word of a slot (heads, width), in place."""
    raw = slot.contiguous().view(torch.uint8).flatten().clone()
    try:
        repair(raw, Damage(0, word, damage.error))
    except ValueError:
        return False
    # As whole numbers: a copy of floats may turn one NaN into another.
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[slot.element_size()]
    slot.view(whole).copy_(raw.view(whole).view(slot.shape))
    return True


def token_sums(members: Sequence[Tensor], tokens: Sequence[Token], chunk_slots: int) -> Tensor:
    """Sums of the slots of n tokens, of several layers and kinds: int64 (members, n, 3), exact.

    ``members``: values (B, H, T, D) of one shape and dtype. A slot is summed where it lies in its chunk, of
    ``chunk_slots`` slots.
    """
    device = members[0].device
    kernel = kernels.native(device, "native_slots")
    if kernel and all(kernel.fits(values) for values in members):
        found: Tensor = kernel.token_sums(members, tokens, chunk_slots)
        return found
    _, slot, line, place = torch.tensor(tokens, device=device).unbind(dim=1)
    packed = torch.stack([values[line, :, place] for values in members]).flatten(2)
    words = -(-packed.shape[2] * packed.element_size() // WORD_BYTES)
    return slot_sums(packed, slot % chunk_slots * words)


def slot_sums(values: Tensor, starts: Tensor) -> Tensor:
    """Sums of slots (…, n, elements), the first word of slot k with index ``starts[k]``: int64 (…, n, 3), exact."""
    raw = values.contiguous().view(torch.uint8)
    if left := raw.shape[-1] % WORD_BYTES:
        raw = torch.nn.functional.pad(raw, (0, WORD_BYTES - left))
    words = raw.view(torch.int32)
    weights, offsets = _weights(words.shape[-1], values.device)
    pieces = (words.view(*words.shape[:-1], len(offsets), len(weights)).to(torch.float64) @ weights).to(torch.int64)
    plain, linear, square = pieces.unbind(dim=-1)
    # Index within the piece, 1 and more, to index within the chunk; modulo 2⁶⁴.
    at = starts[:, None] + offsets
    shifted = at * plain
    return torch.stack((plain, shifted + linear, at * (shifted + 2 * linear) + square), dim=-1).sum(dim=-2)


@functools.lru_cache(maxsize=SHAPES_MAX)
def _weights(words: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For slots of so many words in pieces of equal length: weights (length, 3) along a piece, float64, and the
    first word of each piece, int64."""
    length = next(size for size in range(min(words, EXACT_WORDS), 0, -1) if words % size == 0)
    with torch.inference_mode(False):
        place = torch.arange(1, length + 1, dtype=torch.float64, device=device)
        weights = torch.stack((torch.ones_like(place), place, place * place), dim=1)
        return weights, torch.arange(words // length, device=device) * length
