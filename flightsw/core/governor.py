"""Governor: how many watts the GPU may draw now. A plan when there is a good one, always in closed form.

*Energy.* In eclipse, spread what the battery may still give evenly over the dark time left; in sun, reserve exactly
the power that refills it by the end of the lit arc and spend the rest.

*Heat.* Feed forward what the conductance carries to the radiator at a set-point under the limit, corrected by a PI
term; and keep the radiator node under its own limit by what it can radiate there.

*Margins.* Both set-points lie ``margins`` away from the limits: what the loop needs, plus z standard uncertainties
of the estimate. A better estimate buys compute; nothing here is picked by hand but z.

*Plan.* The planner looks over the whole orbit and earns about a point more than the formulas. Its power is followed
under two guards, the same formulas with half of the loop's margin given back, so that they act only when the world
has left the plan: the even spread over the dark time left, and the power that brings the node to its set-point
within ``GUARD_S``. Without a plan (none asked for, solver late, plan too old) the formulas govern alone.

The lowest of all, the operator's cap, the ceiling that limits put on the duty, and the card's maximum is the
budget. Source of the formulas: power-thermal-orbit reference, section 6.8, with the same constants: 0.998 and 0.99
for "recharged" and "full", 20 s least remaining time, K_p 15 W/K, K_i 0.5 W per K·min, integrator within ±10 K·min.

All time here is mission time, so one second of the machine at warp 50 integrates 50 s. The actuator is pacing,
whose power is linear in duty: P = idle + duty · (maximum − idle).

Whatever is not known (stale or missing charge or temperature) idles the GPU.
"""

from enum import IntEnum, unique
from typing import Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.dictionary import GOVERNOR_LIMITS

from . import eps, thermal
from .events import Event
from .limits import NEVER
from .margins import Margins, margins
from .plan import HeatPath

RECHARGED_SOC: Final = 0.998
FULL_SOC: Final = 0.99
REMAINING_MIN_S: Final = 20.0
STEP_MAX_S: Final = 60.0
"""A longer step is a gap in time, not control: the integrator takes no more than this."""
GUARD_S: Final = 30.0
"""Time in which a node on its way past its set-point is caught while a plan is followed."""
RADIATOR_S: Final = 300.0
"""Time in which the radiator node is led to its own set-point; it is slow and rarely binds."""
ZERO_CELSIUS_K: Final = 273.15
LIMIT_REPORT_S: Final = 5.0
"""Least machine time between two reports of what binds; near a crossing it changes with the noise."""


@unique
class Limiting(IntEnum):
    """What binds the budget; codes of ``GOVERNOR_LIMITS``."""

    IDLE = GOVERNOR_LIMITS.index("IDLE")
    ENERGY = GOVERNOR_LIMITS.index("ENERGY")
    THERMAL = GOVERNOR_LIMITS.index("THERMAL")
    CAP = GOVERNOR_LIMITS.index("CAP")
    MAXIMUM = GOVERNOR_LIMITS.index("MAXIMUM")
    FDIR = GOVERNOR_LIMITS.index("FDIR")
    PLAN = GOVERNOR_LIMITS.index("PLAN")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Card and margins."""

    gpu_idle_w: Annotated[float, Meta(ge=0.0, le=1e5)] = 80.0
    """Power of the idle card."""
    gpu_max_w: Annotated[float, Meta(gt=0.0, le=1e5)] = 700.0
    """Power at full duty."""
    confidence: Annotated[float, Meta(ge=0.0, le=10.0)] = 3.5
    """Standard uncertainties of the estimates that are kept from every limit."""
    soc_margin: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.013
    """Over the floor of the state of charge, beside the uncertainty: what the loop needs."""
    temp_margin_k: Annotated[float, Meta(ge=0.0, le=50.0)] = 2.0
    """Under the temperature limits, beside the uncertainty: what the loop needs."""
    gain_w_k: Annotated[float, Meta(ge=0.0, le=1e4)] = 15.0
    """Proportional gain."""
    integral_gain_w_kmin: Annotated[float, Meta(ge=0.0, le=1e3)] = 0.5
    """Integral gain, watts per kelvin·minute."""
    integral_max_kmin: Annotated[float, Meta(ge=0.0, le=1e3)] = 10.0
    """Clip of the integrator, kelvin·minute (anti-windup)."""

    def __post_init__(self) -> None:
        if self.gpu_max_w <= self.gpu_idle_w:
            raise ValueError(f"gpu_max_w = {self.gpu_max_w:g} must be over gpu_idle_w = {self.gpu_idle_w:g}")


class Situation(Struct, frozen=True):
    """What the governor decides on: mission-time step, battery, nodes, arc, array, and whether payload may run.

    ``ceiling`` (0 to 1) bounds the duty. ``*_sigma`` are standard uncertainties of the estimates, ``edge_sigma_s``
    that of the arc's end. ``heat`` is the heat path as learned, None as configured; ``planned_w`` the plan's power
    for now, None without a plan.
    """

    dt_s: float
    soc_fraction: float
    gpu_degc: float
    radiator_degc: float
    eclipse: bool
    arc_remaining_s: float
    array_power_w: float
    permitted: bool
    ceiling: float = 1.0
    soc_sigma: float = 0.0
    gpu_sigma_k: float = 0.0
    radiator_sigma_k: float = 0.0
    edge_sigma_s: float = 0.0
    heat: HeatPath | None = None
    planned_w: float | None = None


class State(Struct, frozen=True, kw_only=True):
    """Budget in watts, duty 0 to 1, what binds, integrator (K·min), operator's cap (W, None is none)."""

    power_budget_w: float
    duty: float = 0.0
    limit: Limiting = Limiting.IDLE
    integral_kmin: float = 0.0
    power_cap_w: float | None = None
    limit_reported: Limiting = Limiting.IDLE
    reported_s: float = NEVER


