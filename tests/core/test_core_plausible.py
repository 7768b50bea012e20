"""Plausibility: every kind of lie is told, healthy sensors never are, and a true jump is believed in the end."""

import random
from itertools import pairwise
from math import nan

import msgspec
import pytest
from core_flight import sensor_frame
from core_plant import Plant

from flightsw.core import plausible, sense
from flightsw.core.inputs import Inputs
from flightsw.link.avionics import SensorFrame

NOISE = {
    # As the bench's sensors: sigma and quantisation step.
    "bus_voltage_v": (0.02, 0.01),
    "bus_current_a": (0.02, 0.01),
    "array_power_w": (2.0, 0.5),
    "battery_voltage_v": (0.02, 0.01),
    "battery_current_a": (0.02, 0.01),
    "battery_temp_degc": (0.2, 0.1),
    "soc_fraction": (0.001, 0.0001),
    "sun_fraction": (0.005, 0.001),
    "gpu_temp_degc": (0.3, 0.1),
    "radiator_temp_degc": (0.3, 0.1),
    "gpu_rail_power_w": (2.0, 0.5),
}
CLIPS = {
    "soc_fraction": (0.0, 1.0),
    "sun_fraction": (0.0, 1.0),
    "array_power_w": (0.0, 2e4),
    "gpu_rail_power_w": (0.0, 5e3),
}


class Sensors:
    """The bench's sensors on the plant, and the judge; ``lie`` overrides what is read."""

    def __init__(self, tick_s: float = 1.0, seed: int = 0, noise: float = 1.0, plant: Plant | None = None) -> None:
        self.draw, self.tick_s, self.noise = random.Random(seed), tick_s, noise
        self.plant, self.state, self.sequence = plant or Plant(energy_j=2.3e6), plausible.START, 0
        self.events: list[tuple[str, str]] = []
        self.lie: dict[str, float] = {}
        self.gpu_w = 400.0
        self.believed: SensorFrame | None = None

    def read(self) -> SensorFrame:
        self.sequence += 1
        exact = sensor_frame(self.sequence, self.plant)
        changes = {}
        for name, (sigma, step) in NOISE.items():
            value = getattr(exact, name)
            if self.noise:
                value = round((value + self.draw.gauss(0.0, sigma)) / step) * step
                low, high = CLIPS.get(name, (-1e9, 1e9))
                value = min(high, max(low, value))
            changes[name] = value
        return msgspec.structs.replace(exact, **{**changes, **self.lie})

    def judge(self, frame: SensorFrame) -> plausible.State:
        self.state, self.believed, found = plausible.step(self.state, frame)
        self.events += [(event.name, str(event.fields["sensor"])) for event in found]
        return self.state

    def run(self, frames: int) -> plausible.State:
        for _ in range(frames):
            self.plant.step(self.tick_s, self.gpu_w)
            self.judge(self.read())
        return self.state


@pytest.mark.parametrize(
    ("name", "plant", "gpu_w", "noise"),
    [
        ("orbits", Plant(energy_j=2.3e6), 400.0, 1.0),
        ("battery at rest, full", Plant(eclipse_s=0.0), 400.0, 1.0),
        ("rail off", Plant(phase_s=3000.0), 0.0, 1.0),
        ("without any noise", Plant(energy_j=2.3e6), 700.0, 0.0),
        ("without any noise, full", Plant(eclipse_s=0.0), 400.0, 0.0),
    ],
)
def test_healthy_sensors_are_believed(name: str, plant: Plant, gpu_w: float, noise: float) -> None:
    """Two orbits at 1 Hz each; thirty days of it were flown once, see ``test_thirty_days`` for the odds."""
    sensors = Sensors(noise=noise, plant=plant)
    sensors.gpu_w = gpu_w
    sensors.run(11_400)
    assert (sensors.events, sensors.state.bad) == ([], ()), name


