"""Products of attention's check of a chunk: scores, and what a vector w makes of results, values and keys.

*Scores* are tiles (``native_tiles``) of queries that were turned once, and of keys as they lie. Products take
longer than it takes to bring their operands from the last cache, if that is asked for in time: while one head is
worked on, the next one's keys and values are.

*Of each row* of a result and of values o·w and v·w, Σ|v w|, of each key ‖k‖²: ``FLOATS`` rows at once
(``native_across``) where a row is whole vectors, or one by one. The largest of them has to be NaN where one is, and
a maximum of floats would not be. Their bits are compared, which are in the same order where none is negative, with
NaN above all.
"""

from typing import Any, Final

import numpy as np

from flightsw.gpu.integrity.native import compiled_fast, floats_at
from flightsw.gpu.integrity.native_across import products_across, sizes_across, squares_across
from flightsw.gpu.integrity.native_attention_mask import Words
from flightsw.gpu.integrity.native_attention_table import (
    OUT,
    QUERY,
    USUAL_WIDTH,
    ZERO,
    Floats,
    Table,
    place_of,
    step_of,
)
from flightsw.gpu.integrity.native_registers import FLOATS, VECTORS
from flightsw.gpu.integrity.native_registers import KEYS as TILE_KEYS
from flightsw.gpu.integrity.native_tiles import LANES, tile, turn
from flightsw.gpu.integrity.native_vectors import (
    ALL_BUT_SIGN,
    FLOAT_BYTES,
    LINE_BYTES,
    address_of,
    ask_near,
    float_of,
    wide,
)

_ZERO_BITS: Final = np.int32(0)


@compiled_fast
def turn_rows(query: int, step: int, lanes: int, scale: float, turned: Floats, squares: Floats) -> None:
    """Rows times ``scale``, turned (D, LANES), and what their squares add up to; where there are no more, zero."""
    wide()
    width, factor = turned.size // LANES, np.float32(scale)
    rows, columns = lanes - lanes % FLOATS, width - width % FLOATS
    if lanes < LANES:
        turned[:] = 0
    for lane in range(0, rows, FLOATS):
        for j in range(0, columns, FLOATS):
            out = address_of(turned) + (j * LANES + lane) * FLOAT_BYTES
            turn(query + lane * step + j * FLOAT_BYTES, step, factor, out, LANES * FLOAT_BYTES)
    for lane in range(lanes):
        row = floats_at(query + lane * step, width)
        for j in range(columns if lane < rows else 0, width):
            turned[j * LANES + lane] = row[j] * factor
    squares[:] = 0
    for j in range(width):
        line = turned[j * LANES : (j + 1) * LANES]
        for lane in range(LANES):
            squares[lane] += line[lane] * line[lane]


@compiled_fast
def score(
    turned: Floats, key: int, step: int, count: int, until: Words, scores: Floats, far: int, next_key: int,
    next_value: int, value_step: int,
) -> None:  # fmt: skip
    """Scores of each vector of rows, (keys, FLOATS), ``far`` floats apart, where any is seen. There is room for
    ``TILE_KEYS`` keys more. What comes next is asked for meanwhile."""
    wide()
    width = turned.size // LANES
    for first in range(0, count, TILE_KEYS):
        for i in range(first, min(first + TILE_KEYS, count)):
            for line in range(0, width * FLOAT_BYTES, LINE_BYTES):
                ask_near(next_key + i * step + line)
                ask_near(next_value + i * value_step + line)
        low, high = 0, VECTORS
        while low < high and until[low] <= first:
            low += 1
        while low < high and until[high - 1] <= first:
            high -= 1
        if low < high:
            tile(
                address_of(turned) + low * FLOATS * FLOAT_BYTES, width, key + first * step, step, count - first,
                address_of(scores) + (low * far + first * FLOATS) * FLOAT_BYTES, far * FLOAT_BYTES, high - low,
            )  # fmt: skip


