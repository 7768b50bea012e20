"""The linear programme of an orbit plan: power-thermal-orbit reference, section 6.4, as one HiGHS model.

Steps k = 0 … N−1 of Δt_k; states E, T_g, T_r at k = 0 … N. In watts, joules and kelvin:

    maximise  Σ_k Δt_k s_k / Σ_k Δt_k
    (1) P_k = P_idle + Σ_j x_kj,   s_k = Σ_j slope_j x_kj,   0 ≤ x_kj ≤ watts_j      the curve's pieces
    (2) P_k + c_k − d_k ≤ P_arr f_k − P_bus                                        the array may be curtailed
    (3) E_{k+1} ≤ E_k + η_c Δt_k c_k − Δt_k/η_d d_k                                     charge may be spilled
    (4) (1+αG) Tg_{k+1} − (1−αG) Tg_k − αG (Tr_{k+1} + Tr_k) − 2α P_k = 0           α = Δt_k / 2C_g
    (5) (1+βG) Tr_{k+1} − (1−βG) Tr_k − βG (Tg_{k+1} + Tg_k) + 2β e_k = 2β (P_bus + A q_k)    β = Δt_k / 2C_r
    (6) e_k against Tmid_k = (Tr_k + Tr_{k+1}) / 2: equality with a tangent of K T⁴, or below a chord of it

The reference writes the curve as one row for each line; because throughput per watt falls from piece to piece, the
optimum fills the pieces in order, so columns with bounds say the same and the programme has a third of the rows.

``Programme`` keeps the model in the solver (``linear``): emission, bounds and prices change in place, so the next
solution starts from the last one. A last row can *demand* a mean throughput, and ``coldest`` then asks how cold the
radiator can be in a step of a plan that delivers it.
"""

from typing import Final

import msgspec
import numpy as np

from .linear import INFINITY, Model, Rows
from .world import (
    AREA_M2,
    CHARGE_MAX_W,
    DISCHARGE_MAX_W,
    ETA_CHARGE,
    ETA_DISCHARGE,
    GPU_J_K,
    GPU_MAX_K,
    IDLE_W,
    MAX_W,
    RADIATOR_MAX_K,
    Floats,
    Pieces,
    World,
)

COLDEST_K: Final = 150.0
TIE_BREAK: Final = 1e-9
"""Worth of a joule left at the end, in seconds at full throughput: only breaks ties."""


class Start(msgspec.Struct, frozen=True):
    """Initial state; None for the periodic problem, whose end state is no worse than its free start."""

    energy_j: float
    gpu_k: float
    radiator_k: float


class Solution(msgspec.Struct, frozen=True):
    """An optimal point. ``value`` is the mean throughput; arrays are per step, states have one entry more."""

    value: float
    gpu_w: Floats
    energy_j: Floats
    gpu_k: Floats
    radiator_k: Floats

    @property
    def middle_k(self) -> Floats:
        """Radiator temperature at the middle of each step."""
        return 0.5 * (self.radiator_k[:-1] + self.radiator_k[1:])


