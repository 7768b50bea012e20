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

from flightsw.gpu.integrity.native import compiled, compiled_fast, floats_at, words_at
from flightsw.gpu.integrity.native_transit import (
    PIECE_FLOATS,
    PIECE_WORDS,
    add_piece,
    ask_for_next,
    begin_digest,
    follow,
    follow_to_end,
)
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, PIECE, address_of, wide
from flightsw.gpu.integrity.transit import COLUMNS

WIDE: Final = 1024
"""Columns from which four rows are read at a time: from pages of their own they come faster."""


@compiled_fast
def sums_of_rows(memory: int, rows: int, columns: int, totals: int, digest: int) -> float:
    """Σ_j m_ij of each row into ``totals`` (rows,); returns Σ_ij m_ij², infinite when a row's overflows."""
    wide()
    size, whole_pieces = rows * columns, columns // PIECE * PIECE
    matrix, words, total = floats_at(memory, size), words_at(memory, size // 2), floats_at(totals, rows)
    found = words_at(digest, COLUMNS)
    begin_digest(digest)
    whole = 0.0
    if columns >= WIDE:
        done, fours = 0, rows - rows % 4
        for top in range(0, fours, 4):
            one, two = matrix[top * columns : (top + 1) * columns], matrix[(top + 1) * columns :]
            three, four = matrix[(top + 2) * columns :], matrix[(top + 3) * columns :]
            a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            square = np.float32(0)
            for j in range(columns):
                a += one[j]
                b += two[j]
                c += three[j]
                d += four[j]
                square += (one[j] * one[j] + two[j] * two[j]) + (three[j] * three[j] + four[j] * four[j])
            total[top], total[top + 1], total[top + 2], total[top + 3] = a, b, c, d
            whole += float(square)
            done = follow(memory, done, (top + 4) * columns, digest)
        for i in range(fours, rows):
            row, first, square = matrix[i * columns : (i + 1) * columns], np.float32(0), np.float32(0)
            for j in range(columns):
                first += row[j]
                square += row[j] * row[j]
            total[i] = first
            whole += float(square)
        follow_to_end(memory, follow(memory, done, size, digest), size, digest)
        return whole
    top = 0
    for start in range(0, size, PIECE_FLOATS):
        if digest:
            add_piece(words[start // 2 : start // 2 + PIECE_WORDS], found)
        bottom = min(start + PIECE_FLOATS, size) // columns
        for i in range(top, bottom):
            row, first, square = matrix[i * columns : (i + 1) * columns], np.float32(0), np.float32(0)
            for begin in range(0, whole_pieces, PIECE):
                ask_for_next(memory + (i * columns + begin) * FLOAT_BYTES)
                piece = row[begin : begin + PIECE]
                for j in range(PIECE):
                    first += piece[j]
                    square += piece[j] * piece[j]
            for j in range(whole_pieces, columns):
                first += row[j]
                square += row[j] * row[j]
            total[i] = first
            whole += float(square)
        top = bottom
    return whole


@compiled_fast
def dots_of_rows(
    memory: int, rows: int, columns: int, weights: int, totals: int, squares: int, digest: int
) -> None:
    """Σ_j m_ij w_j and Σ_j m_ij² of each row, into ``totals`` and ``squares`` (rows,)."""
    wide()
    size, whole_pieces = rows * columns, columns // PIECE * PIECE
    matrix, words, weight = floats_at(memory, size), words_at(memory, size // 2), floats_at(weights, columns)
    found, total, square = words_at(digest, COLUMNS), floats_at(totals, rows), floats_at(squares, rows)
    begin_digest(digest)
    if columns >= WIDE:
        done, fours = 0, rows - rows % 4
        for top in range(0, fours, 4):
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
            done = follow(memory, done, (top + 4) * columns, digest)
        for i in range(fours, rows):
            row, first, second = matrix[i * columns : (i + 1) * columns], np.float32(0), np.float32(0)
            for j in range(columns):
                first += row[j] * weight[j]
                second += row[j] * row[j]
            total[i], square[i] = first, second
        follow_to_end(memory, follow(memory, done, size, digest), size, digest)
        return
    top = 0
    for start in range(0, size, PIECE_FLOATS):
        if digest:
            add_piece(words[start // 2 : start // 2 + PIECE_WORDS], found)
        bottom = min(start + PIECE_FLOATS, size) // columns
        for i in range(top, bottom):
            row, first, second = matrix[i * columns : (i + 1) * columns], np.float32(0), np.float32(0)
            for begin in range(0, whole_pieces, PIECE):
                ask_for_next(memory + (i * columns + begin) * FLOAT_BYTES)
                piece, factors = row[begin : begin + PIECE], weight[begin : begin + PIECE]
                for j in range(PIECE):
                    first += piece[j] * factors[j]
                    second += piece[j] * piece[j]
            for j in range(whole_pieces, columns):
                first += row[j] * weight[j]
                second += row[j] * row[j]
            total[i], square[i] = first, second
        top = bottom


@compiled_fast
def dots_of_columns(
    memory: int, rows: int, columns: int, weights: int, totals: int, squares: int, digest: int
) -> None:
    """Σ_i m_ij w_i and Σ_i m_ij² of each column, into ``totals`` and ``squares`` (columns,)."""
    wide()
    size, fours = rows * columns, rows - rows % 4
    matrix, weight = floats_at(memory, size), floats_at(weights, rows)
    total, square = floats_at(totals, columns), floats_at(squares, columns)
    begin_digest(digest)
    total[:] = 0
    square[:] = 0
    done = 0
    for top in range(0, fours, 4):
        first, second = matrix[top * columns : (top + 1) * columns], matrix[(top + 1) * columns :]
        third, fourth = matrix[(top + 2) * columns :], matrix[(top + 3) * columns :]
        a, b, c, d = weight[top], weight[top + 1], weight[top + 2], weight[top + 3]
        for j in range(columns):
            total[j] += (first[j] * a + second[j] * b) + (third[j] * c + fourth[j] * d)
            square[j] += (first[j] * first[j] + second[j] * second[j]) + (
                third[j] * third[j] + fourth[j] * fourth[j]
            )
        done = follow(memory, done, (top + 4) * columns, digest)
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
    inner = columns if turned else rows
    total = floats_at(sums, inner)
    norm = 0.0
    if turned:
        ones, squares = np.ones(rows, np.float32), np.empty(columns, np.float32)
        dots_of_columns(memory, rows, columns, address_of(ones), sums, address_of(squares), digest)
        for j in range(inner):
            norm += np.float64(squares[j])
    else:
        norm = sums_of_rows(memory, rows, columns, sums, digest)
    size = 0.0
    for j in range(inner):
        size += np.float64(total[j]) * total[j]
    return norm, size
