"""Sums of the slots of a key-value cache, wherever they are: of values on their way in, and of memory.

A slot's words are those of its heads one after the other, filled up with zero bytes at the end. Word w of slot s
of a chunk has the index i = s · W + w, from 0, in the sums of ``digest``; a chunk has at most ``CHUNK_SLOTS_MAX``
slots and 2¹⁶ words, as the proofs there ask for.
"""

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

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


Tokens: TypeAlias = npt.NDArray[np.int64]
"""Of a pass: (n, 4), a ``Token`` each."""


def tokens_of(rows: Sequence[int], positions: Sequence[Sequence[int]], slots: int) -> Tokens:
    """Those of ``positions`` (B, T) of ``rows`` (B,) that have a slot, 0 to ``slots`` − 1."""
    places = np.array(positions, dtype=np.int64)
    line, place = np.nonzero((places >= 0) & (places < slots))
    return np.stack((np.array(rows, dtype=np.int64)[line], places[line, place], line, place), axis=1)


class Group:
    """Layers and kinds whose slots have the same number of words, and their sums: by row, member and chunk."""

    def __init__(self, words: int, members_max: int, rows: int, slots: int, device: torch.device) -> None:
        self.words = words
        self.chunk_slots = min(CHUNK_SLOTS_MAX, 1 << (BLOCK_WORDS // words).bit_length() - 1)
        self.chunks = -(-slots // self.chunk_slots)
        self.members: list[int] = []
        """Numbers 2 · layer + kind."""
        self.members_max = members_max
        self.row_sums = members_max * self.chunks
        """Sums of a row of the cache."""
        self.sums = Sums(rows * self.row_sums, device)

    def base(self, row: int) -> int:
        """First of the sums of a row of the cache."""
        return row * self.row_sums

    def add(self, numbers: Sequence[int], members: Sequence[Tensor], tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Add slots of tokens, of the layers and kinds ``numbers`` with values (B, T, H, D). Which sums have grown,
        int64 (n,), and by what, int64 (n, 3). Without a kernel nobody who watches torch's operations sees these."""
        self.members += [number for number in numbers if number not in self.members]
        bases = [self.members.index(number) * self.chunks for number in numbers]
        device = self.sums.first.device
        if kernel := kernels.native(device, "native_slots"):
            added = kernel.add(members, bases, tokens, self.chunk_slots, self.row_sums, self.sums)
            if added is not None:
                index, sums = added
                return index, sums
        with _disable_current_modes():
            sums = token_sums(members, tokens, self.chunk_slots).flatten(0, 1)
            chunk = tokens[:, 0] * self.row_sums + tokens[:, 1] // self.chunk_slots
            index = torch.from_numpy((np.array(bases)[:, None] + chunk).ravel()).to(device)
            self.sums.add(index, sums)
        return index, sums


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


def token_sums(members: Sequence[Tensor], tokens: Tokens | Sequence[Token], chunk_slots: int) -> Tensor:
    """Sums of the slots of n tokens, of several layers and kinds: int64 (members, n, 3), exact.

    ``members``: values (B, T, H, D) of one shape and dtype. A slot is summed where it lies in its chunk, of
    ``chunk_slots`` slots.
    """
    device = members[0].device
    table = np.array(tokens, dtype=np.int64).reshape(-1, len(Token._fields))
    if kernel := kernels.native(device, "native_slots"):
        found: Tensor | None = kernel.token_sums(members, table, chunk_slots)
        if found is not None:
            return found
    _, slot, line, place = torch.from_numpy(table).to(device).unbind(dim=1)
    packed = torch.stack([values[line, place] for values in members]).flatten(2)
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