def start(config: Config) -> State:
    """State at boot: idle."""
    return State(power_budget_w=config.gpu_idle_w)


def step(
    state: State,
    config: Config,
    power: eps.Config,
    heat: thermal.Config,
    situation: Situation,
    now_s: float,
) -> tuple[State, tuple[Event, ...]]:
    """Budget and duty for the frame to come."""
    budget_w, limit, integral_kmin = config.gpu_idle_w, Limiting.IDLE, state.integral_kmin
    # NaN fails this comparison: not knowing is idle.
    known = situation.soc_fraction + situation.gpu_degc + situation.radiator_degc < float("inf")
    if situation.permitted and known:
        kept = held_margins(config, situation)
        heat_w, integral_kmin = _heat(state.integral_kmin, config, heat, situation, kept)
        if situation.planned_w is None:
            energy_w = _energy(config, power, situation, kept.soc)
            candidates: tuple[tuple[float, Limiting], ...] = (
                (energy_w, Limiting.ENERGY),
                (heat_w, Limiting.THERMAL),
            )
        else:
            candidates = (
                (situation.planned_w, Limiting.PLAN),
                (_energy_guard(config, power, situation, kept.soc), Limiting.ENERGY),
                (_heat_guard(config, heat, situation, kept), Limiting.THERMAL),
            )
        lowest_w, limit = min(
            *candidates,
            (_radiator(power, heat, situation, kept.radiator_k), Limiting.THERMAL),
            (config.gpu_max_w, Limiting.MAXIMUM),
        )
        if state.power_cap_w is not None and state.power_cap_w < lowest_w:
            lowest_w, limit = state.power_cap_w, Limiting.CAP
        ceiling_w = config.gpu_idle_w + situation.ceiling * (config.gpu_max_w - config.gpu_idle_w)
        if ceiling_w < lowest_w:
            lowest_w, limit = ceiling_w, Limiting.FDIR
        budget_w = max(config.gpu_idle_w, lowest_w)
    found: tuple[Event, ...] = ()
    reported, reported_s = state.limit_reported, state.reported_s
    if limit is not reported and now_s - reported_s >= LIMIT_REPORT_S:
        found = (Event("GOVERNOR_LIMIT", {"limit": limit.name, "budget_w": budget_w}),)
        reported, reported_s = limit, now_s
    return (
        State(
            power_budget_w=budget_w,
            duty=duty_of(config, budget_w),
            limit=limit,
            integral_kmin=integral_kmin,
            power_cap_w=state.power_cap_w,
            limit_reported=reported,
            reported_s=reported_s,
        ),
        found,
    )


