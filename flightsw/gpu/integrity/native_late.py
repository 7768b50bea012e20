"""Kernels for the processor: results that were noted on the tape, against their operands where they lie now.

The arithmetic is that of ``native_pointwise``, behind addresses (see ``native``), and that of a layer norm of which
only the result is at hand. All return how many rows or pieces have something wrong in them.

*Layer norm.* y_j = (x_j − m) r w_j + b_j is formed with a mean and a variance of the row's own here, within what
torch's may be off: with e = (``SUM_SLACK`` √n + ``NORM_SLACK``) u, the mean by e times √(v + m²), and r by
e + |m| r e + (|m| r e)² of itself (see ``native_norm``; the sums here err as much, so all is taken twice).
"""

import numpy as np

from flightsw.gpu.integrity import native_pointwise
from flightsw.gpu.integrity.native import compiled, compiled_fast, floats_at, words_at
from flightsw.gpu.integrity.native_vectors import FAR_BYTES, FLOAT_BYTES, LINE_BYTES, ask_for, wide


@compiled
def sums_wrong(a: int, b: int, result: int, count: int, size: int) -> int:
    """``result`` (count,) against a (count,) + b (size,) over and over, bit by bit."""
    bits = floats_at(result, count).view(np.int32)
    found: int = native_pointwise.sums_differ(floats_at(a, count), floats_at(b, size), bits)
    return found


@compiled
def products_wrong(a: int, b: int, result: int, count: int, size: int) -> int:
    """``result`` (count,) against a (count,) times b (size,) over and over, bit by bit."""
    bits = floats_at(result, count).view(np.int32)
    found: int = native_pointwise.products_differ(floats_at(a, count), floats_at(b, size), bits)
    return found


@compiled
def rows_wrong(table: int, rows: int, columns: int, index: int, count: int, result: int) -> int:
    """``result`` (count, columns) against rows of a table (rows, columns), int64 ``index`` (count,) naming them."""
    words = floats_at(table, rows * columns).view(np.int32).reshape((rows, columns))
    bits = floats_at(result, count * columns).view(np.int32).reshape((count, columns))
    found: int = native_pointwise.rows_differ(words, words_at(index, count), bits)
    return found


@compiled
def gelu_wrong(x: int, y: int, count: int, numbers: np.ndarray) -> int:
    """y (count,) against gelu(x), tanh form; ``numbers`` are those of ``gelu``."""
    found: int = native_pointwise.gelu_forward_differs(floats_at(x, count), floats_at(y, count), numbers)
    return found


@compiled_fast
def layer_norm_wrong(
    x: int, y: int, rows: int, columns: int, weight: int, bias: int, epsilon: float,
    of_element: float, of_sum: float, tiny: float,
) -> int:  # fmt: skip
    """y (rows, columns) against the norm of x; ``weight`` or ``bias`` (columns,) of address 0 are ones or zeros.

    ``of_element`` and ``of_sum`` are the slacks of an element and of a sum over a row, times u."""
    wide()
    source, made = floats_at(x, rows * columns), floats_at(y, rows * columns)
    scale, shift = np.ones(columns, np.float32), np.zeros(columns, np.float32)
    if weight:
        scale[:] = floats_at(weight, columns)
    if bias:
        shift[:] = floats_at(bias, columns)
    zero, part, element = np.float32(0), np.float32(1.0 / columns), np.float32(of_element)
    scales, least = np.abs(scale), element * np.abs(shift) + np.float32(tiny)
    wrong = 0
    for i in range(rows):
        x_, y_ = source[i * columns : (i + 1) * columns], made[i * columns : (i + 1) * columns]
        total, squares = zero, zero
        for j in range(columns):
            total += x_[j]
        m = total * part
        for j in range(columns):
            squares += (x_[j] - m) * (x_[j] - m)
        variance = squares * part
        r = np.float32(1.0 / np.sqrt(np.float64(variance) + epsilon))
        size = np.float32(abs(m) * r)
        lost = of_sum * size
        # Of (x − m) r: what m may be off, in units of 1/r, and r relatively.
        off_mean = np.float32(2.0 * of_sum * np.sqrt(np.float64(variance) + np.float64(m) * m) * r)
        off_scale = np.float32(2.0 * (of_sum + lost + lost * lost) + of_element)
        off = off_mean + element * size
        excess = zero
        for j in range(columns):
            normed = (x_[j] - m) * r
            difference = abs(y_[j] - (normed * scale[j] + shift[j]))
            over = difference - ((off_scale * abs(normed) + off) * scales[j] + least[j])
            excess += zero if over <= zero else over
        wrong += not (excess <= zero and off_mean < np.inf)
    return wrong


@compiled
def moved_wrong(
    source: int, first: int, second: int, third: int, width: int,
    of_first: int, of_second: int, of_third: int, result: int,
) -> int:  # fmt: skip
    """``result`` (first, second, third, width), in one piece, against words of 32 bits that are ``of_first`` and so
    on words apart, and side by side along the last dimension; bit by bit."""
    wide()
    row_bytes = width * FLOAT_BYTES
    wrong, to = 0, result
    for i in range(first):
        for j in range(second):
            for k in range(third):
                begin = source + (i * of_first + j * of_second + k * of_third) * FLOAT_BYTES
                for line in range(0, row_bytes, LINE_BYTES):
                    ask_for(begin + FAR_BYTES + line)
                    ask_for(to + FAR_BYTES + line)
                was, is_ = floats_at(begin, width).view(np.int32), floats_at(to, width).view(np.int32)
                differs = np.int32(0)
                for word in range(width):
                    differs |= was[word] ^ is_[word]
                wrong += differs != 0
                to += row_bytes
    return wrong


@compiled
def log_rows(
    query: int, of_row: int, of_head: int, out: int, of_out_row: int, of_out_head: int, heads: int, width: int,
    lines: int, count: int, asked: int, given: int,
) -> None:  # fmt: skip
    """Copy rows (``count``, heads, width) of ``query`` and ``out``, so many elements apart from row to row and from
    head to head, to ``lines`` (count,) of two logs, where heads lie side by side."""
    size, line = heads * width, words_at(lines, count)
    for i in range(count):
        to = line[i] * size * FLOAT_BYTES
        first, second = floats_at(asked + to, size), floats_at(given + to, size)
        for h in range(heads):
            one = floats_at(query + (i * of_row + h * of_head) * FLOAT_BYTES, width)
            two = floats_at(out + (i * of_out_row + h * of_out_head) * FLOAT_BYTES, width)
            for j in range(width):
                first[h * width + j] = one[j]
            for j in range(width):
                second[h * width + j] = two[j]


@compiled
def logged_wrong(
    out: int, of_row: int, of_head: int, heads: int, width: int, lines: int, count: int, given: int
) -> int:  # fmt: skip
    """How many rows (``count``, heads, width) are not what ``log_rows`` has copied of them, bit by bit."""
    size, line = heads * width, words_at(lines, count)
    wrong = 0
    for i in range(count):
        copy = floats_at(given + line[i] * size * FLOAT_BYTES, size).view(np.int32)
        differs = np.int32(0)
        for h in range(heads):
            is_ = floats_at(out + (i * of_row + h * of_head) * FLOAT_BYTES, width).view(np.int32)
            was = copy[h * width : (h + 1) * width]
            for j in range(width):
                differs |= was[j] ^ is_[j]
        wrong += differs != 0
    return wrong
