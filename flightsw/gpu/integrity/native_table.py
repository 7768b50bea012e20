"""One kernel for all looks that were put down in rows: see ``late_rows``, and for each kind its own kernel.

Rows of as many lines that follow each other are gone through block by block: ``BLOCK_LINES`` lines of all of them,
then the next ones. What one operation has written and another one has read is still in the core's own cache when it
is read for the second time, and comes from memory once. A block is as large as what lies between those two readings
allows, and no smaller than what a call of a kernel costs.
"""

from typing import Final

import numpy as np

from flightsw.gpu.integrity import late_rows, native_late, native_rows
from flightsw.gpu.integrity.late_rows import LINES, NUMBERS, WORDS
from flightsw.gpu.integrity.native import compiled, words_at
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, wide
from flightsw.gpu.integrity.reading import NOBODY
from flightsw.gpu.integrity.transit import WORD_BYTES

SUMS, PRODUCTS, ROWS = late_rows.SUMS, late_rows.PRODUCTS, late_rows.ROWS
NORM, GELU, MOVED = late_rows.NORM, late_rows.GELU, late_rows.MOVED
LINEAR, LOGGED = late_rows.LINEAR, late_rows.LOGGED
BLOCK_LINES: Final = 16
"""Of 768 floats each 48 KiB of a tensor, of 3072 192 KiB."""


@compiled
def look(words: int, numbers: int, count: int, gelu: np.ndarray, found: int) -> None:
    """How many pieces are wrong in each of ``count`` rows, into ``found`` int64 (count,). ``words`` of all rows are
    int64 (count, ``WORDS``), ``numbers`` float64 (count, ``NUMBERS``). A kind that is none of these is wrong."""
    wide()
    word, wrong = words_at(words, count * WORDS), words_at(found, count)
    number = words_at(numbers, count * NUMBERS).view(np.float64)
    wrong[:] = 0
    first = 0
    while first < count:
        lines, stop = word[first * WORDS + LINES], first + 1
        while stop < count and word[stop * WORDS + LINES] == lines:
            stop += 1
        block = BLOCK_LINES if stop > first + 1 and lines > BLOCK_LINES else max(lines, 1)
        for begin in range(0, max(lines, 1), block):
            some = min(block, lines - begin)
            for row in range(first, stop):
                w, n = word[row * WORDS : (row + 1) * WORDS], number[row * NUMBERS : (row + 1) * NUMBERS]
                wrong[row] += _wrong(w, n, begin, some, gelu)
        first = stop


@compiled
def _wrong(w: np.ndarray, n: np.ndarray, begin: int, lines: int, gelu: np.ndarray) -> int:
    """How many pieces are wrong in ``lines`` lines of a row of the table, from line ``begin`` on."""
    kind = w[0]
    if kind == LINEAR:
        y, x = w[1] + begin * w[5] * FLOAT_BYTES, w[2] + begin * w[4] * FLOAT_BYTES
        low, high = native_rows.product_margin(
            y, x, lines, w[4], False, w[5], w[6], 1.0, n[0], n[1], n[2], n[3], NOBODY, NOBODY
        )
        # As ``checksum.sound``; of no lines there is nothing to be said.
        return 0 if low >= 0.0 and high < np.inf else 1
    if kind in (SUMS, PRODUCTS):
        width = w[4] // w[LINES]
        offset, some = begin * width * FLOAT_BYTES, lines * width
        a, result = w[1] + offset, w[3] + offset
        b, size = (w[2] + offset, some) if w[5] == w[4] else (w[2], w[5])
        if kind == SUMS:
            return native_late.sums_wrong(a, b, result, some, size)
        return native_late.products_wrong(a, b, result, some, size)
    if kind == NORM:
        offset = begin * w[4] * FLOAT_BYTES
        return native_late.layer_norm_wrong(
            w[1] + offset, w[2] + offset, lines, w[4], w[5], w[6], n[0], n[1], n[2], n[3]
        )
    if kind == GELU:
        width = w[3] // w[LINES]
        offset = begin * width * FLOAT_BYTES
        return native_late.gelu_wrong(w[1] + offset, w[2] + offset, lines * width, gelu)
    if kind == ROWS:
        index, result = w[4] + begin * WORD_BYTES, w[6] + begin * w[3] * FLOAT_BYTES
        return native_late.rows_wrong(w[1], w[2], w[3], index, lines, result)
    if kind == MOVED:
        return native_late.moved_wrong(w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9])
    if kind == LOGGED:
        return native_late.logged_wrong(w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8])
    return 1
