"""The plan of a mission: the programme solved until its tangents stand, flown through the plant, and judged there.

1. Look ahead along the orbit (``horizon``).
2. Solve, move the tangents of the emission to the plan's own temperatures, solve again, until they stand still.
3. Fly the plan through the bench's non-linear plant. Where a limit is passed there (the programme holds
   temperatures at step edges only, the plant at every sub-step), take the overshoot off that limit and plan again.
4. Read the prices of the last programme.

What is predicted is what the *plant* did. Where not even an idle card keeps the limits, the idle card is flown, and
the elastic programme says which resource would help most.
"""

from math import ceil
from typing import Any, Final

import msgspec
import numpy as np

from ..plant.eps import ZERO_CELSIUS_K
from ..plant.plant import STEP_MAX_S, Loads, Plant, PlantConfig
from ..plant.thermal import STEFAN_BOLTZMANN
from . import prices
from .document import Mission
from .horizon import Floats, Progress, Steps, look_ahead
from .programme import Case, Layout, Solution, build, segments, solve

TANGENT_FIRST_K: Final = 310.0
TANGENT_MOVE_K: Final = 0.02
TANGENT_ROUNDS_MAX: Final = 8
REPLAY_ROUNDS_MAX: Final = 4
SOC_TOLERANCE: Final = 1e-6
TEMPERATURE_TOLERANCE_K: Final = 1e-3
OVERSHOOT_FACTOR: Final = 1.05
"""Of an overshoot, taken off the limit for the next round."""
START_MAX_DEGC: Final = 80.0
"""The plant starts within this; only a plan that breaks its limits asks for more."""
JOULE_PER_WH: Final = 3600.0
YEAR_S: Final = 365.25 * 86400.0
MB_BITS: Final = 8e6


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """The plan as the plant flies it: one row each step, states at its end; extremes are of every sub-step."""

    start_s: float
    dt_s: list[float]
    gpu_power_w: list[float]
    throughput: list[float]
    sunlit: list[float]
    array_power_w: list[float]
    soc: list[float]
    gpu_degc: list[float]
    radiator_degc: list[float]
    soc_start: float
    gpu_start_degc: float
    radiator_start_degc: float
    soc_min: float
    gpu_max_degc: float
    radiator_max_degc: float
    array_wh: float
    gpu_wh: float
    bus_wh: float
    spilled_wh: float
    unserved_wh: float
    discharged_wh: float
    rail_lost_s: float
    """Time in which the power board had dropped the GPU rail."""

    @property
    def work_h(self) -> float:
        """Hours at full throughput."""
        return sum(s * dt for s, dt in zip(self.throughput, self.dt_s, strict=True)) / 3600.0

    @property
    def compute_share(self) -> float:
        """Mean throughput, 0 to 1."""
        return self.work_h * 3600.0 / sum(self.dt_s)


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say about a mission, before it is put in words."""

    mission: Mission
    steps: Steps
    case: Case
    solution: Solution
    tangent_k: Floats
    elastic: bool
    """Not even the idle card keeps the limits: gains are of the elastic programme."""
    flown: Trajectory
    gains: list[prices.Gain]
    binding: list[str]
    shares: dict[str, list[float]]
    rounds: int
    """Programmes solved."""
    solve_s: float

    @property
    def programme_share(self) -> float:
        """Mean throughput of the programme itself; 0 when elastic."""
        at = Layout(len(self.steps.dt_s), len(self.case.widths_w))
        if self.elastic:
            return 0.0
        work = self.solution.x[at.power] @ np.array(self.case.slopes)
        return float(work @ self.steps.dt_s) / self.steps.length_s


def make(mission: Mission, progress: Progress | None = None, limit_s: float | None = None) -> Planned:
    """Plan a mission. Raises ``PlanError``; ``limit_s`` bounds each solve."""
    steps = look_ahead(mission.document.plant, mission.document.horizon, progress)
    return plan_steps(mission, steps, progress, limit_s)


def plan_steps(
    mission: Mission,
    steps: Steps,
    progress: Progress | None = None,
    limit_s: float | None = None,
    end_soc: float | None = None,
) -> Planned:
    """Plan over given steps; ``end_soc`` is the least charge at the end of a plan with a given start."""
    case = case_of(mission, steps)
    if end_soc is not None:
        case = msgspec.structs.replace(case, end_wh=end_soc * case.capacity_wh)
    tangent_k = np.full(len(steps.dt_s), TANGENT_FIRST_K)
    rounds, solve_s = 0, 0.0
    basis: Any = None
    for replay in range(REPLAY_ROUNDS_MAX):
        solution, tangent_k, used, spent_s = _settled(case, tangent_k, progress, limit_s, replay, basis)
        basis = solution.basis
        rounds += used
        solve_s += spent_s
        if not solution.feasible:
            return _impossible(mission, case, tangent_k, rounds, solve_s, progress, limit_s)
        flown = fly(mission, case, gpu_power(case, solution), solution, progress)
        tightened = _tightened(case, flown)
        if tightened is None or replay == REPLAY_ROUNDS_MAX - 1:
            break
        case = tightened
    found = prices.prices(case, solution)
    return Planned(
        mission=mission,
        steps=steps,
        case=case,
        solution=solution,
        tangent_k=tangent_k,
        elastic=False,
        flown=flown,
        gains=prices.gains(case, tangent_k, solution, flown.work_h),
        binding=found.binding,
        shares={name: values.tolist() for name, values in found.shares.items()},
        rounds=rounds,
        solve_s=solve_s,
    )


def case_of(mission: Mission, steps: Steps) -> Case:
    """The mission's satellite and card in the programme's terms."""
    document = mission.document
    eps, thermal, limits = document.plant.eps, document.plant.thermal, document.limits
    widths, slopes = segments(mission.workload, limits.gpu_power_max_w)
    downlink = document.downlink
    data_mb_per_h = data_mb = 0.0
    if downlink is not None and not mission.made_up_orbit:
        data_mb_per_h = downlink.mb_per_gpu_hour
        planned_mb = downlink.volume_mb_per_day * steps.length_s / 86400.0
        data_mb = max(0.0, downlink_mb(mission, steps) - planned_mb)
    start = None
    if document.horizon.start == "given":
        radiator_k = thermal.initial_degc + ZERO_CELSIUS_K
        start = (eps.initial_soc_fraction * eps.capacity_wh, radiator_k + thermal.initial_rise_k, radiator_k)
    return Case(
        steps=steps,
        capacity_wh=eps.capacity_wh,
        floor_share=1.0 - limits.dod_max,
        charge_efficiency=eps.charge_efficiency,
        discharge_efficiency=eps.discharge_efficiency,
        charge_max_w=eps.charge_power_max_w,
        discharge_max_w=limits.discharge_c * eps.capacity_wh,
        gpu_capacity_j_k=thermal.gpu_heat_capacity_j_k,
        radiator_capacity_j_k=thermal.radiator_heat_capacity_j_k,
        conductance_w_k=thermal.conductance_w_k,
        emission_w_k4=thermal.emissivity * STEFAN_BOLTZMANN * thermal.area_m2,
        gpu_max_k=limits.gpu_degc + ZERO_CELSIUS_K,
        radiator_max_k=limits.radiator_degc + ZERO_CELSIUS_K,
        idle_w=mission.workload.idle_w,
        widths_w=widths,
        slopes=slopes,
        data_mb_per_h=data_mb_per_h,
        data_mb=data_mb,
        start=start,
    )


def downlink_mb(mission: Mission, steps: Steps) -> float:
    """What the contacts of the horizon can carry, MB; 0 without a downlink section."""
    downlink = mission.document.downlink
    return 0.0 if downlink is None else downlink.rate_bps * downlink.share * steps.contact_s / MB_BITS


def gpu_power(case: Case, solution: Solution) -> Floats:
    """Power of the GPU in each step, W."""
    at = Layout(len(case.steps.dt_s), len(case.widths_w))
    power_w: Floats = case.idle_w + np.maximum(0.0, solution.x[at.power]).sum(axis=1)
    return power_w


def fly(
    mission: Mission, case: Case, power_w: Floats, solution: Solution | None, progress: Progress | None = None
) -> Trajectory:
    """Fly a row of GPU powers through the plant, from the plan's initial state."""
    steps, workload = case.steps, mission.workload
    plant = Plant(_started(mission, case, solution), seed=0)
    first = plant.truth()
    rows: dict[str, list[float]] = {
        name: [] for name in ("gpu_power_w", "throughput", "array_power_w", "soc", "gpu_degc", "radiator_degc")
    }
    soc_min, gpu_max, radiator_max = first.soc_fraction, first.gpu_temp_degc, first.radiator_temp_degc
    array_j = gpu_j = bus_j = spilled_j = unserved_j = discharged_j = lost_s = 0.0
    for index, span_s in enumerate(steps.dt_s):
        count = max(1, ceil(float(span_s) / STEP_MAX_S - 1e-9))
        dt_s = float(span_s) / count
        loads = Loads(gpu_power_w=float(power_w[index]), transmitter_on=bool(steps.contact[index] > 0.0))
        array_step_j = work_s = gpu_step_j = 0.0
        truth = plant.truth()
        for _ in range(count):
            truth = plant.step(dt_s, loads)
            soc_min = min(soc_min, truth.soc_fraction)
            gpu_max = max(gpu_max, truth.gpu_temp_degc)
            radiator_max = max(radiator_max, truth.radiator_temp_degc)
            array_step_j += truth.array_power_w * dt_s
            gpu_step_j += truth.gpu_rail_power_w * dt_s
            work_s += workload.throughput_at(truth.gpu_rail_power_w) * dt_s if truth.gpu_rail_on else 0.0
            bus_j += (truth.load_power_w - truth.gpu_rail_power_w) * dt_s
            spilled_j += truth.spilled_w * dt_s
            unserved_j += truth.unserved_w * dt_s
            discharged_j += max(0.0, truth.load_power_w - truth.array_power_w) * dt_s
            lost_s += 0.0 if truth.gpu_rail_on else dt_s
        array_j += array_step_j
        gpu_j += gpu_step_j
        for name, value in zip(
            rows,
            (
                gpu_step_j / float(span_s),
                work_s / float(span_s),
                array_step_j / float(span_s),
                truth.soc_fraction,
                truth.gpu_temp_degc,
                truth.radiator_temp_degc,
            ),
            strict=True,
        ):
            rows[name].append(value)
        if progress is not None and index % 32 == 0:
            progress("flying the plan through the plant", index / len(steps.dt_s))
    return Trajectory(
        start_s=steps.start_s,
        dt_s=steps.dt_s.tolist(),
        sunlit=steps.sunlit.tolist(),
        soc_start=first.soc_fraction,
        gpu_start_degc=first.gpu_temp_degc,
        radiator_start_degc=first.radiator_temp_degc,
        soc_min=soc_min,
        gpu_max_degc=gpu_max,
        radiator_max_degc=radiator_max,
        array_wh=array_j / JOULE_PER_WH,
        gpu_wh=gpu_j / JOULE_PER_WH,
        bus_wh=bus_j / JOULE_PER_WH,
        spilled_wh=spilled_j / JOULE_PER_WH,
        unserved_wh=unserved_j / JOULE_PER_WH,
        discharged_wh=discharged_j / case.discharge_efficiency / JOULE_PER_WH,
        rail_lost_s=lost_s,
        **rows,
    )


