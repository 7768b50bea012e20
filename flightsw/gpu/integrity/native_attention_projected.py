"""Kernel for the processor: results of attention against its operands, a projection of every row.

Keys and values are read once for ``LANES`` rows of a chunk of a prompt, which lie side by side in whatever is made
of them. See ``forward_attention`` for the form and its bounds, ``native_attention_table`` for its table.
"""

from typing import Any

import numpy as np

from flightsw.gpu.integrity.forward_attention import NO_MASK
from flightsw.gpu.integrity.native import compiled_fast, floats_at
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
    TOGETHER,
    USUAL_WIDTH,
    VALUE,
    WIDTH,
    ZERO,
    Floats,
    Table,
    ask_for_row,
    longer,
    mask_row,
    moved_by,
    place_of,
    step_of,
)
from flightsw.gpu.integrity.native_tiles import KEYS as TILE_KEYS
from flightsw.gpu.integrity.native_tiles import LANES, tile
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, address_of, exp, inlined, wide

QUERY_SQUARE, FOUND, OUT_SQUARE, OF_ROW = range(4)
"""What is kept of a row of a head: ‖q‖², out·w, ‖out‖²; and how many that are."""


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
    along, sizes, room = np.empty(keys, np.float32), np.empty(keys, np.float32), np.zeros(keys, np.float32)
    of_rows = np.empty((LANES, heads, OF_ROW), np.float32)
    turned = np.empty(width * LANES, np.float32)
    shown = np.zeros(keys * LANES, np.float32)
    scores = np.empty((keys + TILE_KEYS) * LANES, np.float32)
    top, sums = np.empty(LANES, np.float32), np.empty((3, LANES), np.float32)
    total, mean, size = sums[0], sums[1], sums[2]
    wrong = 0
    for b in range(table[BATCH]):
        for first in range(0, rows, LANES):
            lanes = min(LANES, rows - first)
            count = min(keys, first + lanes) if table[CAUSAL] else keys
            _rows(table, b, first, weights, of_rows[:lanes])
            for h in range(heads):
                key, value = place_of(table, KEY, b, h, 0), place_of(table, VALUE, b, h, 0)
                if h == 0 or table[MASK + 2] != 0:
                    _show(table, b, h, first, lanes, room, shown)
                _turn(place_of(table, QUERY, b, h, first), step_of(table, QUERY), lanes, scale, turned)
                longest = _longest(key, step_of(table, KEY), count, width, value)
                _scores(turned, key, step_of(table, KEY), shown, scores[: count * LANES], top)
                widest = _project(value, step_of(table, VALUE), weights, along[:count], sizes[:count])
                _means(scores, top, along[:count], sizes[:count], total, mean, size)
                for lane in range(lanes):
                    found, square = of_rows[lane, h, FOUND], of_rows[lane, h, OUT_SQUARE]
                    if total[lane] == 0:  # Every key is hidden.
                        wrong += square != 0
                        continue
                    score = abs(scale) * np.sqrt(np.float64(of_rows[lane, h, QUERY_SQUARE]) * np.float64(longest))
                    moved = moved_by(score, top[lane], of_score, of_exp)
                    bound = (moved + of_mean) * size[lane] + (of_element * widest + FLOOR) * total[lane]
                    if abs(found * np.float64(total[lane]) - mean[lane]) < bound < np.inf:
                        continue
                    sound_operands = np.isfinite(mean[lane]) and np.isfinite(widest) and np.isfinite(longest)
                    wrong += np.isfinite(found) or sound_operands
    return wrong


@compiled_fast
def _show(table: Table, b: int, h: int, first: int, lanes: int, room: Floats, shown: Floats) -> None:
    """What is added to scores, (keys, LANES): the mask, turned."""
    if table[MASKED] != NO_MASK:
        for lane in range(lanes):
            row = mask_row(table, b, h, first + lane, room)
            for i in range(row.size):
                shown[i * LANES + lane] = row[i]
    elif table[CAUSAL]:
        for i in range(room.size):
            line = shown[i * LANES : (i + 1) * LANES]
            for lane in range(line.size):
                line[lane] = np.float32(-np.inf) if i > first + lane else ZERO


@compiled_fast
def _turn(query: int, step: int, lanes: int, scale: float, turned: Floats) -> None:
    """Rows times ``scale``, turned (D, LANES); where there are no more, zero."""
    width = turned.size // LANES
    if lanes < LANES:
        turned[:] = 0
    for lane in range(lanes):
        row = floats_at(query + lane * step, width)
        for j in range(width):
            turned[j * LANES + lane] = row[j] * np.float32(scale)


