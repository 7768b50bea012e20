"""The forward pass of attention against its operands, where no backward pass looks at it: in serving.

Each row of the result is a mean of values, o = Σ_j p_j v_j / Σ_j p_j with p_j = exp(s q·k_j + m_j); the mask m is 0
and −∞, or any numbers. There is no way around the scores; but they and their exp can be had for less than the
operation takes, and their mean need not be formed in full. Two forms:

- *Few rows* (``EXACT_ROWS``; a decode step): reading keys and values is what it costs. Both are read once, and
  every element of the result is formed again and compared.
- *Many rows* (a chunk of a prompt): of each row only its projection on a fixed vector w is formed again, o·w
  against Σ_j p_j (v_j·w) / Σ_j p_j. The second product, half of the operation, is left out, and the first one
  stays in registers (``native_tiles``). Where a mask is −∞ for a vector of rows together, nothing is formed at all.

*What a projection cannot see* is a change of a row at a right angle to w. That of one element never is, as none of
w is zero; nor that of two which have changed places, as no two of w are equal. A wrong score, weight or head
changes a row by differences of values, which point anywhere: one as large as the row is missed once in some
hundreds of rows, a hundredth as large as often as not. What goes wrong in a core does so in more than one row, or
is one element.

*Bounds.* Between this form and torch's a score differs by two sides, each of them u times

    (t(D) + 4) |s| ‖q‖ max‖k‖     a product of D terms, and its scale, by Cauchy and Schwarz
    2 (|max score| + 88)          its sum with the mask, and what it is below the largest; below 88 exp is nothing

and errors ε of exponents, at worst of opposite signs in what is added up above and below, move a mean by
(e^4side − 1) Σ_j p_j |v_j| / Σ_j p_j at most; a projection by that of |v_j·w|. Errors of exp itself, and of sums
over S keys, add (``EXP`` + 4 t(S)) u of the same. Those of single elements, of a result and of values, do not add
up to something of v·w: (t(S) + 2 t(D)) u max_j Σ|v_j w|. What t(n) is for n terms, √n times ``SLACK``, holds for
independent errors in whatever order (see ``checksum``). All of this is of operands, never of the result; and what
is not a number, or infinite, passes only where operands make it so, themselves or by a product, also of a key that
is hidden. Where a side is beyond a quarter, at scores of some 10⁵, or a norm beyond 10¹⁹, the bound is infinite,
and nothing passes.

*Measured* over 1,300 random calls of all kinds: a sound difference is at most a thirtieth of its bound, and a ninth
where all operands are equal; over 9,800 calls with many rows, at most a twenty-fourth; 20,000 more gave no alarm.
Of noise of unit size, 64 wide and 200 keys, a wrong element of a decode step is seen when it is off by a thousandth
of its usual size; one of a chunk when it is off by two hundredths, by one to two of them two times in three.

*Rows that see no key* are zero, as torch's kernel makes them. A key that is hidden by a finite number counts as
seen: where such a number, as large as 10⁹, is added to all keys of a row, its bound is infinite.
"""

import functools
import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.checksum import UNIT

SLACK: Final = 2.0
"""Of √n, for the error of a sum of n terms."""
EXP: Final = 86.0
"""Of two exps, in units roundoff, above and below: torch's is good to 20 last places, ours to two units."""
BLOCK_KEYS: Final = 512
"""Keys that torch's kernel takes at a time; a block's sums are multiplied by one more exp."""
EXACT_ROWS: Final = 3
"""Rows of a sequence up to which every element is compared."""
GOLDEN: Final = (math.sqrt(5.0) - 1.0) / 2.0
"""Its multiples are nowhere near each other, but for whole numbers."""
KEYS_MAX: Final = 1 << 17
"""Keys for which there is room: 64 MiB, and one more for each head."""
SHAPES_MAX: Final = 256
"""Shapes whose bounds are kept, and widths whose w."""
NO_MASK, BOOL_MASK, FLOAT_MASK = range(3)
"""What a mask is, in a table."""
NOT_MASKED: Final = (NO_MASK, *(0,) * 5)
"""What a table says where there is none: kind, address, strides."""


