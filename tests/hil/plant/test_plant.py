"""The interface: determinism, refusals with one line, sensors that are the truth plus stated errors."""

import statistics
from time import process_time

import pytest

from hil.plant.eps import EpsConfig
from hil.plant.orbit import Elements
from hil.plant.plant import Loads, Plant, PlantConfig
from hil.plant.sensors import SENSORS
from hil.plant.stations import STATIONS, Station
from hil.plant.thermal import ThermalConfig

LOADS = Loads(gpu_power_w=450.0)


def fly(plant, seconds, dt_s):
    for _ in range(round(seconds / dt_s)):
        plant.step(dt_s, LOADS)
    return plant.truth()


def test_same_steps_same_truth_and_same_frames():
    one, two = Plant(seed=7), Plant(seed=7)
    other = Plant(seed=8)
    for _ in range(50):
        assert one.step(1.0, LOADS) == two.step(1.0, LOADS) == other.step(1.0, LOADS)
        frame = one.sense()
        assert frame == two.sense()
        assert frame != other.sense()


@pytest.mark.parametrize("dt_s", [0.1, 5.0, 95.0])
def test_the_rate_does_not_change_the_world(dt_s):
    """10 Hz, 5 s and one call for 95 s against 1 Hz, over an orbit with both eclipse edges."""
    fine, other = fly(Plant(), 5700.0, 1.0), fly(Plant(), 5700.0, dt_s)
    assert other.world_s == pytest.approx(fine.world_s, abs=1e-6)
    assert other.position_km == pytest.approx(fine.position_km, abs=1e-4)
    assert other.soc_fraction == pytest.approx(fine.soc_fraction, abs=0.0015)
    assert other.gpu_temp_degc == pytest.approx(fine.gpu_temp_degc, abs=0.1)
    assert other.radiator_temp_degc == pytest.approx(fine.radiator_temp_degc, abs=0.1)


def test_a_later_start_is_the_same_world():
    early = Plant()
    early.step(3000.0, LOADS)
    late = Plant(PlantConfig(start_s=3000.0)).truth()
    assert late.world_s == early.truth().world_s == 3000.0
    assert late.tai_s == early.truth().tai_s
    assert late.position_km == early.truth().position_km
    assert late.sun_fraction == early.truth().sun_fraction == 0.0


def test_time_is_tai_since_1958():
    truth = Plant().truth()
    # 2026-03-31T00:00:00 UTC.
    assert truth.tai_s == (24837 + 89) * 86400 + 37
    assert Plant().step(10.0, LOADS).tai_s == truth.tai_s + 10.0


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (PlantConfig(eps=EpsConfig(array_area_m2=-1.0)), "eps.array_area_m2 = -1.0: Expected `float` >= 0.01"),
        (PlantConfig(eps=EpsConfig(charge_efficiency=1.2)), "eps.charge_efficiency = 1.2"),
        (PlantConfig(eps=EpsConfig(capacity_wh=float("nan"))), "eps.capacity_wh is nan"),
        (PlantConfig(eps=EpsConfig(bus_power_w=float("inf"))), "eps.bus_power_w is inf"),
        (PlantConfig(thermal=ThermalConfig(emissivity=0.0)), "thermal.emissivity = 0.0"),
        (PlantConfig(thermal=ThermalConfig(attitude="up")), "thermal.attitude = 'up'"),
        (PlantConfig(elements=Elements(altitude_km=-100.0)), "elements.altitude_km = -100.0"),
        (PlantConfig(elements=Elements(altitude_km=36000.0)), "elements.altitude_km = 36000.0"),
        (PlantConfig(elements=Elements(inclination_deg=181.0)), "elements.inclination_deg = 181.0"),
        (PlantConfig(elements=Elements(epoch_utc="tomorrow")), "epoch 'tomorrow'"),
        (PlantConfig(orbit="moon"), "orbit 'moon'"),
        (PlantConfig(stations=("atlantis",)), "station 'atlantis'"),
        (PlantConfig(stations=("kiruna", "kiruna")), "each name once"),
        (PlantConfig(own_stations=(Station(name="x", latitude_deg=91.0, longitude_deg=0.0),)), "own_stations"),
        (PlantConfig(sensor_noise=-1.0), "sensor_noise = -1.0"),
    ],
)
def test_impossible_configurations_are_refused_in_one_line(config, complaint):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        Plant(config)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parameters", "complaint"),
    [
        ("meteor", {"size": 1.0}, "'meteor': unknown; known are radiator_degrade"),
        ("radiator_degrade", {}, "takes exactly factor, given: none"),
        ("radiator_degrade", {"factor": 0.5, "x": 1.0}, "takes exactly factor, given: factor, x"),
        ("radiator_degrade", {"factor": 0.0}, "factor = 0.0, allowed is 0.05 to 1"),
        ("radiator_degrade", {"factor": float("nan")}, "factor = nan"),
        ("array_degrade", {"factor": -0.1}, "factor = -0.1"),
        ("battery_bias", {"offset": 2.0}, "offset = 2.0, allowed is -1 to 1"),
        ("battery_bias", {"offset": "much"}, "offset = 'much'"),
        ("battery_bias", {"offset": True}, "offset = True"),
        ("battery_bias", {"offset": None}, "offset = None"),
    ],
)
def test_impossible_faults_are_refused_and_change_nothing(name, parameters, complaint):
    plant = Plant()
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        plant.inject(name, **parameters)
    assert complaint in str(caught.value)
    assert plant.faults == {}


