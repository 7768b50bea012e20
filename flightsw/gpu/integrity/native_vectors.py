"""What kernels share that work in vectors: exp, the largest of a row, memory that is asked for ahead.

``exp`` is that of Cephes: x = n ln 2 + r with |r| ≤ ln 2 / 2, a polynomial for eʳ, 2ⁿ put into the exponent as
bits. It errs by at most ``EXP_UNITS`` units roundoff. A call of the library's would keep a loop from being
vectorised; so would a maximum of floats, as that of a NaN is no maximum, and so floats are compared as integers of
the same order.

*Memory.* A processor guesses what will be read next, but not beyond a page. Where rows are asked for
``AHEAD_BYTES`` before they are read, keys and values of a cache go by in two thirds of the time. Asking never
faults, so what is asked for need not be there.

*Wide* vectors. LLVM keeps to 256 bits where there are 512, as a few of them would slow the clock down for all that
follows. A kernel that works beside those of MKL, which does not, takes two thirds of the time with them.
"""

from typing import Any, Final, cast

import numpy as np
from numba import njit, types
from numba.core.cgutils import ir
from numba.extending import intrinsic

from flightsw.gpu.integrity.native import Kernel

EXP_UNITS: Final = 3.0
"""Error of ``exp`` in units roundoff; measured 1.4 over all of its range."""
LOWEST: Final = np.float32(-87.0)
"""Below, ``exp`` is nothing: its result would be no normal number."""
AHEAD_BYTES: Final = 4096
FAR_BYTES: Final = 8192
"""As above, where memory is read in one piece: 18 GB/s from the last cache, 9 to 12 without asking."""
PIECE: Final = 256
"""Floats that are read together there."""
FLOAT_BYTES: Final = 4
LINE_BYTES: Final = 64
"""Of a cache."""

LOG2_E: Final = np.float32(1.44269504088896341)
LN2_HIGH, LN2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187e-06)
ROUND: Final = np.float32(12582912.0)
"""1.5 · 2²³: added, it leaves a whole number in the low bits."""
ONE_BITS: Final = np.int32(0x3F800000)
_EXPONENT_AT, _SIGN_AT = np.int32(23), np.int32(31)
ALL_BUT_SIGN: Final = np.int32(0x7FFFFFFF)
_LOWEST_ORDER: Final = np.int32(-0x7F800001)
"""Of minus infinity."""
_C0, _C1, _C2 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_C3, _C4, _C5 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_ZERO, _ONE = np.float32(0), np.float32(1)


@intrinsic  # type: ignore[untyped-decorator]
def bits_of(context: Any, x: Any) -> Any:
    """A float32 as int32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), code


@intrinsic  # type: ignore[untyped-decorator]
def float_of(context: Any, bits: Any) -> Any:
    """An int32 as float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic  # type: ignore[untyped-decorator]
def ask_for(context: Any, address: Any) -> Any:
    """Memory at an address is wanted soon."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _prefetch(builder, arguments[0], 3)
        return context.get_dummy_value()

    return types.none(types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def ask_near(context: Any, address: Any) -> Any:
    """As ``ask_for``, but to the second cache only: there is room for more of what is on its way, and for more that
    waits there."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _prefetch(builder, arguments[0], 2)
        return context.get_dummy_value()

    return types.none(types.int64), code


def _prefetch(builder: Any, address: Any, locality: int) -> None:
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), (pointer, number, number, number))
    function = builder.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
    builder.call(function, (builder.inttoptr(address, pointer), number(0), number(locality), number(1)))


@intrinsic  # type: ignore[untyped-decorator]
def wide(context: Any) -> Any:
    """The kernel that calls this is compiled for the widest vectors there are."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # ``add`` of llvmlite knows attributes by name only, and not this one.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), code


def inlined(function: Kernel) -> Kernel:
    """A part of a kernel whose arguments are constants where those of a call are."""
    return cast(Kernel, njit(inline="always")(function))


def _stepwise(function: Kernel) -> Kernel:
    """Its roundings are meant: sums in the order of the source, though fused with products."""
    return cast(Kernel, njit(nogil=True, error_model="numpy", fastmath={"contract"})(function))


@inlined
def address_of(array: Any) -> Any:
    """Where an array lies, signed as all numbers are. An unsigned one and they make floats, and kernels that are
    called with both are compiled twice."""
    return np.int64(array.ctypes.data)


@inlined
def ask_for_piece(place: int) -> None:
    """Of memory that is read in one piece, ``PIECE`` floats at a time from here: what comes ``FAR_BYTES`` after
    these is wanted soon."""
    for line in range(0, PIECE * FLOAT_BYTES, LINE_BYTES):
        ask_for(place + FAR_BYTES + line)


@_stepwise
def exp(x: Any) -> Any:
    """eˣ of a float32 not above 88; 0 below ``LOWEST``; NaN stays."""
    reached = LOWEST if x < LOWEST else x
    rounded = reached * LOG2_E + ROUND
    n = rounded - ROUND
    r = reached - n * LN2_HIGH
    r = r - n * LN2_LOW
    y = ((((_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _C0
    y = y * r * r + r + _ONE
    power = float_of(np.int32(np.int32(bits_of(rounded) << _EXPONENT_AT) + ONE_BITS))
    return _ZERO if x < LOWEST else y * power


@_stepwise
def _order(bits: Any) -> Any:
    """Integers in the order of the floats whose bits these are; its own inverse."""
    return bits ^ ((bits >> _SIGN_AT) & ALL_BUT_SIGN)


@_stepwise
def scaled_sums(x: Any, scale: Any, addend: Any) -> Any:
    """x · ``scale`` + ``addend``, in place; returns the largest: -inf if all are, or NaN, if any is positive."""
    wide()
    best = _LOWEST_ORDER
    for i in range(x.size):
        made = x[i] * scale + addend[i]
        x[i] = made
        order = _order(bits_of(made))
        best = order if order > best else best
    return float_of(_order(best))