class Programme:
    """One world's linear programme over steps of ``steps_s``, each sunlit for a share, held in the solver."""

    def __init__(
        self,
        world: World,
        steps_s: Floats,
        sunlit: Floats,
        pieces: Pieces,
        start: Start | None,
        *,
        discharge_max_w: float = DISCHARGE_MAX_W,
        tie_break: float = TIE_BREAK,
    ) -> None:
        self.world, self.steps_s, self.steps = world, steps_s, len(steps_s)
        n, j, total_s = self.steps, len(pieces.watts), float(steps_s.sum())
        k = np.arange(n)
        # Columns, step by step: pieces, P, c, d, e; then the states.
        width = j + 4
        self._piece = k[:, None] * width + np.arange(j)
        self._p, self._c, self._d, self._e = (k * width + j + i for i in range(4))
        self._energy, self._gpu, self._radiator = (n * width + i * (n + 1) + np.arange(n + 1) for i in range(3))
        self.columns = n * width + 3 * (n + 1)

        low, high, cost = np.zeros(self.columns), np.zeros(self.columns), np.zeros(self.columns)
        high[self._piece] = pieces.watts
        cost[self._piece] = np.array(pieces.slope) * (steps_s / total_s)[:, None]
        low[self._p], high[self._p] = IDLE_W, MAX_W
        high[self._c], high[self._d] = CHARGE_MAX_W, discharge_max_w
        high[self._e] = world.emission_w_k4 * RADIATOR_MAX_K**4
        low[self._energy], high[self._energy] = world.energy_min_j, world.capacity_j
        low[self._gpu], high[self._gpu] = COLDEST_K, GPU_MAX_K
        low[self._radiator], high[self._radiator] = COLDEST_K, RADIATOR_MAX_K
        cost[self._energy[-1]] = tie_break / total_s
        if start is not None:
            for column, value in (
                (self._energy[0], start.energy_j),
                (self._gpu[0], start.gpu_k),
                (self._radiator[0], start.radiator_k),
            ):
                low[column] = high[column] = value

        rows = Rows()
        al, be, g = steps_s / (2.0 * GPU_J_K), steps_s / (2.0 * world.radiator_j_k), world.conductance_w_k
        one = np.ones(n)
        en, tg, tr = self._energy, self._gpu, self._radiator
        free = np.full(n, -INFINITY)
        absorbed = AREA_M2 * (world.infrared_w_m2 + world.sunlight_w_m2 * sunlit)
        rows.add(
            IDLE_W,
            IDLE_W,
            np.concatenate((self._p[:, None], self._piece), axis=1),
            np.concatenate(([1.0], -np.ones(j))),
        )
        rows.add(
            free,
            world.array_w * sunlit - world.bus_w,
            np.stack((self._p, self._c, self._d), axis=1),
            np.array([1.0, 1.0, -1.0]),
        )
        rows.add(
            free,
            0.0,
            np.stack((en[1:], en[:-1], self._c, self._d), axis=1),
            np.stack((one, -one, -ETA_CHARGE * steps_s, steps_s / ETA_DISCHARGE), axis=1),
        )
        rows.add(
            0.0,
            0.0,
            np.stack((tg[1:], tg[:-1], tr[1:], tr[:-1], self._p), axis=1),
            np.stack((1.0 + al * g, al * g - 1.0, -al * g, -al * g, -2.0 * al), axis=1),
        )
        heat = 2.0 * be * (world.bus_w + absorbed)
        rows.add(
            heat,
            heat,
            np.stack((tr[1:], tr[:-1], tg[1:], tg[:-1], self._e), axis=1),
            np.stack((1.0 + be * g, be * g - 1.0, -be * g, -be * g, 2.0 * be), axis=1),
        )
        # Emission row k: e_k − g_k/2 (Tr_k + Tr_{k+1}) between bounds that ``emission`` sets.
        self._emission_row = rows.add(
            0.0, 0.0, np.stack((self._e, tr[1:], tr[:-1]), axis=1), np.array([1.0, -4.0, -4.0])
        )
        if start is None:
            for column, sign in ((en, -1.0), (tg, 1.0), (tr, 1.0)):
                rows.add(
                    np.array([-INFINITY]),
                    0.0,
                    np.array([[column[-1], column[0]]]),
                    np.array([sign, -sign]),
                )
        pieces_all = self._piece.ravel()
        self._demand_row = rows.add(-INFINITY, INFINITY, pieces_all[None, :], cost[pieces_all])
        self._throughput = cost[pieces_all]
        self.model = Model(rows, cost, low, high)

    def emission(self, slope: Floats, offset: Floats, *, equality: bool) -> None:
        """e_k = slope_k Tmid_k + offset_k, or e_k at most that."""
        for k in range(self.steps):
            row = self._emission_row + k
            half = -0.5 * float(slope[k])
            self.model.coefficient(row, 1, half)
            self.model.coefficient(row, 2, half)
            bound = float(offset[k])
            self.model.row(row, bound if equality else -INFINITY, bound)

    def tangents(self, middle_k: Floats) -> None:
        """Emission by its tangents at these temperatures: never more than the truth."""
        k4 = self.world.emission_w_k4
        self.emission(4.0 * k4 * middle_k**3, -3.0 * k4 * middle_k**4, equality=True)

    def chords(self, low_k: Floats, high_k: Floats) -> None:
        """Emission at most its chords between these temperatures: never less than the truth between them."""
        k4 = self.world.emission_w_k4
        slope = k4 * (high_k**2 + low_k**2) * (high_k + low_k)
        self.emission(slope, k4 * low_k**4 - slope * low_k, equality=False)

    def limits(self, gpu_max_k: float, energy_min_j: float) -> None:
        """Other limits of GPU node and charge, for all states but the first."""
        for column in self._gpu[1:]:
            self.model.column(int(column), COLDEST_K, gpu_max_k)
        for column in self._energy[1:]:
            self.model.column(int(column), energy_min_j, self.world.capacity_j)

    def solve(self) -> Solution:
        """The optimum. Raises ``NotOptimal``."""
        x = self.model.solve()
        value = float(self._throughput @ x[self._piece.ravel()])
        return Solution(value, x[self._p], x[self._energy], x[self._gpu], x[self._radiator])

    def emission_prices(self) -> Floats:
        """Mean throughput that one more watt of emission in each step would earn, at the last solution."""
        return self.model.prices()[self._emission_row : self._emission_row + self.steps]

    def demand(self, value: float) -> None:
        """From now on only plans of at least this mean throughput; the objective is left to ``coldest``."""
        self.model.row(self._demand_row, value, INFINITY)
        self.model.aim(np.flatnonzero(self.model.cost), np.zeros(np.count_nonzero(self.model.cost)))
        self.model.primal()

    def coldest(self, step: int) -> float:
        """Lower bound of the radiator's temperature in the middle of a step. Raises ``NotOptimal``."""
        ends = self._radiator[step : step + 2]
        self.model.aim(ends, np.array([-0.5, -0.5]))
        self.model.solve()
        bound = -self.model.dual_bound()
        self.model.aim(ends, np.zeros(2))
        return bound
