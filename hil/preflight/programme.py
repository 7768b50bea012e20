"""The linear programme of a horizon: as much work as sun, battery, heat path, card and downlink allow.

Steps k = 0…N−1 of Δt_k. Columns: the watts p_kj of each segment j of the card's curve, charge c_k, discharge d_k,
and energy E, GPU and radiator temperatures T_g, T_r at the N + 1 step edges.

    maximise  Σ Δt_k Σ_j m_j p_kj                      m_j: throughput per watt of segment j, falling with j
    power     Σ_j p_kj + c_k − d_k          ≤ P_array,k − P_bus,k − P_idle      what is left over is not taken
    energy    E_k+1 − E_k − η_c Δt c_k + Δt/η_d d_k ≤ 0
    gpu       (1+αG) T_g,k+1 − (1−αG) T_g,k − αG (T_r,k+1 + T_r,k) − 2α Σ_j p_kj = 2α P_idle        α = Δt/2C_g
    radiator  (1+β(G+g_k)) T_r,k+1 − (1−β(G+g_k)) T_r,k − βG (T_g,k+1 + T_g,k)
                                                     = 2β (P_bus + Q_k − h_k)                       β = Δt/2C_r
    data      Σ Δt_k Σ_j m_j p_kj · MB per hour      ≤ what comes down

Emission is the tangent g T + h of ε σ A T⁴ at the last plan's temperatures: it lies under the curve, so a plan is
never cooler than the truth. The curve's segments fall in throughput per watt, so the optimum fills them in order
and no integers are needed; the same for charge against discharge (power-thermal-orbit reference, section 6.4; there
the curve is rows, here it is bounded columns).

*Elastic*: where even the idle card breaks a limit, each limit may be passed by one slack for the whole horizon and
the slacks are what is minimised: how far from possible the mission is.

Energy is in Wh and time in h inside, so that the columns are of like size.
"""

from typing import Any, Final

import highspy
import msgspec
import numpy as np
import numpy.typing as npt

from flightsw.link.card import Workload

from .document import PlanError
from .horizon import Floats, Steps

SOLVE_LIMIT_S: Final = 300.0
POLL_S: Final = 0.05
STOP_S: Final = 20.0
"""The solver looks for a cancellation between iterations, and gets this long to see it."""
METHODS: Final = ("choose", "ipm")
"""Simplex first; where it gives up for its own reasons, the interior point with crossover."""
SETTLED: Final = (
    highspy.HighsModelStatus.kOptimal,
    highspy.HighsModelStatus.kInfeasible,
    highspy.HighsModelStatus.kUnboundedOrInfeasible,
    highspy.HighsModelStatus.kTimeLimit,
)
COLDEST_K: Final = 150.0
THRIFT: Final = 2e-8
"""Price of a watt, in throughput: work that is worth nothing (the downlink is full) takes least power."""
COST_SCALE: Final = 1e4
"""The solver sees the objective times this: its tolerances are absolute, and a watt for a minute is 4e-5 h."""
FULL_PREFERENCE: Final = 1e-8
"""Objective per Wh of initial energy: where charge has no price, a plan begins with a full battery."""
SLACK_UNIT: Final = {"energy": 7.0, "gpu": 1.0, "radiator": 1.0, "power": 12.0}
"""What counts as one unit of a passed limit: Wh and W (1 % of the nominal battery and array), K, K."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One satellite over one horizon, in the programme's own terms. Sensitivities change one field at a time."""

    steps: Steps
    capacity_wh: float
    floor_share: float
    charge_efficiency: float
    discharge_efficiency: float
    charge_max_w: float
    discharge_max_w: float
    gpu_capacity_j_k: float
    radiator_capacity_j_k: float
    conductance_w_k: float
    emission_w_k4: float
    gpu_max_k: float
    radiator_max_k: float
    idle_w: float
    widths_w: tuple[float, ...]
    """Power of each segment of the card's curve over the one before."""
    slopes: tuple[float, ...]
    """Throughput per watt of each segment."""
    data_mb_per_h: float = 0.0
    """Data that an hour at full throughput makes; 0 leaves the row out."""
    data_mb: float = 0.0
    """What comes down of it."""
    start: tuple[float, float, float] | None = None
    """Energy in Wh, GPU and radiator in K at the start; None is a periodic plan."""
    end_wh: float | None = None
    """Least energy at the end."""
    array: float = 1.0
    """Factor of the array's power."""
    area: float = 1.0
    """Factor of the radiator's area: of what it emits and of what it absorbs."""
    gpu_margin_k: float = 0.0
    radiator_margin_k: float = 0.0
    energy_margin_wh: float = 0.0
    recharge_margin_wh: float = 0.0
    """Distances from the limits that a replay has asked for."""


