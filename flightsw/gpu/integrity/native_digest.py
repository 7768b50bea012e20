# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN201, ANN202
"""The digest as a kernel for the processor: one pass over the words, three additions each.

A block is read in tiles of ``TILE`` words, one lane for each word of a tile. A lane keeps the words' sum, the sum
of that sum, and the sum of that, as Fletcher's checksum does: after n tiles a word x of tile t has gone

    once into A        n − t times into B        (n − t)(n − t + 1) / 2 times into C

so the weights cost no multiplication. With u = n − t and j = 1 … TILE the lane, i + 1 = (n · TILE + j) − u · TILE,
and with P = n · TILE + j follows once a block, over the lanes and modulo 2⁶⁴,

    S1 = Σ A        S2 = Σ (P A − TILE B)        S3 = Σ (P² A − 2 P TILE B + TILE² (2 C − B))

Four tiles are read side by side, each a page of its own: the core reads ahead on all of them, and the sums are
fetched and stored once for four words. That is as fast as memory gives the words. What is left of a block, and
every short one, goes in runs whose weights fit 32 bits, and a last word of less than four bytes byte by byte.

Sums are integers, so the values are those of ``digest`` and of the Triton kernel, bit for bit.
"""

from collections.abc import Sequence

import numpy as np
import torch

from flightsw.gpu.integrity.digest import BLOCK_BYTES, BLOCK_WORDS, WORD_BYTES, block_count
from flightsw.gpu.integrity.native import compiled, floats_at, words_at

TILE = 1024
"""Words: a page of 4 KiB; and 24 KiB of sums, which fit the first cache."""
STRIDE = 4 * TILE
RUN = 128
"""Words whose squares of places, and products with these, are cheap."""


@compiled
def _by_tiles(words, plain, linear, square):
    """S1, S2, S3 of a whole number of strides, int32; the rest is room for the sums of the lanes, int64 (TILE,)."""
    plain[:] = 0
    linear[:] = 0
    square[:] = 0
    for start in range(0, words.size, STRIDE):
        one, two = words[start : start + TILE], words[start + TILE : start + 2 * TILE]
        three, four = words[start + 2 * TILE : start + 3 * TILE], words[start + 3 * TILE : start + STRIDE]
        for j in range(TILE):
            a, b, c = plain[j], linear[j], square[j]
            a += one[j]
            b += a
            c += b
            a += two[j]
            b += a
            c += b
            a += three[j]
            b += a
            c += b
            a += four[j]
            b += a
            c += b
            plain[j], linear[j], square[j] = a, b, c
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    for j in range(TILE):
        place = np.int64(words.size + j + 1)
        a, b = plain[j], TILE * linear[j]
        first += a
        second += place * a - b
        third += place * (place * a - 2 * b) + TILE * (2 * TILE * square[j] - b)
    return first, second, third


@compiled
def by_runs(words, before):
    """S1, S2, S3 of any number of words, int32, of a block in which ``before`` words come before them."""
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    for start in range(0, words.size, RUN):
        run = words[start : start + RUN]
        plain, linear, square = np.int64(0), np.int64(0), np.int64(0)
        for j in range(np.int32(run.size)):
            word = np.int64(run[j])
            plain += word
            linear += word * np.int64(j)
            square += word * np.int64(j * j)
        place = np.int64(before + start + 1)
        first += plain
        second += linear + place * plain
        third += square + place * (2 * linear + place * plain)
    return first, second, third


@compiled
def summed(words, plain, linear, square):
    """S1, S2, S3 of the words of a block, int32 (up to ``BLOCK_WORDS``,); the rest is room, int64 (TILE,) each."""
    tiled = words.size // STRIDE * STRIDE
    first, second, third = by_runs(words[tiled:], tiled)
    if tiled:
        a, b, c = _by_tiles(words[:tiled], plain, linear, square)
        first += a
        second += b
        third += c
    return first, second, third


@compiled
def _digest(table, sums, blocks):
    """Digests of memories, int64 (memories, 2) with address and bytes of each, one under the other at ``sums``."""
    plain, linear, square = np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    found = words_at(sums, 3 * blocks)
    row = 0
    for memory in range(len(table)):
        address, size_bytes = table[memory, 0], table[memory, 1]
        for start in range(0, size_bytes, BLOCK_BYTES):
            left_bytes = min(size_bytes - start, BLOCK_BYTES)
            count = left_bytes // WORD_BYTES
            words = floats_at(address + start, count).view(np.int32)
            first, second, third = summed(words, plain, linear, square)
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


assert BLOCK_WORDS % STRIDE == 0, "whole blocks are whole strides"
