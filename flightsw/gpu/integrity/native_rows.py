"""The check of a product on a processor: each operand and the result are read once, for all that is asked of them.

What ``checksum`` and ``transit`` do in torch's operators reads a row up to three times: for its sum, for its norm,
for its digest. Here memory goes by in pieces that stay in the first cache while all sums are formed. Digests are
those of ``transit``, bit for bit. Sums of floats are in float32, in lanes, which errs less than one after the
other; the bounds hold for any order.

A matrix lies in memory row after row, float32. Addresses and counts are the caller's promise, see ``native``; of a
digest, address 0 says that none is wanted. Memory of which one is wanted has more than ``COLUMNS`` words of 64
bits, and no half word.
"""

from typing import Any, Final

import numpy as np

from flightsw.gpu.integrity.native import compiled, compiled_fast, floats_at
from flightsw.gpu.integrity.native_transit import begin_digest, follow, follow_to_end
from flightsw.gpu.integrity.native_vectors import address_of, wide

FOURS: Final = 4
"""Rows that are read at a time: what is added up of one does not wait for what is added up of another."""


@compiled_fast
def sums_of_rows(memory: int, rows: int, columns: int, totals: int, digest: int) -> None:
    """Σ_j m_ij of each row into ``totals`` (rows,)."""
    wide()
    size, fours = rows * columns, rows - rows % FOURS
    matrix, total = floats_at(memory, size), floats_at(totals, rows)
    begin_digest(digest)
    done = 0
    for top in range(0, fours, FOURS):
        one, two = matrix[top * columns : (top + 1) * columns], matrix[(top + 1) * columns :]
        three, four = matrix[(top + 2) * columns :], matrix[(top + 3) * columns :]
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(columns):
            a += one[j]
            b += two[j]
            c += three[j]
            d += four[j]
        total[top], total[top + 1], total[top + 2], total[top + 3] = a, b, c, d
        done = follow(memory, done, (top + FOURS) * columns, digest)
    for i in range(fours, rows):
        row, first = matrix[i * columns : (i + 1) * columns], np.float32(0)
        for j in range(columns):
            first += row[j]
        total[i] = first
    follow_to_end(memory, follow(memory, done, size, digest), size, digest)


@compiled_fast
def dots_of_rows(
    memory: int, rows: int, columns: int, weights: int, totals: int, squares: int, digest: int
) -> None:
    """Σ_j m_ij w_j and Σ_j m_ij² of each row, into ``totals`` and ``squares`` (rows,)."""
    wide()
    size, fours = rows * columns, rows - rows % FOURS
    matrix, weight = floats_at(memory, size), floats_at(weights, columns)
    total, square = floats_at(totals, rows), floats_at(squares, rows)
    begin_digest(digest)
    done = 0
    for top in range(0, fours, FOURS):
        one, two = matrix[top * columns : (top + 1) * columns], matrix[(top + 1) * columns :]
        three, four = matrix[(top + 2) * columns :], matrix[(top + 3) * columns :]
        a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        e, f, g, h = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(columns):
            a += one[j] * weight[j]
            b += two[j] * weight[j]
            c += three[j] * weight[j]
            d += four[j] * weight[j]
            e += one[j] * one[j]
            f += two[j] * two[j]
            g += three[j] * three[j]
            h += four[j] * four[j]
        total[top], total[top + 1], total[top + 2], total[top + 3] = a, b, c, d
        square[top], square[top + 1], square[top + 2], square[top + 3] = e, f, g, h
        done = follow(memory, done, (top + FOURS) * columns, digest)
    for i in range(fours, rows):
        row, first, second = matrix[i * columns : (i + 1) * columns], np.float32(0), np.float32(0)
        for j in range(columns):
            first += row[j] * weight[j]
            second += row[j] * row[j]
        total[i], square[i] = first, second
    follow_to_end(memory, follow(memory, done, size, digest), size, digest)


