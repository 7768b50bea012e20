"""Sums of the slots of a key-value cache, wherever they are: of values on their way in, and of memory.

A slot's words are those of its heads one after the other, filled up with zero bytes at the end. Word w of slot s
of a chunk has the index i = s · W + w, from 0, in the sums of ``digest``; a chunk has at most ``CHUNK_SLOTS_MAX``
slots and 2¹⁶ words, as the proofs there ask for.
"""

import functools
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.damage import Damage, put_right
from flightsw.gpu.integrity.digest import BLOCK_WORDS, WORD_BYTES
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


Tokens: TypeAlias = "array[int]"
"""Tokens one after the other, four numbers each: a list of the interpreter's own is made in a few calls, and each
call is dear in a decode step, when whatever it needs has left the core's cache."""


def laid_out(tokens: Iterable[Sequence[int]]) -> Tokens:
    """``Token``, or what is like one, one after the other."""
    return array("q", chain.from_iterable(tokens))


def tokens_of(rows: Sequence[int], positions: Sequence[Sequence[int]], slots: int) -> Tokens:
    """Those of ``positions`` (B, T) of ``rows`` (B,) that have a slot, 0 to ``slots`` − 1."""
    return array(
        "q",
        [
            number
            for line, (row, held) in enumerate(zip(rows, positions, strict=True))
            for place, slot in enumerate(held)
            if 0 <= slot < slots
            for number in (row, slot, line, place)
        ],
    )


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

    def add(self, numbers: Sequence[int], members: Sequence[Tensor], tokens: Tokens) -> Tensor:
        """Add slots of tokens, of the layers and kinds ``numbers`` with values (B, T, H, D). Which sums have grown,
        and by what: int64 (n, 4)."""
        self.members += [number for number in numbers if number not in self.members]
        bases = [self.members.index(number) * self.chunks for number in numbers]
        device = self.sums.first.device
        if kernel := kernels.native(device, "native_slots"):
            added: Tensor | None = kernel.add(members, bases, tokens, self.chunk_slots, self.row_sums, self.sums)
            if added is not None:
                return added
        # Whoever watches torch's operations need not see these.
        with _disable_current_modes():
            table = _table(tokens)
            at = table[:, 0] * self.row_sums + table[:, 1] // self.chunk_slots
            index = (torch.tensor(bases)[:, None] + at).flatten()
            known = int(index.min()) >= 0 and int(index.max()) < len(self.sums.first)
            assert known, "rows of the cache"
            index = index.to(device)
            sums = token_sums(members, tokens, self.chunk_slots).flatten(0, 1)
            self.sums.add(index, sums)
            return torch.cat((index[:, None], sums), dim=1)

    def take_back(self, added: Tensor) -> None:
        """What ``add`` gave is no part of the sums any more."""
        with _disable_current_modes():
            self.sums.add(added[:, 0], -added[:, 1:])


def mend(slot: Tensor, word: int, damage: Damage) -> bool:
    """Take the error off one word of a slot (heads, width), in place."""
    raw = slot.contiguous().view(torch.uint8).flatten().clone()
    if not put_right(raw, Damage(0, word, damage.error)):
        return False
    # As whole numbers: a copy of floats may turn one NaN into another.
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[slot.element_size()]
    slot.view(whole).copy_(raw.view(whole).view(slot.shape))
    return True


def token_sums(members: Sequence[Tensor], tokens: Tokens, chunk_slots: int) -> Tensor:
    """Sums of the slots of n tokens, of several layers and kinds: int64 (members, n, 3), exact.

    ``members``: values (B, T, H, D) of one shape and dtype. A slot is summed where it lies in its chunk, of
    ``chunk_slots`` slots.
    """
    device = members[0].device
    if kernel := kernels.native(device, "native_slots"):
        found: Tensor | None = kernel.token_sums(members, tokens, chunk_slots)
        if found is not None:
            return found
    _, slot, line, place = _table(tokens).to(device).unbind(dim=1)
    values = torch.stack([values[line, place] for values in members]).flatten(2)
    words = -(-values.shape[2] * values.element_size() // WORD_BYTES)
    return slot_sums(values, slot % chunk_slots * words)


def run_sums(members: Sequence[Tensor], first: int, chunk_slots: int, chunks: int) -> Tensor:
    """Sums of chunks 0 to ``chunks`` − 1 of one row of the cache, of several layers and kinds: int64 (members,
    chunks, 3), exact.

    ``members``: values (1, T, H, D) of slots ``first`` to ``first`` + T − 1, of one shape and dtype.
    """
    device, last = members[0].device, first + members[0].shape[1]
    if kernel := kernels.native(device, "native_slots"):
        found: Tensor | None = kernel.run_sums(members, first, chunk_slots, chunks)
        if found is not None:
            return found
    tokens = laid_out((0, slot, 0, slot - first) for slot in range(first, last))
    chunk = torch.arange(first, last, device=device) // chunk_slots
    sums = torch.zeros((len(members), chunks, 3), dtype=torch.int64, device=device)
    return sums.index_add_(1, chunk, token_sums(members, tokens, chunk_slots))


def _table(tokens: Tokens) -> Tensor:
    """int64 (n, 4)."""
    return torch.from_numpy(np.array(tokens, dtype=np.int64).reshape(-1, len(Token._fields)))


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
