"""One kernel for all looks that were put down in rows: see ``late_rows``, and for each kind its own kernel."""

import numpy as np

from flightsw.gpu.integrity import late_rows, native_late, native_rows
from flightsw.gpu.integrity.late_rows import NUMBERS, WORDS
from flightsw.gpu.integrity.native import compiled, words_at
from flightsw.gpu.integrity.native_vectors import wide
from flightsw.gpu.integrity.reading import NOBODY

SUMS, PRODUCTS, ROWS = late_rows.SUMS, late_rows.PRODUCTS, late_rows.ROWS
NORM, GELU, MOVED = late_rows.NORM, late_rows.GELU, late_rows.MOVED
LINEAR, LOGGED = late_rows.LINEAR, late_rows.LOGGED


@compiled
def look(words: int, numbers: int, count: int, gelu: np.ndarray, found: int) -> None:
    """How many pieces are wrong in each of ``count`` rows, into ``found`` int64 (count,). ``words`` of all rows are
    int64 (count, ``WORDS``), ``numbers`` float64 (count, ``NUMBERS``). A kind that is none of these is wrong."""
    wide()
    word, wrong = words_at(words, count * WORDS), words_at(found, count)
    number = words_at(numbers, count * NUMBERS).view(np.float64)
    for row in range(count):
        w, n = word[row * WORDS : (row + 1) * WORDS], number[row * NUMBERS : (row + 1) * NUMBERS]
        kind = w[0]
        wrong[row] = 1
        if kind == LINEAR:
            low, high = native_rows.product_margin(
                w[1], w[2], w[3], w[4], False, w[5], w[6], 1.0, n[0], n[1], n[2], n[3], NOBODY, NOBODY
            )
            # As ``checksum.sound``.
            wrong[row] = 0 if low >= 0.0 and high < np.inf else 1
        elif kind == SUMS:
            wrong[row] = native_late.sums_wrong(w[1], w[2], w[3], w[4], w[5])
        elif kind == NORM:
            wrong[row] = native_late.layer_norm_wrong(w[1], w[2], w[3], w[4], w[5], w[6], n[0], n[1], n[2], n[3])
        elif kind == GELU:
            wrong[row] = native_late.gelu_wrong(w[1], w[2], w[3], gelu)
        elif kind == ROWS:
            wrong[row] = native_late.rows_wrong(w[1], w[2], w[3], w[4], w[5], w[6])
        elif kind == MOVED:
            wrong[row] = native_late.moved_wrong(w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9])
        elif kind == PRODUCTS:
            wrong[row] = native_late.products_wrong(w[1], w[2], w[3], w[4], w[5])
        elif kind == LOGGED:
            wrong[row] = native_late.logged_wrong(w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8])
