"""Kernels for the processor: results of attention against its operands, row by row.

The two forms and their bounds are those of ``forward_attention``. Both are given a table of counts, addresses and
strides; what lies there is float32, along D in one piece, and that is the caller's promise.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import bytes_at, compiled_fast, floats_at
from flightsw.gpu.integrity.native_vectors import AHEAD_BYTES, ask_for, exp, scaled_sums, wide

FLOAT_BYTES: Final = 4
LINE_BYTES: Final = 64
BATCH, HEADS, ROWS, KEYS, WIDTH, CAUSAL, MASKED = range(7)
"""Where counts are in a table; of the last two, whether row t sees keys up to t only, and what the mask is."""
NO_MASK, BOOL_MASK, FLOAT_MASK = range(3)
QUERY, KEY, VALUE, OUT, MASK = 7, 11, 15, 19, 23
"""Where each one's address begins, and its strides of batch, head and row; of the mask that of keys, too. In bytes."""
FLOOR: Final = 1e-30
"""Of a bound, absolute: products of small numbers are not rounded by a part of themselves."""
SPAN: Final = 88.0
"""How far a score may be below the largest and count: exp is nothing there."""
TOGETHER: Final = 4
"""Rows of values that are added up at once."""

Table = NDArray[np.int64]
Floats = NDArray[np.float32]
_ZERO: Final = np.float32(0)
USUAL_WIDTH: Final = 64
QUERY_SQUARE, FOUND, OUT_SQUARE, OF_ROW = range(4)
import numba
_inline = numba.njit(inline="always")


@compiled_fast
def rows_differ(table: Table, scale: float, of_score: float, of_exp: float, of_sum: float) -> int:
    """Rows of a result with an element beyond its bound. Keys and values are read once for each row.

    Relative errors: ``of_score``, of a score beside ‖q‖‖k‖; ``of_exp``, of exp and of its argument beside its size;
    ``of_sum``, of a mean over the keys.
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
                longest = _dots(query, key, table[KEY + 3], seen, value)
                top = scaled_sums(seen, np.float32(scale), _mask_row(table, b, h, t, room))
                total = _exps(seen, top)
                _columns(seen, value, table[VALUE + 3], sums, sizes)
                score = abs(scale) * np.sqrt(_squares(query) * np.float64(longest))
                relative = _moved(score, top, of_score, of_exp) + of_sum
                wrong += not _alike(out, sums, sizes, total, np.float32(relative))
    return wrong


@compiled_fast
def projections_differ(
    table: Table,
    b: int,
    first: int,
    rows: int,
    dots: int,
    weights: Floats,
    scale: float,
    of_score: float,
    of_exp: float,
    of_sum: float,
) -> int:
    """Rows from ``first`` on of one of a batch whose projection on ``weights`` (D,) is beyond its bound.

    ``dots``: address of q·k (H, ``rows``, keys), overwritten. Keys and values are read once for all rows.
    """
    wide()
    heads, keys, width = table[HEADS], table[KEYS], table[WIDTH]
    room, along, sizes = np.zeros(keys, np.float32), np.empty(keys, np.float32), np.empty(keys, np.float32)
    of_rows = np.empty((rows, heads, OF_ROW), np.float32)
    _rows(table, b, first, weights, of_rows)
    plain = table[MASKED] == FLOAT_MASK and table[MASK + 4] == FLOAT_BYTES
    wrong = 0
    for h in range(heads):
        longest = _longest(_place(table, KEY, b, h, 0), table[KEY + 3], keys, width)
        widest = _project(_place(table, VALUE, b, h, 0), table[VALUE + 3], weights, along, sizes)
        for row in range(rows):
            t = first + row
            count = min(keys, t + 1) if table[CAUSAL] else keys
            seen = floats_at(dots + (h * rows + row) * keys * FLOAT_BYTES, count)
            if plain:
                mask = floats_at(_place(table, MASK, b, h, t), keys)
            else:
                mask = _mask_row(table, b, h, t, room)
            top = scaled_sums(seen, np.float32(scale), mask)
            total, mean, size = _means(seen, top, along, sizes)
            found, square = of_rows[row, h, FOUND], of_rows[row, h, OUT_SQUARE]
            if total == 0:
                wrong += not square == 0
                continue
            score = abs(scale) * np.sqrt(np.float64(of_rows[row, h, QUERY_SQUARE]) * np.float64(longest))
            bound = _moved(score, top, of_score, of_exp) * size + (of_sum * widest + FLOOR) * total
            if abs(found * np.float64(total) - mean) < bound < np.inf:
                continue
            from_operands = not np.isfinite(mean) or not np.isfinite(widest) or not np.isfinite(longest)
            wrong += np.isfinite(found) or not from_operands
    return wrong


@compiled_fast
def _rows(table: Table, b: int, first: int, weights: Floats, of_rows: Any) -> None:
    """Of each row and head: ‖q‖², out·w, ‖out‖². Heads of a row lie side by side, as a rule, and go first."""
    if weights.size == USUAL_WIDTH:
        _rows_of(table, b, first, weights, of_rows, USUAL_WIDTH)
    else:
        _rows_of(table, b, first, weights, of_rows, weights.size)


@_inline
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
    """Address of a row."""
    return table[which] + b * table[which + 1] + h * table[which + 2] + t * table[which + 3]


@compiled_fast
def _mask_row(table: Table, b: int, h: int, t: int, room: Floats) -> Any:
    """What is added to the scores of a row: as it lies in memory, or made in ``room`` (keys,)."""
    if table[MASKED] == NO_MASK:
        return floats_at(room.ctypes.data, room.size)
    begin, step = _place(table, MASK, b, h, t), table[MASK + 4]
    if table[MASKED] == FLOAT_MASK:
        if step == FLOAT_BYTES:
            return floats_at(begin, room.size)
        for i in range(room.size):
            room[i] = floats_at(begin + i * step, 1)[0]
        return floats_at(room.ctypes.data, room.size)
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


@_inline
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


@_inline
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


@_inline
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
def _alike(out: Floats, sums: Floats, sizes: Floats, total: Any, relative: Any) -> bool:
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
def _longest(key: int, step: int, keys: int, width: int) -> Any:
    """The largest ‖k‖²; NaN if one is."""
    wide()
    longest = _ZERO
    for i in range(keys):
        row = floats_at(key + i * step, width)
        square = _ZERO
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


@_inline
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
def _means(scores: Floats, top: Any, along: Floats, sizes: Floats) -> tuple[Any, Any, Any]:
    """With p = exp(score − ``top``): Σ p, Σ p v·w, Σ p |v·w|."""
    wide()
    top = _ZERO if top == -np.inf else top
    total, mean, size = _ZERO, _ZERO, _ZERO
    for i in range(scores.size):
        p = exp(scores[i] - top)
        total += p
        mean += p * along[i]
        size += p * sizes[i]
    return total, mean, size


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
