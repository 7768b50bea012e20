"""Kernels for the processor: results of sums, products and GELU against their operands, each read once.

*Exact ones.* The sum or product of two numbers is rounded in one way only, so the result is formed again in a
register and compared with the one in memory as bits. That is a repetition without its second result: what it would
have written, and both digests, are never in memory. A NaN has many bit patterns, and which of two comes out is not
laid down; one that differs is an alarm of the check, which a true repetition then resolves.

*GELU*: the identity of ``gelu``, element by element.

All functions return how many pieces or rows have something wrong in them.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import compiled, compiled_fast
from flightsw.gpu.integrity.native_transit import ROW_FLOATS, begin_digest, follow, follow_to_end
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, PIECE, address_of, ask_for_piece, wide

PIECE_ELEMENTS: Final = 4096
"""Elements of GELU that have a verdict together."""

Floats = NDArray[np.floating]
Words = NDArray[np.int32]


@compiled
def sums_differ(a: Floats, b: Floats, result: Words) -> int:
    """How many of R pieces of result (R·L,), the bits of float32, are not those of a (R·L,) plus b (L,)."""
    wide()
    size, whole = len(b), len(b) // PIECE * PIECE
    wrong = 0
    for start in range(0, len(a), size):
        a_, result_ = a[start : start + size], result[start : start + size]
        differs = np.int32(0)
        for begin in range(0, whole, PIECE):
            ask_for_piece(address_of(a_) + begin * FLOAT_BYTES)
            ask_for_piece(address_of(result_) + begin * FLOAT_BYTES)
            one, two, made = a_[begin : begin + PIECE], b[begin : begin + PIECE], result_[begin : begin + PIECE]
            for j in range(PIECE):
                differs |= np.float32(one[j] + two[j]).view(np.int32) ^ made[j]
        for j in range(whole, size):
            differs |= np.float32(a_[j] + b[j]).view(np.int32) ^ result_[j]
        wrong += differs != 0
    return wrong


@compiled
def sums_differ_read(a: Floats, b: Floats, result: Words, of_a: int, of_b: int, of_result: int) -> int:
    """As ``sums_differ``, of as many a as b, with digests (``transit``) of those that have an address for one."""
    wide()
    begin_digest(of_a)
    begin_digest(of_b)
    begin_digest(of_result)
    at_a, at_b, at_result = address_of(a), address_of(b), address_of(result)
    done, wrong = 0, 0
    for start in range(0, len(a), ROW_FLOATS):
        one, two, made = (
            a[start : start + ROW_FLOATS],
            b[start : start + ROW_FLOATS],
            result[start : start + ROW_FLOATS],
        )
        differs = np.int32(0)
        for j in range(len(one)):
            differs |= np.float32(one[j] + two[j]).view(np.int32) ^ made[j]
        wrong += differs != 0
        reached = start + len(one)
        follow(at_a, start, reached, of_a)
        follow(at_b, start, reached, of_b)
        done = start if len(one) < ROW_FLOATS else reached
        follow(at_result, start, reached, of_result)
    follow_to_end(at_a, done, len(a), of_a)
    follow_to_end(at_b, done, len(a), of_b)
    follow_to_end(at_result, done, len(a), of_result)
    return wrong


@compiled
def products_differ(a: Floats, b: Floats, result: Words) -> int:
    """How many of R pieces of result (R·L,), the bits of float32, are not those of a (R·L,) times b (L,)."""
    wide()
    size, whole = len(b), len(b) // PIECE * PIECE
    wrong = 0
    for start in range(0, len(a), size):
        a_, result_ = a[start : start + size], result[start : start + size]
        differs = np.int32(0)
        for begin in range(0, whole, PIECE):
            ask_for_piece(address_of(a_) + begin * FLOAT_BYTES)
            ask_for_piece(address_of(result_) + begin * FLOAT_BYTES)
            one, two, made = a_[begin : begin + PIECE], b[begin : begin + PIECE], result_[begin : begin + PIECE]
            for j in range(PIECE):
                differs |= np.float32(one[j] * two[j]).view(np.int32) ^ made[j]
        for j in range(whole, size):
            differs |= np.float32(a_[j] * b[j]).view(np.int32) ^ result_[j]
        wrong += differs != 0
    return wrong


@compiled
def scaled_differ(a: Floats, factor: np.float32, result: Words) -> int:
    """Whether result (N,), the bits of float32, is anywhere not a (N,) · factor: 1 or 0."""
    differs = np.int32(0)
    for j in range(len(a)):
        differs |= np.float32(a[j] * factor).view(np.int32) ^ result[j]
    return 1 if differs else 0


@compiled
def rows_differ(table: Words, index: NDArray[np.int64], result: Words) -> int:
    """How many rows of result (R, N) are not those of ``table`` (V, N) that ``index`` (R,) names; all as bits."""
    wrong = 0
    for i in range(len(index)):
        row = index[i]
        if row < 0 or row >= len(table):
            wrong += 1
            continue
        source, result_ = table[row], result[i]
        differs = np.int32(0)
        for j in range(len(source)):
            differs |= source[j] ^ result_[j]
        wrong += differs != 0
    return wrong


@compiled_fast
def gelu_differs(
    y: Floats,
    x: Floats,
    gradient: Floats,
    result: Floats,
    numbers: Floats,
    of_x: int,
    of_gradient: int,
    of_result: int,
) -> int:
    """How many pieces of result (N,) are not gradient · gelu'(x), formed from y; ``numbers`` are those of ``gelu``
    in the dtype of all. Excess over bounds is added up, as that is done in vectors, and keeps a NaN. With digests
    (``transit``) of those that have an address for one."""
    root, cubic, two, unit, tiny, floor = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    zero = two - two
    begin_digest(of_x)
    begin_digest(of_gradient)
    begin_digest(of_result)
    at_x, at_gradient, at_result = address_of(x), address_of(gradient), address_of(result)
    done, wrong = 0, 0
    for start in range(0, len(x), ROW_FLOATS):
        stop = start + ROW_FLOATS
        y_, x_, gradient_, result_ = y[start:stop], x[start:stop], gradient[start:stop], result[start:stop]
        excess = zero
        for j in range(len(x_)):
            # 1/2 at x = 0, without a question; any other x that is not next to nothing is left as it is.
            ratio = (y_[j] + tiny) / (x_[j] + two * tiny)
            left = y_[j] - y_[j] * ratio
            slope = root + cubic * x_[j] * x_[j]
            difference = abs(result_[j] - gradient_[j] * (ratio + two * left * slope))
            over = difference - (abs(gradient_[j]) * unit + floor)
            excess += zero if over <= zero else over
        wrong += not excess <= zero
        done = start if len(x_) < ROW_FLOATS else stop
        follow(at_x, start, start + len(x_), of_x)
        follow(at_gradient, start, start + len(x_), of_gradient)
        follow(at_result, start, start + len(x_), of_result)
    follow_to_end(at_x, done, len(x), of_x)
    follow_to_end(at_gradient, done, len(x), of_gradient)
    follow_to_end(at_result, done, len(x), of_result)
    return wrong


@compiled_fast
def gelu_forward_differs(x: Floats, y: Floats, numbers: Floats) -> int:
    """How many pieces of y (N,) are not gelu(x), within ``numbers[3]`` · |x|; ``numbers`` are those of ``gelu``."""
    root, cubic, half, unit, floor, top = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    p1, p3, p5, p7, p9 = numbers[6], numbers[7], numbers[8], numbers[9], numbers[10]
    p11, p13, q0, q2, q4, q6 = numbers[11], numbers[12], numbers[13], numbers[14], numbers[15], numbers[16]
    wide()
    zero = half - half
    wrong = 0
    for start in range(0, len(x), PIECE_ELEMENTS):
        x_, y_ = x[start : start + PIECE_ELEMENTS], y[start : start + PIECE_ELEMENTS]
        excess = zero
        for begin in range(0, len(x_), PIECE):
            ask_for_piece(address_of(x_) + begin * FLOAT_BYTES)
            ask_for_piece(address_of(y_) + begin * FLOAT_BYTES)
            one, made = x_[begin : begin + PIECE], y_[begin : begin + PIECE]
            for j in range(len(one)):
                inner = one[j] * (root + cubic * one[j] * one[j])
                inner = inner if inner < top else top
                inner = inner if inner > -top else -top
                square = inner * inner
                above = p9 + square * (p11 + square * p13)
                above = inner * (p1 + square * (p3 + square * (p5 + square * (p7 + square * above))))
                below = q0 + square * (q2 + square * (q4 + square * q6))
                over = abs(made[j] - one[j] * (half + half * (above / below))) - (abs(one[j]) * unit + floor)
                excess += zero if over <= zero else over
        wrong += not excess <= zero
    return wrong
