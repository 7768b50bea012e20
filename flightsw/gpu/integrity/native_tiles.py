"""Products of some rows with many, in registers: a loop over arrays comes nowhere near.

A tile is up to ``VECTORS`` vectors of rows of one matrix, turned so that they lie side by side (``turn``), times
``KEYS`` rows of another, as they lie: for each element of depth a load for each vector, ``KEYS`` broadcasts, and
their products, whose sums all stay in registers. BLAS does the same, but brings its operands into an order of its
own before, and the product goes through memory after. For heads of 64 it takes more than twice as long (63 against
170 Gflop/s on one core, while all is in its caches).
"""

from typing import Any, Final

from numba import types
from numba.extending import intrinsic

from flightsw.gpu.integrity.native_registers import (
    FLOATS,
    KEYS,
    REAL,
    VECTOR,
    VECTORS,
    WORD,
    constant,
    fused,
    load,
    spread,
    store,
    turned,
)
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES

LANES: Final = FLOATS * VECTORS
"""Rows of a tile."""


@intrinsic  # type: ignore[untyped-decorator]
def tile(
    context: Any, rows: Any, depth: Any, key: Any, step: Any, left: Any, out: Any, far: Any, vectors: Any
) -> Any:
    """Products of ``vectors``, 1 to ``VECTORS``, of turned ``rows`` (``depth``, LANES) with ``KEYS`` rows at
    ``key``, ``step`` bytes apart, into ``out``: (KEYS, FLOATS) of each vector, ``far`` bytes apart. All are
    addresses of float32. Of fewer than ``KEYS`` rows ``left`` the last one is repeated."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, depth, key, step, left, out, far, vectors = arguments
        last = builder.sub(left, WORD(1))
        keys = []
        for i in range(KEYS):
            which = builder.select(builder.icmp_signed("<", WORD(i), left), WORD(i), last)
            keys.append(builder.add(key, builder.mul(which, step)))
        done = builder.append_basic_block("done")
        choice = builder.switch(vectors, done)
        for count in range(1, VECTORS + 1):
            block = builder.append_basic_block("tile")
            choice.add_case(WORD(count), block)
            builder.position_at_end(block)
            _products(builder, rows, depth, keys, out, far, count)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 8), code


def _products(builder: Any, rows: Any, depth: Any, keys: list[Any], out: Any, far: Any, vectors: int) -> None:
    before = builder.block
    body, after = builder.append_basic_block("depth"), builder.append_basic_block("made")
    builder.branch(body)
    builder.position_at_end(body)
    at = builder.phi(WORD)
    at.add_incoming(WORD(0), before)
    sums = [[builder.phi(VECTOR) for _ in range(vectors)] for _ in keys]
    place = builder.add(rows, builder.mul(at, WORD(LANES * FLOAT_BYTES)))
    lanes = [load(builder, builder.add(place, WORD(v * FLOATS * FLOAT_BYTES))) for v in range(vectors)]
    offset = builder.mul(at, WORD(FLOAT_BYTES))
    for key, of_key in zip(keys, sums, strict=True):
        all_of_it = spread(builder, load(builder, builder.add(key, offset), REAL))
        for one, lane in zip(of_key, lanes, strict=True):
            one.add_incoming(constant(0.0), before)
            one.add_incoming(fused(builder, all_of_it, lane, one), body)
    following = builder.add(at, WORD(1))
    at.add_incoming(following, body)
    builder.cbranch(builder.icmp_signed("<", following, depth), body, after)
    builder.position_at_end(after)
    for v in range(vectors):
        begin = builder.add(out, builder.mul(far, WORD(v)))
        for i, of_key in enumerate(sums):
            store(builder, of_key[v].incomings[1][0], builder.add(begin, WORD(i * FLOATS * FLOAT_BYTES)))


@intrinsic  # type: ignore[untyped-decorator]
def turn(context: Any, begin: Any, step: Any, factor: Any, out: Any, out_step: Any) -> Any:
    """``FLOATS`` rows of as many floats, ``step`` bytes apart, times ``factor``, turned into such rows ``out_step``
    bytes apart."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        begin, step, factor, out, out_step = arguments
        factors = spread(builder, factor)
        places = [builder.add(begin, builder.mul(step, WORD(i))) for i in range(FLOATS)]
        rows = [builder.fmul(load(builder, place), factors) for place in places]
        for i, row in enumerate(turned(builder, rows)):
            store(builder, row, builder.add(out, builder.mul(out_step, WORD(i))))
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.float32, types.int64, types.int64), code
