"""What is asked of the planner, and what an answer must be to be followed.

A plan touches the limits less the governor's margins. Two prices stand in its objective: of a joule out of the
battery, because depth of discharge is battery life, and of a joule at all, because there is work that is worth
little per joule. Both are zero unless the mission sets them.
"""

from math import isfinite
from typing import Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.card import Workload

from . import eps, thermal
from .forecast import Arcs, Blocking, steps
from .margins import Margins
from .plan import HeatPath, Plan, PlanRequest

J_PER_MJ: Final = 1e6
POWER_SLACK_W: Final = 0.01
"""A plan may pass idle power and ceiling by this much: solvers round."""
REASON_CHARACTERS_MAX: Final = 120


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to plan, how far, and what it may cost."""

    enabled: bool = True
    """Plan with the planner's process; without it the closed form governs alone."""
    replan_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 120.0
    """Mission time between two plans."""
    replan_min_s: Annotated[float, Meta(ge=0.1, le=3600.0)] = 10.0
    """Mission time between two plans at least, whatever happens."""
    deadline_s: Annotated[float, Meta(ge=0.01, le=60.0)] = 0.5
    """A plan that takes longer is given up (machine clock)."""
    plan_age_max_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 240.0
    """An older plan is not followed (mission time)."""
    near_steps: Annotated[int, Meta(ge=1, le=64)] = 4
    """Fine steps at the beginning of a plan."""
    near_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 60.0
    """Length of a fine step."""
    far_s: Annotated[float, Meta(ge=10.0, le=3600.0)] = 450.0
    """Length of the other steps; edges of the shadow cut them."""
    horizon_s: Annotated[float, Meta(ge=60.0, le=86_400.0)] = 6360.0
    """A plan looks this far ahead, a little more than an orbit."""
    left_soc: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.01
    """State of charge this far from the plan asks for another one."""
    left_k: Annotated[float, Meta(gt=0.0, le=100.0)] = 3.0
    """GPU node this far from the plan asks for another one."""
    discharge_power_max_w: Annotated[float, Meta(gt=0.0, le=1e6)] = 700.0
    """Most power that a plan takes out of the battery (1C)."""
    battery_price_s_mj: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0
    """Price of a megajoule out of the battery, in seconds at full throughput; 2000 nearly spares the battery."""
    energy_price_s_mj: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0
    """Price of a megajoule of the GPU in the same unit: work that is worth less per joule is left."""

    @property
    def blocking(self) -> Blocking:
        """How the horizon is cut."""
        return Blocking(self.near_steps, self.near_s, self.far_s, self.horizon_s)


class Situation(Struct, frozen=True, kw_only=True):
    """What a plan starts from: mission time, battery, nodes and arc as known now, the ceiling, and the margins.

    ``arc_remaining_s`` is None without a forecast of the shadow; NaN charge or temperature is not known; either
    asks for no plan, nor does a payload that is not ``permitted``.
    """

    world_s: float
    permitted: bool
    soc_fraction: float
    gpu_degc: float
    radiator_degc: float
    eclipse: bool
    arc_remaining_s: float | None
    period_s: float
    eclipse_s: float
    array_power_w: float
    ceiling_w: float
    margins: Margins
    path: HeatPath
    curve: Workload


def request(
    config: Config, power: eps.Config, heat: thermal.Config, situation: Situation, number: int
) -> PlanRequest:
    """The request for a plan from here on; the situation has a forecast."""
    arcs = Arcs(situation.eclipse, situation.arc_remaining_s or 0.0, situation.period_s, situation.eclipse_s)
    lengths, shares = steps(arcs, config.blocking)
    kept = situation.margins
    return PlanRequest(
        id=number,
        world_s=situation.world_s,
        steps_s=lengths,
        sunlit=shares,
        energy_j=min(1.0, max(0.0, situation.soc_fraction)) * power.capacity_j,
        gpu_degc=situation.gpu_degc,
        radiator_degc=situation.radiator_degc,
        array_power_w=situation.array_power_w,
        bus_power_w=power.bus_power_w,
        capacity_j=power.capacity_j,
        energy_min_j=min(1.0, power.soc_floor + kept.soc) * power.capacity_j,
        charge_efficiency=power.charge_efficiency,
        discharge_efficiency=power.discharge_efficiency,
        charge_power_max_w=power.charge_power_max_w,
        discharge_power_max_w=config.discharge_power_max_w,
        gpu_max_degc=heat.gpu_limit_degc - kept.gpu_k,
        radiator_max_degc=heat.radiator_limit_degc - kept.radiator_k,
        heat=situation.path,
        power_w=situation.curve.power_w,
        throughput=situation.curve.throughput,
        gpu_ceiling_w=situation.ceiling_w,
        discharge_cost_per_j=config.battery_price_s_mj / J_PER_MJ,
        energy_cost_per_j=config.energy_price_s_mj / J_PER_MJ,
    )


def flaw(plan: Plan, asked: PlanRequest) -> str:
    """What forbids to follow an answer; empty when nothing does."""
    if plan.fault:
        return plan.fault[:REASON_CHARACTERS_MAX]
    if plan.world_s != asked.world_s or plan.steps_s != asked.steps_s:
        return "the plan is for other steps than asked for"
    rows = (plan.gpu_power_w, plan.energy_j, plan.gpu_degc, plan.radiator_degc)
    if any(len(row) != len(asked.steps_s) for row in rows):
        return "the plan has not one value per step"
    if not all(isfinite(value) for row in rows for value in row):
        return "the plan is not finite"
    lowest_w = asked.power_w[0] - POWER_SLACK_W
    highest_w = max(asked.power_w[0], asked.gpu_ceiling_w) + POWER_SLACK_W
    if not all(lowest_w <= watts <= highest_w for watts in plan.gpu_power_w):
        return f"the plan leaves {lowest_w:.0f} to {highest_w:.0f} W"
    return ""