@compiled_fast
def dots_of_columns(
    memory: int, rows: int, columns: int, weights: int, totals: int, squares: int, digest: int
) -> None:
    """Σ_i m_ij w_i and Σ_i m_ij² of each column, into ``totals`` and ``squares`` (columns,)."""
    wide()
    size, fours = rows * columns, rows - rows % FOURS
    matrix, weight = floats_at(memory, size), floats_at(weights, rows)
    total, square = floats_at(totals, columns), floats_at(squares, columns)
    begin_digest(digest)
    total[:] = 0
    square[:] = 0
    done = 0
    for top in range(0, fours, FOURS):
        first, second = matrix[top * columns : (top + 1) * columns], matrix[(top + 1) * columns :]
        third, fourth = matrix[(top + 2) * columns :], matrix[(top + 3) * columns :]
        a, b, c, d = weight[top], weight[top + 1], weight[top + 2], weight[top + 3]
        for j in range(columns):
            total[j] += (first[j] * a + second[j] * b) + (third[j] * c + fourth[j] * d)
            square[j] += (first[j] * first[j] + second[j] * second[j]) + (
                third[j] * third[j] + fourth[j] * fourth[j]
            )
        done = follow(memory, done, (top + FOURS) * columns, digest)
    for i in range(fours, rows):
        row, factor = matrix[i * columns : (i + 1) * columns], weight[i]
        for j in range(columns):
            total[j] += row[j] * factor
            square[j] += row[j] * row[j]
    follow_to_end(memory, follow(memory, done, size, digest), size, digest)


@compiled
def product_margin(
    y: int, x: int, rows: int, columns: int, turned: bool, width: int, sums: int, alpha: float, addend: float,
    factor: float, lost: float, floor: float, x_digest: int, y_digest: int,
) -> tuple[float, float]:  # fmt: skip
    """Lowest and highest of bound − difference over the rows of y = α x w + …, y (M, ``width``).

    That is (‖x_i‖ + ``lost``) ``factor`` + ``floor`` − |Σ_j y_ij − α x_i·s − ``addend``|, s (K,) at ``sums``; not a
    number if any is. x is (``rows``, ``columns``) in memory, ``turned`` if the product sees its transpose.
    """
    height = columns if turned else rows
    left, right, squares = np.empty(height, np.float32), np.empty(height, np.float32), np.empty(height, np.float32)
    sums_of_rows(y, height, width, address_of(left), y_digest)
    if turned:
        dots_of_columns(x, rows, columns, sums, address_of(right), address_of(squares), x_digest)
    else:
        dots_of_rows(x, rows, columns, sums, address_of(right), address_of(squares), x_digest)
    return extremes(left, right, squares, alpha, addend, factor, lost, floor)


@compiled
def extremes(
    left: Any, right: Any, squares: Any, alpha: float, addend: float, factor: float, lost: float, floor: float
) -> tuple[float, float]:
    """Lowest and highest of (√squares_i + ``lost``) ``factor`` + ``floor`` − |left_i − α right_i − ``addend``|; not
    a number if any is."""
    low, high = np.inf, -np.inf
    for i in range(left.size):
        difference = abs(left[i] - alpha * right[i] - addend)
        found = (np.sqrt(np.float64(squares[i])) + lost) * factor + floor - difference
        if found != found:
            return found, found
        low, high = min(low, found), max(high, found)
    return low, high


@compiled_fast
def operand_sums(memory: int, rows: int, columns: int, turned: bool, sums: int, digest: int) -> tuple[float, float]:
    """Sums of the rows of w into ``sums`` (K,); ‖w‖² and ‖s‖². w is (K, N), or its transpose if ``turned``."""
    inner, other = (columns, rows) if turned else (rows, columns)
    total, ones, squares = floats_at(sums, inner), np.ones(other, np.float32), np.empty(inner, np.float32)
    if turned:
        dots_of_columns(memory, rows, columns, address_of(ones), sums, address_of(squares), digest)
    else:
        dots_of_rows(memory, rows, columns, address_of(ones), sums, address_of(squares), digest)
    norm, size = 0.0, 0.0
    for j in range(inner):
        norm += np.float64(squares[j])
        size += np.float64(total[j]) * total[j]
    return norm, size
