"""Kernels for the processor: layer norms and sums over rows, computed again row by row while they are in cache.

All return how many rows, or columns, have something beyond its bound. A bound is of one element, from the sizes of
what it was made of, so a wrong element is not lost among its neighbours. Excess over bounds is added up,
as that is done in vectors: nothing is added by what is sound, and a NaN, or a difference of infinities, stays.

With u the unit roundoff, n terms in a sum, and ``NORM_SLACK`` and ``SUM_SLACK`` from ``identities``:

- *An element* y_j = (x_j − m) r w_j + b_j or dx_j = a h_j + B x_j + C, with m, r, a, B, C given, has a handful of
  roundings, each within u of the size of a term: ``NORM_SLACK`` u Σ|terms|. That bound is certain.
- *A sum* over a row, in an order that nobody knows: rounding errors are independent and add up like √n (Higham and
  Mary, SIAM J. Sci. Comput. 41, 2019): (``SUM_SLACK`` √n + ``NORM_SLACK``) u Σ|terms|, by
  Cauchy and Schwarz from norms. Sums of equal numbers err by up to a third of n u Σ|terms| when they are formed
  one after the other: a doubt, never a finding.
- *Layer norm.* m is Σx/n. Of r = 1/√(v + ε) the product r² (v + ε) is one, v being the variance of the row; what m
  and the differences x − m have lost is u |m| beside σ, and so r |m| u beside one.
- *Its backward pass*, with h = dy·w, a = r: ds = Σ h x, db = Σ h, B = (db m − ds) a³/n, C = −B m − db a/n. What
  the sums may be off is carried into B and C; ‖x‖ ≤ √n (1/r + |m|).
- *Columns.* dw_j = Σ_i dy_ij (x_ij − m_i) a_i and db_j = Σ_i dy_ij, and sums of any matrix over its rows, are
  formed in blocks of ``BLOCK_ROWS`` rows, and these in float64.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import compiled_fast
from flightsw.gpu.integrity.native_transit import begin_digest, follow, follow_to_end
from flightsw.gpu.integrity.native_vectors import LINE_BYTES, address_of, ask_for, inlined, wide

BLOCK_ROWS: Final = 32
"""Rows whose columns are summed in the precision of the operands; a multiple of four."""
ROWS_AHEAD: Final = 2
"""Rows after the one at hand that are asked for, see ``native_vectors``."""
PIECE_COLUMNS: Final = 4096
"""Columns that are summed at a time: what is made of them stays in a core's own cache."""

Floats = NDArray[np.floating]


@inlined
def ask_for_row(row: Floats, ahead: int) -> None:
    """The row that lies so many rows after this one is wanted soon."""
    begin = address_of(row) + ahead * row.nbytes
    for line in range(0, row.nbytes, LINE_BYTES):
        ask_for(begin + line)


@compiled_fast
def layer_norm_differs(
    x: Floats,
    weight: Floats,
    bias: Floats,
    mean: Floats,
    rstd: Floats,
    y: Floats,
    numbers: Floats,
    of_x: int,
    of_y: int,
) -> int:
    """y (M, N), mean (M,) and rstd (M,) against x (M, N), weight (N,), bias (N,). ``numbers``, in the dtype of all:
    of an element and of a sum the slack times u, the floor, one, n, the smallest number with a square, ε. With
    digests (``transit``) of x and y where there is an address for one."""
    wide()
    begin_digest(of_x)
    begin_digest(of_y)
    at_x, at_y, done_x, done_y = address_of(x), address_of(y), 0, 0
    unit, unit_sum, floor = numbers[0], numbers[1], numbers[2]
    one, smallest, epsilon = numbers[3], numbers[5], numbers[6]
    rows, columns = x.shape
    part, zero = one / numbers[4], one - one
    weight_sizes, bias_bounds = np.abs(weight), np.abs(bias) * unit + floor
    wrong = 0
    for i in range(rows):
        x_, y_ = x[i], y[i]
        ask_for_row(x_, ROWS_AHEAD)
        ask_for_row(y_, ROWS_AHEAD)
        m, r = mean[i], rstd[i]
        total, squares = zero, zero
        for j in range(columns):
            total += x_[j]
            squares += (x_[j] - m) * (x_[j] - m)
        variance = squares * part
        size = np.sqrt(variance + m * m) + smallest
        lost = unit_sum * abs(m) * r
        steep = unit * r
        shift = steep * abs(m)
        excess = zero
        for j in range(columns):
            difference = abs(y_[j] - ((x_[j] - m) * r * weight[j] + bias[j]))
            over = difference - ((steep * abs(x_[j]) + shift) * weight_sizes[j] + bias_bounds[j])
            excess += zero if over <= zero else over
        right = (
            excess <= zero
            and abs(total * part - m) < unit_sum * size
            and abs(one - r * r * (variance + epsilon)) < unit_sum + lost + lost * lost
        )
        wrong += not right
        done_x = follow(at_x, done_x, (i + 1) * columns, of_x)
        done_y = follow(at_y, done_y, (i + 1) * columns, of_y)
    follow_to_end(at_x, done_x, x.size, of_x)
    follow_to_end(at_y, done_y, x.size, of_y)
    return wrong


