# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN201, ANN202
"""The digest as a kernel for the processor: one pass over the words, three additions each.

A block is read in tiles, as ``native_lanes`` says. What is left of it goes word by word, and a last word of less
than four bytes byte by byte.

Sums are integers, so the values are those of ``digest`` and of the Triton kernel, bit for bit.
"""

from collections.abc import Sequence

import numpy as np
import torch

from flightsw.gpu.integrity.digest import BLOCK_BYTES, WORD_BYTES, block_count
from flightsw.gpu.integrity.native import compiled, floats_at, words_at
from flightsw.gpu.integrity.native_lanes import LANES, sums_of_lanes
from flightsw.gpu.integrity.native_vectors import FAR_BYTES, address_of

ROOM = 3 * LANES
"""Numbers that are kept while a block is read."""


@compiled
def _one_by_one(words, before):
    """S1, S2, S3 of words, int32, of a block in which ``before`` words come before them."""
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    for j in range(words.size):
        word, place = np.int64(words[j]), np.int64(before + j + 1)
        first += word
        second += place * word
        third += place * place * word
    return first, second, third


@compiled
def summed(words, room):
    """S1, S2, S3 of the words of a block, int32 (up to ``BLOCK_WORDS``,); ``room``: ``ROOM`` int64."""
    tiles = words.size // LANES
    begin = address_of(words)
    first, second, third = sums_of_lanes(begin, 1, 0, tiles, 0, FAR_BYTES, address_of(room))
    a, b, c = _one_by_one(words[tiles * LANES :], tiles * LANES)
    return first + a, second + b, third + c


@compiled
def _digest(table, sums, blocks):
    """Digests of memories, int64 (memories, 2) with address and bytes of each, one under the other at ``sums``."""
    room = np.empty(ROOM, np.int64)
    found = words_at(sums, 3 * blocks)
    row = 0
    for memory in range(len(table)):
        address, size_bytes = table[memory, 0], table[memory, 1]
        for start in range(0, size_bytes, BLOCK_BYTES):
            left_bytes = min(size_bytes - start, BLOCK_BYTES)
            count = left_bytes // WORD_BYTES
            words = floats_at(address + start, count).view(np.int32)
            first, second, third = summed(words, room)
            last = np.int64(0)
            end = floats_at(address + start + count * WORD_BYTES, 1).view(np.uint8)
            for byte in range(left_bytes - count * WORD_BYTES):
                last |= np.int64(end[byte]) << (8 * byte)
            first += last
            second += (count + 1) * last
            third += (count + 1) * (count + 1) * last
            found[3 * row], found[3 * row + 1], found[3 * row + 2] = first, second, third
            row += 1


def digests_into(memories: Sequence[torch.Tensor], sums: torch.Tensor) -> None:
    """Sums of every block of memories (uint8, 1-d, contiguous), one under the other, into ``sums``, int64
    (blocks of all, 3), contiguous. One call of the kernel, however many there are."""
    assert all(memory.dtype is torch.uint8 for memory in memories), "bytes"
    assert sums.is_contiguous(), "rows one after the other"
    held = [memory.clone() if memory.data_ptr() % WORD_BYTES else memory for memory in memories]
    blocks = sum(block_count(memory.numel()) for memory in held)
    assert tuple(sums.shape) == (blocks, 3), "a row for each block"
    places = [number for memory in held for number in (memory.data_ptr(), memory.numel())]
    _digest(np.array(places, dtype=np.int64).reshape(-1, 2), sums.data_ptr(), blocks)


def digest_into(memory: torch.Tensor, sums: torch.Tensor) -> None:
    """Sums of every block of ``memory`` (uint8, 1-d, contiguous) into ``sums``, int64 (blocks, 3), contiguous."""
    digests_into((memory,), sums)
