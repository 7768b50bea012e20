# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# ruff: noqa: ANN001, ANN202
"""A product of bfloat16 or float16 matrices whose epilogue also gives the row sums of the unrounded results.

A check of a product against sums of its operands can only be as fine as what it looks at: after rounding to
bfloat16 the noise is 2⁻⁹ of each element, and a fault below that is invisible. Here each program holds its tile of
C = A B in float32 accumulators, adds them up along each row, and only then rounds and writes. A check needs no
second pass over C and no float32 copy of it: the extra traffic is 4 bytes a row and tile of ``TILE_N`` columns.

Sums are in float32 within a tile, by a tree (error at most 7 · 2⁻²⁴ of the sum of magnitudes), and in float64
across tiles, always in the same order: no atomics, no split of K, no choice of configuration by timing, so the same
operands give the same bits on the same card. A fault that hits an accumulator, a register of the product or the
tensor core is in the sums; one that hits after them, in rounding or on the way to memory, is not: that is the
matter of the transit digest.

Importing this module imports Triton: go through ``kernels``.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_M, TILE_N, TILE_K = 128, 128, 64
GROUP = 8
"""Tiles of rows that walk through the columns together, so that both operands stay in the cache."""
WARPS = 8
STAGES = 3
WIDEN = bool(triton.knobs.runtime.interpret)
"""The interpreter would multiply the integers in which it keeps bfloat16; products of widened ones are the same."""
DTYPES = (torch.bfloat16, torch.float16)


@triton.jit
def _mm_kernel(
    a,
    b,
    bias,
    c,
    sums,
    m,
    n,
    k,
    a_row,
    a_column,
    b_row,
    b_column,
    HAS_BIAS: tl.constexpr,
    WIDEN: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """``a`` (m, k) and ``b`` (k, n) by strides, ``bias`` (n), ``c`` (m, n) contiguous, ``sums`` float32 (tiles of
    n, m); grid (tiles of m · tiles of n)."""
    program = tl.program_id(0)
    tiles_m = tl.cdiv(m, TILE_M)
    tiles_n = tl.cdiv(n, TILE_N)
    group = program // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP, GROUP)
    within = program % (GROUP * tiles_n)
    tile_m = group * GROUP + within % height
    tile_n = within // height
    rows = tile_m * TILE_M + tl.arange(0, TILE_M)
    columns = tile_n * TILE_N + tl.arange(0, TILE_N)
    inner = tl.arange(0, TILE_K)
    # Rows and columns beyond the end read the first ones again: no mask in the loop but that of the last tile of k.
    a_rows = tl.where(rows < m, rows, 0).to(tl.int64)
    b_columns = tl.where(columns < n, columns, 0).to(tl.int64)
    a_at = a + a_rows[:, None] * a_row + inner[None, :] * a_column
    b_at = b + inner[:, None] * b_row + b_columns[None, :] * b_column
    held = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
    for tile in range(tl.cdiv(k, TILE_K)):
        left = k - tile * TILE_K
        a_tile = tl.load(a_at, mask=inner[None, :] < left, other=0.0)
        b_tile = tl.load(b_at, mask=inner[:, None] < left, other=0.0)
        if WIDEN:
            a_tile, b_tile = a_tile.to(tl.float32), b_tile.to(tl.float32)
        held = tl.dot(a_tile, b_tile, held)
        a_at += TILE_K * a_column
        b_at += TILE_K * b_row
    if HAS_BIAS:
        held += tl.load(bias + b_columns).to(tl.float32)[None, :]
    held = tl.where(columns[None, :] < n, held, 0.0)
    tl.store(sums + tile_n.to(tl.int64) * m + rows, tl.sum(held, axis=1), mask=rows < m)
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    c_at = c + rows.to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(c_at, held.to(c.dtype.element_ty), mask=inside)


def mm(a: Tensor, b: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A B + bias and the row sums of it before rounding.

    ``a`` (m, k) and ``b`` (k, n): bfloat16 or float16, any strides, so a transposed weight is not copied; ``bias``
    (n) of their dtype. Result: (m, n) of their dtype, and float64 (m).
    """
    (m, k), n = a.shape, b.shape[1]
    assert b.shape[0] == k, f"inner sizes {k} and {b.shape[0]}"
    assert a.dtype in DTYPES, f"{a.dtype}"
    assert b.dtype is a.dtype, f"{a.dtype} and {b.dtype}"
    assert bias is None or (bias.dtype is a.dtype and tuple(bias.shape) == (n,) and bias.is_contiguous()), "a bias"
    c = torch.empty((m, n), dtype=a.dtype, device=a.device)
    if not m or not n:
        return c, torch.zeros(m, dtype=torch.float64, device=a.device)
    tiles_n = triton.cdiv(n, TILE_N)
    sums = torch.empty((tiles_n, m), dtype=torch.float32, device=a.device)
    _mm_kernel[(triton.cdiv(m, TILE_M) * tiles_n,)](
        a,
        b,
        c if bias is None else bias,
        c,
        sums,
        m,
        n,
        k,
        *a.stride(),
        *b.stride(),
        HAS_BIAS=bias is not None,
        WIDEN=WIDEN,
        TILE_M=TILE_M,
        TILE_N=TILE_N,
        TILE_K=TILE_K,
        GROUP=GROUP,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return c, sums.sum(dim=0, dtype=torch.float64)