@compiled_fast
def layer_norm_backward_differs(
    gradient: Floats,
    x: Floats,
    weight: Floats,
    mean: Floats,
    rstd: Floats,
    moved: Floats,
    weight_gradient: Floats,
    bias_gradient: Floats,
    numbers: Floats,
    of_gradient: int,
    of_x: int,
    of_moved: int,
) -> int:
    """``moved`` dx (M, N), and the gradients dw (N,) and db (N,), against dy, x, weight, mean (M,), rstd (M,).
    Those that were not asked for are of length 0. ``numbers``: as above, for ε that of sums over rows."""
    wide()
    begin_digest(of_gradient)
    begin_digest(of_x)
    begin_digest(of_moved)
    at_gradient, at_x, at_moved = address_of(gradient), address_of(x), address_of(moved)
    done_gradient, done_x, done_moved = 0, 0, 0
    unit, unit_sum, floor = numbers[0], numbers[1], numbers[2]
    one, smallest, unit_column = numbers[3], numbers[5], numbers[6]
    rows, columns = x.shape
    part, root, zero = one / numbers[4], np.sqrt(numbers[4]), one - one
    of_columns = len(weight_gradient) + len(bias_gradient) > 0
    blocks, totals = np.zeros((4, columns), x.dtype), np.zeros((4, columns), np.float64)
    weights, weight_sizes, biases, bias_sizes = blocks[0], blocks[1], blocks[2], blocks[3]
    longest = zero
    wrong = 0
    for i in range(rows):
        dy, x_ = gradient[i], x[i]
        ask_for_row(dy, ROWS_AHEAD)
        ask_for_row(x_, ROWS_AHEAD)
        if len(moved):
            ask_for_row(moved[i], ROWS_AHEAD)
        m, a = mean[i], rstd[i]
        if len(moved):
            ds, db, squares = zero, zero, zero
            for j in range(columns):
                h = dy[j] * weight[j]
                db += h
                ds += h * x_[j]
                squares += h * h
            db_off = unit_sum * root * (np.sqrt(squares) + root * smallest)
            slope = (db * m - ds) * a * a * a * part
            slope_off = db_off * (one + (abs(m) + abs(m)) * a) * a * a * part + unit * abs(slope)
            shift = -slope * m - db * a * part
            shift_off = slope_off * abs(m) + db_off * a * part + unit * abs(shift) + floor
            dx, steep = moved[i], unit * a
            excess = zero
            for j in range(columns):
                h = dy[j] * weight[j]
                difference = abs(dx[j] - (a * h + slope * x_[j] + shift))
                over = difference - (steep * abs(h) + slope_off * abs(x_[j]) + shift_off)
                excess += zero if over <= zero else over
            wrong += not (excess <= zero and slope_off + shift_off < np.inf)
        if of_columns:
            start = m * a
            longest = longest if abs(start) <= longest else abs(start)
            for j in range(columns):
                term = dy[j] * (x_[j] * a - start)
                weights[j] += term
                weight_sizes[j] += abs(term)
            for j in range(columns):
                biases[j] += dy[j]
                bias_sizes[j] += abs(dy[j])
            if i % BLOCK_ROWS == BLOCK_ROWS - 1 or i == rows - 1:
                for which in range(4):
                    flush(blocks[which], totals[which])
        done_gradient = follow(at_gradient, done_gradient, (i + 1) * columns, of_gradient)
        done_x = follow(at_x, done_x, (i + 1) * columns, of_x)
        done_moved = follow(at_moved, done_moved, (i + 1) * columns, of_moved)
    follow_to_end(at_gradient, done_gradient, x.size, of_gradient)
    follow_to_end(at_x, done_x, x.size, of_x)
    follow_to_end(at_moved, done_moved, moved.size, of_moved)
    for j in range(len(weight_gradient)):
        bound = unit_column * (totals[1, j] + (longest + longest) * totals[3, j]) + floor
        wrong += not abs(weight_gradient[j] - totals[0, j]) < bound < np.inf
    for j in range(len(bias_gradient)):
        bound = unit_column * totals[3, j] + floor
        wrong += not abs(bias_gradient[j] - totals[2, j]) < bound < np.inf
    return wrong


@compiled_fast
def column_sums_differ(x: Floats, result: Floats, unit: float, floor: float) -> int:
    """result (N,) against the sums of x (M, N) over its rows, within ``unit`` · Σ|x| + ``floor``."""
    wrong = 0
    for start in range(0, x.shape[1], PIECE_COLUMNS):
        wrong += _piece_differs(x, start, result[start : start + PIECE_COLUMNS], unit, floor)
    return wrong


@compiled_fast
def _piece_differs(x: Floats, start: int, result: Floats, unit: float, floor: float) -> int:
    wide()
    rows, columns = len(x), len(result)
    sums, sizes = np.zeros(columns, x.dtype), np.zeros(columns, x.dtype)
    totals, total_sizes = np.zeros(columns, np.float64), np.zeros(columns, np.float64)
    fours = rows - rows % 4
    for i in range(0, fours, 4):
        a, b = x[i][start : start + columns], x[i + 1][start : start + columns]
        c, d = x[i + 2][start : start + columns], x[i + 3][start : start + columns]
        for j in range(columns):
            sums[j] += (a[j] + b[j]) + (c[j] + d[j])
        for j in range(columns):
            sizes[j] += (abs(a[j]) + abs(b[j])) + (abs(c[j]) + abs(d[j]))
        if i % BLOCK_ROWS == BLOCK_ROWS - 4 or i == fours - 4:
            flush(sums, totals)
            flush(sizes, total_sizes)
    for i in range(fours, rows):
        a = x[i][start : start + columns]
        for j in range(columns):
            totals[j] += a[j]
            total_sizes[j] += abs(a[j])
    wrong = 0
    for j in range(columns):
        bound = unit * total_sizes[j] + floor
        wrong += not abs(result[j] - totals[j]) < bound < np.inf
    return wrong


@compiled_fast
def flush(block: Floats, total: NDArray[np.float64]) -> None:
    """Add a block to a total, and begin anew."""
    for j in range(len(block)):
        total[j] += block[j]
    for j in range(len(block)):
        block[j] = 0
