# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202
"""Sums of a key-value cache's slots as a kernel for the processor: read where they lie, head by head.

In torch's operators the heads of a slot have to be gathered, and widened to float64, before anything is summed:
four copies of what is read once here; and a decode step, whose slots are few, is two dozen calls, where this is
one for all layers. Values are those of ``kv_slots``, bit for bit.

*A slot* is summed as a block is, in tiles (``native_lanes``). Where heads are no whole number of tiles, a head is
one: of W words, H of them. The sums of sums are the same with H and W for the number and the size of tiles.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import WORD_BYTES
from flightsw.gpu.integrity.kv_slots import Tokens
from flightsw.gpu.integrity.native import compiled, floats_at, words_at
from flightsw.gpu.integrity.native_lanes import LANES, sums_of_lanes
from flightsw.gpu.integrity.native_vectors import FAR_BYTES, address_of
from flightsw.gpu.integrity.sums import Sums

ROW, SLOT, LINE, PLACE, NUMBERS = 0, 1, 2, 3, 4
"""Of a ``kv_slots.Token``, and how many there are."""
ADDRESS, ROW_BYTES, TOKEN_BYTES, HEAD_BYTES, BASE, COLUMNS = 0, 1, 2, 3, 4, 5
"""Of the values (B, T, H, D) of a layer and kind: where they begin, bytes from row to row, token to token and head
to head, the first of their sums within a row of the cache; and how many these are."""


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
def _sums(members, member_count, tokens, count, shape, chunk_slots, out):
    """Sums of the slots of tokens; members and tokens at addresses. ``shape``: rows, tokens, heads, words of one.
    ``out`` int64 (members · tokens, 4), all but column 0 written. False when a token is not one of the batch;
    nothing is read there."""
    rows, places, heads, head_words = shape
    member = words_at(members, member_count * COLUMNS)
    token = words_at(tokens, count * NUMBERS)
    lanes, room = np.empty((3, head_words), np.int64), np.empty(3 * LANES, np.int64)
    tiled = head_words % LANES == 0
    for number in range(count):
        at = number * NUMBERS
        if not (0 <= token[at + LINE] < rows and 0 <= token[at + PLACE] < places):
            return False
    for m in range(member_count):
        base = m * COLUMNS
        # Whole tokens, as one of these comes next in most batches.
        token_bytes = member[base + TOKEN_BYTES]
        ahead = token_bytes * max(1, FAR_BYTES // max(1, token_bytes))
        for number in range(count):
            at = number * NUMBERS
            begin = member[base + ADDRESS] + token[at + LINE] * member[base + ROW_BYTES]
            begin += token[at + PLACE] * member[base + TOKEN_BYTES]
            start = token[at + SLOT] % chunk_slots * heads * head_words
            head_bytes = member[base + HEAD_BYTES]
            if tiled:
                first, second, third = sums_of_lanes(
                    begin, heads, head_bytes, head_words // LANES, start, ahead, address_of(room)
                )
            else:
                first, second, third = _summed(
                    begin, heads, head_bytes, head_words, start, lanes[0], lanes[1], lanes[2]
                )
            out[m * count + number, 1] = first
            out[m * count + number, 2] = second
            out[m * count + number, 3] = third
    return True


@compiled
def _run(members, member_count, first, count, shape, chunk_slots, chunks, out):
    """Sums of ``count`` slots from ``first`` on, of a batch of one row whose first token is that slot, chunk by
    chunk: added to ``out`` int64 (members · ``chunks``, 3). False as in ``_sums``, or where there is no such chunk.
    """
    if first < 0 or (first + count - 1) // chunk_slots >= chunks:
        return False
    tokens, sums = np.zeros(count * NUMBERS, np.int64), np.empty((member_count * count, 4), np.int64)
    for place in range(count):
        tokens[place * NUMBERS + SLOT] = first + place
        tokens[place * NUMBERS + PLACE] = place
    if not _sums(members, member_count, address_of(tokens), count, shape, chunk_slots, sums):
        return False
    for m in range(member_count):
        for place in range(count):
            chunk = m * chunks + (first + place) // chunk_slots
            for k in range(3):
                out[chunk, k] += sums[m * count + place, 1 + k]
    return True


@compiled
def _add(members, member_count, tokens, count, shape, chunk_slots, out, row_sums, first, complement, sums_count):
    """As ``_sums``, and both copies of ``sums_count`` sums, at two addresses, grow by them. Slot s of row r goes to
    ``BASE`` + r · ``row_sums`` + ⌊s / ``chunk_slots``⌋, which is column 0. False, and nothing has grown, when a
    token is not one of the batch or that is not one of the sums."""
    member = words_at(members, member_count * COLUMNS)
    token = words_at(tokens, count * NUMBERS)
    for m in range(member_count):
        for number in range(count):
            at = number * NUMBERS
            index = member[m * COLUMNS + BASE] + token[at + ROW] * row_sums + token[at + SLOT] // chunk_slots
            if not 0 <= index < sums_count:
                return False
            out[m * count + number, 0] = index
    if not _sums(members, member_count, tokens, count, shape, chunk_slots, out):
        return False
    held, inverse = words_at(first, 3 * sums_count), words_at(complement, 3 * sums_count)
    for number in range(member_count * count):
        for k in range(3):
            held[3 * out[number, 0] + k] += out[number, 1 + k]
            inverse[3 * out[number, 0] + k] -= out[number, 1 + k]
    return True


def _given(members: Sequence[Tensor], bases: Sequence[int]) -> tuple["array[int]", tuple[int, ...]] | None:
    """Members and shape as ``_sums`` takes them; None where a head's part of a slot is not whole words, in one
    piece."""
    rows, places, heads, width = shape = members[0].shape
    size = members[0].element_size()
    table = array("q")
    for values, base in zip(members, bases, strict=True):
        assert values.shape == shape, "one shape"
        row, token, head, element = values.stride()
        address = values.data_ptr()
        if element != 1 or (row | token | head | width) * size % WORD_BYTES or address % WORD_BYTES:
            return None
        table.extend((address, row * size, token * size, head * size, base))
    return table, (rows, places, heads, width * size // WORD_BYTES)


def token_sums(members: Sequence[Tensor], tokens: Tokens, chunk_slots: int) -> Tensor | None:
    """As ``kv_slots.token_sums``; None for values that the kernel cannot read."""
    if (given := _given(members, [0] * len(members))) is None:
        return None
    table, shape = given
    count = len(tokens) // NUMBERS
    out = np.zeros((len(members) * count, 4), dtype=np.int64)
    at, where = table.buffer_info()[0], tokens.buffer_info()[0]
    done = _sums(at, len(members), where, count, shape, chunk_slots, out)
    assert done, "tokens of the batch"
    return torch.from_numpy(out[:, 1:].reshape(len(members), count, 3))


def run_sums(members: Sequence[Tensor], first: int, chunk_slots: int, chunks: int) -> Tensor | None:
    """As ``kv_slots.run_sums``; None for values that the kernel cannot read."""
    if (given := _given(members, [0] * len(members))) is None:
        return None
    table, shape = given
    out = np.zeros((len(members) * chunks, 3), dtype=np.int64)
    at = table.buffer_info()[0]
    done = _run(at, len(members), first, members[0].shape[1], shape, chunk_slots, chunks, out)
    assert done, "slots of the cache"
    return torch.from_numpy(out.reshape(len(members), chunks, 3))


def add(
    members: Sequence[Tensor], bases: Sequence[int], tokens: Tokens, chunk_slots: int, row_sums: int, sums: Sums
) -> Tensor | None:
    """As ``kv_slots.Group.add``, for members whose sums begin at ``bases`` in a row's ``row_sums`` ones; None for
    values that the kernel cannot read."""
    if (given := _given(members, bases)) is None:
        return None
    table, shape = given
    count = len(tokens) // NUMBERS
    out = np.empty((len(members) * count, 4), dtype=np.int64)
    at, where = table.buffer_info()[0], tokens.buffer_info()[0]
    first, complement = sums.first, sums.complement
    held = first.data_ptr(), complement.data_ptr(), first.shape[0]
    done = _add(at, len(members), where, count, shape, chunk_slots, out, row_sums, *held)
    assert done, "tokens of the batch, rows of the cache"
    return torch.from_numpy(out)
