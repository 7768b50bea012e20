"""Kernel for the processor: the identities of attention's backward pass, each operand and result read once.

The identities and their bounds are those of ``attention``. What a head needs, norms, longest rows, sums of columns,
is formed while its rows are in cache; the bounds themselves in float64.

An operand (B, H, T, D) is given as its memory, which begins with its first element, and its three strides in
elements; along D it is contiguous.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import compiled_fast

Floats = NDArray[np.floating]

GRADIENT, QUERY, KEY, VALUE, OUT, QUERY_GRADIENT, KEY_GRADIENT, VALUE_GRADIENT = range(8)
"""Rows of the strides."""
SMALLEST: Final = 2.0**-62
"""Elements below this may be missing in a norm, as their squares underflow."""


@compiled_fast
def _longer(one: float, other: float) -> float:
    """The larger; what is not a number stays that."""
    return one if other <= one or one != one else other


@compiled_fast
def _within(one: float, low: float, high: float) -> tuple[float, float]:
    """Lowest and highest with one more; what is not a number stays that."""
    return (low if low <= one or low != low else one), (high if high >= one or high != high else one)


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
    low, high = np.inf, -np.inf
    values, keys = np.empty(width, np.float64), np.empty(width, np.float64)
    zero = gradient[0] * 0
    for b in range(batch):
        for h in range(heads):
            starts = strides[:, 0] * b + strides[:, 1] * h
            steps = strides[:, 2]
            values[:] = 0.0
            keys[:] = 0.0
            gradient_size, query_size, trace = 0.0, 0.0, 0.0
            query_long, key_long, value_long, out_long = 0.0, 0.0, 0.0, 0.0
            for i in range(rows):
                place = starts[GRADIENT] + steps[GRADIENT] * i
                g = gradient[place : place + width]
                place = starts[QUERY] + steps[QUERY] * i
                q = query[place : place + width]
                place = starts[QUERY_GRADIENT] + steps[QUERY_GRADIENT] * i
                dq = query_gradient[place : place + width]
                place = starts[OUT] + steps[OUT] * i
                o = out[place : place + width]
                of_g, of_q, of_o, moved = zero, zero, zero, zero
                for j in range(width):
                    of_g += g[j] * g[j]
                    of_q += q[j] * q[j]
                    of_o += o[j] * o[j]
                    moved += q[j] * dq[j]
                for j in range(width):
                    values[j] -= g[j]
                gradient_size += of_g
                query_size += of_q
                trace += moved
                query_long = _longer(query_long, of_q)
                out_long = _longer(out_long, of_o)
            for i in range(others):
                place = starts[KEY] + steps[KEY] * i
                k = key[place : place + width]
                place = starts[KEY_GRADIENT] + steps[KEY_GRADIENT] * i
                dk = key_gradient[place : place + width]
                place = starts[VALUE] + steps[VALUE] * i
                v = value[place : place + width]
                place = starts[VALUE_GRADIENT] + steps[VALUE_GRADIENT] * i
                dv = value_gradient[place : place + width]
                of_k, of_v, moved = zero, zero, zero
                for j in range(width):
                    of_k += k[j] * k[j]
                    of_v += v[j] * v[j]
                    moved += k[j] * dk[j]
                for j in range(width):
                    values[j] += dv[j]
                for j in range(width):
                    keys[j] += dk[j]
                trace -= moved
                key_long = _longer(key_long, of_k)
                value_long = _longer(value_long, of_v)
            lost = SMALLEST * np.sqrt(float(width))
            longest_query, longest_key = np.sqrt(query_long) + lost, np.sqrt(key_long) + lost
            longest_value, longest_out = np.sqrt(value_long) + lost, np.sqrt(out_long)
            lost *= np.sqrt(float(rows))
            size, queries = np.sqrt(gradient_size) + lost, np.sqrt(query_size) + lost
            relative = unit * (1.0 + longest_query * longest_key * (scale / scores))
            moved_most = size * queries * longest_value * relative * (2.0 * scale)
            of_columns = size * relative * np.sqrt(float(rows))
            low, high = _within(moved_most * longest_key - abs(trace), low, high)
            low, high = _within(longest_value * (1.0 + relative * np.sqrt(float(rows))) - longest_out, low, high)
            for j in range(width):
                low, high = _within(of_columns - abs(values[j]), low, high)
                low, high = _within(moved_most - abs(keys[j]), low, high)
    return low, high
