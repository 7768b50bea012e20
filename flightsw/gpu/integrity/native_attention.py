"""Kernel for the processor: the identities of attention's backward pass, each operand and result read once.

The identities and their bounds are those of ``attention``. What a head needs, norms, longest rows, sums of columns,
is formed token by token while its rows are in cache; the bounds themselves in float64.

An operand (B, H, T, D) is given as its memory, from its first element on, and its three strides in elements;
along D it is contiguous. Usually the heads of a token lie side by side, and one row of H·D is read at a time.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import compiled_fast

SMALLEST: Final = 2.0**-62
"""Elements below this may be missing in a norm, as their squares underflow."""
BLOCK_ROWS: Final = 16
"""Rows whose columns are summed in the precision of the operands."""

Floats = NDArray[np.floating]
Doubles = NDArray[np.float64]


@compiled_fast
def margins(
    gradient: Floats,
    query: Floats,
    key: Floats,
    value: Floats,
    out: Floats,
    query_gradient: Floats,
    key_gradient: Floats,
    value_gradient: Floats,
    strides: NDArray[np.int64],
    sizes: NDArray[np.int64],
    scale: float,
    unit: float,
    scores: float,
) -> tuple[float, float]:
    """Lowest and highest of bound − difference over all identities and heads.

    ``strides`` (8, 3), ``sizes`` B, H, rows of the queries, rows of the keys, D; ``unit`` is the slack times the
    unit roundoff, ``scores`` up to which it is enough.
    """
    batch, heads, rows, others, width = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    groups = 1
    for which in range(8):
        if strides[which, 1] != width:
            groups = heads
    heads = heads // groups
    low, high = np.inf, -np.inf
    columns = heads * width
    block = np.zeros(columns, gradient.dtype)
    values, keys = np.empty(columns, np.float64), np.empty(columns, np.float64)
    # Of each head: Σ of squares, the largest of a row, Σ of products with the second operand.
    of_gradient, of_query, of_key, of_value, of_out = (
        np.empty((3, heads), np.float64),
        np.empty((3, heads), np.float64),
        np.empty((3, heads), np.float64),
        np.empty((3, heads), np.float64),
        np.empty((3, heads), np.float64),
    )
    for b in range(batch):
        for group in range(groups):
            starts = strides[:, 0] * b + strides[:, 1] * group
            steps = strides[:, 2]
            values[:] = 0.0
            keys[:] = 0.0
            _columns(gradient[starts[0] :], steps[0], rows, block, values, -1.0)
            _squares(gradient[starts[0] :], steps[0], rows, heads, width, of_gradient)
            _products(
                query[starts[1] :], query_gradient[starts[5] :], steps[1], steps[5], rows, heads, width, of_query
            )
            _products(key[starts[2] :], key_gradient[starts[6] :], steps[2], steps[6], others, heads, width, of_key)
            _columns(key_gradient[starts[6] :], steps[6], others, block, keys, 1.0)
            _squares(value[starts[3] :], steps[3], others, heads, width, of_value)
            _columns(value_gradient[starts[7] :], steps[7], others, block, values, 1.0)
            _squares(out[starts[4] :], steps[4], rows, heads, width, of_out)
            for head in range(heads):
                lost = SMALLEST * np.sqrt(float(width))
                long_query, long_key = np.sqrt(of_query[1, head]) + lost, np.sqrt(of_key[1, head]) + lost
                long_value, long_out = np.sqrt(of_value[1, head]) + lost, np.sqrt(of_out[1, head])
                lost *= np.sqrt(float(rows))
                size, queries = np.sqrt(of_gradient[0, head]) + lost, np.sqrt(of_query[0, head]) + lost
                relative = unit * (1.0 + long_query * long_key * (scale / scores))
                moved = size * queries * long_value * relative * (2.0 * scale)
                of_columns = size * relative * np.sqrt(float(rows))
                low, high = _within(moved * long_key - abs(of_query[2, head] - of_key[2, head]), low, high)
                low, high = _within(long_value * (1.0 + relative * np.sqrt(float(rows))) - long_out, low, high)
                for j in range(head * width, head * width + width):
                    low, high = _within(of_columns - abs(values[j]), low, high)
                    low, high = _within(moved - abs(keys[j]), low, high)
    return low, high


@compiled_fast
def _columns(x: Floats, step: int, rows: int, block: Floats, totals: Doubles, sign: float) -> None:
    """Add ``sign`` times the sums over rows to ``totals`` (N,); ``block`` (N,) is zero before and after."""
    columns = len(block)
    for i in range(rows):
        row = x[i * step : i * step + columns]
        for j in range(columns):
            block[j] += row[j]
        if i % BLOCK_ROWS == BLOCK_ROWS - 1 or i == rows - 1:
            for j in range(columns):
                totals[j] += sign * block[j]
            for j in range(columns):
                block[j] = 0


@compiled_fast
def _squares(x: Floats, step: int, rows: int, heads: int, width: int, found: Doubles) -> None:
    """Of each head (3, H): the sum of the squares of all rows, and that of the longest."""
    zero = x[0] * 0
    found[:] = 0.0
    for i in range(rows):
        for head in range(heads):
            start = i * step + head * width
            row = x[start : start + width]
            total = zero
            for j in range(width):
                total += row[j] * row[j]
            found[0, head] += total
            found[1, head] = _longer(found[1, head], total)


@compiled_fast
def _products(
    x: Floats, other: Floats, step: int, other_step: int, rows: int, heads: int, width: int, found: Doubles
) -> None:
    """As ``_squares``, and the sum of the products with the rows of ``other``."""
    zero = x[0] * 0
    found[:] = 0.0
    for i in range(rows):
        for head in range(heads):
            start, other_start = i * step + head * width, i * other_step + head * width
            row, other_row = x[start : start + width], other[other_start : other_start + width]
            total, product = zero, zero
            for j in range(width):
                total += row[j] * row[j]
                product += row[j] * other_row[j]
            found[0, head] += total
            found[1, head] = _longer(found[1, head], total)
            found[2, head] += product


@compiled_fast
def _longer(one: float, other: float) -> float:
    """The larger; what is not a number stays that."""
    return one if other <= one or one != one else other


@compiled_fast
def _within(one: float, low: float, high: float) -> tuple[float, float]:
    """Lowest and highest with one more; what is not a number stays that."""
    return (low if low <= one or low != low else one), (high if high >= one or high != high else one)