@compiled_fast
def project_results(table: Table, b: int, first: int, lanes: int, weights: Floats, found: Any) -> None:
    """out·w of each row and head. Queries, which are read next, are asked for."""
    wide()
    width, out_step, query_step = weights.size, step_of(table, OUT), step_of(table, QUERY)
    for lane in range(0, lanes, FLOATS):
        for h in range(found.shape[0]):
            query = place_of(table, QUERY, b, h, first + lane)
            for row in range(min(FLOATS, lanes - lane)):
                for line in range(0, width * FLOAT_BYTES, LINE_BYTES):
                    ask_near(query + row * query_step + line)
            out = place_of(table, OUT, b, h, first + lane)
            _products(out, out_step, lanes - lane, weights, found[h, lane:])


@compiled_fast
def project_values(
    value: int, step: int, start: int, stop: int, weights: Floats, along: Floats, sizes: Floats, room: Floats
) -> Any:
    """v·w of each value from ``start`` on into ``along``, |v·w| into ``sizes``; returns the largest Σ|v w|."""
    wide()
    widest, bits, width, weight = _ZERO_BITS, room.view(np.int32), weights.size, address_of(weights)
    for first in range(start, stop, FLOATS):
        begin, left, size = value + first * step, stop - first, address_of(room)
        out = address_of(along) + first * FLOAT_BYTES
        if width == USUAL_WIDTH:
            sizes_across(begin, step, left, USUAL_WIDTH, weight, out, size)
        elif width % FLOATS == 0:
            sizes_across(begin, step, left, width, weight, out, size)
        else:
            for i in range(min(left, FLOATS)):
                row, dot, total = floats_at(begin + i * step, width), ZERO, ZERO
                for j in range(width):
                    dot += row[j] * weights[j]
                    total += abs(row[j] * weights[j])
                along[first + i], room[i] = dot, total
        widest = _largest(bits, min(left, FLOATS), widest)
    for i in range(start, stop):
        sizes[i] = abs(along[i])
    return float_of(widest)


@compiled_fast
def longest_key(key: int, step: int, start: int, stop: int, width: int, room: Floats) -> Any:
    """The largest ‖k‖² of keys from ``start`` on; NaN if one is."""
    wide()
    longest, bits = _ZERO_BITS, room.view(np.int32)
    for first in range(start, stop, FLOATS):
        begin, left, out = key + first * step, stop - first, address_of(room)
        if width == USUAL_WIDTH:
            squares_across(begin, step, left, USUAL_WIDTH, out)
        elif width % FLOATS == 0:
            squares_across(begin, step, left, width, out)
        else:
            for i in range(min(left, FLOATS)):
                row, square = floats_at(begin + i * step, width), ZERO
                for j in range(width):
                    square += row[j] * row[j]
                room[i] = square
        longest = _largest(bits, min(left, FLOATS), longest)
    return float_of(longest)


@compiled_fast
def _products(begin: int, step: int, left: int, weights: Floats, out: Floats) -> None:
    """x·w of up to ``FLOATS`` rows into ``out``, which has room for as many."""
    wide()
    width = weights.size
    if width == USUAL_WIDTH:
        products_across(begin, step, left, USUAL_WIDTH, address_of(weights), address_of(out))
    elif width % FLOATS == 0:
        products_across(begin, step, left, width, address_of(weights), address_of(out))
    else:
        for i in range(min(left, FLOATS)):
            row, dot = floats_at(begin + i * step, width), ZERO
            for j in range(width):
                dot += row[j] * weights[j]
            out[i] = dot


@compiled_fast
def _largest(bits: Any, count: int, before: Any) -> Any:
    """The largest of the first few of ``FLOATS`` numbers that are not negative, or NaN, as bits; and of ``before``.
    As numbers they are in the same order as their bits without a sign, and NaN is above all."""
    largest = before
    for i in range(FLOATS):
        order = bits[i] & ALL_BUT_SIGN if i < count else _ZERO_BITS
        largest = order if order > largest else largest
    return largest
