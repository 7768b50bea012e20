"""Bus alarm: judged on arrival, workers parked first, the rail within 0.25 s when rest did not help, then back."""

import math

import pytest
from core_flight import Flight, sensor_frame
from core_plant import Plant

from flightsw.core import checkpoint, eps, executive
from flightsw.core.bus_alarm import CLEAR, Config, Level, State, hear, judge, step
from flightsw.core.effects import Actuate, SaveCheckpoint, SetPace
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import Life
from flightsw.link.avionics import SensorFrame

CONFIG, POWER = Config(), eps.Config()
NAN = math.nan
JOBS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer"))


def bus(volts: float = 28.0, amperes: float = 10.0, sequence: int = 1) -> SensorFrame:
    return sensor_frame(sequence, Plant(), bus_voltage_v=volts, bus_current_a=amperes)


# (bus voltage, V; bus current, A; what it says)
LEVELS = (
    (28.0, 10.0, Level.WELL),
    (24.01, 60.0, Level.WELL),
    (24.0, 10.0, Level.LOW),
    (22.0, 10.0, Level.LOW),
    (21.99, 10.0, Level.BEYOND),
    (20.0, 10.0, Level.BEYOND),
    (19.99, 10.0, Level.GRAVE),
    (0.0, 0.0, Level.GRAVE),
    (28.0, 60.01, Level.BEYOND),
    (28.0, 100.0, Level.BEYOND),
    (28.0, 100.01, Level.GRAVE),
    (21.0, 101.0, Level.GRAVE),
    (NAN, 10.0, Level.LOW),
    (28.0, NAN, Level.LOW),
    (-1.0, 10.0, Level.LOW),
    (28.0, 501.0, Level.LOW),
    (NAN, 101.0, Level.GRAVE),
    (19.0, NAN, Level.GRAVE),
    (math.inf, math.inf, Level.LOW),
)


@pytest.mark.parametrize(("volts", "amperes", "level"), LEVELS)
def test_what_a_frame_says(volts: float, amperes: float, level: Level) -> None:
    assert judge(CONFIG, POWER, bus(volts, amperes)) is level


W, L, B, G = 28.0, 23.0, 21.0, 19.0
# (bus voltages in the order of arrival, index of the frame that raises the alarm or None)
SEQUENCES = {
    "well": ([W, W, W], None),
    "a collapse at its first frame": ([W, G, W], 1),
    "two in a row": ([W, B, B], 2),
    "one is noise": ([B, W, B, W, B], None),
    "a frame between breaks the row": ([B, L, B], None),
    "no value breaks the row": ([B, NAN, B], None),
    "beyond, then a collapse": ([B, G], 1),
    "low is none": ([L] * 5, None),
}


@pytest.mark.parametrize(("volts", "raises"), SEQUENCES.values(), ids=SEQUENCES)
def test_when_the_alarm_is_raised(volts: list[float], raises: int | None) -> None:
    state, since = CLEAR, None
    for index, value in enumerate(volts):
        state = hear(state, CONFIG, POWER, bus(value, sequence=index), float(index))
        since = index if since is None and state.active else since
    assert since == raises
    assert state.since_s == (None if raises is None else float(raises))


def test_a_frozen_frame_is_no_second_one() -> None:
    once = hear(CLEAR, CONFIG, POWER, bus(B), 0.0)
    assert hear(once, CONFIG, POWER, bus(B), 0.1) is once
    assert hear(once, CONFIG, POWER, bus(B, sequence=2), 0.1).active


def test_a_well_bus_changes_nothing() -> None:
    assert hear(CLEAR, CONFIG, POWER, bus(), 0.0) is CLEAR
    assert step(CLEAR, CONFIG, 0.0) == (CLEAR, ())


# (level now, since when it is well, age of the alarm, cut before) -> (cut, active)
ACTIVE = (
    (Level.GRAVE, None, 0.09, False, (False, True)),
    (Level.GRAVE, None, 0.1, False, (True, True)),
    (Level.BEYOND, None, 0.1, False, (True, True)),
    (Level.LOW, None, 60.0, False, (False, True)),
    (Level.LOW, None, 600.0, True, (True, True)),
    (Level.WELL, 4.9, 60.0, False, (False, True)),
    (Level.WELL, 5.0, 60.0, False, (False, False)),
    (Level.WELL, 59.0, 90.0, True, (True, True)),
    (Level.WELL, 60.0, 90.0, True, (False, False)),
)


@pytest.mark.parametrize(("level", "well_for_s", "age_s", "cut", "after"), ACTIVE)
def test_what_follows_in_the_minor_frame(
    level: Level, well_for_s: float | None, age_s: float, cut: bool, after: tuple[bool, bool]
) -> None:
    now_s = 1024.0
    well_s = None if well_for_s is None else now_s - well_for_s
    state = State(level=level, sequence=7, since_s=now_s - age_s, well_s=well_s, cut=cut)
    state, found = step(state, CONFIG, now_s)
    assert (state.cut, state.active) == after
    assert [event.name for event in found] == ([] if after[1] else ["BUS_ALARM_OVER"])