def test_thirty_days() -> None:
    """The odds of a false *frozen* in 30 days at 1 Hz, from the most frequent repetition among all sensors."""
    repeat = 0.0
    for sigma, step in NOISE.values():
        draw = random.Random(1)
        readings = [round(draw.gauss(0.5 * step, sigma) / step) for _ in range(20_000)]
        repeat = max(repeat, sum(a == b for a, b in pairwise(readings)) / 20_000)
    assert repeat < 0.2
    assert 30 * 86_400 * len(NOISE) * repeat**plausible.REPEATS < 1e-12


@pytest.mark.parametrize("tick_s", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(
    "name", ["soc_fraction", "gpu_temp_degc", "radiator_temp_degc", "battery_voltage_v", "gpu_rail_power_w"]
)
def test_a_frozen_sensor_is_told_and_believed_again(name: str, tick_s: float) -> None:
    sensors = Sensors(tick_s, plant=Plant(energy_j=1.5e6, eclipse_s=0.0, charge_max_w=30.0))
    sensors.run(400)
    sensors.lie[name] = getattr(sensors.read(), name)
    sensors.run(plausible.REPEATS - 4)  # The reading before may have been the same.
    assert sensors.state.bad == ()
    sensors.run(5)
    assert sensors.state.bad == ((name, "SENSOR_FROZEN"),)
    assert str(getattr(sensors.believed, name)) == "nan"
    sensors.lie.clear()
    sensors.run(4)
    assert sensors.state.bad == ()
    assert sensors.events == [("SENSOR_FROZEN", name), ("SENSOR_TRUSTED", name)]


@pytest.mark.parametrize(
    ("name", "resting"), [("soc_fraction", 1.0), ("sun_fraction", 1.0), ("gpu_rail_power_w", 0.0)]
)
def test_a_reading_may_rest_at_the_end_of_its_range(name: str, resting: float) -> None:
    sensors = Sensors(plant=Plant())
    sensors.gpu_w = 60.0
    sensors.run(200)
    sensors.lie[name] = resting
    assert sensors.run(200).bad == ()


def test_a_frame_that_stands_still_is_told_at_once_and_is_no_valid_frame() -> None:
    sensors = Sensors(0.1)
    sensors.run(200)
    still = sensors.read()
    assert sensors.judge(still).bad == ()
    again = msgspec.structs.replace(still, sequence=still.sequence + 1, world_s=still.world_s + 0.1)
    assert sensors.judge(again).frozen
    assert sensors.events == [("SENSOR_FROZEN", "all")]
    assert not sensors.run(1).frozen
    assert sensors.events[-1] == ("SENSOR_TRUSTED", "all")


def test_frozen_frames_go_stale() -> None:
    """In ``sense``: nothing of a frame that stands still is taken, and two seconds later the sensors are stale."""
    sensors = Sensors(0.1)
    state, now_s, names = sense.start(0.0), 0.0, []

    def take(frame: SensorFrame) -> None:
        nonlocal state, now_s
        now_s += 0.1
        state, found = sense.step(state, sense.Config(), Inputs(sensors=frame), now_s)
        names.extend(event.name for event in found)

    for _ in range(200):
        sensors.plant.step(0.1, 400.0)
        take(sensors.read())
    still = sensors.read()
    for count in range(22):
        take(msgspec.structs.replace(still, sequence=still.sequence + count, world_s=still.world_s + 0.1 * count))
    assert state.bad == ("all",)
    assert not state.fresh
    assert state.frame == state.raw == still
    assert names == ["SENSOR_FROZEN", "SENSORS_STALE"]


@pytest.mark.parametrize(
    ("name", "by", "trusted_after_s"),
    [
        ("gpu_temp_degc", 60.0, 140.0),
        ("radiator_temp_degc", -40.0, 180.0),
    ],
)
def test_a_jump_is_not_believed_until_there_was_time_for_it(name: str, by: float, trusted_after_s: float) -> None:
    sensors = Sensors(plant=Plant(energy_j=2.3e6, phase_s=100.0))
    sensors.run(100)
    level = getattr(sensors.read(), name) + by
    bad = []
    for _ in range(400):
        sensors.lie[name] = level + sensors.draw.gauss(0.0, 0.0005)
        bad.append(sensors.run(1).bad == ((name, "SENSOR_JUMPED"),))
    assert bad.index(False) == pytest.approx(trusted_after_s, rel=0.1)
    assert not any(bad[bad.index(False) :])


def test_a_glitch_is_not_believed_and_soon_forgotten() -> None:
    sensors = Sensors()
    sensors.run(100)
    sensors.lie["gpu_temp_degc"] = 150.0
    assert sensors.run(1).bad == (("gpu_temp_degc", "SENSOR_JUMPED"),)
    assert str(sensors.believed.gpu_temp_degc) == "nan"
    sensors.lie.clear()
    assert sensors.run(1).bad == ()


def test_missing_values_and_silence_are_no_lies() -> None:
    sensors = Sensors()
    sensors.run(100)
    sensors.lie = dict.fromkeys(NOISE, nan)
    sensors.run(40)
    sensors.lie = {}
    sensors.run(5)
    sensors.plant.time_s += 1000.0
    sensors.plant.gpu_k += 50.0
    sensors.run(5)
    sensors.plant.time_s -= 5000.0
    sensors.plant.gpu_k -= 50.0
    sensors.run(5)
    assert sensors.events == []


CONTRADICTIONS = {
    "rail reads far too much": ({"gpu_rail_power_w": 3000.0}, "gpu_rail_power_w", 100.0),
    "bus current is dead": ({"bus_current_a": 0.0}, "bus_current_a", 4000.0),
    "battery current is dead": ({"battery_current_a": 0.0}, "battery_current_a", 4000.0),
    "battery current has the wrong sign": ({"battery_current_a": 15.0}, "battery_current_a", 4000.0),
    "battery gives what nobody takes": ({"battery_current_a": -20.0}, "battery_current_a", 100.0),
    "sun sensor is stuck dark": ({"sun_fraction": 0.0}, "sun_fraction", 100.0),
    "array gives nothing": ({"array_power_w": 0.0, "battery_current_a": -14.0}, "", 100.0),
    "bus reads low": ({"battery_voltage_v": 28.0, "battery_current_a": 0.0}, "", 100.0),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_sensors_that_contradict_each_other(name: str) -> None:
    lie, culprit, phase_s = CONTRADICTIONS[name]
    sensors = Sensors(plant=Plant(energy_j=2.3e6, phase_s=phase_s))
    sensors.run(20)
    sensors.lie = dict(lie)
    sensors.run(plausible.PERSISTENCE - 1)
    assert sensors.events == []
    sensors.run(2)
    assert sensors.events == [("SENSOR_CONTRADICTED", culprit or "nobody")]
    assert sensors.state.bad == (((culprit, "SENSOR_CONTRADICTED"),) if culprit else ())
    assert (str(getattr(sensors.believed, culprit)) == "nan") if culprit else sensors.believed is not None
    sensors.lie = {}
    sensors.run(2)
    assert (sensors.state.bad, sensors.state.reported) == ((), ())


def test_an_impossible_reading_is_one_verdict_and_not_two() -> None:
    """While the last good value stands in for a reading out of range, nobody calls the sensor frozen."""
    sensors = Sensors(0.05)
    state, now_s, names = sense.start(0.0), 0.0, []
    for count in range(300):
        now_s += 0.05
        sensors.plant.step(0.05, 400.0)
        sensors.lie = {"array_power_w": 1e9} if count > 200 else {}
        state, found = sense.step(state, sense.Config(), Inputs(sensors=sensors.read()), now_s)
        names += [event.name for event in found]
        if 200 < count < 230:
            assert state.frame.array_power_w == state.raw.array_power_w < 2e4
    assert names == ["SENSOR_INVALID"]
    assert state.bad == ("array_power_w",)
