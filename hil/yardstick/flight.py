"""The flight code as a rival: the same functions the daemon calls in a minor frame, fed with sensor frames.

One tick is one minor frame of 10 s at warp 1: the observation becomes a ``SensorFrame``, then sense → eps → thermal
→ governor run as in ``flightsw.core.executive``, and the budget is the power. Configured is what the scenario says
the governor *believes*; what the flight code learns beyond that, it learns from the frames. The rest of the vehicle
(modes, payload, ladder) does not fly here: payload is always permitted.

This module is the only one of the yardstick that knows flight code. Whoever changes a signature of the core
follows here, and nowhere else.
"""

from typing import Final

from msgspec.structs import replace

from flightsw.core import eps, governor, planning, sense, thermal
from flightsw.core.inputs import Inputs
from flightsw.core.plan import Plan
from flightsw.link.avionics import SensorFrame
from flightsw.link.card import reference_workload
from flightsw.planner.solver import Solver

from .plant import Governor
from .scenarios import TICK_S, Observation, Scenario
from .world import (
    AREA_M2,
    CHARGE_MAX_W,
    DOD_MAX,
    ETA_CHARGE,
    ETA_DISCHARGE,
    GPU_J_K,
    GPU_MAX_K,
    IDLE_W,
    MAX_W,
    RADIATOR_MAX_K,
    ZERO_CELSIUS_K,
    World,
)

_MODULES: Final = (
    "array_model", "battery", "charge", "eps", "governor", "heat_model", "kalman", "margins", "plausible", "sense",
    "thermal",
)  # fmt: skip
_PLANNING_MODULES: Final = ("forecast", "plan", "plan_request", "planning")
SOURCES: Final = (*(f"flightsw/core/{name}.py" for name in _MODULES), "hil/yardstick/flight.py")
"""What a score of the closed form depends on: all of the core that computes here."""
PATIENCE_S: Final = 60.0
"""Time that the solver has: a score must not depend on what else the machine was doing."""
PLANNER_SOURCES: Final = (
    *SOURCES,
    *(f"flightsw/core/{name}.py" for name in _PLANNING_MODULES),
    "flightsw/link/card.py",
    "flightsw/planner",
)
"""What a score of the planner depends on."""
TAI_AT_START_S: Final = 2.1e9
NAN: Final = float("nan")


def power_config(belief: World) -> eps.Config:
    """Battery, array and orbit as believed."""
    return eps.Config(
        capacity_wh=belief.capacity_j / 3600.0,
        dod_max=DOD_MAX,
        charge_efficiency=ETA_CHARGE,
        discharge_efficiency=ETA_DISCHARGE,
        charge_power_max_w=CHARGE_MAX_W,
        bus_power_w=belief.bus_w,
        array_power_w=belief.array_w,
        orbit_period_s=belief.orbit_s,
        eclipse_s=belief.eclipse_s,
        eclipse_entry_s=(belief.orbit_s - belief.eclipse_s - belief.phase_s) % belief.orbit_s,
    )


def heat_config(belief: World) -> thermal.Config:
    """Heat path and limits as believed."""
    return thermal.Config(
        gpu_limit_degc=GPU_MAX_K - ZERO_CELSIUS_K,
        radiator_limit_degc=RADIATOR_MAX_K - ZERO_CELSIUS_K,
        conductance_w_k=belief.conductance_w_k,
        gpu_capacity_j_k=GPU_J_K,
        radiator_capacity_j_k=belief.radiator_j_k,
        radiator_area_m2=AREA_M2,
        emissivity=belief.emissivity,
        absorbed_w_m2=belief.infrared_w_m2,
        absorbed_sun_w_m2=belief.sunlight_w_m2,
        # The reference's radiator sensor has noise and no bias (section 6.7).
        radiator_bias_k=0.0,
    )