def _started(mission: Mission, case: Case, solution: Solution | None) -> PlantConfig:
    """The plant's configuration with the plan's initial state."""
    config = mission.document.plant
    if case.start is not None or solution is None:
        return config
    at = Layout(len(case.steps.dt_s), len(case.widths_w))
    energy_wh, gpu_k, radiator_k = (float(solution.x[block[0]]) for block in (at.energy, at.gpu, at.radiator))
    return msgspec.structs.replace(
        config,
        eps=msgspec.structs.replace(
            config.eps, initial_soc_fraction=min(1.0, max(0.0, energy_wh / case.capacity_wh))
        ),
        thermal=msgspec.structs.replace(
            config.thermal,
            initial_degc=min(START_MAX_DEGC, max(-START_MAX_DEGC, radiator_k - ZERO_CELSIUS_K)),
            initial_rise_k=min(START_MAX_DEGC, max(-START_MAX_DEGC, gpu_k - radiator_k)),
        ),
    )


def _settled(
    case: Case, tangent_k: Floats, progress: Progress | None, limit_s: float | None, replay: int, basis: Any
) -> tuple[Solution, Floats, int, float]:
    """Solve until the tangents stand still."""
    at = Layout(len(case.steps.dt_s), len(case.widths_w))
    spent_s = 0.0
    for index in range(TANGENT_ROUNDS_MAX):
        if progress is not None:
            progress(f"solving, round {replay + 1}.{index + 1}", 0.0)
        bound = {} if limit_s is None else {"limit_s": limit_s}
        solution = solve(build(case, tangent_k), basis=basis, **bound)
        basis = solution.basis
        spent_s += solution.solve_s
        if not solution.feasible:
            return solution, tangent_k, index + 1, spent_s
        radiator_k = solution.x[at.radiator]
        moved = 0.5 * (radiator_k[1:] + radiator_k[:-1])
        change_k = float(np.abs(moved - tangent_k).max())
        if change_k < TANGENT_MOVE_K:
            break
        tangent_k = moved
    return solution, tangent_k, index + 1, spent_s


