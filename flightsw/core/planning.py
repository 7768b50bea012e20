"""Planning: when a plan is asked for, which one is believed, and what it says for now.

The planner is another process and may be slow, gone or wrong. So the core asks, goes on, and takes an answer when
it comes. It asks every ``replan_s`` of mission time, and at once when the ground of the plan is gone:

    an edge of the shadow came        the ceiling of the power moved
    the charge left the plan          the GPU node left the plan

One request is open at a time. After ``deadline_s`` of the machine's clock it is given up and the next may be made;
only an answer to the newest request is taken, whole, finite and in range. A plan is followed until it is
``plan_age_max_s`` old. Then the closed form of the governor governs alone, and PLAN_FALLBACK says why:

    OFF        not wanted               FOLLOWING  the plan's power is the governor's
    WAITING    no plan yet, or no need  FALLBACK   there was a plan, and its successor is missing
"""

from enum import IntEnum, unique
from math import isfinite
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.card import Workload
from flightsw.link.dictionary import PLANNER_STATES

from . import eps, governor, thermal
from .events import Event
from .limits import NEVER
from .plan import HeatPath, Plan, PlanRequest
from .plan_request import Config, Situation, flaw, request

__all__ = [
    "Config",
    "Expected",
    "Situation",
    "State",
    "Status",
    "age_s",
    "expected",
    "planned_power_w",
    "situation_of",
    "step",
]

CEILING_MOVED_W: Final = 1.0
"""A ceiling that moved more than this is another one."""


@unique
class Status(IntEnum):
    """Codes of ``PLANNER_STATES``."""

    OFF = PLANNER_STATES.index("OFF")
    WAITING = PLANNER_STATES.index("WAITING")
    FOLLOWING = PLANNER_STATES.index("FOLLOWING")
    FALLBACK = PLANNER_STATES.index("FALLBACK")


class State(Struct, frozen=True, kw_only=True):
    """The newest request, whether it is open, the plan that is followed, and what was wrong last."""

    status: Status = Status.WAITING
    asked: PlanRequest | None = None
    asked_s: float = NEVER
    open: bool = False
    eclipse: bool = False
    plan: Plan | None = None
    start_j: float = 0.0
    start_degc: float = 0.0
    solve_s: float = float("nan")
    fallbacks: int = 0
    fault: str = ""


class Expected(Struct, frozen=True):
    """What the plan says for an instant: power of the step, charge and GPU node on the way to the step's end."""

    power_w: float
    energy_j: float
    gpu_degc: float


def step(
    state: State,
    config: Config,
    power: eps.Config,
    heat: thermal.Config,
    situation: Situation,
    plans: tuple[Plan, ...],
    now_s: float,
) -> tuple[State, tuple[Event, ...], PlanRequest | None]:
    """State after the answers of this frame, what to say of it, and the request to send, if any."""
    if not config.enabled:
        return (state if state.status is Status.OFF else State(status=Status.OFF)), (), None
    for plan in plans:
        state = _take(state, plan)
    if state.open and now_s - state.asked_s >= config.deadline_s:
        state = replace(state, open=False, fault=f"no answer within {config.deadline_s:g} s")
    state, found = _follow(state, config, situation)
    if state.open or not _wanted(state, config, power, situation):
        return state, found, None
    asked = request(config, power, heat, situation, 1 if state.asked is None else state.asked.id + 1)
    return replace(state, asked=asked, asked_s=now_s, open=True, eclipse=situation.eclipse), found, asked


def situation_of(
    power: eps.State,
    card: governor.Config,
    governed: governor.State,
    seen: governor.Situation,
    path: HeatPath,
    curve: Workload,
    world_s: float,
) -> Situation:
    """What a plan would start from, of what the governor decides on."""
    ceiling_w = card.gpu_idle_w + seen.ceiling * (card.gpu_max_w - card.gpu_idle_w)
    # Without an edge and without a configured one the shadow may come at any moment, unless there is none.
    foreseen = power.entry_s is not None or power.eclipse_s <= 0.0
    return Situation(
        world_s=world_s,
        permitted=seen.permitted,
        soc_fraction=seen.soc_fraction,
        gpu_degc=seen.gpu_degc,
        radiator_degc=seen.radiator_degc,
        eclipse=seen.eclipse,
        arc_remaining_s=seen.arc_remaining_s if foreseen else None,
        period_s=power.period_s,
        eclipse_s=power.eclipse_s,
        array_power_w=seen.array_power_w,
        ceiling_w=ceiling_w if governed.power_cap_w is None else min(ceiling_w, governed.power_cap_w),
        margins=governor.held_margins(card, seen),
        path=path,
        curve=curve,
    )


