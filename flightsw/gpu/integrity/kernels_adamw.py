# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# ruff: noqa: ANN001, ANN202
"""The guarded AdamW as a Triton kernel: one launch for all parameters, one program for each block of 2¹⁶ words.

A program reads p, g, m and v of its block tile by tile, adds the words of p, m and v to the sums of what it found,
updates, adds the new words to the sums of what it writes, and writes. So verifying and digesting cost no memory
traffic but 72 bytes of digests each way a block, beside its 1.75 MiB. Programs share nothing: no atomics, and a
block's sums are integers, so results do not depend on the order in which programs or lanes run.

Which block lies where stands in a table of addresses that is made once; gradients may move, so their addresses are
handed over at every step. Step counts, bias corrections and rates are computed on the device: nothing waits for it.

*Same bits as torch.* The arithmetic is that of torch's fused AdamW for float32 state (``fused_adam_utils.cuh``):
float32 throughout, its four explicit fused multiply-adds, the decay contracted to one as its compiler contracts it,
square root and divisions rounded to nearest. This has been compared by the interpreter, not yet on a card.

*A block that did not match* is updated like any other, for its sums are known only at its end; its new digests
carry the mark of ``guarded_adamw``: S3 + 1, the digest of no memory.

Importing this module imports Triton: go through ``kernels``.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from flightsw.gpu.integrity.digest import BLOCK_WORDS
from flightsw.gpu.integrity.kernels_digest import added, joined

TILE = 256
WARPS = 8
STAGES = 4
"""One word a thread and tile, three tiles of p, g, m and v on their way into shared memory. The eighteen sums of a
lane are what fills the registers: more words a thread would leave room for one program on a multiprocessor only."""
COLUMNS = 9
"""Of a row of the table: slot, first word, words, addresses of p, m and v at that word, of their three digests."""


@triton.jit
def _at(address):
    """Pointer to float32 at an address that is a multiple of 16, so that vectors can be read there."""
    return tl.multiple_of(address.to(tl.pointer_type(tl.float32)), 16)


@triton.jit
def _updated(p, g, m, v, step_size, root, decay, beta1, beta2, epsilon):
    """New p, m and v, by the operations of torch's fused AdamW in their order."""
    p = tl.where(decay != 0, tl.fma(-decay, p, p), p)
    m = tl.fma(beta1, m, tl.fma(-beta1, g, g))
    square = g * g
    v = tl.fma(beta2, v, tl.fma(-beta2, square, square))
    scale = tl.div_rn(tl.sqrt_rn(v), root) + epsilon
    return p - tl.div_rn(step_size * m, scale), m, v


@triton.jit
def _counted(sums, values, tile):
    """Lane sums of a storage with one more tile of its values, as int32 words."""
    return added(sums[0], sums[1], sums[2], values.to(tl.int32, bitcast=True), tile)


@triton.jit
def _compared(found, digest, differences, TILE: tl.constexpr):
    """Write the three differences of what was found from the stored digest; whether there is one."""
    first, second, third = joined(found[0], found[1], found[2], TILE)
    first -= tl.load(digest)
    second -= tl.load(digest + 1)
    third -= tl.load(digest + 2)
    tl.store(differences, first)
    tl.store(differences + 1, second)
    tl.store(differences + 2, third)
    return (first != 0) | (second != 0) | (third != 0)


@triton.jit
def _emit(written, digest, bad, TILE: tl.constexpr):
    """Write the digest of what was written; marked as that of no memory where it was made of what did not match."""
    first, second, third = joined(written[0], written[1], written[2], TILE)
    tl.store(digest, first)
    tl.store(digest + 1, second)
    tl.store(digest + 2, third + bad.to(tl.int64))