class Programme(msgspec.Struct, frozen=True, kw_only=True):
    """max c·x over the rows; the matrix as triplets."""

    cost: Floats
    lower: Floats
    upper: Floats
    row_lower: Floats
    row_upper: Floats
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Floats


class Solution(msgspec.Struct, frozen=True, kw_only=True):
    """An optimum with its prices; ``x`` is cut up by ``Layout``."""

    objective: float
    x: Floats
    reduced: Floats
    price: Floats
    feasible: bool
    solve_s: float
    basis: Any = None
    """Where the solver stopped; the next programme of the same shape begins there."""


class Layout:
    """Where the columns and rows of a case stand."""

    def __init__(self, count: int, segments: int) -> None:
        n, s = count, segments
        self.count, self.segments = n, s
        self.power = np.arange(n * s).reshape(n, s)
        self.charge = n * s + np.arange(n)
        self.discharge = n * s + n + np.arange(n)
        self.energy = n * s + 2 * n + np.arange(n + 1)
        self.gpu = n * s + 3 * n + 1 + np.arange(n + 1)
        self.radiator = n * s + 4 * n + 2 + np.arange(n + 1)
        self.slack = n * s + 5 * n + 3 + np.arange(4)
        self.columns = n * s + 5 * n + 7
        self.row_power, self.row_energy, self.row_gpu, self.row_radiator = (i * n + np.arange(n) for i in range(4))
        self.row_end = 4 * n + np.arange(3)
        self.row_data = 4 * n + 3
        self.row_soft = 4 * n + 4 + np.arange(3 * (n + 1)).reshape(3, n + 1)

    def rows(self, *, elastic: bool) -> int:
        """How many rows."""
        return self.row_data + 1 + (3 * (self.count + 1) if elastic else 0)


