# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202
"""Sums of a key-value cache's slots as a kernel for the processor: read where they lie, head by head.

In torch's operators the heads of a slot have to be gathered, and widened to float64, before anything is summed:
four copies of what is read once here; and a decode step, whose slots are few, is two dozen calls. Values are those
of ``kv_slots``, bit for bit.

*A slot* is summed as a block is in ``native_digest``, with its heads for tiles: of W words each, H of them. The sum
of a word's place, the sum of that sum, and the sum of that come to u = H − h, u (u + 1) / 2 and so on for head h.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import WORD_BYTES
from flightsw.gpu.integrity.native import compiled, floats_at

SLOT, LINE, PLACE = 1, 2, 3
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
    """``table`` int64 (members, 4): address, and bytes from row to row, head to head and token to token; ``shape``:
    rows, heads, tokens, words of a head; ``tokens`` int64 (n, 4); ``sums`` int64 (members, n, 3), written. False
    when a token is not one of the batch; nothing is read there."""
    batch, heads, count, head_words = shape
    lanes = np.empty((3, head_words), np.int64)
    for number in range(len(tokens)):
        if not (0 <= tokens[number, LINE] < batch and 0 <= tokens[number, PLACE] < count):
            return False
    for member in range(len(table)):
        address, row_bytes, head_bytes, token_bytes = table[member]
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


def fits(values: Tensor) -> bool:
    """Whether each head's part of a slot of values (B, H, T, D) is whole words in one piece."""
    size = values.element_size()
    row, head, token, element = values.stride()
    whole = (row | head | token | values.shape[3]) * size % WORD_BYTES == 0
    return element == 1 and whole and values.data_ptr() % WORD_BYTES == 0


def token_sums(members: Sequence[Tensor], tokens: Sequence[tuple[int, ...]], chunk_slots: int) -> Tensor:
    """As ``kv_slots.token_sums``, for values that ``fits``."""
    batch, heads, count, width = members[0].shape
    assert all(fits(values) and values.shape == members[0].shape for values in members), "whole words, one shape"
    size = members[0].element_size()
    table = [(values.data_ptr(), *(step * size for step in values.stride()[:3])) for values in members]
    sums = np.empty((len(members), len(tokens), 3), dtype=np.int64)
    shape = (batch, heads, count, width * size // WORD_BYTES)
    places = np.array(tokens, dtype=np.int64).reshape(-1, 4)
    done = _sums(np.array(table, dtype=np.int64), shape, places, chunk_slots, sums)
    assert done, "tokens of the batch"
    return torch.from_numpy(sums)
