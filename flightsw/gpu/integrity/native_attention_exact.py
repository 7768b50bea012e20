"""Kernel for the processor: results of attention against its operands, every element of every row.

Keys and values are read once for each row: for the few of a decode step that is what it costs. See
``forward_attention`` for the form and its bounds, ``native_attention_table`` for what the kernel is told.
"""

from typing import Any

import numpy as np

from flightsw.gpu.integrity.native import compiled_fast, floats_at
from flightsw.gpu.integrity.native_attention_table import (
    BATCH,
    CAUSAL,
    FLOOR,
    HEADS,
    KEY,
    KEYS,
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
from flightsw.gpu.integrity.native_vectors import exp, inlined, scaled_sums, wide


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
            key, value = place_of(table, KEY, b, h, 0), place_of(table, VALUE, b, h, 0)
            for t in range(table[ROWS]):
                count = min(keys, t + 1) if table[CAUSAL] else keys
                seen = scores[:count]
                query = floats_at(place_of(table, QUERY, b, h, t), width)
                out = floats_at(place_of(table, OUT, b, h, t), width)
                longest = _dots(query, key, step_of(table, KEY), seen, value)
                top = scaled_sums(seen, np.float32(scale), mask_row(table, b, h, t, room))
                total = _exps(seen, top)
                _columns(seen, value, step_of(table, VALUE), sums, sizes)
                score = abs(scale) * np.sqrt(_squares(query) * np.float64(longest))
                relative = moved_by(score, top, of_score, of_exp) + of_mean
                wrong += not _alike(out, sums, sizes, total, np.float32(relative))
    return wrong


@compiled_fast
def _dots(query: Floats, key: int, step: int, scores: Floats, then: int) -> Any:
    """q·k of each key into ``scores``; returns the largest ‖k‖². What lies at ``then`` is read next."""
    wide()
    if query.size == USUAL_WIDTH:
        return _dots_of(query, key, step, scores, then, USUAL_WIDTH)
    return _dots_of(query, key, step, scores, then, query.size)


@inlined
def _dots_of(query: Floats, key: int, step: int, scores: Floats, then: int, width: int) -> Any:
    longest = ZERO
    for i in range(scores.size):
        begin = key + i * step
        ask_for_row(begin, step, scores.size - i, then, width)
        row = floats_at(begin, width)
        dot, square = ZERO, ZERO
        for j in range(width):
            dot += row[j] * query[j]
            square += row[j] * row[j]
        scores[i] = dot
        longest = longer(longest, square)
    return longest


@compiled_fast
def _exps(scores: Floats, top: Any) -> Any:
    """exp(score − ``top``), in place; returns their sum."""
    wide()
    top = ZERO if top == -np.inf else top
    total = ZERO
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
            ask_for_row(begin + k * step, step, count, begin, width)
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
    excess, limits = ZERO, ZERO
    floor = np.float32(FLOOR) * total
    if total == 0:  # Every key is hidden.
        for j in range(out.size):
            excess += abs(out[j])
        return excess == 0
    for j in range(out.size):
        bound = relative * sizes[j] + floor
        over = abs(out[j] * total - sums[j]) - bound
        excess += ZERO if over <= 0 else over
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
def _squares(x: Floats) -> Any:
    total = 0.0
    for j in range(x.size):
        total += np.float64(x[j]) * np.float64(x[j])
    return total