def test_clear_refuses_unknown_names_and_forgives_absent_ones():
    plant = Plant()
    plant.clear("battery_bias")
    with pytest.raises(ValueError, match="meteor"):
        plant.clear("meteor")


@pytest.mark.parametrize("dt_s", [0.0, -1.0, float("nan"), 3601.0])
def test_steps_out_of_range(dt_s):
    with pytest.raises(ValueError, match="plant step"):
        Plant().step(dt_s, LOADS)


@pytest.mark.parametrize("gpu_power_w", [-1.0, float("nan"), float("inf")])
def test_loads_out_of_range(gpu_power_w):
    with pytest.raises(ValueError, match="gpu_power_w"):
        Plant().step(1.0, Loads(gpu_power_w=gpu_power_w))


def test_sensors_are_the_truth_plus_their_stated_errors():
    """Mean within 5 standard errors plus half a step, spread as stated, every sensor of the table."""
    plant = Plant(seed=3)
    plant.step(100.0, LOADS)
    truth = plant.truth()
    frames = [plant.sense() for _ in range(2000)]
    for row in SENSORS:
        values = [getattr(frame, row.field) for frame in frames]
        true = getattr(truth, row.field)
        if row.high - true < 5.0 * row.sigma or true - row.low < 5.0 * row.sigma:
            assert all(row.low <= value <= row.high for value in values)
            continue
        assert statistics.fmean(values) == pytest.approx(true, abs=5.0 * row.sigma / 2000**0.5 + 0.5 * row.step)
        if row.sigma:
            spread = (row.sigma**2 + row.step**2 / 12.0) ** 0.5
            assert statistics.stdev(values) == pytest.approx(spread, rel=0.1)
        assert all(abs(value / row.step - round(value / row.step)) < 1e-6 for value in values), row.field


def test_frames_carry_clock_lock_and_sequence():
    plant = Plant()
    plant.step(2.0, LOADS)
    first, second = plant.sense(warp=48.0, radio_lock=True), plant.sense(radio_lock=False)
    assert (first.sequence, second.sequence) == (1, 2)
    assert (first.warp, second.warp) == (48.0, 1.0)
    assert (first.radio_lock, second.radio_lock) == (True, False)
    assert first.world_s == second.world_s == 2.0


def test_noise_scale_zero_is_bare_quantisation():
    plant = Plant(PlantConfig(sensor_noise=0.0))
    truth = plant.step(50.0, LOADS)
    frame = plant.sense()
    assert frame.soc_fraction == pytest.approx(truth.soc_fraction, abs=0.5e-4 + 1e-9)
    assert frame.gpu_temp_degc == pytest.approx(truth.gpu_temp_degc, abs=0.05 + 1e-9)


@pytest.mark.parametrize(
    ("fault", "parameters", "field", "shift"),
    [
        ("battery_bias", {"offset": -0.08}, "soc_fraction", -0.08),
        ("gpu_temp_bias", {"offset_k": 12.0}, "gpu_temp_degc", 12.0),
    ],
)
def test_a_biased_sensor_lies_and_the_truth_does_not(fault, parameters, field, shift):
    plant = Plant(PlantConfig(sensor_noise=0.0))
    honest, true = getattr(plant.sense(), field), plant.truth()
    plant.inject(fault, **parameters)
    assert plant.faults == {fault: shift}
    assert getattr(plant.sense(), field) == pytest.approx(honest + shift, abs=1e-6)
    assert plant.truth() == true
    plant.clear(fault)
    assert getattr(plant.sense(), field) == honest


def test_a_biased_gauge_stays_in_its_range():
    plant = Plant()
    plant.inject("battery_bias", offset=0.5)
    assert plant.sense().soc_fraction == 1.0
    plant.inject("battery_bias", offset=-1.0)
    assert plant.sense().soc_fraction == 0.0


def test_stations_of_ones_own_are_seen():
    truth = Plant().truth()
    below = Station(name="below", latitude_deg=truth.latitude_deg, longitude_deg=truth.longitude_deg)
    seen = dict(Plant(PlantConfig(own_stations=(below,))).truth().visible)
    assert seen["below"] == pytest.approx(90.0, abs=0.1)
    assert len(STATIONS) >= 10


def test_stepping_is_fast_enough_for_campaigns():
    """A bound with ample room for a busy machine; idle it is four times faster."""
    plant = Plant()
    begin_s = process_time()
    fly(plant, 5700.0, 1.0)
    assert 5700.0 / (process_time() - begin_s) > 15_000
