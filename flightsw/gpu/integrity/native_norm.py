"""Kernels for the processor: layer norms and sums over rows, computed again row by row while they are in cache.

All return how many results are beyond their bound. A bound is of one element, from the sizes of what it was made
of, so a wrong element is not lost among its neighbours. Whatever is not a number counts as beyond.

With u the unit roundoff, n terms in a sum, and ``NORM_SLACK`` and ``SUM_SLACK`` from ``identities``:

- *An element* y_j = (x_j − m) r w_j + b_j or dx_j = a h_j + B x_j + C, with m, r, a, B, C given, has a handful of
  roundings, each within u of the size of a term: ``NORM_SLACK`` u Σ|terms|. That bound is certain.
- *A sum* over a row, in an order that nobody knows: rounding errors are independent and add up like √n (Higham and
  Mary, SIAM J. Sci. Comput. 41, 2019): ``SUM_SLACK`` √n u Σ|terms|. Sums of equal numbers err by up to a third of
  n u Σ|terms| when they are formed one after the other: they may be a doubt, never a finding.
- *Layer norm.* m is Σx/n. Of r = 1/√(v + ε) the product r² (v + ε) is one, v being the variance of the row; what m
  and the differences x − m have lost is u |m| beside σ, and so r |m| u beside one.
- *Its backward pass*, with h = dy·w, a = r: ds = Σ h x, db = Σ h, B = (db m − ds) a³/n, C = −B m − db a/n. What
  the sums may be off is carried into B and C.
- *Columns.* dw_j = Σ_i dy_ij (x_ij − m_i) a_i and db_j = Σ_i dy_ij, and sums of any matrix over its rows, are
  formed in blocks of ``BLOCK_ROWS`` rows, and these in float64.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.native import compiled_fast

BLOCK_ROWS: Final = 32
"""Rows whose columns are summed in the precision of the operands."""

Floats = NDArray[np.floating]


@compiled_fast
def layer_norm_differs(
    x: Floats, weight: Floats, bias: Floats, mean: Floats, rstd: Floats, y: Floats, numbers: Floats
) -> int:
    """y (M, N), mean (M,) and rstd (M,) against x (M, N), weight (N,), bias (N,); ``numbers``: ε, of an element
    and of a sum the slack times u, the floor."""
    rows, columns = x.shape
    epsilon, unit, unit_sum, floor, one = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    part = one / numbers[5]  # 1/n, in the operands' dtype.
    wrong = np.int32(0)
    for i in range(rows):
        x_, y_ = x[i], y[i]
        m, r = mean[i], rstd[i]
        total, size, squares = floor * 0, floor * 0, floor * 0
        for j in range(columns):
            total += x_[j]
            size += abs(x_[j])
        for j in range(columns):
            squares += (x_[j] - m) * (x_[j] - m)
        wrong += np.int32(not (abs(total * part - m) < unit_sum * size * part + floor))
        lost = unit_sum * abs(m) * r
        wrong += np.int32(not (abs(one - r * r * (squares * part + epsilon)) < unit_sum + lost + lost * lost))
        moved = unit * r
        shift = moved * abs(m)
        for j in range(columns):
            scaled = (x_[j] - m) * r * weight[j]
            bound = (moved * abs(x_[j]) + shift) * abs(weight[j]) + unit * abs(bias[j]) + floor
            wrong += np.int32(not (abs(y_[j] - (scaled + bias[j])) < bound))
    return int(wrong)


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
) -> int:
    """``moved`` dx (M, N), and the gradients dw (N,) and db (N,), against dy, x, weight, mean (M,), rstd (M,).
    Those that were not asked for are of length 0. ``numbers``: of an element and of a sum over a row the slack
    times u, of a sum over rows, the floor, one, n."""
    rows, columns = x.shape
    unit, unit_sum, unit_column, floor, one = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    part = one / numbers[5]
    wide = len(weight_gradient) + len(bias_gradient) > 0
    sums = np.zeros((4, columns), x.dtype)
    weights, weight_sizes, biases, bias_sizes = sums[0], sums[1], sums[2], sums[3]
    totals = np.zeros((4, columns), np.float64)
    wrong = np.int32(0)
    for i in range(rows):
        dy, x_ = gradient[i], x[i]
        m, a = mean[i], rstd[i]
        if len(moved):
            ds, db, ds_size, db_size = floor * 0, floor * 0, floor * 0, floor * 0
            for j in range(columns):
                h = dy[j] * weight[j]
                db += h
                ds += h * x_[j]
                db_size += abs(h)
                ds_size += abs(h * x_[j])
            cube = a * a * a * part
            slope = (db * m - ds) * cube
            shift = -slope * m - db * a * part
            slope_off = unit_sum * (db_size * abs(m) + ds_size) * cube + unit * abs(slope)
            shift_off = slope_off * abs(m) + unit_sum * db_size * a * part + unit * abs(shift) + floor
            dx, steep = moved[i], unit * a
            for j in range(columns):
                h = dy[j] * weight[j]
                difference = abs(dx[j] - (a * h + slope * x_[j] + shift))
                wrong += np.int32(not (difference < steep * abs(h) + slope_off * abs(x_[j]) + shift_off))
        if wide:
            start, size = m * a, abs(m * a)
            for j in range(columns):
                weights[j] += dy[j] * (x_[j] * a - start)
                weight_sizes[j] += abs(dy[j]) * (abs(x_[j] * a) + size)
            for j in range(columns):
                biases[j] += dy[j]
                bias_sizes[j] += abs(dy[j])
            if i % BLOCK_ROWS == BLOCK_ROWS - 1 or i == rows - 1:
                for k in range(4):
                    block, total = sums[k], totals[k]
                    for j in range(columns):
                        total[j] += block[j]
                        block[j] = 0
    for j in range(len(weight_gradient)):
        wrong += np.int32(not (abs(weight_gradient[j] - totals[0, j]) < unit_column * totals[1, j] + floor))
    for j in range(len(bias_gradient)):
        wrong += np.int32(not (abs(bias_gradient[j] - totals[2, j]) < unit_column * totals[3, j] + floor))
    return int(wrong)


@compiled_fast
def column_sums_differ(x: Floats, result: Floats, unit: float, floor: float) -> int:
    """result (N,) against the sums of x (M, N) over its rows, within ``unit`` · Σ|x| + ``floor``."""
    rows, columns = x.shape
    sums, sizes = np.zeros(columns, x.dtype), np.zeros(columns, x.dtype)
    totals, total_sizes = np.zeros(columns, np.float64), np.zeros(columns, np.float64)
    fours = rows - rows % 4
    for i in range(0, fours, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(columns):
            sums[j] += (a[j] + b[j]) + (c[j] + d[j])
        for j in range(columns):
            sizes[j] += (abs(a[j]) + abs(b[j])) + (abs(c[j]) + abs(d[j]))
        if i % BLOCK_ROWS == BLOCK_ROWS - 4 or i == fours - 4:
            for j in range(columns):
                totals[j] += sums[j]
                sums[j] = 0
            for j in range(columns):
                total_sizes[j] += sizes[j]
                sizes[j] = 0
    for i in range(fours, rows):
        a = x[i]
        for j in range(columns):
            totals[j] += a[j]
            total_sizes[j] += abs(a[j])
    wrong = np.int32(0)
    for j in range(columns):
        wrong += np.int32(not (abs(result[j] - totals[j]) < unit * total_sizes[j] + floor))
    return int(wrong)
