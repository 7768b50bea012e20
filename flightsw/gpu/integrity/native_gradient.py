"""Kernels for the processor: a gradient is read once for the three operations of a backward pass that read it.

See ``gradients`` for what is made of the sums. Four rows are read at a time, ``BLOCK`` columns of them, for the
sums over rows and those over columns, while they are in the first cache. Sums over rows are in the precision of the
operands, as in ``native_rows``; sums over columns are, too, for ``BLOCK_ROWS`` rows, and these add up in float64.

Addresses and counts are the caller's promise, see ``native``.
"""

from typing import Final

import numpy as np

from flightsw.gpu.integrity.native import compiled, compiled_fast, floats_at, words_at
from flightsw.gpu.integrity.native_norm import BLOCK_ROWS, flush
from flightsw.gpu.integrity.native_rows import dots_of_columns, extremes, sums_of_rows
from flightsw.gpu.integrity.native_transit import begin_digest, follow, follow_to_end
from flightsw.gpu.integrity.native_vectors import address_of, wide

BLOCK: Final = 512
"""Columns: of four rows and of two sums of each, 12 KiB."""


@compiled_fast
def read(
    memory: int, rows: int, columns: int, weights: int, dots: int, squares: int, sums: int, across: int, digest: int
) -> None:
    """Of each row (rows,) Σ_j m_ij w_j, Σ_j m_ij² and Σ_j m_ij, into ``dots``, ``squares`` and ``sums``; of each
    column Σ_i m_ij and Σ_i |m_ij|, into ``across`` float64 (2, columns)."""
    wide()
    size, fours = rows * columns, rows - rows % 4
    matrix, weight = floats_at(memory, size), floats_at(weights, columns)
    dot, square, plain = floats_at(dots, rows), floats_at(squares, rows), floats_at(sums, rows)
    totals = words_at(across, 2 * columns).view(np.float64)
    of_sums, of_sizes = np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    totals[:] = 0
    begin_digest(digest)
    done = 0
    for top in range(0, fours, 4):
        one, two = matrix[top * columns : (top + 1) * columns], matrix[(top + 1) * columns : (top + 2) * columns]
        three = matrix[(top + 2) * columns : (top + 3) * columns]
        four = matrix[(top + 3) * columns : (top + 4) * columns]
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        e, f, g, h = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        k, o, u, v = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for begin in range(0, columns, BLOCK):
            end = begin + BLOCK
            p, q, r, t, w = one[begin:end], two[begin:end], three[begin:end], four[begin:end], weight[begin:end]
            for j in range(w.size):
                a += p[j] * w[j]
                b += q[j] * w[j]
                c += r[j] * w[j]
                d += t[j] * w[j]
                e += p[j] * p[j]
                f += q[j] * q[j]
                g += r[j] * r[j]
                h += t[j] * t[j]
                k += p[j]
                o += q[j]
                u += r[j]
                v += t[j]
            s, z = of_sums[begin:end], of_sizes[begin:end]
            for j in range(s.size):
                s[j] += (p[j] + q[j]) + (r[j] + t[j])
            for j in range(s.size):
                z[j] += (abs(p[j]) + abs(q[j])) + (abs(r[j]) + abs(t[j]))
        dot[top], dot[top + 1], dot[top + 2], dot[top + 3] = a, b, c, d
        square[top], square[top + 1], square[top + 2], square[top + 3] = e, f, g, h
        plain[top], plain[top + 1], plain[top + 2], plain[top + 3] = k, o, u, v
        if top % BLOCK_ROWS == BLOCK_ROWS - 4 or top == fours - 4:
            flush(of_sums, totals[:columns])
            flush(of_sizes, totals[columns:])
        done = follow(memory, done, (top + 4) * columns, digest)
    for i in range(fours, rows):
        row = matrix[i * columns : (i + 1) * columns]
        a, e, k = np.float32(0), np.float32(0), np.float32(0)
        for j in range(columns):
            a += row[j] * weight[j]
            e += row[j] * row[j]
            k += row[j]
        dot[i], square[i], plain[i] = a, e, k
        for j in range(columns):
            totals[j] += row[j]
            totals[columns + j] += abs(row[j])
    follow_to_end(memory, follow(memory, done, size, digest), size, digest)


@compiled
def margin_and_sums(
    y: int, width: int, x: int, rows: int, columns: int, weights: int, factor: float, lost: float, floor: float,
    x_digest: int, y_digest: int, sums: int, across: int,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Lowest and highest of bound − difference over the rows of y = x w, as ``native_rows.product_margin`` has them
    for x (``rows``, ``columns``) and y (``rows``, ``width``); ‖x‖² and the square of the norm of ``sums``."""
    left, right, squares = np.empty(rows, np.float32), np.empty(rows, np.float32), np.empty(rows, np.float32)
    sums_of_rows(y, rows, width, address_of(left), y_digest)
    read(x, rows, columns, weights, address_of(right), address_of(squares), sums, across, x_digest)
    low, high = extremes(left, right, squares, 1.0, 0.0, factor, lost, floor)
    plain, norm, size = floats_at(sums, rows), 0.0, 0.0
    for i in range(rows):
        norm += np.float64(squares[i])
        size += np.float64(plain[i]) * plain[i]
    return low, high, norm, size


@compiled
def turned_margin(
    y: int, height: int, x: int, rows: int, columns: int, sums: int, factor: float, lost: float, floor: float,
    x_digest: int, y_digest: int,
) -> tuple[float, float]:  # fmt: skip
    """The same over the columns of y = gᵀ x (``height``, ``columns``), x being (``rows``, ``columns``) and ``sums``
    those of the rows of g: Σ_i y_ij = Σ_t sums_t x_tj."""
    ones, unused = np.ones(height, np.float32), np.empty(columns, np.float32)
    left, right, squares = (
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
        np.empty(columns, np.float32),
    )
    dots_of_columns(y, height, columns, address_of(ones), address_of(left), address_of(unused), y_digest)
    dots_of_columns(x, rows, columns, sums, address_of(right), address_of(squares), x_digest)
    return extremes(left, right, squares, 1.0, 0.0, factor, lost, floor)