def test_the_well_time_begins_anew_with_every_relapse() -> None:
    state = hear(CLEAR, CONFIG, POWER, bus(G, sequence=0), 0.0)
    for now_s, volts, well_s in ((1.0, W, 1.0), (2.0, W, 1.0), (3.0, L, None), (4.0, W, 4.0), (5.0, B, None)):
        state = hear(state, CONFIG, POWER, bus(volts, sequence=round(now_s)), now_s)
        assert state.well_s == well_s
        assert state.since_s == 0.0


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"short_circuit_a = 50 must not be under overcurrent_a = 60"):
        Config(short_circuit_a=50.0)


def flying(**alarm: float) -> Flight:
    flight = Flight(executive.Config(jobs=JOBS, bus_alarm=Config(**alarm)))
    flight.fly(10.0)
    assert flight.workers["train"].duty > 0.9
    return flight


def rail(effects: tuple[object, ...]) -> bool:
    (frame,) = (effect for effect in effects if isinstance(effect, Actuate))
    return frame.gpu_rail_on


def test_the_workers_are_parked_before_anything_else_is_said() -> None:
    flight = flying()
    effects = flight.arrive(bus_voltage_v=19.0)
    assert effects[0] == SetPace("train", 0.0)
    assert SaveCheckpoint("train", "bus alarm") in effects
    (event,) = flight.events("BUS_ALARM")
    assert event[2]["voltage_v"] == 19.0
    assert flight.workers["train"].duty == 0.0
    assert flight.arrive(bus_voltage_v=19.0) == (), "once"


def test_a_well_frame_on_arrival_leaves_the_vehicle_as_it_is() -> None:
    flight = flying()
    before = flight.vehicle
    assert flight.arrive() == ()
    assert flight.vehicle is before


def test_a_doubtful_frame_says_nothing_yet() -> None:
    flight = flying()
    assert flight.arrive(bus_voltage_v=21.0) == ()
    assert flight.workers["train"].duty > 0.9
    assert flight.arrive(bus_voltage_v=21.0) != ()
    assert flight.workers["train"].duty == 0.0


def test_rest_that_helps_keeps_the_rail_and_work_goes_on() -> None:
    flight = flying(hold_s=1.0)
    flight.arrive(bus_voltage_v=19.0)
    flight.arrive(bus_voltage_v=27.0)
    for _ in range(9):
        assert rail(flight.frame())
        flight.arrive(bus_voltage_v=27.0)
        assert flight.workers["train"].duty == 0.0
    for _ in range(4):
        assert rail(flight.frame())
    assert flight.workers["train"].duty > 0.9
    assert len(flight.events("BUS_ALARM_OVER")) == 1
    assert flight.vehicle.alarm is CLEAR


@pytest.mark.parametrize("phase_s", [0.0, 0.001, 0.03, 0.05, 0.0999])
def test_rest_that_does_not_help_costs_the_rail_within_a_quarter_second(phase_s: float) -> None:
    flight = flying(off_s=1.0)
    flight.sensor_changes = {"bus_voltage_v": 19.0}
    flight.now_s += phase_s
    raised_s = flight.now_s
    flight.arrive(bus_voltage_v=19.0)
    flight.now_s -= phase_s
    while rail(flight.frame()):
        flight.arrive(bus_voltage_v=19.0)
        assert flight.now_s - raised_s < 0.25
    assert flight.now_s - raised_s <= 0.2001
    assert flight.vehicle.payload.jobs[0].life is Life.STOPPING, "killed with the rail"
    assert flight.events("RAIL_SWITCHED")[-1][2] == {"state": "OFF", "reason": "BUS_ALARM"}
    # The bus is well: the rail comes back after its time, and the work with it.
    flight.sensor_changes = {}
    for _ in range(300):
        flight.arrive()
        flight.frame()
    assert {"state": "ON", "reason": "BUS_ALARM_OVER"} in [event[2] for event in flight.events("RAIL_SWITCHED")]
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING


def test_silence_after_an_alarm_is_no_recovery() -> None:
    flight = flying()
    flight.arrive(bus_voltage_v=19.0)
    flight.sensors_on = False
    for _ in range(5):
        last = rail(flight.frame())
    assert not last


def test_a_checkpoint_that_is_on_its_way_is_not_asked_for_again() -> None:
    flight = flying()
    flight.arrive(bus_voltage_v=19.0)
    assert flight.vehicle.checkpoint.rings[0].asked_s == flight.now_s
    state = flight.vehicle.checkpoint
    again, asked = checkpoint.order_all(state, JOBS, flight.vehicle.payload, "bus alarm", flight.now_s)
    assert (again, asked) == (state, ())


def test_an_alarm_without_workers_still_cuts_the_rail() -> None:
    flight = Flight(executive.Config())
    flight.frame()
    assert not any(isinstance(effect, SetPace) for effect in flight.arrive(bus_current_a=120.0))
    flight.sensor_changes = {"bus_current_a": 120.0}
    assert not [rail(flight.frame()) for _ in range(2)][-1]
