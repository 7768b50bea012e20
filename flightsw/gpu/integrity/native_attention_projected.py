"""Kernel for the processor: results of attention against its operands, a projection of every row.

Keys and values are read once for ``LANES`` rows of a chunk of a prompt, which lie side by side in whatever is made
of them, vector by vector. See ``forward_attention`` for the form and its bounds, ``native_attention_table`` for its
table.

*What is hidden is left out.* Of a chunk's own tokens half are hidden from each other, and a tile of scores of which
a vector of rows sees none is not made for that vector. Nor is anything added where all are seen.

*Memory.* Products take longer than it takes to bring their operands from the last cache, if that is asked for in
time: while one head is worked on, the next one's keys and values are.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.forward_attention import NO_MASK
from flightsw.gpu.integrity.native import compiled_fast, floats_at
from flightsw.gpu.integrity.native_across import products_across, sizes_across, squares_across
from flightsw.gpu.integrity.native_attention_table import (
    BATCH,
    CAUSAL,
    FLOOR,
    HEADS,
    KEY,
    KEYS,
    MASK,
    MASKED,
    OUT,
    QUERY,
    ROWS,
    SPAN,
    USUAL_WIDTH,
    VALUE,
    WIDTH,
    ZERO,
    Floats,
    Table,
    longer,
    mask_row,
    moved_by,
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
from flightsw.gpu.integrity.native_weighing import MEAN, SIZE, SUMS, TOP, TOTAL, weigh

Words = NDArray[np.int64]
ZERO_BITS: Final = np.int32(0)


@compiled_fast
def projections_differ(
    table: Table,
    weights: Floats,
    scale: float,
    of_score: float,
    of_exp: float,
    of_mean: float,
    of_element: float,
) -> int:
    """Rows of a result whose projection on ``weights`` (D,) is beyond its bound. Keys and values are read once for
    ``LANES`` rows, which lie side by side in whatever is made of them.

    ``of_element``: what single elements of a mean, and of values, may be off beside Σ|v w|; the others as above.
    """
    wide()
    rows, heads, keys, width = table[ROWS], table[HEADS], table[KEYS], table[WIDTH]
    few = np.empty(FLOATS, np.float32)
    # With room for a vector that is not full.
    along, sizes = np.empty((heads, keys + FLOATS), np.float32), np.empty((heads, keys), np.float32)
    longest, widest = np.empty(heads, np.float32), np.empty(heads, np.float32)
    found, squares = np.empty((heads, LANES), np.float32), np.empty(LANES, np.float32)
    turned, room = np.empty(width * LANES, np.float32), np.zeros(keys, np.float32)
    # Of each vector of rows: what is added to scores, and scores, key by key; where anything is, and up to where
    # any key is seen.
    far = (keys + TILE_KEYS) * FLOATS
    shown, scores = np.zeros(VECTORS * far, np.float32), np.empty(VECTORS * far, np.float32)
    clear, until = np.empty(VECTORS, np.int64), np.empty(VECTORS, np.int64)
    sums = np.empty((SUMS, LANES), np.float32)
    wrong = 0
    for b in range(table[BATCH]):
        known = 0
        longest[:] = 0
        widest[:] = 0
        for first in range(0, rows, LANES):
            lanes = min(LANES, rows - first)
            count = min(keys, first + lanes) if table[CAUSAL] else keys
            _found(table, b, first, lanes, weights, found)
            for h in range(heads):
                key, value = place_of(table, KEY, b, h, 0), place_of(table, VALUE, b, h, 0)
                if h == 0 or table[MASK + 2] != 0:
                    _show(table, b, h, first, lanes, count, room, shown, far, clear, until)
                _turn(place_of(table, QUERY, b, h, first), step_of(table, QUERY), lanes, scale, turned, squares)
                if known < count:
                    new = _longest(key, step_of(table, KEY), known, count, width, few)
                    longest[h] = longer(longest[h], new)
                    new = _project(value, step_of(table, VALUE), known, count, weights, along[h], sizes[h], few)
                    widest[h] = longer(widest[h], new)
                then = (b, h + 1) if h + 1 < heads else (min(b + 1, table[BATCH] - 1), 0)
                next_key = place_of(table, KEY, then[0], then[1], 0)
                next_value = place_of(table, VALUE, then[0], then[1], 0)
                _scores(
                    turned, key, step_of(table, KEY), count, until, scores, far, next_key, next_value,
                    step_of(table, VALUE),
                )  # fmt: skip
                for v in range(VECTORS):
                    mine = scores[v * far + clear[v] * FLOATS : v * far + until[v] * FLOATS]
                    _add(mine, shown[v * far + clear[v] * FLOATS : v * far + until[v] * FLOATS])
                    at = address_of(scores) + v * far * FLOAT_BYTES
                    out = address_of(sums) + v * FLOATS * FLOAT_BYTES
                    weigh(at, address_of(along[h]), address_of(sizes[h]), until[v], out)
                relative = of_score, of_exp, of_mean, of_element
                if not _all_alike(found[h, :lanes], squares, sums, longest[h], widest[h], relative):
                    for lane in range(lanes):
                        out = place_of(table, OUT, b, h, first + lane)
                        wrong += not _alike(
                            out, width, lane, found[h, lane], squares, sums, longest[h], widest[h], relative
                        )
            known = count
    return wrong


@compiled_fast
def _show(
    table: Table, b: int, h: int, first: int, lanes: int, count: int, room: Floats, shown: Floats, far: int,
    clear: Words, until: Words,
) -> None:  # fmt: skip
    """What is added to scores, of each vector (keys, FLOATS): 0 before ``clear``, and from ``until`` on −∞."""
    for v in range(VECTORS):
        begin = v * FLOATS
        mine = min(FLOATS, max(lanes - begin, 0))
        if mine == 0:
            clear[v], until[v] = 0, 0
        elif table[MASKED] != NO_MASK:
            low, high = count, 0
            for lane in range(mine):
                row = mask_row(table, b, h, first + begin + lane, room)
                low = min(low, _leading(row[:count]))
                high = max(high, _seen(row[:count]))
            clear[v], until[v] = min(low, high), high
            for lane in range(mine):
                row = mask_row(table, b, h, first + begin + lane, room)
                for i in range(clear[v], high):
                    shown[v * far + i * FLOATS + lane] = row[i]
        elif table[CAUSAL]:
            low, high = min(count, first + begin), min(count, first + begin + mine)
            clear[v], until[v] = low, high
            for i in range(low, high):
                for lane in range(FLOATS):
                    hidden = i > first + begin + lane
                    shown[v * far + i * FLOATS + lane] = np.float32(-np.inf) if hidden else ZERO
        else:
            clear[v], until[v] = count, count


@compiled_fast
def _leading(row: Floats) -> int:
    """Up to where all are zero, in whole vectors."""
    for begin in range(0, row.size - row.size % FLOATS, FLOATS):
        piece, other = row[begin : begin + FLOATS], 0
        for i in range(FLOATS):
            other += piece[i] != 0
        if other:
            return int(begin)
    return int(row.size - row.size % FLOATS)


@compiled_fast
def _seen(row: Floats) -> int:
    """From where on all are −∞."""
    stop = row.size
    while stop > 0 and row[stop - 1] == -np.inf:
        stop -= 1
    return int(stop)


@compiled_fast
def _turn(query: int, step: int, lanes: int, scale: float, turned: Floats, squares: Floats) -> None:
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
def _scores(
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
def _add(scores: Floats, shown: Floats) -> None:
    wide()
    for i in range(scores.size):
        scores[i] += shown[i]


@compiled_fast
def _all_alike(found: Floats, squares: Floats, sums: Any, longest: Any, widest: Any, relative: Any) -> bool:
    """Whether no row is beyond its bound, and all see a key: as ``_alike`` where that is so, all at once."""
    wide()
    of_score, of_exp, of_mean, of_element = relative
    top, total, mean, size = sums[TOP], sums[TOTAL], sums[MEAN], sums[SIZE]
    long_key, of_total = np.float64(longest), of_element * np.float64(widest) + FLOOR
    beyond = 0
    for lane in range(found.size):
        score = np.sqrt(np.float64(squares[lane]) * long_key)
        moved = 4.0 * (of_score * score + of_exp * (abs(np.float64(top[lane])) + SPAN))
        moved = moved + moved * moved if moved < 1.0 else np.inf
        bound = (moved + of_mean) * size[lane] + of_total * total[lane]
        difference = abs(found[lane] * np.float64(total[lane]) - mean[lane])
        beyond += 0 if (difference < bound) & (bound < np.inf) & (total[lane] != 0) else 1
    return beyond == 0


@compiled_fast
def _alike(
    out: int,
    width: int,
    lane: int,
    found: Any,
    squares: Floats,
    sums: Any,
    longest: Any,
    widest: Any,
    relative: Any,
) -> bool:
    """Whether the row at ``out`` may be what its operands give."""
    of_score, of_exp, of_mean, of_element = relative
    top, total, mean, size = sums[TOP, lane], sums[TOTAL, lane], sums[MEAN, lane], sums[SIZE, lane]
    if total == 0:  # Every key is hidden.
        row, others = floats_at(out, width), 0
        for j in range(width):
            others += row[j] != 0
        return others == 0
    moved = moved_by(np.sqrt(np.float64(squares[lane]) * np.float64(longest)), top, of_score, of_exp)
    bound = (moved + of_mean) * size + (of_element * widest + FLOOR) * total
    if abs(found * np.float64(total) - mean) < bound < np.inf:
        return True
    # One by one: x − x, which is what finite means here, of a sum that may be formed in any order is zero.
    finite = np.isfinite(mean) and np.isfinite(widest) and np.isfinite(longest) and np.isfinite(squares[lane])
    return not (np.isfinite(found) or finite)


@compiled_fast
def _found(table: Table, b: int, first: int, lanes: int, weights: Floats, found: Any) -> None:
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
def _longest(key: int, step: int, start: int, stop: int, width: int, room: Floats) -> Any:
    """The largest ‖k‖² of keys from ``start`` on; NaN if one is."""
    wide()
    longest, bits = ZERO_BITS, room.view(np.int32)
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
def _largest(bits: Any, count: int, before: Any) -> Any:
    """The largest of the first few of ``FLOATS`` numbers that are not negative, or NaN, as bits; and of ``before``.
    As numbers they are in the same order as their bits without a sign, and NaN is above all."""
    largest = before
    for i in range(FLOATS):
        order = bits[i] & ALL_BUT_SIGN if i < count else ZERO_BITS
        largest = order if order > largest else largest
    return largest


@compiled_fast
def _project(
    value: int, step: int, start: int, stop: int, weights: Floats, along: Floats, sizes: Floats, room: Floats
) -> Any:
    """v·w of each value from ``start`` on into ``along``, |v·w| into ``sizes``; returns the largest Σ|v w|."""
    wide()
    widest, bits, width, weight = ZERO_BITS, room.view(np.int32), weights.size, address_of(weights)
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