def frame_of(seen: Observation, sequence: int, bus_w: float) -> SensorFrame:
    """What the avionics wire says at a tick; position is left out."""
    return SensorFrame(
        sequence=sequence,
        world_s=seen.time_s,
        tai_s=TAI_AT_START_S + seen.time_s,
        warp=1.0,
        bus_voltage_v=seen.battery_v,
        bus_current_a=(seen.rail_w + bus_w) / seen.battery_v,
        array_power_w=seen.array_w,
        battery_voltage_v=seen.battery_v,
        battery_current_a=seen.battery_a,
        battery_temp_degc=20.0,
        soc_fraction=seen.soc,
        sun_fraction=1.0 if seen.lit else 0.0,
        gpu_temp_degc=seen.gpu_k - ZERO_CELSIUS_K,
        radiator_temp_degc=seen.radiator_k - ZERO_CELSIUS_K,
        gpu_rail_power_w=seen.rail_w,
        gpu_rail_on=True,
        latitude_deg=NAN,
        longitude_deg=NAN,
        altitude_km=NAN,
        proton_flux_cm2_s=NAN,
        radio_lock=False,
    )


class ClosedForm:
    """``flightsw.core`` without a plan."""

    def __init__(self, belief: World) -> None:
        self._power_config, self._heat_config = power_config(belief), heat_config(belief)
        self._config = governor.Config(gpu_idle_w=IDLE_W, gpu_max_w=MAX_W)
        self._sense_config = sense.Config()
        self._sense = sense.start(0.0)
        self._power, self._heat = eps.start(self._power_config), thermal.start(self._heat_config)
        self._governor = governor.start(self._config)
        self._bus_w, self._count = belief.bus_w, 0

    def decide(self, seen: Observation) -> float:
        """Watts of this frame's budget."""
        now_s, self._count = seen.time_s, self._count + 1
        frame = frame_of(seen, self._count, self._bus_w)
        self._sense, _ = sense.step(self._sense, self._sense_config, Inputs(sensors=frame), now_s)
        self._power, _ = eps.step(self._power, self._power_config, self._sense, now_s, now_s)
        self._heat, _ = thermal.step(
            self._heat, self._heat_config, self._sense, now_s, now_s, self._power_config.bus_power_w
        )
        situation = governor.situation(
            self._power, self._heat, self._power_config, dt_s=TICK_S, permitted=True, ceiling=1.0
        )
        situation = replace(situation, planned_w=self._planned_w(situation, now_s))
        self._governor, _ = governor.step(
            self._governor, self._config, self._power_config, self._heat_config, situation, now_s
        )
        return self._governor.power_budget_w

    def _planned_w(self, situation: governor.Situation, now_s: float) -> float | None:
        """What the plan says for now."""
        return None


class Planned(ClosedForm):
    """``flightsw.core`` with the planner: a request is answered before the next tick, as its deadline demands."""

    def __init__(self, belief: World, solver: Solver | None = None) -> None:
        super().__init__(belief)
        self._planning_config, self._planning = planning.Config(), planning.State()
        self._curve = reference_workload(IDLE_W, MAX_W)
        self._solver = solver or Solver()
        self._answers: tuple[Plan, ...] = ()

    def _planned_w(self, situation: governor.Situation, now_s: float) -> float | None:
        begin = planning.situation_of(
            self._power, self._config, self._governor, situation, self._heat.heat, self._curve, now_s
        )
        self._planning, _, request = planning.step(
            self._planning,
            self._planning_config,
            self._power_config,
            self._heat_config,
            begin,
            self._answers,
            now_s,
        )
        self._answers = () if request is None else (self._solver.solve(request, PATIENCE_S),)
        return planning.planned_power_w(self._planning, now_s)


def closed_form(scenario: Scenario) -> Governor:
    """The flight code's closed form on believed parameters."""
    return ClosedForm(scenario.belief)


def planned(scenario: Scenario) -> Governor:
    """The flight code with its planner on believed parameters."""
    return Planned(scenario.belief)
