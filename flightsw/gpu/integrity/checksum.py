"""The checked product: every row of a matrix product against the sums of its operands.

For y = x w (M, K)·(K, N), row by row

    Σ_j y_ij  =  Σ_k x_ik s_k          with s_k = Σ_j w_kj                            (Huang and Abraham, 1984)

up to rounding. The right side costs a matrix-vector product, the left one reads y once. A fault in any product,
accumulator or written element of a row moves its left side by what it moved the element; a damaged w (with s taken
when w was good) or a damaged read of x moves one side as well.

*Bounds*, in units of the operands' norms, never of the result, which may be what is damaged: a result of 1e36
overflows its own float32 norm to infinity, and everything passes. With u the unit roundoff of the product,
n = K + N, and ‖·‖ Euclidean norms, by Cauchy and Schwarz Σ_k |x_ik||w_kj| ≤ ‖x_i‖ ‖w_j‖:

- *certain*: |Σ_j y_ij − x_i·s| ≤ u n ‖x_i‖ Σ_j ‖w_j‖ · 2 ≤ 2 u n √N ‖x_i‖ ‖w‖_F. Every sum of n terms, in
  whatever order, errs by less than n u Σ|terms| (Higham, Accuracy and Stability, 3.1); one such on the left for y
  and its sum, and one on the right. What is beyond it cannot be rounding.
- *likely*: rounding errors that are independent add up like √n, and those of N elements like the norm of the row,
  not like √N times it: λ u √n ‖x_i‖ (‖w‖_F + ‖s‖), λ = ``LIKELY`` (the √n law is that of Higham and Mary, SIAM J.
  Sci. Comput. 41, 2019).

The likely bound raises the alarm and has the product done again. Where operands are far from random (all equal,
say) errors are correlated and a clean product can cross it: two equal results then say that it was no transient
fault, and only the certain bound condemns it. So alarms can be sharp and findings sure.

*Screen.* Norms only say how far off a sum may be, and hardly any comes near. So the bound is first formed from
norms of a ``PART``-th of x and of a live w, which are lower: what passes it passes the whole bound, too, and the
rest is not read. What does not pass is held to the whole bound.

A bias or addend c adds u n √N ‖c_i‖ to both. A result that was rounded to half precision before the check adds that
unit roundoff. A margin that is not a number, or infinite because a norm has overflowed, counts as an alarm: nothing
is ever compared with infinity and passes. Sums are formed in the product's own precision (float32, or float64 for
float64); n of the bound includes their rounding.
"""

import functools
import math
from typing import Final

import msgspec
import torch
from torch import Tensor

LIKELY: Final = 4.0
"""λ of the likely bound."""
TINY: Final = 1e-30
"""Floor of a bound, absolute, but for float16 results: half of their smallest number for each of a row."""
SMALL: Final = {torch.float64: 2.0**-510, torch.float32: 2.0**-62}
"""Elements below this may be missing in a norm, as their squares underflow."""
PIECE_ELEMENTS: Final = 1 << 18
"""Elements that are squared at a time: 1 MiB of float32 stays in a core's own cache."""
PART: Final = 8
"""Of this many equal parts of the inner dimension, the norm of one is a lower bound of that of all."""
PART_MIN: Final = 256
"""Inner dimension from which a part is worth it."""
BOUNDS_MAX: Final = 1024
"""Shapes whose bounds are kept."""
ONES_MAX: Final = 256
"""Columns of ones that are kept."""
UNIT: Final = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
"""Unit roundoff; of bfloat16 and float16 results it is that of the result, which dominates."""


class Sums(msgspec.Struct, frozen=True):
    """What is known of the right operand w (…, K, N); all in the precision of the check."""

    rows: Tensor
    """s (…, K, 1)."""
    scale: Tensor
    """‖w‖_F + ‖s‖ (…, 1, 1): of the likely bound."""
    norm: Tensor
    """‖w‖_F (…, 1, 1): of the certain bound."""


class Bounds(msgspec.Struct, frozen=True):
    """Factors of both bounds for a shape and dtype."""

    likely: float
    certain: float
    addend: float
    floor: float
    """Of a row, absolute: rounding of numbers below the smallest normal one is not relative."""


def precision(dtype: torch.dtype) -> torch.dtype:
    """In which sums of a product of this dtype are formed."""
    return torch.float64 if dtype is torch.float64 else torch.float32


@functools.lru_cache(maxsize=BOUNDS_MAX)
def bounds(inner: int, columns: int, dtype: torch.dtype) -> Bounds:
    """For a product over ``inner`` terms with ``columns`` columns whose result was rounded to ``dtype``."""
    terms = inner + columns
    unit = UNIT[precision(dtype)]
    rounding = 0.0 if dtype is precision(dtype) else UNIT[dtype]
    return Bounds(
        likely=LIKELY * (unit * math.sqrt(terms) + rounding),
        certain=2.0 * math.sqrt(columns) * (unit * terms + rounding),
        addend=math.sqrt(columns) * (unit * terms + rounding),
        floor=columns * 2.0**-25 if dtype is torch.float16 else TINY,
    )


