"""Softmax of a vector of rows over their keys, and what it makes of two numbers of each key, in registers.

Scores of ``FLOATS`` rows lie side by side, key after key. They are read twice, for the largest and for the sums;
all of these stay in registers, where a loop over arrays fetches and stores them at every key.

``exp`` is that of ``native_vectors`` with a polynomial of one degree less, fitted to eʳ for |r| ≤ ln 2 / 2: it is
off by 0.06 units roundoff there, and the whole errs by at most ``EXP_UNITS`` as well (1.3 measured, over all of its
range).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numba import types
from numba.core.cgutils import ir
from numba.extending import intrinsic

from flightsw.gpu.integrity.native import compiled
from flightsw.gpu.integrity.native_registers import (
    FLOATS,
    INTS,
    REAL,
    VECTOR,
    WORD,
    constant,
    fused,
    load,
    loop,
    spread,
    store,
)
from flightsw.gpu.integrity.native_tiles import LANES
from flightsw.gpu.integrity.native_vectors import (
    FLOAT_BYTES,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    LOWEST,
    ONE_BITS,
    ROUND,
    wide,
)

TOP, TOTAL, MEAN, SIZE, SUMS = range(5)
"""What is made of each row, and how much that is."""
_TOGETHER: Final = 4
"""Keys whose largest is found side by side: one after the other each waits for the last."""
_POLYNOMIAL: Final = (
    1.3814583856e-03,
    8.3687239435e-03,
    4.1668388733e-02,
    1.6666520573e-01,
    4.9999993444e-01,
    1.0,
    1.0,
)
"""Of r⁶, r⁵ … 1."""


@compiled
def weigh(scores: int, along: int, sizes: int, count: int, out: int) -> None:
    """Of each of ``FLOATS`` rows of ``scores`` (``count``, FLOATS), with p = exp(score − largest), into ``out``
    (SUMS, LANES): the largest, 0 if that is −∞, Σ p, Σ p ``along`` and Σ p ``sizes``, both (``count``,). All are
    addresses of float32. What is not a number is no largest, and makes sums that are none."""
    # A function of its own: within a fast one every rounding, those of exp too, would be one that may be left out.
    wide()
    _weigh(scores, along, sizes, count, out)


@intrinsic  # type: ignore[untyped-decorator]
def _weigh(context: Any, scores: Any, along: Any, sizes: Any, count: Any, out: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, along, sizes, count, out = arguments
        least, nothing = constant(-np.inf), constant(0.0)

        def row(at: Any, offset: int = 0) -> Any:
            place = builder.mul(builder.add(at, WORD(offset)), WORD(FLOATS * FLOAT_BYTES))
            return load(builder, builder.add(scores, place))

        def of_some(at: Any, tops: Sequence[Any]) -> Sequence[Any]:
            return [_larger(builder, row(at, i), top) for i, top in enumerate(tops)]

        def of_one(at: Any, tops: Sequence[Any]) -> Sequence[Any]:
            return [_larger(builder, row(at), tops[0])]

        even = builder.mul(builder.udiv(count, WORD(_TOGETHER)), WORD(_TOGETHER))
        top, *others = loop(builder, WORD(0), even, _TOGETHER, [least] * _TOGETHER, of_some)
        for other in others:
            top = _larger(builder, other, top)
        (top,) = loop(builder, even, count, 1, [top], of_one)
        top = builder.select(builder.fcmp_ordered("==", top, least), nothing, top)

        def of_key(at: Any, sums: Sequence[Any]) -> Sequence[Any]:
            p = _exp(builder, builder.fsub(row(at), top))
            offset = builder.mul(at, WORD(FLOAT_BYTES))
            a, s = (spread(builder, load(builder, builder.add(one, offset), REAL)) for one in (along, sizes))
            total, mean, size = sums
            return [builder.fadd(total, p), fused(builder, p, a, mean), fused(builder, p, s, size)]

        made = loop(builder, WORD(0), count, 1, [nothing] * 3, of_key)
        for i, one in enumerate((top, *made)):
            store(builder, one, builder.add(out, WORD(i * LANES * FLOAT_BYTES)))
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 5), code


def _exp(builder: Any, x: Any) -> Any:
    """eˣ of floats not above 88; 0 below ``LOWEST``; NaN stays."""
    lowest = constant(LOWEST)
    below = builder.fcmp_ordered("<", x, lowest)
    reached = builder.select(below, lowest, x)
    rounded = fused(builder, reached, constant(LOG2_E), constant(ROUND))
    n = builder.fsub(rounded, constant(ROUND))
    r = fused(builder, n, constant(-LN2_HIGH), reached)
    r = fused(builder, n, constant(-LN2_LOW), r)
    y = constant(_POLYNOMIAL[0])
    for factor in _POLYNOMIAL[1:]:
        y = fused(builder, y, r, constant(factor))
    # 2ⁿ, put into the exponent.
    bits = builder.shl(builder.bitcast(rounded, INTS), ir.Constant(INTS, [23] * FLOATS))
    bits = builder.add(bits, ir.Constant(INTS, [int(ONE_BITS)] * FLOATS))
    made = builder.fmul(y, builder.bitcast(bits, VECTOR))
    return builder.select(below, constant(0.0), made)


def _larger(builder: Any, one: Any, other: Any) -> Any:
    """Of what is not a number, the other."""
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)
