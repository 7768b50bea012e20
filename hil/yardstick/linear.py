"""A linear programme that is kept in HiGHS, changed in place, and believed only as far as it proves itself.

    maximise c·x   with   r_low ≤ A x ≤ r_high,   x_low ≤ x ≤ x_high

``dual_bound`` does not trust the solver's optimum. For *any* row prices y, weak duality says

    c·x ≤ Σ_i sup{y_i z : r_low,i ≤ z ≤ r_high,i} + Σ_j sup{(c − Aᵀy)_j v : x_low,j ≤ v ≤ x_high,j}

for every feasible x. It is evaluated here, in numpy, from the model's own arrays and the prices that the solver
returns; a price of the wrong sign for a one-sided row is set to 0 first, and every column has finite bounds. A
solver that stopped early or answered nonsense makes the bound weak, never wrong.
"""

import os
import sys
from typing import Final

import numpy as np
from numpy.typing import NDArray

try:
    import highspy
except ImportError as error:  # pragma: no cover - the installation is broken.
    raise ImportError("hil governor-bench needs the solver HiGHS: pip install highspy") from error

from .world import Floats

INFINITY: Final = highspy.kHighsInf
OPTIONS: Final = (
    ("threads", 1),
    ("parallel", "off"),
    ("presolve", "off"),
    # Prices are of the size of 1e-6 here (throughput per watt in a step), ten times the solver's own tolerance.
    ("dual_feasibility_tolerance", 1e-10),
    # Devex weights: steepest edge costs more to begin with than the iterations it saves.
    ("simplex_dual_edge_weight_strategy", 1),
)
Ints = NDArray[np.int64]


class NotOptimal(Exception):
    """The solver did not prove an optimum; says what it returned."""


class Rows:
    """Rows of a model, collected in blocks of equally many entries."""

    def __init__(self) -> None:
        self.count = 0
        self.low: list[Floats] = []
        self.high: list[Floats] = []
        self.columns: list[Ints] = []
        self.values: list[Floats] = []
        self.lengths: list[int] = []

    def add(self, low: Floats | float, high: Floats | float, columns: Ints, values: Floats) -> int:
        """One row for each row of ``columns``; ``values`` are its coefficients, or one set for all.

        Returns the number of the first.
        """
        first, (n, width) = self.count, columns.shape
        self.count += n
        self.low.append(np.broadcast_to(low, n).astype(float))
        self.high.append(np.broadcast_to(high, n).astype(float))
        self.columns.append(columns.ravel())
        self.values.append(np.broadcast_to(values, (n, width)).astype(float).ravel())
        self.lengths += [width] * n
        return first


class Model:
    """The programme in the solver, and the same numbers in arrays for ``dual_bound``."""

    def __init__(self, rows: Rows, cost: Floats, low: Floats, high: Floats) -> None:
        self.cost, self.low, self.high = cost.copy(), low.copy(), high.copy()
        self.row_low, self.row_high = np.concatenate(rows.low), np.concatenate(rows.high)
        self._start = np.concatenate(([0], np.cumsum(rows.lengths)))
        self._row = np.repeat(np.arange(rows.count), rows.lengths)
        self._column, self._value = np.concatenate(rows.columns), np.concatenate(rows.values)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(cost), rows.count
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self.cost, self.low, self.high
        lp.row_lower_, lp.row_upper_ = self.row_low, self.row_high
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_, lp.a_matrix_.index_ = self._start.astype(np.int32), self._column.astype(np.int32)
        lp.a_matrix_.value_ = self._value
        self._solver = _solver()
        for option, setting in OPTIONS:
            self._solver.setOptionValue(option, setting)
        self._solver.passModel(lp)

    @property
    def iterations(self) -> int:
        """Simplex iterations of the last solution."""
        return int(self._solver.getInfo().simplex_iteration_count)

    def primal(self) -> None:
        """Use the primal simplex from now on: right where only prices change."""
        self._solver.setOptionValue("simplex_strategy", 4)

    def aim(self, columns: Ints, cost: Floats) -> None:
        """Another objective on these columns."""
        self.cost[columns] = cost
        self._solver.changeColsCost(len(columns), columns.astype(np.int32), cost)

    def coefficient(self, row: int, place: int, value: float) -> None:
        """The ``place``-th entry of a row, counted as it was added."""
        entry = self._start[row] + place
        self._value[entry] = value
        self._solver.changeCoeff(row, int(self._column[entry]), value)

    def row(self, row: int, low: float, high: float) -> None:
        """Bounds of a row."""
        self.row_low[row], self.row_high[row] = low, high
        self._solver.changeRowBounds(row, low, high)

    def column(self, column: int, low: float, high: float) -> None:
        """Bounds of a column."""
        self.low[column], self.high[column] = low, high
        self._solver.changeColBounds(column, low, high)

    def solve(self) -> Floats:
        """The optimal point. Raises ``NotOptimal``."""
        self._solver.run()
        status = self._solver.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:
            raise NotOptimal(f"HiGHS: {self._solver.modelStatusToString(status)}")
        return np.array(self._solver.getSolution().col_value)

    def prices(self) -> Floats:
        """Row prices of the last solution: worth of one more unit of a row's bound."""
        return np.array(self._solver.getSolution().row_dual)

    def dual_bound(self, prices: Floats | None = None) -> float:
        """An upper bound on the objective over all feasible points, whatever the solver did.

        Any row prices give one; without any, those of the last solution, the best there are.
        """
        y = self.prices() if prices is None else prices
        y = np.where(np.isinf(self.row_low), np.maximum(y, 0.0), y)
        y = np.where(np.isinf(self.row_high), np.minimum(y, 0.0), y)
        reduced = self.cost - np.bincount(self._column, self._value * y[self._row], len(self.cost))
        priced = np.where(y > 0.0, self.row_high, self.row_low)
        rows = np.where(y == 0.0, 0.0, y * np.where(y == 0.0, 0.0, priced))
        columns = np.where(reduced > 0.0, reduced * self.high, reduced * self.low)
        return float(rows.sum() + columns.sum())


def _solver() -> highspy.Highs:
    """A silent solver. Its constructor greets on file descriptor 1, which may be somebody's JSON."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
        solver.silent()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
    return solver