def sums_of(w: Tensor, *, screen: bool = False) -> Sums:
    """Sums of an operand (K, N) or (B, K, N) as it is now; for a ``screen`` with lower bounds of the norms."""
    w = w.to(precision(w.dtype))
    rows = row_sums(w)
    if screen and w.shape[-2] >= PART_MIN:
        part = torch.linalg.vector_norm(w[..., : w.shape[-2] // PART, :], dim=(-2, -1), keepdim=True)
        return Sums(rows, part + torch.linalg.vector_norm(rows, dim=(-2, -1), keepdim=True), part)
    norm = torch.linalg.vector_norm(w, dim=(-2, -1), keepdim=True)
    norm += math.sqrt(w.shape[-1] * w.shape[-2]) * SMALL[w.dtype]
    return Sums(rows, norm + torch.linalg.vector_norm(rows, dim=(-2, -1), keepdim=True), norm)


def row_sums(matrix: Tensor) -> Tensor:
    """Σ over the last dimension (…, 1): a product with ones, which reads at the memory's speed."""
    sums: Tensor = torch.matmul(matrix, _ones(matrix.shape[-1], matrix.dtype, matrix.device))
    return sums


def row_norms(x: Tensor) -> Tensor:
    """‖x_i‖₂ (…, M, 1), not less than it: with what squares of small elements lose by underflow.

    A matrix whose rows are strided in memory (a transposed gradient) is squared piece by piece and summed by a
    product with ones: torch's own norm along a strided dimension is thirty times slower.
    """
    lost = math.sqrt(x.shape[-1]) * SMALL[x.dtype]
    if x.dim() != 2 or x.stride(1) == 1 or x.stride(0) != 1:
        direct: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).add_(lost)
        return direct
    memory = x.t()  # (K, M), its rows in one piece.
    rows = max(1, PIECE_ELEMENTS // memory.shape[1])
    squares = _scratch(rows * memory.shape[1], x.dtype, x.device).view(rows, memory.shape[1])
    total = torch.zeros((memory.shape[1], 1), dtype=x.dtype, device=x.device)
    column = _ones(rows, x.dtype, x.device)
    for start in range(0, len(memory), rows):
        piece = memory[start : start + rows]
        square = torch.mul(piece, piece, out=squares[: len(piece)])
        total.addmm_(square.t(), column[: len(piece)])
    norms: Tensor = total.sqrt_().add_(lost)
    return norms


def part_norms(x: Tensor) -> Tensor:
    """Lower bounds (…, M, 1) of ‖x_i‖₂, from a part of the columns."""
    columns = x.shape[-1]
    if columns < PART_MIN:
        return row_norms(x)
    part = x[..., : columns // PART]
    return row_norms(part) - math.sqrt(part.shape[-1]) * SMALL[x.dtype]


class Residual(msgspec.Struct, frozen=True):
    """Of one product: ``difference`` |Σ_j y_ij − …|, ``scale`` ‖x_i‖ · |α|, ``floor`` of both bounds; (…, M, 1)."""

    difference: Tensor
    scale: Tensor
    floor: Tensor | float


def residual(
    y: Tensor,
    x: Tensor,
    sums: Sums,
    addend: Tensor | None,
    limits: Bounds,
    alpha: float = 1.0,
    beta: float = 1.0,
    *,
    screen: bool = False,
) -> Residual:
    """Both sides of y = β c + α x w with x (…, M, K), row by row.

    ``addend`` is c as it is broadcast over y: (), (N,), (M, 1), (M, N) or with a leading batch.
    With ``screen``, ‖x_i‖ is a lower bound.
    """
    dtype = sums.rows.dtype
    x = x.to(dtype)
    expected = torch.matmul(x, sums.rows)
    difference = row_sums(y.to(dtype))
    scale = part_norms(x) if screen else row_norms(x)
    if alpha != 1.0:
        expected, scale = expected * alpha, scale * abs(alpha)
    difference = difference.sub_(expected)
    floor: Tensor | float = limits.floor
    if addend is not None and beta != 0.0:
        whole = addend.to(dtype)
        columns = y.shape[-1]
        if whole.dim() == 0 or whole.shape[-1] != columns:
            whole = whole.unsqueeze(-1) if whole.dim() == 0 else whole
            whole = whole.expand(*whole.shape[:-1], columns)
        difference = difference.sub_(row_sums(whole), alpha=beta)
        floor = torch.linalg.vector_norm(whole, dim=-1, keepdim=True) * (abs(beta) * limits.addend) + limits.floor
    return Residual(difference.abs_(), scale, floor)


def margin(found: Residual, factor: Tensor | float) -> Tensor:
    """Lowest and highest of bound − difference (2,), the bound being ``factor`` · scale + floor."""
    return torch.stack(torch.aminmax(found.scale * factor + found.floor - found.difference))


def sound(low: float, high: float) -> bool:
    """Whether a margin passes: not negative, and finite; a norm that is not a number or has overflowed does not."""
    return low >= 0.0 and high < math.inf


_SCRATCH: dict[tuple[torch.dtype, torch.device], Tensor] = {}


def _scratch(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory (size,) for a moment."""
    key = (dtype, device)
    held = _SCRATCH.get(key)
    if held is None or held.numel() < size:
        with torch.inference_mode(mode=False):
            held = _SCRATCH[key] = torch.empty(max(size, PIECE_ELEMENTS), dtype=dtype, device=device)
    return held[:size]


_ONES: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _ones(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A column (size, 1) of ones, made once; not to be written."""
    key = (size, dtype, device)
    if key not in _ONES:
        if len(_ONES) >= ONES_MAX:
            _ONES.clear()
        with torch.inference_mode(mode=False):
            _ONES[key] = torch.ones((size, 1), dtype=dtype, device=device)
    return _ONES[key]
