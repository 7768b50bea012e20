"""Planning: when a plan is asked for, which answer is followed, and what its loss means. It needs no solver.

Answers are written by hand from the request: power 300 W in every step, charge and temperature moving evenly.
"""

import math
from typing import Any

import pytest
from msgspec.structs import replace

from flightsw.core import eps, governor, planning, thermal
from flightsw.core.events import Event
from flightsw.core.forecast import Arcs, Blocking, steps
from flightsw.core.margins import Margins
from flightsw.core.plan import STEPS_MAX, Plan, PlanRequest
from flightsw.core.planning import Config, Situation, State, Status
from flightsw.link.card import reference_workload
from flightsw.link.event_reports import EVENTS

NAN = float("nan")
CONFIG = Config(replan_s=60.0, replan_min_s=10.0, deadline_s=0.5, plan_age_max_s=240.0)
POWER = eps.Config()
HEAT = thermal.Config()


def situation(world_s: float = 1000.0, **changes: Any) -> Situation:
    values: dict[str, Any] = {
        "world_s": world_s,
        "permitted": True,
        "soc_fraction": 0.9,
        "gpu_degc": 60.0,
        "radiator_degc": 35.0,
        "eclipse": False,
        "arc_remaining_s": 3000.0 - (world_s - 1000.0),
        "period_s": 5700.0,
        "eclipse_s": 2100.0,
        "array_power_w": 1150.0,
        "ceiling_w": 700.0,
        "margins": Margins(0.015, 2.0, 1.5),
        "path": HEAT.heat,
        "curve": reference_workload(),
    }
    return Situation(**(values | changes))


def answer(asked: PlanRequest, **changes: Any) -> Plan:
    """A plan that keeps everything as it is: 300 W, charge and temperatures constant."""
    count = len(asked.steps_s)
    plan = Plan(
        id=asked.id,
        world_s=asked.world_s,
        steps_s=asked.steps_s,
        gpu_power_w=(300.0,) * count,
        energy_j=(asked.energy_j,) * count,
        gpu_degc=(asked.gpu_degc,) * count,
        radiator_degc=(asked.radiator_degc,) * count,
        solve_s=0.004,
    )
    return replace(plan, **changes)