def segments(workload: Workload, cap_w: float | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Widths in W and throughput per watt of the curve's segments, cut at the operator's cap."""
    widths: list[float] = []
    slopes: list[float] = []
    for index in range(1, len(workload.power_w)):
        low_w, high_w = workload.power_w[index - 1], workload.power_w[index]
        width_w = min(high_w, cap_w if cap_w is not None else high_w) - low_w
        if width_w <= 0.0:
            break
        widths.append(width_w)
        slopes.append((workload.throughput[index] - workload.throughput[index - 1]) / (high_w - low_w))
    return tuple(widths), tuple(slopes)


def build(case: Case, tangent_k: Floats, *, elastic: bool = False) -> Programme:
    """The programme of a case with emission linearised at ``tangent_k``, a temperature for each step."""
    steps = case.steps
    n, s = len(steps.dt_s), len(case.widths_w)
    at = Layout(n, s)
    hours = steps.dt_s / 3600.0
    slopes, widths = np.array(case.slopes), np.array(case.widths_w)
    cost = np.zeros(at.columns)
    lower, upper = np.zeros(at.columns), np.zeros(at.columns)
    free = highspy.kHighsInf

    upper[at.power] = widths
    upper[at.charge], upper[at.discharge] = case.charge_max_w, case.discharge_max_w
    floor_wh = case.floor_share * case.capacity_wh + case.energy_margin_wh
    limits = (
        (at.energy, floor_wh, case.capacity_wh),
        (at.gpu, COLDEST_K, case.gpu_max_k - case.gpu_margin_k),
        (at.radiator, COLDEST_K, case.radiator_max_k - case.radiator_margin_k),
    )
    for block, least, greatest in limits:
        lower[block], upper[block] = least, greatest
    if elastic:
        # Rows hold the limits instead; the columns only keep what physics keeps.
        lower[at.energy] = -free
        upper[at.gpu] = upper[at.radiator] = free
        cost[at.slack] = [-1.0 / unit for unit in SLACK_UNIT.values()]
        upper[at.slack] = free
    else:
        cost[at.power] = hours[:, None] * (slopes - THRIFT)
        cost[at.energy[0]] = FULL_PREFERENCE
    if case.start is not None:
        for block, value in zip((at.energy, at.gpu, at.radiator), case.start, strict=True):
            lower[block[0]] = upper[block[0]] = value
    if case.end_wh is not None:
        lower[at.energy[-1]] = max(lower[at.energy[-1]], case.end_wh + case.recharge_margin_wh)

    row_lower = np.full(at.rows(elastic=elastic), -free)
    row_upper = np.full(at.rows(elastic=elastic), free)
    rows: list[npt.NDArray[np.int64]] = []
    columns: list[npt.NDArray[np.int64]] = []
    values: list[Floats] = []

    def put(row: Any, column: npt.NDArray[np.int64], value: Floats | float) -> None:
        r, c, v = np.broadcast_arrays(row, column, value)
        rows.append(r.ravel())
        columns.append(c.ravel())
        values.append(v.ravel().astype(np.float64))

    put(at.row_power[:, None], at.power, 1.0)
    put(at.row_power, at.charge, 1.0)
    put(at.row_power, at.discharge, -1.0)
    row_upper[at.row_power] = case.array * steps.array_w - steps.bus_w - case.idle_w

    put(at.row_energy, at.energy[1:], 1.0)
    put(at.row_energy, at.energy[:-1], -1.0)
    put(at.row_energy, at.charge, -case.charge_efficiency * hours)
    put(at.row_energy, at.discharge, hours / case.discharge_efficiency)
    row_upper[at.row_energy] = 0.0

    alpha, conductance = steps.dt_s / (2.0 * case.gpu_capacity_j_k), case.conductance_w_k
    put(at.row_gpu, at.gpu[1:], 1.0 + alpha * conductance)
    put(at.row_gpu, at.gpu[:-1], -(1.0 - alpha * conductance))
    put(at.row_gpu, at.radiator[1:], -alpha * conductance)
    put(at.row_gpu, at.radiator[:-1], -alpha * conductance)
    put(at.row_gpu[:, None], at.power, -2.0 * alpha[:, None])
    row_lower[at.row_gpu] = row_upper[at.row_gpu] = 2.0 * alpha * case.idle_w

    emission = case.area * case.emission_w_k4
    slope_w_k, offset_w = 4.0 * emission * tangent_k**3, -3.0 * emission * tangent_k**4
    beta = steps.dt_s / (2.0 * case.radiator_capacity_j_k)
    put(at.row_radiator, at.radiator[1:], 1.0 + beta * (conductance + slope_w_k))
    put(at.row_radiator, at.radiator[:-1], -(1.0 - beta * (conductance + slope_w_k)))
    put(at.row_radiator, at.gpu[1:], -beta * conductance)
    put(at.row_radiator, at.gpu[:-1], -beta * conductance)
    absorbed_w = case.area * steps.absorbed_w
    row_lower[at.row_radiator] = row_upper[at.row_radiator] = 2.0 * beta * (steps.bus_w + absorbed_w - offset_w)

    for row, block, sign in zip(at.row_end, (at.energy, at.gpu, at.radiator), (-1.0, 1.0, 1.0), strict=True):
        put(row, block[-1], sign)
        put(row, block[0], -sign)
        if case.start is None:
            row_upper[row] = 0.0
    if case.start is None:
        row_upper[at.row_end[0]] = -case.recharge_margin_wh
    if elastic:
        # What the orbits together take out of the battery is missing charge too.
        put(at.row_end[0], at.slack[0], -1.0)
        put(at.row_power, at.slack[3], -1.0)
    put(np.array(at.row_data), at.power, hours[:, None] * slopes * case.data_mb_per_h)
    row_upper[at.row_data] = case.data_mb if case.data_mb_per_h > 0.0 else free

    if elastic:
        for index, (block, bound, sign) in enumerate(
            ((at.energy, floor_wh, -1.0), (at.gpu, limits[1][2], 1.0), (at.radiator, limits[2][2], 1.0))
        ):
            put(at.row_soft[index], block, sign)
            put(at.row_soft[index], at.slack[index], -1.0)
            row_upper[at.row_soft[index]] = sign * bound
    return Programme(
        cost=cost,
        lower=lower,
        upper=upper,
        row_lower=row_lower,
        row_upper=row_upper,
        rows=np.concatenate(rows),
        columns=np.concatenate(columns),
        values=np.concatenate(values),
    )


class _Silent(highspy.Highs):
    """HiGHS greets on standard output with its first callback, before anybody can tell it to be silent."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


def solve(programme: Programme, limit_s: float = SOLVE_LIMIT_S, basis: Any = None) -> Solution:
    """The optimum; not ``feasible`` when no plan keeps the limits. ``PlanError`` when the solver has no answer.

    Ctrl-C stops the solver and goes on to the caller.
    """
    status = highspy.HighsModelStatus.kNotset
    for method in METHODS:
        highs = _Silent()  # type: ignore[no-untyped-call]
        for name, value in (("threads", 1), ("parallel", "off"), ("time_limit", limit_s), ("solver", method)):
            highs.setOptionValue(name, value)
        highs.passModel(_model(programme))
        if basis is not None:
            highs.setBasis(basis)
        _run(highs)
        status = highs.getModelStatus()
        if status in SETTLED:
            break
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
        empty = np.zeros(0)
        return Solution(
            objective=0.0, x=empty, reduced=empty, price=empty, feasible=False, solve_s=highs.getRunTime()
        )
    if status != highspy.HighsModelStatus.kOptimal:
        raise PlanError(
            f"the solver gave no plan ({highs.modelStatusToString(status).lower()}) in {highs.getRunTime():.1f} s; "
            "shorten the horizon or lengthen horizon.step_s"
        )
    found = highs.getSolution()
    return Solution(
        objective=highs.getObjectiveValue() / COST_SCALE,
        x=np.array(found.col_value),
        reduced=np.array(found.col_dual) / COST_SCALE,
        price=np.array(found.row_dual) / COST_SCALE,
        feasible=True,
        solve_s=highs.getRunTime(),
        basis=highs.getBasis(),
    )


def _run(highs: _Silent) -> None:
    """Run the solver beside this thread, which stays open to Ctrl-C and then stops it."""
    highs.HandleUserInterrupt = True
    highs.startSolve()
    try:
        while not highs.wait(POLL_S)[0]:
            pass
    except KeyboardInterrupt:
        highs.cancelSolve()  # type: ignore[no-untyped-call]
        for _ in range(round(STOP_S / POLL_S)):
            # A process that ends while its solver still runs is aborted.
            if highs.wait(POLL_S)[0]:
                break
        raise


def _model(programme: Programme) -> highspy.HighsLp:
    order = np.lexsort((programme.rows, programme.columns))
    count, rows = len(programme.cost), len(programme.row_lower)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = count, rows
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_, model.col_lower_, model.col_upper_ = (
        COST_SCALE * programme.cost,
        programme.lower,
        programme.upper,
    )
    model.row_lower_, model.row_upper_ = programme.row_lower, programme.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.searchsorted(programme.columns[order], np.arange(count + 1)).astype(np.int32)
    model.a_matrix_.index_ = programme.rows[order].astype(np.int32)
    model.a_matrix_.value_ = programme.values[order]
    return model