def planned_power_w(state: State, world_s: float) -> float | None:
    """The plan's power at a mission time; None when no plan is followed, which leaves the closed form alone."""
    found = expected(state, world_s) if state.status is Status.FOLLOWING else None
    return None if found is None else found.power_w


def expected(state: State, world_s: float) -> Expected | None:
    """What the plan in hand says of a mission time, between the ends of a step in a straight line; None outside."""
    plan = state.plan
    if plan is None or world_s < plan.world_s:
        return None
    energy_j, gpu_degc, end_s = state.start_j, state.start_degc, plan.world_s
    for index, length_s in enumerate(plan.steps_s):
        end_s += length_s
        if world_s < end_s:
            share = 1.0 - (end_s - world_s) / length_s
            return Expected(
                power_w=plan.gpu_power_w[index],
                energy_j=energy_j + share * (plan.energy_j[index] - energy_j),
                gpu_degc=gpu_degc + share * (plan.gpu_degc[index] - gpu_degc),
            )
        energy_j, gpu_degc = plan.energy_j[index], plan.gpu_degc[index]
    return None


def age_s(state: State, world_s: float) -> float:
    """Mission time since the state that the plan in hand began with; NaN without one."""
    return float("nan") if state.plan is None else world_s - state.plan.world_s


def _take(state: State, plan: Plan) -> State:
    """The state with an answer; one to another request than the newest is nobody's."""
    asked = state.asked
    if asked is None or plan.id != asked.id:
        return state
    if fault := flaw(plan, asked):
        return replace(state, open=False, fault=fault)
    return replace(
        state,
        open=False,
        plan=plan,
        start_j=asked.energy_j,
        start_degc=asked.gpu_degc,
        solve_s=plan.solve_s,
        fault="",
    )


def _follow(state: State, config: Config, situation: Situation) -> tuple[State, tuple[Event, ...]]:
    """Whether the plan in hand is followed in this frame."""
    if not situation.permitted:
        idle = state.status is Status.WAITING and state.plan is None
        return (state if idle else replace(state, status=Status.WAITING, plan=None)), ()
    if state.plan is not None and age_s(state, situation.world_s) > config.plan_age_max_s:
        state = replace(state, plan=None)
    followed = expected(state, situation.world_s) is not None
    if followed is (state.status is Status.FOLLOWING):
        return state, ()
    if followed:
        resumed = (Event("PLAN_RESUMED", {}),) if state.status is Status.FALLBACK else ()
        return replace(state, status=Status.FOLLOWING), resumed
    late = "its successor is overdue" if state.open else "no other was asked for"
    reason = state.fault or f"the plan is used up and {late}"
    lost = replace(state, status=Status.FALLBACK, fallbacks=state.fallbacks + 1)
    return lost, (Event("PLAN_FALLBACK", {"reason": reason}),)


def _wanted(state: State, config: Config, power: eps.Config, situation: Situation) -> bool:
    """Whether it is time for another plan, and enough is known to make one."""
    known = situation.soc_fraction + situation.gpu_degc + situation.radiator_degc + situation.array_power_w
    if not situation.permitted or situation.arc_remaining_s is None or not isfinite(known):
        return False
    if state.asked is None:
        return True
    since_s = situation.world_s - state.asked.world_s
    if since_s < 0.0 or since_s >= config.replan_s:
        return True
    return since_s >= config.replan_min_s and (
        state.plan is None
        or situation.eclipse is not state.eclipse
        or abs(situation.ceiling_w - state.asked.gpu_ceiling_w) > CEILING_MOVED_W
        or _left(state, config, power, situation)
    )


def _left(state: State, config: Config, power: eps.Config, situation: Situation) -> bool:
    """Whether the world left the plan."""
    plan = expected(state, situation.world_s)
    return plan is not None and (
        abs(situation.soc_fraction - plan.energy_j / power.capacity_j) > config.left_soc
        or abs(situation.gpu_degc - plan.gpu_degc) > config.left_k
    )
