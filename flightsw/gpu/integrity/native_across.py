"""Sums along rows, ``FLOATS`` rows at a time: of squares, of products, of their absolute values.

A sum along one row ends in a vector whose elements have to be added up, which takes longer than what comes before
when rows are short. Of two rows that is half as much: a vector of the lower halves of both by turns, and one of the
upper ones, are added. So ``FLOATS`` vectors become one, which has the sum of each row in its place.

Rows have a whole number of vectors; of fewer rows the last one is repeated.
"""

from collections.abc import Callable
from typing import Any, Final

from numba import types
from numba.core.cgutils import ir
from numba.extending import intrinsic

from flightsw.gpu.integrity.native_registers import (
    FLOATS,
    INTS,
    VECTOR,
    WORD,
    by_turns,
    constant,
    fused,
    load,
    loop,
    store,
)
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES

_ALL_BUT_SIGN: Final = ir.Constant(INTS, [0x7FFFFFFF] * FLOATS)

Grown = Callable[[Any, Any, Any], list[Any]]
"""Sums of a row, one more vector of it, and its place; the sums with it."""


@intrinsic  # type: ignore[untyped-decorator]
def squares_across(context: Any, begin: Any, step: Any, left: Any, width: Any, out: Any) -> Any:
    """Σ x² of each of ``FLOATS`` rows of ``width`` floats into ``out`` (FLOATS,). Addresses of float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        begin, step, left, width, out = arguments

        def grown(sums: Any, x: Any, offset: Any) -> list[Any]:
            return [fused(builder, x, x, sums[0])]

        _across(builder, (begin, step, left, width), (out,), grown)
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 5), code


@intrinsic  # type: ignore[untyped-decorator]
def products_across(context: Any, begin: Any, step: Any, left: Any, width: Any, weights: Any, out: Any) -> Any:
    """Σ x w of each of ``FLOATS`` rows and ``weights`` (``width``,) into ``out`` (FLOATS,)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        begin, step, left, width, weights, out = arguments

        def grown(sums: Any, x: Any, offset: Any) -> list[Any]:
            return [fused(builder, x, load(builder, builder.add(weights, offset)), sums[0])]

        _across(builder, (begin, step, left, width), (out,), grown)
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 6), code


@intrinsic  # type: ignore[untyped-decorator]
def sizes_across(
    context: Any, begin: Any, step: Any, left: Any, width: Any, weights: Any, out: Any, sizes: Any
) -> Any:
    """As ``products_across``, and Σ |x w| into ``sizes`` (FLOATS,)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        begin, step, left, width, weights, out, sizes = arguments

        def size(x: Any) -> Any:
            return builder.bitcast(builder.and_(builder.bitcast(x, INTS), _ALL_BUT_SIGN), VECTOR)

        def grown(sums: Any, x: Any, offset: Any) -> list[Any]:
            weight = load(builder, builder.add(weights, offset))
            return [fused(builder, x, weight, sums[0]), fused(builder, size(x), size(weight), sums[1])]

        _across(builder, (begin, step, left, width), (out, sizes), grown)
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 7), code


def _across(builder: Any, rows: tuple[Any, Any, Any, Any], outs: tuple[Any, ...], grown: Grown) -> None:
    begin, step, left, width = rows
    last = builder.sub(left, WORD(1))

    def of_row(i: int) -> list[Any]:
        which = builder.select(builder.icmp_signed("<", WORD(i), left), WORD(i), last)
        place = builder.add(begin, builder.mul(which, step))

        def body(at: Any, sums: Any) -> list[Any]:
            offset = builder.mul(at, WORD(FLOAT_BYTES))
            return grown(sums, load(builder, builder.add(place, offset)), offset)

        return list(loop(builder, WORD(0), width, FLOATS, [constant(0.0)] * len(outs), body))

    def added(one: Any, other: Any) -> Any:
        return builder.fadd(*by_turns(builder, one, other))

    half = FLOATS // 2
    # Two rows at a time, so that no more than half of the vectors wait.
    made = [[added(*pair) for pair in zip(of_row(i), of_row(i + half), strict=True)] for i in range(half)]
    for number, out in enumerate(outs):
        sums = [one[number] for one in made]
        while len(sums) > 1:
            middle = len(sums) // 2
            sums = [added(sums[i], sums[i + middle]) for i in range(middle)]
        store(builder, sums[0], out)
