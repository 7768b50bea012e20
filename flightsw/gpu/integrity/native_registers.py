"""Words of LLVM for kernels that keep vectors of floats in registers: what numba's arrays never do.

A vector has ``FLOATS`` floats, as many as a register of this processor. Sums of a few dozen of them that are built
here stay in registers for as long as a loop lasts; those of an array are fetched and stored at every step.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numba.core.cgutils import ir
from numba.core.codegen import ll

from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES


def _shape() -> tuple[int, int, int]:
    """Floats of a vector, vectors, and keys of a tile: sums and what is multiplied fit the registers."""
    features = ll.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 4, 6
    return (8, 2, 6) if features.get("avx2") else (4, 2, 4)


FLOATS, VECTORS, KEYS = _shape()
WORD, INT, REAL = ir.IntType(64), ir.IntType(32), ir.FloatType()
VECTOR: Final = ir.VectorType(REAL, FLOATS)
INTS: Final = ir.VectorType(INT, FLOATS)
_NONE: Final = ir.Constant(VECTOR, ir.Undefined)
_FUSED: Final = ("contract",)
_HALF: Final = FLOATS // 2
_LOW, _HIGH = (
    ir.Constant(INTS, [place for i in range(side, side + _HALF) for place in (i, FLOATS + i)])
    for side in (0, _HALF)
)
"""The lower halves of two vectors by turns, and the upper ones."""

Body = Callable[[Any, Sequence[Any]], Sequence[Any]]


def load(builder: Any, address: Any, kind: Any = VECTOR) -> Any:
    """A vector of floats in memory, or one of another ``kind``."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=FLOAT_BYTES)


def store(builder: Any, made: Any, address: Any) -> None:
    """A vector of floats into memory."""
    builder.store(made, builder.inttoptr(address, VECTOR.as_pointer()), align=FLOAT_BYTES)


def constant(number: Any) -> Any:
    """A vector of one number."""
    # As it is rounded, or LLVM would take it for a double.
    return ir.Constant(VECTOR, [float(np.float32(number))] * FLOATS)


def spread(builder: Any, one: Any) -> Any:
    """A vector of one float."""
    same = ir.Constant(INTS, [0] * FLOATS)
    return builder.shuffle_vector(builder.insert_element(_NONE, one, INT(0)), _NONE, same)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, rounded once where that can be."""
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)


def by_turns(builder: Any, one: Any, other: Any) -> tuple[Any, Any]:
    """Elements of two vectors by turns: a vector of the lower halves, and one of the upper."""
    return builder.shuffle_vector(one, other, _LOW), builder.shuffle_vector(one, other, _HIGH)


def turned(builder: Any, rows: Sequence[Any]) -> Sequence[Any]:
    """``FLOATS`` vectors turned: row i and row i + ``FLOATS`` / 2 by turns, as often as it takes."""
    for _ in range(FLOATS.bit_length() - 1):
        rows = [row for i in range(_HALF) for row in by_turns(builder, rows[i], rows[i + _HALF])]
    return rows


def loop(builder: Any, start: Any, stop: Any, step: int, first: Sequence[Any], body: Body) -> Sequence[Any]:
    """``body`` of each index and of what it gave last, at first ``first``; what it gave at last."""
    before = builder.block
    asked, inside, after = (builder.append_basic_block(name) for name in ("asked", "inside", "after"))
    builder.branch(asked)
    builder.position_at_end(asked)
    at, kept = builder.phi(WORD), [builder.phi(one.type) for one in first]
    for phi, one in zip((at, *kept), (start, *first), strict=True):
        phi.add_incoming(one, before)
    builder.cbranch(builder.icmp_signed("<", at, stop), inside, after)
    builder.position_at_end(inside)
    made = (builder.add(at, WORD(step)), *body(at, kept))
    for phi, one in zip((at, *kept), made, strict=True):
        phi.add_incoming(one, builder.block)
    builder.branch(asked)
    builder.position_at_end(after)
    return kept