class Flight:
    """Frame after frame with a planner of one's own."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.config, self.state, self.now_s = config, State(), 50.0
        self.events: list[Event] = []
        self.asked: list[PlanRequest] = []

    def frame(self, now: Situation, *plans: Plan, after_s: float = 0.1) -> PlanRequest | None:
        self.now_s += after_s
        self.state, found, asked = planning.step(self.state, self.config, POWER, HEAT, now, plans, self.now_s)
        self.events += found
        if asked is not None:
            self.asked.append(asked)
        return asked

    def planned(self, world_s: float = 1000.0) -> PlanRequest:
        """Ask and be answered."""
        asked = self.frame(situation(world_s))
        assert asked is not None
        self.frame(situation(world_s + 1.0), answer(asked))
        assert self.state.status is Status.FOLLOWING
        return asked

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


# --- the forecast ---------------------------------------------------------------------------------------------

BLOCKS = Blocking(near=2, near_s=60.0, far_s=300.0, horizon_s=2000.0)
FORECASTS = (
    # eclipse, remaining, period, eclipse length → lengths, shares
    ("lit throughout", (False, 9e3, 1e4, 0.0), (60, 60, *(300,) * 7), (1,) * 9),
    ("a night to come", (False, 400.0, 5700.0, 2100.0), (60, 60, 280, *(300,) * 6), (1,) * 3 + (0,) * 6),
    ("the night we are in", (True, 90.0, 5700.0, 600.0), (60, 30, *(300,) * 7), (0,) * 2 + (1,) * 7),
    ("an arc as good as over", (False, 0.5, 5700.0, 300.0), (60, 60, 180, *(300,) * 6), (0,) * 3 + (1,) * 6),
    ("no night", (False, 0.0, 5700.0, 0.0), (60, 60, *(300,) * 7), (1,) * 9),
)  # fmt: skip


@pytest.mark.parametrize(("name", "arcs", "lengths", "shares"), FORECASTS, ids=[row[0] for row in FORECASTS])
def test_forecast(name: str, arcs: tuple, lengths: tuple[float, ...], shares: tuple[float, ...]) -> None:
    assert steps(Arcs(*arcs), BLOCKS) == (lengths, shares)


def test_a_forecast_has_a_bound() -> None:
    lengths, shares = steps(Arcs(True, 30.0, 600.0, 300.0), Blocking(64, 1.0, 10.0, 86_400.0))
    assert len(lengths) == len(shares) == STEPS_MAX


def test_the_last_step_of_an_arc_is_stretched_not_left_over() -> None:
    lengths, _ = steps(Arcs(False, 700.0, 5700.0, 2100.0), Blocking(1, 60.0, 300.0, 700.0))
    assert lengths == (60.0, 300.0, 340.0)


# --- the request ----------------------------------------------------------------------------------------------


def test_a_request_says_all_that_is_believed() -> None:
    asked = Flight(Config(battery_price_s_mj=500.0, energy_price_s_mj=100.0)).frame(situation())
    assert asked is not None
    assert sum(asked.steps_s) >= 6360.0
    assert asked.sunlit[0] == 1.0
    assert 0.0 in asked.sunlit
    assert asked.energy_j == pytest.approx(0.9 * POWER.capacity_j)
    assert asked.energy_min_j == pytest.approx((0.70 + 0.015) * POWER.capacity_j)
    assert (asked.gpu_max_degc, asked.radiator_max_degc) == (78.0, 58.5)
    assert (asked.gpu_degc, asked.radiator_degc) == (60.0, 35.0)
    assert (asked.array_power_w, asked.bus_power_w, asked.gpu_ceiling_w) == (1150.0, 60.0, 700.0)
    assert (asked.charge_power_max_w, asked.discharge_power_max_w) == (350.0, 700.0)
    assert asked.power_w[0] == 80.0
    assert asked.discharge_cost_per_j == pytest.approx(5e-4)
    assert asked.energy_cost_per_j == pytest.approx(1e-4)
    assert asked.heat.emission_w_k4 == pytest.approx(0.85 * 5.670374419e-8 * 1.4)
    assert (asked.heat.absorbed_w, asked.heat.absorbed_sun_w) == pytest.approx((91.0, 28.0))


@pytest.mark.parametrize(("soc", "expected"), [(1.02, 1.0), (-0.01, 0.0)])
def test_a_charge_out_of_range_is_clipped(soc: float, expected: float) -> None:
    asked = Flight().frame(situation(soc_fraction=soc))
    assert asked is not None
    assert asked.energy_j == expected * POWER.capacity_j


SITUATIONS = (
    # power, governor, situation → ceiling, remaining
    ("nothing special", {"entry_s": 100.0}, None, 1.0, 700.0, 1234.0),
    ("a cap", {"entry_s": 100.0}, 250.0, 1.0, 250.0, 1234.0),
    ("a cap over the ceiling", {"entry_s": 100.0}, 600.0, 0.5, 390.0, 1234.0),
    ("no edge yet", {"entry_s": None}, None, 1.0, 700.0, None),
    ("no edge yet and none to come", {"entry_s": None, "eclipse_s": 0.0}, None, 1.0, 700.0, 1234.0),
)


@pytest.mark.parametrize(
    ("name", "known", "cap_w", "ceiling", "ceiling_w", "remaining_s"),
    SITUATIONS,
    ids=[row[0] for row in SITUATIONS],
)
def test_situation_of(
    name: str,
    known: dict[str, Any],
    cap_w: float | None,
    ceiling: float,
    ceiling_w: float,
    remaining_s: float | None,
) -> None:
    card = governor.Config()
    seen = governor.Situation(0.1, 0.9, 60.0, 35.0, False, 1234.0, 1150.0, True, ceiling, soc_sigma=0.001)
    found = planning.situation_of(
        replace(eps.start(POWER), **known),
        card,
        replace(governor.start(card), power_cap_w=cap_w),
        seen,
        HEAT.heat,
        reference_workload(),
        77.0,
    )
    assert (found.ceiling_w, found.arc_remaining_s, found.world_s) == (ceiling_w, remaining_s, 77.0)
    assert found.margins == governor.held_margins(card, seen)
    assert (found.soc_fraction, found.permitted, found.period_s) == (0.9, True, 5700.0)


# --- when a plan is asked for ---------------------------------------------------------------------------------


def test_a_plan_is_asked_for_followed_and_asked_for_again() -> None:
    flight = Flight()
    first = flight.planned()
    assert first.id == 1
    assert planning.planned_power_w(flight.state, 1001.0) == 300.0
    assert [flight.frame(situation(1000.0 + s)) for s in (2.0, 30.0, 59.9)] == [None] * 3
    second = flight.frame(situation(1060.0))
    assert second is not None
    assert second.id == 2
    assert flight.frame(situation(1060.5)) is None, "one request is open at a time"
    flight.frame(situation(1061.0), answer(second, gpu_power_w=(400.0,) * len(second.steps_s)))
    assert planning.planned_power_w(flight.state, 1061.0) == 400.0
    assert flight.state.solve_s == 0.004
    assert flight.names == []


def flat(asked: PlanRequest) -> dict[str, Any]:
    return {"plan": answer(asked)}


CAUSES = (
    ("an edge", {"eclipse": True, "arc_remaining_s": 2100.0}, True),
    ("a lower ceiling", {"ceiling_w": 500.0}, True),
    ("a ceiling that trembles", {"ceiling_w": 699.5}, False),
    ("too little charge", {"soc_fraction": 0.888}, True),
    ("too much charge", {"soc_fraction": 0.912}, True),
    ("a little less charge", {"soc_fraction": 0.895}, False),
    ("a hot card", {"gpu_degc": 63.5}, True),
    ("a cold card", {"gpu_degc": 56.5}, True),
    ("a lukewarm card", {"gpu_degc": 62.0}, False),
    ("nothing", {}, False),
)


@pytest.mark.parametrize(("name", "change", "asks"), CAUSES, ids=[row[0] for row in CAUSES])
def test_what_asks_for_a_plan_at_once(name: str, change: dict[str, Any], asks: bool) -> None:
    flight = Flight()
    flight.planned()
    assert flight.frame(situation(1009.0, **change)) is None, "not twice within replan_min_s"
    assert (flight.frame(situation(1010.0, **change)) is not None) is asks


UNKNOWN = (
    ("no charge", {"soc_fraction": NAN}),
    ("no temperature", {"gpu_degc": NAN}),
    ("no radiator", {"radiator_degc": NAN}),
    ("no array", {"array_power_w": NAN}),
    ("no forecast", {"arc_remaining_s": None}),
    ("no permit", {"permitted": False}),
)


@pytest.mark.parametrize(("name", "change"), UNKNOWN, ids=[row[0] for row in UNKNOWN])
def test_nothing_is_asked_on_what_is_not_known(name: str, change: dict[str, Any]) -> None:
    flight = Flight()
    assert flight.frame(situation(**change)) is None
    assert flight.state.status is Status.WAITING
    assert flight.frame(situation(1000.1)) is not None


def test_switched_off() -> None:
    flight = Flight(Config(enabled=False))
    assert flight.frame(situation()) is None
    assert flight.frame(situation(2000.0)) is None
    assert flight.state == State(status=Status.OFF)
    assert planning.planned_power_w(flight.state, 2000.0) is None


def test_mission_time_that_went_back_asks_anew() -> None:
    flight = Flight()
    flight.planned()
    assert flight.frame(situation(500.0)) is not None


# --- which answer is followed -----------------------------------------------------------------------------------

BAD = (
    ("a fault", {"fault": "no plan: the solver says 'Infeasible'", "gpu_power_w": ()}, "Infeasible"),
    ("another time", {"world_s": 999.0}, "for other steps"),
    ("other steps", {"steps_s": (60.0,)}, "for other steps"),
    ("a row short", {"gpu_degc": (60.0,)}, "not one value per step"),
    ("nothing", {"gpu_power_w": (), "energy_j": (), "gpu_degc": (), "radiator_degc": ()}, "not one value per step"),
    ("NaN power", {"gpu_power_w": NAN}, "not finite"),
    ("infinite charge", {"energy_j": math.inf}, "not finite"),
    ("NaN temperature", {"radiator_degc": NAN}, "not finite"),
    ("less than idle", {"gpu_power_w": 79.0}, "leaves 80 to 600 W"),
    ("more than the ceiling", {"gpu_power_w": 600.5}, "leaves 80 to 600 W"),
)


@pytest.mark.parametrize(("name", "change", "fault"), BAD, ids=[row[0] for row in BAD])
def test_answers_that_are_not_followed(name: str, change: dict[str, Any], fault: str) -> None:
    flight = Flight()
    asked = flight.frame(situation(ceiling_w=600.0))
    assert asked is not None
    count = len(asked.steps_s)
    whole = {
        key: (300.0,) * (count - 1) + (value,) if isinstance(value, float) and key != "world_s" else value
        for key, value in change.items()
    }
    flight.frame(situation(1000.5, ceiling_w=600.0), answer(asked, **whole))
    assert fault in flight.state.fault
    assert flight.state.status is Status.WAITING
    assert planning.planned_power_w(flight.state, 1000.5) is None
    assert flight.frame(situation(1009.9, ceiling_w=600.0)) is None
    assert flight.frame(situation(1010.0, ceiling_w=600.0)) is not None


def test_a_ceiling_under_idle_power_leaves_a_plan_of_idling() -> None:
    flight = Flight()
    asked = flight.frame(situation(ceiling_w=0.0))
    assert asked is not None
    flight.frame(situation(1000.5, ceiling_w=0.0), answer(asked, gpu_power_w=(80.0,) * len(asked.steps_s)))
    assert flight.state.status is Status.FOLLOWING


def test_only_the_newest_request_is_answered() -> None:
    flight = Flight()
    first = flight.frame(situation())
    assert first is not None
    flight.frame(situation(1001.0), after_s=0.5)
    assert flight.state.fault == "no answer within 0.5 s"
    second = flight.frame(situation(1060.0))
    assert second is not None
    flight.frame(situation(1060.5), answer(first))
    assert flight.state.status is Status.WAITING
    flight.frame(situation(1060.6), answer(second))
    assert flight.state.status is Status.FOLLOWING


def test_an_answer_that_nobody_asked_for() -> None:
    asked = Flight().frame(situation())
    assert asked is not None
    flight = Flight()
    flight.frame(situation(permitted=False), answer(asked))
    assert flight.state == State()


def test_an_answer_after_the_deadline_is_still_one() -> None:
    flight = Flight()
    asked = flight.frame(situation())
    assert asked is not None
    flight.frame(situation(1001.0), after_s=0.6)
    flight.frame(situation(1002.0), answer(asked))
    assert flight.state.status is Status.FOLLOWING
    assert flight.state.fault == ""


# --- losing it ---------------------------------------------------------------------------------------------------


def test_a_planner_that_falls_silent_is_a_fallback_and_its_return_is_told() -> None:
    flight = Flight()
    flight.planned()
    assert flight.frame(situation(1060.0)) is not None
    for world_s in range(1070, 1241, 10):
        flight.frame(situation(float(world_s)), after_s=1.0)
        assert flight.state.status is Status.FOLLOWING, "an old plan is better than none"
    flight.frame(situation(1241.0))
    assert (flight.state.status, flight.state.fallbacks) == (Status.FALLBACK, 1)
    assert planning.planned_power_w(flight.state, 1241.0) is None
    assert flight.events == [Event("PLAN_FALLBACK", {"reason": "no answer within 0.5 s"})]
    while (asked := flight.frame(situation(1400.0), after_s=1.0)) is None:
        continue
    flight.frame(situation(1400.5), answer(asked))
    assert flight.names == ["PLAN_FALLBACK", "PLAN_RESUMED"]
    assert flight.state.status is Status.FOLLOWING
    assert {event.name for event in flight.events} <= {event.name for event in EVENTS}


def test_a_plan_that_is_too_old_while_its_successor_is_awaited() -> None:
    flight = Flight()
    flight.planned()
    assert flight.frame(situation(1239.0)) is not None
    flight.frame(situation(1241.0))
    assert flight.events == [Event("PLAN_FALLBACK", {"reason": "the plan is used up and its successor is overdue"})]


def test_a_plan_that_runs_out_unasked_says_so() -> None:
    flight = Flight()
    flight.planned()
    flight.frame(situation(1241.0, soc_fraction=NAN))
    assert flight.events == [Event("PLAN_FALLBACK", {"reason": "the plan is used up and no other was asked for"})]


def test_a_payload_that_may_not_run_needs_no_plan() -> None:
    flight = Flight()
    flight.planned()
    flight.frame(situation(1005.0, permitted=False))
    assert (flight.state.status, flight.state.plan, flight.names) == (Status.WAITING, None, [])
    assert flight.frame(situation(1012.0)) is not None, "asked again as soon as it may"


def test_a_short_plan_ends_where_it_ends() -> None:
    flight = Flight(Config(horizon_s=60.0, near_steps=1, replan_s=500.0, plan_age_max_s=500.0))
    flight.planned()
    assert planning.planned_power_w(flight.state, 1059.9) == 300.0
    flight.frame(situation(1060.0))
    assert flight.state.status is Status.FALLBACK


# --- what it says ------------------------------------------------------------------------------------------------


def test_expectation_runs_straight_between_the_ends_of_a_step() -> None:
    flight = Flight()
    asked = flight.frame(situation())
    assert asked is not None
    count = len(asked.steps_s)
    assert asked.steps_s[:2] == (60.0, 60.0)
    flight.frame(
        situation(1000.5),
        answer(
            asked,
            gpu_power_w=(300.0, 500.0) + (80.0,) * (count - 2),
            energy_j=(asked.energy_j - 6000.0, asked.energy_j) + (asked.energy_j,) * (count - 2),
            gpu_degc=(66.0, 72.0) + (60.0,) * (count - 2),
        ),
    )
    middle = planning.expected(flight.state, 1030.0)
    later = planning.expected(flight.state, 1090.0)
    assert middle == planning.Expected(300.0, asked.energy_j - 3000.0, 63.0)
    assert later == planning.Expected(500.0, asked.energy_j - 3000.0, 69.0)
    assert planning.expected(flight.state, 999.0) is None
    assert planning.expected(flight.state, 1000.0 + sum(asked.steps_s)) is None
    assert planning.age_s(flight.state, 1030.0) == 30.0


def test_without_a_plan_there_is_nothing_to_say() -> None:
    assert planning.expected(State(), 0.0) is None
    assert math.isnan(planning.age_s(State(), 0.0))
