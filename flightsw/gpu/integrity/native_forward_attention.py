"""Kernels for the processor: results of attention against its operands, row by row.

The two forms and their bounds are those of ``forward_attention``. Both are given a table of counts, addresses and
strides; what lies there is float32, along D in one piece, and that is the caller's promise.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import bytes_at, compiled_fast, floats_at
from flightsw.gpu.integrity.native_tiles import KEYS as TILE_KEYS
from flightsw.gpu.integrity.native_tiles import LANES, tile
from flightsw.gpu.integrity.native_vectors import AHEAD_BYTES, ask_for, exp, inlined, scaled_sums, wide

FLOAT_BYTES: Final = 4
LINE_BYTES: Final = 64
BATCH, HEADS, ROWS, KEYS, WIDTH, CAUSAL, MASKED = range(7)
"""Where counts are in a table; of the last two, whether row t sees keys up to t only, and what the mask is."""
NO_MASK, BOOL_MASK, FLOAT_MASK = range(3)
QUERY, KEY, VALUE, OUT, MASK = 7, 11, 15, 19, 23
"""Where the address of each is; its strides follow, of batch, head and row, of a mask also of keys."""
FLOOR: Final = 1e-30
"""Of a bound, absolute: products of small numbers are not rounded by a part of themselves."""
SPAN: Final = 88.0
"""How far a score may be below the largest and count: exp is nothing there."""
TOGETHER: Final = 4
"""Rows that are added up at once."""
USUAL_WIDTH: Final = 64
"""Of a head. Loops that know how long they are take half the time: compiled for this one, and for any other."""
QUERY_SQUARE, FOUND, OUT_SQUARE, OF_ROW = range(4)
"""What is kept of a row of a head: ‖q‖², out·w, ‖out‖²; and how many that are."""

Table = NDArray[np.int64]
Floats = NDArray[np.float32]
_ZERO: Final = np.float32(0)


@compiled_fast
def rows_differ(table: Table, scale: float, of_score: float, of_exp: float, of_mean: float) -> int:
    """Rows of a result with an element beyond its bound. Keys and values are read once for each row.

    Relative errors: ``of_score``, of a score beside ‖q‖‖k‖, and ``of_exp``, of the argument of exp, of one side;
    ``of_mean``, of a mean over the keys, of both.
    """
    wide()
    keys, width = table[KEYS], table[WIDTH]
    scores, room = np.empty(keys, np.float32), np.zeros(keys, np.float32)
    sums, sizes = np.empty(width, np.float32), np.empty(width, np.float32)
    wrong = 0
    for b in range(table[BATCH]):
        for h in range(table[HEADS]):
            key, value = _place(table, KEY, b, h, 0), _place(table, VALUE, b, h, 0)
            for t in range(table[ROWS]):
                count = min(keys, t + 1) if table[CAUSAL] else keys
                seen = scores[:count]
                query = floats_at(_place(table, QUERY, b, h, t), width)
                out = floats_at(_place(table, OUT, b, h, t), width)
                longest = _dots(query, key, _step(table, KEY), seen, value)
                top = scaled_sums(seen, np.float32(scale), _mask_row(table, b, h, t, room))
                total = _exps(seen, top)
                _columns(seen, value, _step(table, VALUE), sums, sizes)
                score = abs(scale) * np.sqrt(_squares(query) * np.float64(longest))
                relative = _moved(score, top, of_score, of_exp) + of_mean
                wrong += not _alike(out, sums, sizes, total, np.float32(relative))
    return wrong


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
                key, value = _place(table, KEY, b, h, 0), _place(table, VALUE, b, h, 0)
                if h == 0 or table[MASK + 2] != 0:
                    _show(table, b, h, first, lanes, room, shown)
                _turn(_place(table, QUERY, b, h, first), _step(table, QUERY), lanes, scale, turned)
                longest = _longest(key, _step(table, KEY), count, width, value)
                _scores(turned, key, _step(table, KEY), shown, scores[: count * LANES], top)
                widest = _project(value, _step(table, VALUE), weights, along[:count], sizes[:count])
                _means(scores, top, along[:count], sizes[:count], total, mean, size)
                for lane in range(lanes):
                    found, square = of_rows[lane, h, FOUND], of_rows[lane, h, OUT_SQUARE]
                    if total[lane] == 0:  # Every key is hidden.
                        wrong += square != 0
                        continue
                    score = abs(scale) * np.sqrt(np.float64(of_rows[lane, h, QUERY_SQUARE]) * np.float64(longest))
                    moved = _moved(score, top[lane], of_score, of_exp)
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
            row = _mask_row(table, b, h, first + lane, room)
            for i in range(row.size):
                shown[i * LANES + lane] = row[i]
    elif table[CAUSAL]:
        for i in range(room.size):
            line = shown[i * LANES : (i + 1) * LANES]
            for lane in range(line.size):
                line[lane] = np.float32(-np.inf) if i > first + lane else _ZERO


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
        out = scores.ctypes.data + first * LANES * FLOAT_BYTES
        tile(turned.ctypes.data, width, key + first * step, step, count - first, out)
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
        top[lane] = _ZERO if top[lane] == -np.inf else top[lane]
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
            query = floats_at(_place(table, QUERY, b, h, first + row), width)
            out = floats_at(_place(table, OUT, b, h, first + row), width)
            asked, found, square = _ZERO, _ZERO, _ZERO
            for j in range(width):
                asked += query[j] * query[j]
                found += out[j] * weights[j]
                square += out[j] * out[j]
            of_rows[row, h, QUERY_SQUARE] = asked
            of_rows[row, h, FOUND] = found
            of_rows[row, h, OUT_SQUARE] = square


@compiled_fast
def _place(table: Table, which: int, b: int, h: int, t: int) -> int:
    """Address of a row of floats."""
    elements = b * table[which + 1] + h * table[which + 2] + t * table[which + 3]
    return int(table[which] + elements * FLOAT_BYTES)


@compiled_fast
def _step(table: Table, which: int) -> int:
    """Bytes from row to row."""
    return int(table[which + 3] * FLOAT_BYTES)


@compiled_fast
def _mask_row(table: Table, b: int, h: int, t: int, room: Floats) -> Any:
    """What is added to the scores of a row: as it lies in memory, or made in ``room`` (keys,)."""
    if table[MASKED] == NO_MASK:
        return floats_at(room.ctypes.data, room.size)
    step = table[MASK + 4]
    if table[MASKED] == FLOAT_MASK:
        begin = _place(table, MASK, b, h, t)
        if step == 1:
            return floats_at(begin, room.size)
        for i in range(room.size):
            room[i] = floats_at(begin + i * step * FLOAT_BYTES, 1)[0]
        return floats_at(room.ctypes.data, room.size)
    begin = table[MASK] + b * table[MASK + 1] + h * table[MASK + 2] + t * table[MASK + 3]
    if step == 1:
        shown = bytes_at(begin, room.size)
        for i in range(room.size):
            room[i] = _ZERO if shown[i] else np.float32(-np.inf)
    else:
        for i in range(room.size):
            room[i] = _ZERO if bytes_at(begin + i * step, 1)[0] else np.float32(-np.inf)
    return floats_at(room.ctypes.data, room.size)


@compiled_fast
def _dots(query: Floats, key: int, step: int, scores: Floats, then: int) -> Any:
    """q·k of each key into ``scores``; returns the largest ‖k‖². What lies at ``then`` is read next."""
    wide()
    if query.size == USUAL_WIDTH:
        return _dots_of(query, key, step, scores, then, USUAL_WIDTH)
    return _dots_of(query, key, step, scores, then, query.size)


@inlined
def _dots_of(query: Floats, key: int, step: int, scores: Floats, then: int, width: int) -> Any:
    longest = _ZERO
    for i in range(scores.size):
        begin = key + i * step
        _ask_for_row(begin, step, scores.size - i, then, width)
        row = floats_at(begin, width)
        dot, square = _ZERO, _ZERO
        for j in range(width):
            dot += row[j] * query[j]
            square += row[j] * row[j]
        scores[i] = dot
        longest = _longer(longest, square)
    return longest


@inlined
def _ask_for_row(begin: int, step: int, left: int, then: int, width: int) -> None:
    """Ask for the row that is ``AHEAD_BYTES`` after this one, or is that far in what comes ``then``."""
    ahead = AHEAD_BYTES // (width * FLOAT_BYTES) + 1
    place = begin + ahead * step if ahead < left else then + (ahead - left) * step
    for line in range(0, width * FLOAT_BYTES, LINE_BYTES):
        ask_for(place + line)


@compiled_fast
def _exps(scores: Floats, top: Any) -> Any:
    """exp(score − ``top``), in place; returns their sum."""
    wide()
    top = _ZERO if top == -np.inf else top
    total = _ZERO
    for i in range(scores.size):
        p = exp(scores[i] - top)
        scores[i] = p
        total += p
    return total


@compiled_fast
def _columns(weights: Floats, value: int, step: int, sums: Floats, sizes: Floats) -> None:
    """Σ p v and Σ p |v| of each column."""
    wide()
    if sums.size == USUAL_WIDTH:
        _columns_of(weights, value, step, sums, sizes, USUAL_WIDTH)
    else:
        _columns_of(weights, value, step, sums, sizes, sums.size)


@inlined
def _columns_of(weights: Floats, value: int, step: int, sums: Floats, sizes: Floats, width: int) -> None:
    count = weights.size
    sums[:] = 0
    sizes[:] = 0
    even = count - count % TOGETHER
    for i in range(0, even, TOGETHER):
        begin = value + i * step
        for k in range(TOGETHER):
            _ask_for_row(begin + k * step, step, count, begin, width)
        first, second = floats_at(begin, width), floats_at(begin + step, width)
        third, fourth = floats_at(begin + 2 * step, width), floats_at(begin + 3 * step, width)
        a, b, c, d = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for j in range(width):
            sums[j] += (first[j] * a + second[j] * b) + (third[j] * c + fourth[j] * d)
            sizes[j] += (abs(first[j]) * a + abs(second[j]) * b) + (abs(third[j]) * c + abs(fourth[j]) * d)
    for i in range(even, count):
        row, p = floats_at(value + i * step, width), weights[i]
        for j in range(width):
            sums[j] += row[j] * p
            sizes[j] += abs(row[j]) * p


@compiled_fast
def _alike(out: Floats, sums: Floats, sizes: Floats, total: Any, relative: Any) -> Any:
    """Whether ``out`` is ``sums`` / ``total``, but for ``relative`` · ``sizes`` / ``total``."""
    wide()
    excess, limits = _ZERO, _ZERO
    floor = np.float32(FLOOR) * total
    if total == 0:  # Every key is hidden.
        for j in range(out.size):
            excess += abs(out[j])
        return excess == 0
    for j in range(out.size):
        bound = relative * sizes[j] + floor
        over = abs(out[j] * total - sums[j]) - bound
        excess += _ZERO if over <= 0 else over
        limits += bound
    if excess <= 0 and limits < np.inf:
        return True
    for j in range(out.size):
        bound = relative * sizes[j] + floor
        if not abs(out[j] * total - sums[j]) < bound < np.inf:
            from_operands = not np.isfinite(sums[j]) or not np.isfinite(total)
            if np.isfinite(out[j]) or not from_operands:
                return False
    return True


@compiled_fast
def _longest(key: int, step: int, keys: int, width: int, then: int) -> Any:
    """The largest ‖k‖²; NaN if one is. What lies at ``then`` is read next."""
    wide()
    longest = _ZERO
    for i in range(keys):
        begin, square = key + i * step, _ZERO
        _ask_for_row(begin, step, keys - i, then, width)
        row = floats_at(begin, width)
        for j in range(width):
            square += row[j] * row[j]
        longest = _longer(longest, square)
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
    widest = _ZERO
    for i in range(along.size):
        begin = value + i * step
        _ask_for_row(begin, step, along.size, begin, width)
        row = floats_at(begin, width)
        dot, size = _ZERO, _ZERO
        for j in range(width):
            dot += row[j] * weights[j]
            size += abs(row[j] * weights[j])
        along[i], sizes[i] = dot, abs(dot)
        widest = _longer(widest, size)
    return widest


@compiled_fast
def _squares(x: Floats) -> Any:
    total = 0.0
    for j in range(x.size):
        total += np.float64(x[j]) * np.float64(x[j])
    return total


@compiled_fast
def _longer(one: Any, other: Any) -> Any:
    """The larger; what is not a number stays that."""
    return one if other <= one or one != one else other


@compiled_fast
def _moved(score: float, top: Any, of_score: float, of_exp: float) -> float:
    """By what part of itself a weight of the mean may differ between two sound forms."""
    side = of_score * score + of_exp * (abs(np.float64(top)) + SPAN)
    moved = 4.0 * side
    return moved + moved * moved if moved < 1.0 else np.inf
