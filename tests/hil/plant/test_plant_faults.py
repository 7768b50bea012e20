"""Every row of the table of faults: what it does, that it ends, and what of it is refused."""

from math import isnan

import pytest

from hil.plant.disturbances import FAULTS, SENSOR_FAULTS
from hil.plant.eps import EpsConfig
from hil.plant.plant import Loads, Plant, PlantConfig
from hil.plant.sensors import SENSOR_NAMES
from hil.plant.switches import LoadSwitch

LOADS = Loads(gpu_power_w=400.0)
CONFIG = PlantConfig(start_s=2400.0, eps=EpsConfig(loads=(LoadSwitch(name="heater", power_w=30.0),)))

# fault, its parameters, a field of the truth, and which way it goes within ten minutes.
EFFECTS = [
    ("radiator_degrade", {"factor": 0.4}, "radiator_temp_degc", 1),
    ("array_degrade", {"factor": 0.0}, "soc_fraction", -1),
    ("stray_load", {"power_w": 500.0}, "bus_voltage_v", -1),
    ("pump_stop", {"flow_fraction": 0.0}, "gpu_temp_degc", 1),
    ("pump_stop", {"flow_fraction": 0.2}, "gpu_temp_degc", 1),
    ("cell_open", {"strings": 2.0}, "battery_capacity_j", -1),
    ("cell_open", {"strings": 2.0}, "soc_fraction", -1),
    ("resistance_growth", {"factor": 3.0}, "battery_resistance_ohm", 1),
    ("array_string_open", {"strings": 10.0}, "soc_fraction", -1),
    ("switch_stuck", {"load": "heater", "on": 0.0}, "load_power_w", -1),
]


def fly(plant, seconds):
    for _ in range(seconds):
        plant.step(1.0, LOADS)
    return plant.truth()


@pytest.mark.parametrize(("fault", "parameters", "field", "way"), EFFECTS)
def test_faults_of_the_plant_move_the_truth(fault, parameters, field, way):
    start_s = 0.0 if fault.startswith("array") else CONFIG.start_s
    config = PlantConfig(start_s=start_s, eps=EpsConfig(loads=CONFIG.eps.loads, initial_soc_fraction=0.8))
    sound, hurt = Plant(config), Plant(config)
    hurt.inject(fault, **parameters)
    difference = getattr(fly(hurt, 600), field) - getattr(fly(sound, 600), field)
    assert difference * way > 0.0
    hurt.clear(fault)
    assert hurt.faults == {}


def test_every_fault_has_its_row_here():
    tested = {row[0] for row in EFFECTS} | set(SENSOR_FAULTS)
    assert tested == set(FAULTS)


def test_an_open_cell_keeps_the_state_of_charge_and_ends():
    plant = Plant(CONFIG)
    before = plant.truth()
    plant.inject("cell_open", strings=1.0)
    hurt = plant.step(1e-3, LOADS)
    assert hurt.soc_fraction == pytest.approx(before.soc_fraction, abs=1e-5)
    assert hurt.battery_capacity_j == pytest.approx(0.75 * before.battery_capacity_j)
    assert hurt.battery_resistance_ohm == pytest.approx(before.battery_resistance_ohm / 0.75)
    plant.clear("cell_open")
    whole = plant.step(1e-3, LOADS)
    assert whole.battery_capacity_j == pytest.approx(before.battery_capacity_j)
    assert whole.soc_fraction == pytest.approx(before.soc_fraction, abs=1e-5)


def test_a_frozen_sensor_tells_what_it_told_last():
    plant = Plant(CONFIG, seed=2)
    told = plant.sense().soc_fraction
    plant.inject("sensor_frozen", sensor="soc_fraction")
    fly(plant, 900)
    frames = [plant.sense() for _ in range(5)]
    assert {frame.soc_fraction for frame in frames} == {told}
    assert len({frame.bus_voltage_v for frame in frames}) > 1, "the others live"
    assert frames[0].world_s == plant.truth().world_s
    plant.clear("sensor_frozen")
    assert plant.sense().soc_fraction == pytest.approx(plant.truth().soc_fraction, abs=0.006)
    assert abs(plant.truth().soc_fraction - told) > 0.02