def wrong(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> int | None:
    """Rows of ``out`` (B, H, T, D), over batch and heads, that are beyond their bound of what attention gives.

    That is softmax(q kᵀ · scale + mask) v of ``query`` (B, H, T, D), ``key`` and ``value`` (B, H, S, D), float32,
    in whatever order in memory but along D, which is in one piece. ``mask``: (B or 1, H or 1, T or 1, S or 1), or
    (T, S); bool, true where a key is seen, or float32, which is added. ``is_causal``: row t sees keys up to t.
    ``scale`` is 1/√D if None.

    None where there is no check: other dtypes, shapes and layouts; no kernels; ``is_causal`` where ``scale`` is not
    positive, as torch's kernel multiplies the −∞ of what is hidden by it. Raises nothing, for any tensors.
    """
    strides = [_strides(x) for x in (query, key, value, out)]
    if None in strides:
        return None
    of_query, of_key, of_value, of_out = strides
    shape, keys = query.shape, key.shape[2]
    batch, heads, rows, width = shape
    exact = rows <= EXACT_ROWS
    native = kernels.native(query.device, "native_attention_exact" if exact else "native_attention_projected")
    if native is None or out.shape != shape or value.shape != key.shape or key.shape != (batch, heads, keys, width):
        return None
    of_mask = NOT_MASKED if mask is None else _mask(mask, (batch, heads, rows, keys))
    factor = 1.0 / math.sqrt(width) if scale is None and width else float(scale or 0.0)
    if of_mask is None or (is_causal and (mask is not None or factor <= 0.0)) or not math.isfinite(factor):
        return None
    if not (batch and heads and rows and width and 0 < keys <= KEYS_MAX):
        return None
    table = np.array(
        (batch, heads, rows, keys, width, is_causal, of_mask[0],
         query.data_ptr(), *of_query, key.data_ptr(), *of_key,
         value.data_ptr(), *of_value, out.data_ptr(), *of_out, *of_mask[1:]),
        np.int64,
    )  # fmt: skip
    limits = bounds(width, keys, exact=exact)
    found: int = (
        native.rows_differ(table, factor, *limits)
        if exact
        else native.projections_differ(table, _weights(width), factor, *limits)
    )
    return found


@functools.lru_cache(maxsize=SHAPES_MAX)
def bounds(width: int, keys: int, *, exact: bool) -> tuple[float, ...]:
    """What the kernels are told of relative errors."""
    unit = UNIT[torch.float32]
    one_side = unit * (_terms(width) + 4.0), 2.0 * unit
    exps = EXP * (1 + keys // BLOCK_KEYS)
    if exact:
        return *one_side, unit * (4.0 * _terms(keys) + exps)
    return *one_side, unit * (3.0 * _terms(keys) + exps), unit * (_terms(keys) + 2.0 * _terms(width))


def _terms(count: int) -> float:
    """By how many units roundoff a sum of so many terms may be off."""
    return min(float(count), SLACK * math.sqrt(count))


@functools.lru_cache(maxsize=SHAPES_MAX)
def _weights(width: int) -> Any:
    """w (D,) float32: of alternating sign, from 1 to 2, neighbours far apart."""
    place = np.arange(width)
    return ((1.0 + place * GOLDEN % 1.0) * (1 - place % 2 * 2)).astype(np.float32)


def _strides(x: Any) -> Any:
    """Of batch, head and row, in elements; None for what kernels cannot read."""
    if not isinstance(x, Tensor) or x.dtype is not torch.float32 or x.layout is not torch.strided:
        return None
    if x.dim() != 4 or not x.is_cpu or x.is_neg():
        return None
    batch, head, row, element = x.stride()
    return (batch, head, row) if element == 1 else None


def _mask(mask: Any, shape: tuple[int, int, int, int]) -> tuple[int, ...] | None:
    """What a table says of a mask: its kind, address and strides; None when kernels cannot read it."""
    if not isinstance(mask, Tensor) or mask.layout is not torch.strided or not mask.is_cpu or mask.is_neg():
        return None
    kind = FLOAT_MASK if mask.dtype is torch.float32 else BOOL_MASK
    if kind == BOOL_MASK and mask.dtype is not torch.bool:
        return None
    sizes, strides = tuple(mask.shape), mask.stride()
    if len(sizes) == 2:
        sizes, strides = (1, 1, *sizes), (0, 0, *strides)
    if sizes != shape:
        if len(sizes) != 4 or any(have not in (1, whole) for have, whole in zip(sizes, shape, strict=True)):
            return None
        strides = tuple(0 if have == 1 else step for have, step in zip(sizes, strides, strict=True))
    return kind, mask.data_ptr(), *strides
