"""Kernels for the processor: results of sums, products and GELU against their operands, each read once.

*Exact ones.* The sum or product of two numbers is rounded in one way only, so the result is formed again in a
register and compared with the one in memory as bits. That is a repetition without its second result: what it would
have written, and both digests, are never in memory. A NaN has many bit patterns, and which of two comes out is not
laid down; one that differs is an alarm of the check, which a true repetition then resolves.

*GELU*: the identity of ``owed``, element by element. All functions return how many elements are wrong.
"""

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import compiled, compiled_fast

Floats = NDArray[np.floating]
Words = NDArray[np.int32]


@compiled
def sums_differ(a: Floats, b: Floats, result: Words) -> int:
    """Where result (R·L,), the bits of float32, is not a (R·L,) + b (L,), the latter used R times."""
    size = len(b)
    wrong = np.int32(0)
    for start in range(0, len(a), size):
        a_, result_ = a[start : start + size], result[start : start + size]
        for j in range(size):
            wrong += np.int32((np.float32(a_[j] + b[j]).view(np.int32) ^ result_[j]) != 0)
    return int(wrong)


@compiled
def products_differ(a: Floats, b: Floats, result: Words) -> int:
    """Where result (R·L,), the bits of float32, is not a (R·L,) · b (L,), the latter used R times."""
    size = len(b)
    wrong = np.int32(0)
    for start in range(0, len(a), size):
        a_, result_ = a[start : start + size], result[start : start + size]
        for j in range(size):
            wrong += np.int32((np.float32(a_[j] * b[j]).view(np.int32) ^ result_[j]) != 0)
    return int(wrong)


@compiled
def scaled_differ(a: Floats, factor: np.float32, result: Words) -> int:
    """Where result (N,), the bits of float32, is not a (N,) · factor."""
    wrong = np.int32(0)
    for j in range(len(a)):
        wrong += np.int32((np.float32(a[j] * factor).view(np.int32) ^ result[j]) != 0)
    return int(wrong)


@compiled
def rows_differ(table: Words, index: NDArray[np.int64], result: Words) -> int:
    """Where result (R, N) is not the rows of ``table`` (V, N) that ``index`` (R,) names; all as bits."""
    wrong = np.int32(0)
    for i in range(len(index)):
        row = index[i]
        if row < 0 or row >= len(table):
            wrong += np.int32(1)
            continue
        source, result_ = table[row], result[i]
        for j in range(len(source)):
            wrong += np.int32((source[j] ^ result_[j]) != 0)
    return int(wrong)


@compiled_fast
def gelu_differs(y: Floats, x: Floats, gradient: Floats, result: Floats, numbers: Floats) -> int:
    """Where result (N,) is not gradient · gelu'(x), formed from y; ``numbers`` are those of ``identities``, in the
    dtype of all."""
    root, cubic, two, unit, tiny, floor = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    wrong = np.int32(0)
    for j in range(len(x)):
        # 1/2 at x = 0, without a question; any other x that is not next to nothing is left as it is.
        ratio = (y[j] + tiny) / (x[j] + two * tiny)
        left = y[j] - y[j] * ratio
        slope = root + cubic * x[j] * x[j]
        difference = abs(result[j] - gradient[j] * (ratio + two * left * slope))
        wrong += np.int32(not (difference < abs(gradient[j]) * unit + floor))
    return int(wrong)