@compiled_fast
def _scores(turned: Floats, key: int, step: int, shown: Floats, scores: Floats, top: Floats) -> None:
    """Scores (keys, LANES), and the largest of each lane. There is room for ``TILE_KEYS`` more."""
    wide()
    count, width = scores.size // LANES, turned.size // LANES
    top[:] = -np.inf
    for first in range(0, count, TILE_KEYS):
        out = address_of(scores) + first * LANES * FLOAT_BYTES
        tile(address_of(turned), width, key + first * step, step, count - first, out)
        for i in range(first, min(first + TILE_KEYS, count)):
            row, mask = scores[i * LANES : (i + 1) * LANES], shown[i * LANES : (i + 1) * LANES]
            for lane in range(row.size):
                score = row[lane] + mask[lane]
                row[lane] = score
                top[lane] = score if score > top[lane] else top[lane]


@compiled_fast
def _means(
    scores: Floats, top: Floats, along: Floats, sizes: Floats, total: Floats, mean: Floats, size: Floats
) -> None:
    """Of each lane, with p = exp(score − ``top``): Σ p, Σ p v·w, Σ p |v·w|."""
    wide()
    total[:] = 0
    mean[:] = 0
    size[:] = 0
    for lane in range(top.size):
        top[lane] = ZERO if top[lane] == -np.inf else top[lane]
    lanes, even = top.size, along.size - along.size % TOGETHER
    for i in range(0, even, TOGETHER):
        first, second = scores[i * LANES : i * LANES + lanes], scores[(i + 1) * LANES : (i + 1) * LANES + lanes]
        third, fourth = (
            scores[(i + 2) * LANES : (i + 2) * LANES + lanes],
            scores[(i + 3) * LANES : (i + 3) * LANES + lanes],
        )
        a, b, c, d = along[i], along[i + 1], along[i + 2], along[i + 3]
        a_, b_, c_, d_ = sizes[i], sizes[i + 1], sizes[i + 2], sizes[i + 3]
        for lane in range(lanes):
            p, q = exp(first[lane] - top[lane]), exp(second[lane] - top[lane])
            r, s = exp(third[lane] - top[lane]), exp(fourth[lane] - top[lane])
            total[lane] += (p + q) + (r + s)
            mean[lane] += (p * a + q * b) + (r * c + s * d)
            size[lane] += (p * a_ + q * b_) + (r * c_ + s * d_)
    for i in range(even, along.size):
        row, a, s = scores[i * LANES : i * LANES + lanes], along[i], sizes[i]
        for lane in range(lanes):
            p = exp(row[lane] - top[lane])
            total[lane] += p
            mean[lane] += p * a
            size[lane] += p * s


@compiled_fast
def _rows(table: Table, b: int, first: int, weights: Floats, of_rows: Any) -> None:
    """Of each row and head: ‖q‖², out·w, ‖out‖². Heads of a row lie side by side, as a rule, and go first."""
    if weights.size == USUAL_WIDTH:
        _rows_of(table, b, first, weights, of_rows, USUAL_WIDTH)
    else:
        _rows_of(table, b, first, weights, of_rows, weights.size)


@inlined
def _rows_of(table: Table, b: int, first: int, weights: Floats, of_rows: Any, width: int) -> None:
    for row in range(of_rows.shape[0]):
        for h in range(of_rows.shape[1]):
            query = floats_at(place_of(table, QUERY, b, h, first + row), width)
            out = floats_at(place_of(table, OUT, b, h, first + row), width)
            asked, found, square = ZERO, ZERO, ZERO
            for j in range(width):
                asked += query[j] * query[j]
                found += out[j] * weights[j]
                square += out[j] * out[j]
            of_rows[row, h, QUERY_SQUARE] = asked
            of_rows[row, h, FOUND] = found
            of_rows[row, h, OUT_SQUARE] = square


@compiled_fast
def _longest(key: int, step: int, keys: int, width: int, then: int) -> Any:
    """The largest ‖k‖²; NaN if one is. What lies at ``then`` is read next."""
    wide()
    longest = ZERO
    for i in range(keys):
        begin, square = key + i * step, ZERO
        ask_for_row(begin, step, keys - i, then, width)
        row = floats_at(begin, width)
        for j in range(width):
            square += row[j] * row[j]
        longest = longer(longest, square)
    return longest


@compiled_fast
def _project(value: int, step: int, weights: Floats, along: Floats, sizes: Floats) -> Any:
    """v·w of each value into ``along``, and |v·w| into ``sizes``; returns the largest Σ|v w|."""
    wide()
    if weights.size == USUAL_WIDTH:
        return _project_of(value, step, weights, along, sizes, USUAL_WIDTH)
    return _project_of(value, step, weights, along, sizes, weights.size)


@inlined
def _project_of(value: int, step: int, weights: Floats, along: Floats, sizes: Floats, width: int) -> Any:
    widest = ZERO
    for i in range(along.size):
        begin = value + i * step
        ask_for_row(begin, step, along.size, begin, width)
        row = floats_at(begin, width)
        dot, size = ZERO, ZERO
        for j in range(width):
            dot += row[j] * weights[j]
            size += abs(row[j] * weights[j])
        along[i], sizes[i] = dot, abs(dot)
        widest = longer(widest, size)
    return widest
