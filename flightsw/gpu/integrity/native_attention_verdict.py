"""The verdict on rows of a chunk: whether a projection may be what its operands give.

*All at once* is asked first, as nearly always none is beyond its bound. Where one is, or sees no key, each row is
asked by itself.

*What is not a number, or infinite*, passes only where operands make it so: where ‖k‖², Σ|v w| or a mean is not
finite, or a score need not be. A score may be infinite where none that is formed here is: that of a hidden key,
which with its −∞ makes NaN, is not formed; and an operation multiplies by ``scale`` after it has added up. So what
counts is whether Σ|q k| is beyond all numbers, which no order of summation hides. That reads all keys for one row;
no sound row comes so far.
"""

from typing import Any, Final

import numpy as np

from flightsw.gpu.integrity.native import compiled_fast, floats_at
from flightsw.gpu.integrity.native_attention_table import (
    FLOOR,
    KEY,
    OUT,
    QUERY,
    SPAN,
    WIDTH,
    Floats,
    Table,
    moved_by,
    place_of,
    step_of,
)
from flightsw.gpu.integrity.native_vectors import wide
from flightsw.gpu.integrity.native_weighing import MEAN, SIZE, TOP, TOTAL

_LARGEST: Final = float(np.finfo(np.float32).max)


@compiled_fast
def all_alike(found: Floats, squares: Floats, sums: Any, longest: Any, widest: Any, relative: Any) -> bool:
    """Whether no row is beyond its bound, and all see a key: as ``alike`` where that is so.

    ``found``: o·w of each row; ``squares``: ‖scale q‖² of each; ``sums`` (SUMS, LANES) as ``weigh`` makes them.
    ``longest``: the largest ‖k‖²; ``widest``: the largest Σ|v w|. ``relative``: see ``projections_differ``.
    """
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
def alike(
    table: Table, b: int, h: int, t: int, count: int, scale: float, found: Any, square: Any, sums: Any,
    longest: Any, widest: Any, relative: Any,
) -> bool:  # fmt: skip
    """Whether row ``t`` may be what the first ``count`` keys give. As above, but of this row: ``sums`` (SUMS,)."""
    of_score, of_exp, of_mean, of_element = relative
    top, total, mean, size = sums[TOP], sums[TOTAL], sums[MEAN], sums[SIZE]
    if total == 0:  # Every key is hidden.
        row, others = floats_at(place_of(table, OUT, b, h, t), table[WIDTH]), 0
        for j in range(row.size):
            others += row[j] != 0
        if others == 0:
            return True
    else:
        moved = moved_by(np.sqrt(np.float64(square) * np.float64(longest)), top, of_score, of_exp)
        bound = (moved + of_mean) * size + (of_element * widest + FLOOR) * total
        if abs(found * np.float64(total) - mean) < bound < np.inf:
            return True
    # One by one: x − x, which is what finite means here, of a sum that may be formed in any order is zero.
    if np.isfinite(found):
        return False
    finite = np.isfinite(mean) and np.isfinite(widest) and np.isfinite(longest)
    return not finite or _may_be_infinite(table, b, h, t, count, scale)


@compiled_fast
def _may_be_infinite(table: Table, b: int, h: int, t: int, count: int, scale: float) -> bool:
    """Whether a score of this row may be, before or after it is multiplied; or its query is, or is no number."""
    width, step, key = table[WIDTH], step_of(table, KEY), place_of(table, KEY, b, h, 0)
    query, larger = floats_at(place_of(table, QUERY, b, h, t), width), max(1.0, abs(scale))
    for i in range(count):
        row, size = floats_at(key + i * step, width), 0.0
        for j in range(width):
            size += abs(np.float64(query[j]) * np.float64(row[j]))
        if not size * larger <= _LARGEST:
            return True
    return False