def _tightened(case: Case, flown: Trajectory) -> Case | None:
    """The case with what the replay overshot taken off its limits; None when nothing was."""
    short_wh = (case.floor_share - flown.soc_min) * case.capacity_wh
    gpu_k = flown.gpu_max_degc + ZERO_CELSIUS_K - case.gpu_max_k
    radiator_k = flown.radiator_max_degc + ZERO_CELSIUS_K - case.radiator_max_k
    end_wh = flown.soc_start * case.capacity_wh if case.start is None else case.end_wh
    lost_wh = 0.0 if end_wh is None else end_wh - flown.soc[-1] * case.capacity_wh
    if (
        max(short_wh, lost_wh) <= SOC_TOLERANCE * case.capacity_wh
        and gpu_k <= TEMPERATURE_TOLERANCE_K
        and radiator_k <= TEMPERATURE_TOLERANCE_K
    ):
        return None
    return msgspec.structs.replace(
        case,
        energy_margin_wh=case.energy_margin_wh + OVERSHOOT_FACTOR * max(0.0, short_wh),
        recharge_margin_wh=case.recharge_margin_wh + OVERSHOOT_FACTOR * max(0.0, lost_wh),
        gpu_margin_k=case.gpu_margin_k + OVERSHOOT_FACTOR * max(0.0, gpu_k),
        radiator_margin_k=case.radiator_margin_k + OVERSHOOT_FACTOR * max(0.0, radiator_k),
    )


def _impossible(
    mission: Mission,
    case: Case,
    tangent_k: Floats,
    rounds: int,
    solve_s: float,
    progress: Progress | None,
    limit_s: float | None,
) -> Planned:
    """Fly the idle card and ask the elastic programme what is missing."""
    case = msgspec.structs.replace(
        case, energy_margin_wh=0.0, recharge_margin_wh=0.0, gpu_margin_k=0.0, radiator_margin_k=0.0
    )
    bound = {} if limit_s is None else {"limit_s": limit_s}
    solution = solve(build(case, tangent_k, elastic=True), **bound)
    idle_w = np.full(len(case.steps.dt_s), case.idle_w)
    gains = prices.gains(case, tangent_k, solution, 0.0, elastic=True) if solution.feasible else []
    count = len(case.steps.dt_s)
    return Planned(
        mission=mission,
        steps=case.steps,
        case=case,
        solution=solution,
        tangent_k=tangent_k,
        elastic=True,
        flown=fly(mission, case, idle_w, solution if solution.feasible else None, progress),
        gains=gains,
        binding=[prices.binding_of(gains)] * count,
        shares={},
        rounds=rounds + 1,
        solve_s=solve_s + solution.solve_s,
    )
