# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# ruff: noqa: ANN001, ANN201, ANN202
"""The digest as a Triton kernel: one pass over the words, one program for each block.

A program walks through its block in tiles, i + 1 = t · TILE + j with t the tile and j = 1 … TILE the lane. Each
lane keeps A = Σ x, B = Σ t x and C = Σ t² x over the tiles, in registers; then, once a block,

    S1 = Σ A        S2 = Σ (TILE B + j A)        S3 = Σ (TILE² C + 2 TILE j B + j² A)          modulo 2⁶⁴

So a word costs its widening, one 64-bit addition and two 32 × 32 + 64-bit multiply-adds, which leaves the memory
the bottleneck. Sums are integers and each block is one program's: no atomics, and the same value whatever the
order. Whole tiles are read without a mask, as vectors; a block's last, shorter tile with one; a last word of less
than four bytes byte by byte.

Importing this module imports Triton: go through ``kernels``.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from flightsw.gpu.integrity.digest import BLOCK_BYTES, BLOCK_WORDS, WORD_BYTES, block_count

TILE = 1024
WARPS = 8
STAGES = 4
"""Four words a thread and tile, three tiles on their way into shared memory: compiled for compute capability 9.0
that is 48 registers and 12 KiB a program, so five programs and 60 KiB on their way on each multiprocessor."""


@triton.jit
def added(plain, linear, square, words, tile):
    """Lane sums A, B, C with the words of one more tile; int32 words."""
    wide = words.to(tl.int64)
    return plain + wide, linear + wide * tile, square + wide * (tile * tile)


@triton.jit
def joined(plain, linear, square, TILE: tl.constexpr):
    """S1, S2, S3 of lane sums."""
    place = tl.arange(0, TILE).to(tl.int64) + 1
    first = linear * TILE + plain * place
    second = (square * TILE + linear * place) * TILE + first * place
    return tl.sum(plain, axis=0), tl.sum(first, axis=0), tl.sum(second, axis=0)


@triton.jit
def _digest_kernel(memory, sums, size_bytes, BLOCK_WORDS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr):
    """``memory`` (uint8, aligned to 16 bytes), ``sums`` int64 (blocks, 3); grid (blocks)."""
    block = tl.program_id(0).to(tl.int64)
    start = block * (BLOCK_WORDS * 4)
    left_bytes = tl.minimum(size_bytes - start, BLOCK_WORDS * 4).to(tl.int32)
    left = left_bytes // 4
    tiles = left // TILE
    words = (memory + start).to(tl.pointer_type(tl.int32))
    lane = tl.arange(0, TILE)
    plain = tl.zeros((TILE,), dtype=tl.int64)
    linear = tl.zeros((TILE,), dtype=tl.int64)
    square = tl.zeros((TILE,), dtype=tl.int64)
    for tile in tl.range(tiles, num_stages=STAGES):
        plain, linear, square = added(plain, linear, square, tl.load(words + tile * TILE + lane), tile)
    offset = tiles * TILE + lane
    last = tl.load(words + offset, mask=offset < left, other=0)
    spare = left_bytes - left * 4
    for byte in range(spare):
        part = tl.load(memory + start + left * 4 + byte).to(tl.int32) << (8 * byte)
        last += tl.where(offset == left, part, 0)
    plain, linear, square = added(plain, linear, square, last, tiles)
    first, second, third = joined(plain, linear, square, TILE)
    tl.store(sums + block * 3, first)
    tl.store(sums + block * 3 + 1, second)
    tl.store(sums + block * 3 + 2, third)


def digest_into(memory: torch.Tensor, sums: torch.Tensor) -> None:
    """Sums of every block of ``memory`` (uint8, 1-d, contiguous) into ``sums``, int64 (blocks, 3), contiguous."""
    assert memory.dtype is torch.uint8, "bytes"
    assert tuple(sums.shape) == (block_count(memory.numel()), 3), "a row for each block"
    assert sums.is_contiguous(), "rows one after the other"
    if not memory.numel():
        return
    if memory.data_ptr() % 16:
        memory = memory.clone()
    # At most 2³¹ programs: 512 TiB.
    _digest_kernel[(len(sums),)](
        memory, sums, memory.numel(), BLOCK_WORDS=BLOCK_WORDS, TILE=TILE, STAGES=STAGES, num_warps=WARPS
    )


def digests_into(memories: Sequence[torch.Tensor], sums: torch.Tensor) -> None:
    """As ``digest_into``, of several memories, one under the other."""
    first = 0
    for memory in memories:
        blocks = block_count(memory.numel())
        digest_into(memory, sums[first : first + blocks])
        first += blocks


assert BLOCK_BYTES == BLOCK_WORDS * WORD_BYTES, "the kernel counts four bytes a word"
assert BLOCK_WORDS % TILE == 0, "whole blocks are whole tiles"