@triton.jit
def _adamw_kernel(
    table,
    gradients,
    scalars,
    lost,
    differences,
    beta1,
    beta2,
    epsilon,
    COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``table`` int64 (blocks, COLUMNS), ``gradients`` int64 addresses (slots), ``scalars`` float32 (slots, 3) with
    step size, root of the second bias correction and decay, ``lost`` bool (slots), ``differences`` int64
    (blocks, 3, 3); grid (blocks)."""
    block = tl.program_id(0)
    row = table + block * COLUMNS
    slot = tl.load(row)
    words = tl.load(row + 2).to(tl.int32)
    gradient = _at(tl.load(gradients + slot) + tl.load(row + 1) * 4)
    parameter = _at(tl.load(row + 3))
    first = _at(tl.load(row + 4))
    second = _at(tl.load(row + 5))
    step_size = tl.load(scalars + slot * 3)
    root = tl.load(scalars + slot * 3 + 1)
    decay = tl.load(scalars + slot * 3 + 2)
    lane = tl.arange(0, TILE)
    none = tl.zeros((TILE,), dtype=tl.int64)
    found_p, found_m, found_v = (none, none, none), (none, none, none), (none, none, none)
    new_p, new_m, new_v = (none, none, none), (none, none, none), (none, none, none)
    tiles = words // TILE
    for tile in tl.range(tiles, num_stages=STAGES):
        offset = tile * TILE + lane
        p = tl.load(parameter + offset)
        g = tl.load(gradient + offset)
        m = tl.load(first + offset)
        v = tl.load(second + offset)
        found_p = _counted(found_p, p, tile)
        found_m = _counted(found_m, m, tile)
        found_v = _counted(found_v, v, tile)
        p, m, v = _updated(p, g, m, v, step_size, root, decay, beta1, beta2, epsilon)
        new_p = _counted(new_p, p, tile)
        new_m = _counted(new_m, m, tile)
        new_v = _counted(new_v, v, tile)
        tl.store(parameter + offset, p)
        tl.store(first + offset, m)
        tl.store(second + offset, v)
    offset = tiles * TILE + lane
    rest = offset < words
    if tiles * TILE < words:
        p = tl.load(parameter + offset, mask=rest, other=0.0)
        g = tl.load(gradient + offset, mask=rest, other=0.0)
        m = tl.load(first + offset, mask=rest, other=0.0)
        v = tl.load(second + offset, mask=rest, other=0.0)
        found_p = _counted(found_p, p, tiles)
        found_m = _counted(found_m, m, tiles)
        found_v = _counted(found_v, v, tiles)
        p, m, v = _updated(p, g, m, v, step_size, root, decay, beta1, beta2, epsilon)
        # Lanes beyond the end start from zeros, but need not end there: 0 / root + 0 may be no number.
        new_p = _counted(new_p, tl.where(rest, p, 0.0), tiles)
        new_m = _counted(new_m, tl.where(rest, m, 0.0), tiles)
        new_v = _counted(new_v, tl.where(rest, v, 0.0), tiles)
        tl.store(parameter + offset, p, mask=rest)
        tl.store(first + offset, m, mask=rest)
        tl.store(second + offset, v, mask=rest)
    digest_p = tl.load(row + 6).to(tl.pointer_type(tl.int64))
    digest_m = tl.load(row + 7).to(tl.pointer_type(tl.int64))
    digest_v = tl.load(row + 8).to(tl.pointer_type(tl.int64))
    bad = tl.load(lost + slot) != 0
    bad = bad | _compared(found_p, digest_p, differences + block * 9, TILE)
    bad = bad | _compared(found_m, digest_m, differences + block * 9 + 3, TILE)
    bad = bad | _compared(found_v, digest_v, differences + block * 9 + 6, TILE)
    _emit(new_p, digest_p, bad, TILE)
    _emit(new_m, digest_m, bad, TILE)
    _emit(new_v, digest_v, bad, TILE)


def table(rows: Sequence[tuple[int, int, tuple[Tensor, ...], tuple[Tensor, ...]]]) -> Tensor:
    """Table for ``update``; of each block: slot, first word, views of p, m and v, views of their digests."""
    lines = []
    for slot, start, tensors, sums in rows:
        assert all(tensor.dtype is torch.float32 and tensor.data_ptr() % 16 == 0 for tensor in tensors), "float32"
        assert 0 < tensors[0].numel() <= BLOCK_WORDS, "a block"
        addresses = [tensor.data_ptr() for tensor in (*tensors, *sums)]
        lines.append([slot, start, tensors[0].numel(), *addresses])
    return torch.tensor(lines, dtype=torch.int64).to(rows[0][2][0].device)


def update(
    blocks: Tensor,
    gradients: Sequence[Tensor],
    steps: Tensor,
    decays: Tensor,
    lost: Tensor,
    differences: Tensor,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Update every block of a ``table``.

    ``gradients``: float32, contiguous, aligned to 16 bytes, one of each slot. ``steps`` float32 (slots), counted on
    already; ``decays`` float32 (slots); ``lost`` bool (slots): steps that cannot be trusted; ``differences`` int64
    (blocks, 3, 3), written: sums found in p, m and v less those stored.
    """
    device = blocks.device
    assert all(g.is_contiguous() and g.data_ptr() % 16 == 0 and g.dtype is torch.float32 for g in gradients), (
        "float32"
    )
    addresses = torch.tensor([gradient.data_ptr() for gradient in gradients], dtype=torch.int64)
    if device.type == "cuda":
        # From pinned memory, so that the copy is queued like a kernel and nobody waits for it.
        addresses = addresses.pin_memory().to(device, non_blocking=True)
    rate = torch.full_like(steps, learning_rate)
    step_sizes = rate / (1 - torch.pow(torch.full_like(steps, betas[0]), steps))
    roots = (1 - torch.pow(torch.full_like(steps, betas[1]), steps)).sqrt()
    scalars = torch.stack((step_sizes, roots, rate * decays), dim=1)
    _adamw_kernel[(len(blocks),)](
        blocks,
        addresses,
        scalars,
        lost,
        differences,
        betas[0],
        betas[1],
        epsilon,
        COLUMNS=COLUMNS,
        TILE=TILE,
        STAGES=STAGES,
        num_warps=WARPS,
    )


assert BLOCK_WORDS % TILE == 0, "whole blocks are whole tiles"