def test_a_sensor_that_was_never_read_freezes_at_its_first_reading():
    plant = Plant(seed=2)
    plant.inject("sensor_frozen", sensor="gpu_temp_degc")
    first = plant.sense().gpu_temp_degc
    fly(plant, 300)
    assert plant.sense().gpu_temp_degc == first


def test_faults_of_a_sensor_leave_the_noise_of_the_others_and_its_own_to_come():
    sound, hurt = Plant(seed=5), Plant(seed=5)
    hurt.inject("sensor_absurd", sensor="gpu_temp_degc", reading=900.0)
    hurt.inject("sensor_missing", sensor="bus_voltage_v")
    for _ in range(20):
        one, two = sound.sense(), hurt.sense()
        assert one.soc_fraction == two.soc_fraction
    hurt.clear("sensor_absurd")
    hurt.clear("sensor_missing")
    assert sound.sense() == hurt.sense()


@pytest.mark.parametrize("sensor", SENSOR_NAMES)
def test_absurd_and_missing_readings_of_every_sensor(sensor):
    plant = Plant()
    plant.inject("sensor_absurd", sensor=sensor, reading=-9999.0)
    assert getattr(plant.sense(), sensor) == -9999.0
    plant.inject("sensor_missing", sensor=sensor)
    assert isnan(getattr(plant.sense(), sensor))
    assert set(plant.faults) == {f"sensor_absurd:{sensor}", f"sensor_missing:{sensor}"}


def test_several_sensors_fail_at_once_and_are_mended_one_by_one():
    plant = Plant()
    for sensor in ("soc_fraction", "gpu_temp_degc"):
        plant.inject("sensor_missing", sensor=sensor)
    plant.clear("sensor_missing:soc_fraction")
    frame = plant.sense()
    assert not isnan(frame.soc_fraction)
    assert isnan(frame.gpu_temp_degc)
    plant.clear("sensor_missing")
    assert plant.faults == {}


def test_silent_sensors_give_no_frame_and_their_numbers_are_used_up():
    plant = Plant()
    assert plant.sense().sequence == 1
    plant.inject("sensors_silent")
    assert [plant.sense() for _ in range(3)] == [None] * 3
    plant.clear("sensors_silent")
    assert plant.sense().sequence == 5


@pytest.mark.parametrize(
    ("name", "parameters", "complaint"),
    [
        ("pump_stop", {"flow_fraction": 1.5}, "flow_fraction = 1.5, allowed is 0 to 1"),
        ("cell_open", {"strings": 4.0}, "strings = 4, this satellite can lose 3"),
        ("array_string_open", {"strings": 11.0}, "strings = 11, this satellite can lose 10"),
        ("resistance_growth", {"factor": 0.5}, "factor = 0.5, allowed is 1 to 20"),
        ("switch_stuck", {"on": 1.0}, "takes exactly load and on, given: on"),
        ("switch_stuck", {"load": "toaster", "on": 1.0}, "load = 'toaster', there are heater"),
        ("sensor_frozen", {}, "takes exactly sensor, given: none"),
        ("sensor_frozen", {"sensor": "nose"}, "sensor = 'nose', there are bus_voltage_v"),
        ("sensor_absurd", {"sensor": "soc_fraction"}, "takes exactly sensor and reading"),
        ("sensor_absurd", {"sensor": "soc_fraction", "reading": float("inf")}, "reading = inf"),
        ("sensors_silent", {"seconds": 5.0}, "takes exactly none, given: seconds"),
    ],
)
def test_impossible_faults_are_refused_in_one_line_and_change_nothing(name, parameters, complaint):
    plant = Plant(CONFIG)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        plant.inject(name, **parameters)
    assert complaint in str(caught.value)
    assert plant.faults == {}