def duty_of(config: Config, power_w: float) -> float:
    """Duty, 0 to 1, at which the paced card draws this power on average."""
    duty = (power_w - config.gpu_idle_w) / (config.gpu_max_w - config.gpu_idle_w)
    return min(1.0, max(0.0, duty))


def held_margins(config: Config, situation: Situation) -> Margins:
    """Distances that are kept from the limits now; the planner plans with the same."""
    return margins(
        config.confidence,
        Margins(config.soc_margin, config.temp_margin_k, config.temp_margin_k),
        situation.soc_sigma,
        situation.gpu_sigma_k,
        situation.radiator_sigma_k,
    )


def _energy(config: Config, power: eps.Config, situation: Situation, margin_soc: float) -> float:
    """Watts for the GPU that keep the battery's books over this arc."""
    energy_j = situation.soc_fraction * power.capacity_j
    if situation.eclipse:
        remaining_s = max(situation.arc_remaining_s + config.confidence * situation.edge_sigma_s, REMAINING_MIN_S)
        spare_j = max(0.0, energy_j - (power.soc_floor + margin_soc) * power.capacity_j)
        return spare_j * power.discharge_efficiency / remaining_s - power.bus_power_w
    remaining_s = max(situation.arc_remaining_s - config.confidence * situation.edge_sigma_s, REMAINING_MIN_S)
    surplus_w = situation.array_power_w - power.bus_power_w
    if situation.soc_fraction > FULL_SOC:
        return surplus_w
    missing_j = max(0.0, RECHARGED_SOC * power.capacity_j - energy_j)
    return surplus_w - min(missing_j / (power.charge_efficiency * remaining_s), power.charge_power_max_w)


def _energy_guard(config: Config, power: eps.Config, situation: Situation, margin_soc: float) -> float:
    """While a plan is followed: the even spread over the dark time left; in sun the plan alone keeps the books."""
    if not situation.eclipse:
        return float("inf")
    return _energy(config, power, situation, margin_soc - 0.5 * config.soc_margin)


def _heat(
    integral_kmin: float, config: Config, heat: thermal.Config, situation: Situation, kept: Margins
) -> tuple[float, float]:
    """Watts that the heat path carries at the set-point, and the integrator after this step."""
    target_degc = heat.gpu_limit_degc - kept.gpu_k
    error_k = target_degc - situation.gpu_degc
    bound = config.integral_max_kmin
    step_min = min(situation.dt_s, STEP_MAX_S) / 60.0
    integral_kmin = min(bound, max(-bound, integral_kmin + error_k * step_min))
    feed_forward_w = _conductance(heat, situation) * (target_degc - situation.radiator_degc)
    correction_w = config.gain_w_k * error_k + config.integral_gain_w_kmin * integral_kmin
    return feed_forward_w + correction_w, integral_kmin


def _heat_guard(config: Config, heat: thermal.Config, situation: Situation, kept: Margins) -> float:
    """While a plan is followed: the power that brings the GPU node to its set-point within ``GUARD_S``."""
    target_degc = heat.gpu_limit_degc - kept.gpu_k + 0.5 * config.temp_margin_k
    held_w = _conductance(heat, situation) * (target_degc - situation.radiator_degc)
    capacity_j_k = 3000.0 if situation.heat is None else situation.heat.gpu_capacity_j_k
    return held_w + capacity_j_k / GUARD_S * (target_degc - situation.gpu_degc)


def _radiator(power: eps.Config, heat: thermal.Config, situation: Situation, margin_k: float) -> float:
    """Watts at which the radiator node settles at its own set-point, and more while it is colder than that."""
    path = situation.heat
    if path is None:
        return float("inf")
    target_degc = heat.radiator_limit_degc - margin_k
    absorbed_w = path.absorbed_w + (0.0 if situation.eclipse else path.absorbed_sun_w)
    settled_w = path.emission_w_k4 * (target_degc + ZERO_CELSIUS_K) ** 4 - power.bus_power_w - absorbed_w
    return settled_w + path.radiator_capacity_j_k / RADIATOR_S * (target_degc - situation.radiator_degc)


def _conductance(heat: thermal.Config, situation: Situation) -> float:
    return heat.conductance_w_k if situation.heat is None else situation.heat.conductance_w_k
