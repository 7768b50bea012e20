# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202
"""Sums of a key-value cache's slots as a kernel for the processor: read where they lie, head by head.

In torch's operators the heads of a slot have to be gathered, and widened to float64, before anything is summed:
four copies of what is read once here; and a decode step, whose slots are few, is two dozen calls, where this is
one for all layers. Values are those of ``kv_slots``, bit for bit.

*A slot* is summed as a block is in ``native_digest``, with its heads for tiles: of W words each, H of them. The sum
of a word's place, the sum of that sum, and the sum of that come to u = H − h, u (u + 1) / 2 and so on for head h.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import WORD_BYTES
from flightsw.gpu.integrity.kv_slots import Tokens
from flightsw.gpu.integrity.native import compiled, floats_at, words_at
from flightsw.gpu.integrity.sums import Sums

ROW, SLOT, LINE, PLACE = 0, 1, 2, 3
"""Columns of a ``kv_slots.Token``."""


@compiled
def _summed(begin, heads, head_bytes, head_words, start, plain, linear, square):
    """S1, S2, S3 of the slot at an address, whose first word has the index ``start``; room for W lanes, int64."""
    plain[:] = 0
    linear[:] = 0
    square[:] = 0
    for head in range(heads):
        words = floats_at(begin + head * head_bytes, head_words).view(np.int32)
        for j in range(head_words):
            a = plain[j] + words[j]
            b = linear[j] + a
            plain[j] = a
            linear[j] = b
            square[j] += b
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    for j in range(head_words):
        place = np.int64(start + heads * head_words + j + 1)
        a, b = plain[j], head_words * linear[j]
        first += a
        second += place * a - b
        third += place * (place * a - 2 * b) + head_words * (2 * head_words * square[j] - b)
    return first, second, third


@compiled
def _sums(table, shape, tokens, chunk_slots, sums):
    """``table`` int64 (members, 4): address, and bytes from row to row, token to token and head to head; ``shape``:
    rows, tokens, heads, words of a head; ``tokens`` int64 (n, 4); ``sums`` int64 (members, n, 3), written. False
    when a token is not one of the batch; nothing is read there."""
    batch, count, heads, head_words = shape
    lanes = np.empty((3, head_words), np.int64)
    for number in range(len(tokens)):
        if not (0 <= tokens[number, LINE] < batch and 0 <= tokens[number, PLACE] < count):
            return False
    for member in range(len(table)):
        address, row_bytes, token_bytes, head_bytes = table[member]
        for number in range(len(tokens)):
            begin = address + tokens[number, LINE] * row_bytes + tokens[number, PLACE] * token_bytes
            start = tokens[number, SLOT] % chunk_slots * heads * head_words
            first, second, third = _summed(
                begin, heads, head_bytes, head_words, start, lanes[0], lanes[1], lanes[2]
            )
            sums[member, number, 0] = first
            sums[member, number, 1] = second
            sums[member, number, 2] = third
    return True


@compiled
def _add(table, shape, tokens, chunk_slots, sums, bases, row_sums, index, first, complement, count):
    """``_sums``, and both copies of ``count`` sums at two addresses grow by them. Slot s of row r, member m, goes to
    ``bases[m]`` + r · ``row_sums`` + ⌊s / ``chunk_slots``⌋, which is written to ``index`` int64 (members, n).
    False, and nothing has grown, when a token is not one of the batch or that is not one of the sums."""
    for member in range(len(table)):
        for number in range(len(tokens)):
            at = bases[member] + tokens[number, ROW] * row_sums + tokens[number, SLOT] // chunk_slots
            if not 0 <= at < count:
                return False
            index[member, number] = at
    if not _sums(table, shape, tokens, chunk_slots, sums):
        return False
    held, inverse = words_at(first, 3 * count), words_at(complement, 3 * count)
    for member in range(len(table)):
        for number in range(len(tokens)):
            for k in range(3):
                held[3 * index[member, number] + k] += sums[member, number, k]
                inverse[3 * index[member, number] + k] -= sums[member, number, k]
    return True


def _table(members: Sequence[Tensor]) -> list[tuple[int, int, int, int]] | None:
    """That of ``_sums`` for values (B, T, H, D); None where a head's part of a slot is not whole words in one piece."""
    size = members[0].element_size()
    table = []
    for values in members:
        row, token, head, element = values.stride()
        address = values.data_ptr()
        if element != 1 or (row | token | head | values.shape[3]) * size % WORD_BYTES or address % WORD_BYTES:
            return None
        table.append((address, row * size, token * size, head * size))
    return table


def _shape(members: Sequence[Tensor]) -> tuple[int, int, int, int]:
    batch, count, heads, width = members[0].shape
    assert all(values.shape == members[0].shape for values in members), "one shape"
    return batch, count, heads, width * members[0].element_size() // WORD_BYTES


def token_sums(members: Sequence[Tensor], tokens: Tokens, chunk_slots: int) -> Tensor | None:
    """As ``kv_slots.token_sums``; None for values that the kernel cannot read."""
    if (table := _table(members)) is None:
        return None
    sums = np.empty((len(members), len(tokens), 3), dtype=np.int64)
    done = _sums(np.array(table), _shape(members), tokens, chunk_slots, sums)
    assert done, "tokens of the batch"
    return torch.from_numpy(sums)


def add(
    members: Sequence[Tensor], bases: Sequence[int], tokens: Tokens, chunk_slots: int, row_sums: int, sums: Sums
) -> tuple[Tensor, Tensor] | None:
    """As ``kv_slots.Group.add``, for members whose sums begin at ``bases`` in a row's ``row_sums`` ones; None for
    values that the kernel cannot read."""
    if (table := _table(members)) is None:
        return None
    index = np.empty((len(members), len(tokens)), dtype=np.int64)
    found = np.empty((*index.shape, 3), dtype=np.int64)
    done = _add(
        np.array(table),
        _shape(members),
        tokens,
        chunk_slots,
        found,
        np.array(bases),
        row_sums,
        index,
        sums.first.data_ptr(),
        sums.complement.data_ptr(),
        len(sums.first),
    )
    assert done, "tokens of the batch, rows of the cache"
    return torch.from_numpy(index.reshape(-1)), torch.from_numpy(found.reshape(-1, 3))
