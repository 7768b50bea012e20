"""One contract for every engine behind the interface: embedded, embedded with every model on, replay, Basilisk."""

from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from flightsw.link import avionics
from hil.plant.disturbances import FAULTS, SENSOR_FAULTS
from hil.plant.engine import Engine, Loads
from hil.plant.plant import Plant, PlantConfig
from hil.plant.presets import FULL
from hil.plant.recording import Recording
from hil.plant.replay import ReplayPlant

LOADS = Loads(gpu_power_w=420.0)
SPAN_S = 2400

needs_basilisk = pytest.mark.skipif(
    find_spec("Basilisk") is None, reason="the extra `basilisk` (600 MB) is not installed"
)


@dataclass
class Maker:
    name: str
    folder: object

    def __call__(self, seed: int = 3) -> Engine:
        if self.name == "embedded":
            return Plant(seed=seed)
        if self.name == "full":
            return Plant(FULL, seed=seed)
        if self.name == "basilisk":
            from hil.plant.basilisk import BasiliskPlant

            return BasiliskPlant(seed=seed)
        path = self.folder / "flight.csv"
        if not path.exists():
            source = Plant(seed=seed)
            with Recording(path) as record:
                record.add(source.truth())
                for _ in range(SPAN_S):
                    record.add(source.step(1.0, LOADS))
        return ReplayPlant.of(path, seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(params=["embedded", "full", "replay", pytest.param("basilisk", marks=needs_basilisk)])
def make(request, folder):
    return Maker(request.param, folder)


def test_it_starts_with_a_truth_and_a_frame(make):
    engine = make()
    assert engine.truth().world_s == 0.0
    frame = engine.sense(warp=2.0, radio_lock=True)
    assert (frame.sequence, frame.warp, frame.radio_lock) == (1, 2.0, True)
    assert avionics.decode(avionics.encode(frame)) == frame
    assert engine.faults == {}


def test_steps_add_up_and_truth_is_the_last_step(make):
    engine = make()
    for dt_s in (1.0, 0.5, 0.5, 7.0, 60.0):
        before = engine.truth()
        after = engine.step(dt_s, LOADS)
        assert after.world_s == pytest.approx(before.world_s + dt_s, abs=0.6)
        assert after == engine.truth()
        assert after != before
    assert engine.truth().world_s == 69.0
    assert engine.truth().tai_s - make().truth().tai_s == pytest.approx(69.0)


def test_the_same_seed_flies_the_same_world_and_another_hears_other_noise(make):
    one, two, other = make(), make(), make(seed=4)
    for _ in range(20):
        assert one.step(1.0, LOADS) == two.step(1.0, LOADS)
        other.step(1.0, LOADS)
        frame = one.sense()
        assert frame == two.sense()
        assert frame != other.sense()


def test_truth_is_a_record_that_later_steps_do_not_change(make):
    engine = make()
    first = engine.step(1.0, LOADS)
    latitude, soc = first.latitude_deg, first.soc_fraction
    for _ in range(30):
        engine.step(10.0, LOADS)
    assert (first.latitude_deg, first.soc_fraction) == (latitude, soc)
    assert engine.truth().latitude_deg != latitude


def test_everything_is_finite_and_in_its_range(make):
    engine = make()
    for _ in range(SPAN_S // 60):
        truth = engine.step(60.0, LOADS)
        assert 0.0 <= truth.sun_fraction <= 1.0
        assert 0.0 <= truth.soc_fraction <= 1.0
        assert 20.0 < truth.bus_voltage_v < 35.0
        assert -50.0 < truth.radiator_temp_degc < truth.gpu_temp_degc < 100.0
        assert truth.array_power_w >= 0.0
        assert truth.load_power_w >= truth.gpu_rail_power_w >= 0.0
        assert 250.0 < truth.altitude_km < 1300.0
        assert abs(truth.latitude_deg) <= 90.0
        assert truth.in_contact == bool(truth.visible)
        assert len(truth.radiator_nodes_degc) >= 1


def test_a_forecast_is_of_what_then_comes(make):
    engine = make()
    forecast = engine.forecast(2400.0)
    assert (forecast.start_s, forecast.end_s) == (0.0, 2400.0)
    # The default orbit's pass over Inuvik, and the eclipse that begins after half an hour.
    assert [item.station for item in forecast.passes][:1] == ["inuvik"]
    (eclipse,) = forecast.eclipses
    (first, *_) = forecast.passes
    while engine.truth().world_s < eclipse.start_s - 3.0:
        engine.step(1.0, LOADS)
        truth = engine.truth()
        if abs(truth.world_s - first.start_s) > 3.0 and abs(truth.world_s - first.end_s) > 3.0:
            inside = first.start_s < truth.world_s < first.end_s
            assert ("inuvik" in dict(truth.visible)) == inside
        assert truth.sun_fraction > 0.4
    for _ in range(6):
        engine.step(1.0, LOADS)
    assert engine.truth().sun_fraction < 0.6


@pytest.mark.parametrize("horizon_s", [0.0, -1.0, float("nan"), 1e9])
def test_horizons_out_of_range_are_refused(make, horizon_s):
    with pytest.raises(ValueError, match=r"\Aforecast horizon [^\n]+\Z"):
        make().forecast(horizon_s)


@pytest.mark.parametrize("dt_s", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
def test_steps_out_of_range_are_refused(make, dt_s):
    engine = make()
    with pytest.raises(ValueError, match=r"\Aplant step of [^\n]+\Z"):
        engine.step(dt_s, LOADS)
    assert engine.truth().world_s == 0.0


@pytest.mark.parametrize("watts", [-1.0, float("nan"), 1e6])
def test_loads_out_of_range_are_refused(make, watts):
    with pytest.raises(ValueError, match=r"\Aplant load gpu_power_w [^\n]+\Z"):
        make().step(1.0, Loads(gpu_power_w=watts))


PARAMETERS = {
    "radiator_degrade": {"factor": 0.5},
    "array_degrade": {"factor": 0.5},
    "battery_bias": {"offset": -0.1},
    "gpu_temp_bias": {"offset_k": 10.0},
    "stray_load": {"power_w": 100.0},
    "pump_stop": {"flow_fraction": 0.0},
    "cell_open": {"strings": 1.0},
    "resistance_growth": {"factor": 2.0},
    "array_string_open": {"strings": 1.0},
    "switch_stuck": {"load": "heater", "on": 1.0},
    "sensor_frozen": {"sensor": "soc_fraction"},
    "sensor_absurd": {"sensor": "soc_fraction", "reading": 7.0},
    "sensor_missing": {"sensor": "soc_fraction"},
    "sensors_silent": {},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_taken_and_shown_or_refused_in_one_line(make, fault):
    """No engine may take a fault and leave it without effect in silence."""
    engine, refusal = make(), ""
    try:
        engine.inject(fault, **PARAMETERS[fault])
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert fault not in SENSOR_FAULTS
    else:
        assert [key.partition(":")[0] for key in engine.faults] == [fault]
        engine.clear(fault)
    assert engine.faults == {}


def test_faults_of_sensors_act_on_every_engine(make):
    engine = make()
    engine.inject("sensor_absurd", sensor="gpu_temp_degc", reading=999.0)
    assert engine.sense().gpu_temp_degc == 999.0
    engine.inject("sensors_silent")
    assert engine.sense() is None
    engine.clear("sensors_silent")
    engine.clear("sensor_absurd")
    assert engine.sense().gpu_temp_degc == pytest.approx(engine.truth().gpu_temp_degc, abs=2.0)


def test_unknown_faults_are_refused(make):
    engine = make()
    with pytest.raises(ValueError, match="plant fault 'meteor': unknown"):
        engine.inject("meteor")
    with pytest.raises(ValueError, match="plant fault 'meteor': unknown"):
        engine.clear("meteor")


def test_the_nominal_satellite_is_what_it_was():
    """The default configuration has none of the newer models on."""
    plain = Plant()
    for _ in range(5700):
        truth = plain.step(1.0, LOADS)
    assert truth.battery_capacity_j == 700.0 * 3600.0
    assert truth.battery_resistance_ohm == 0.040
    assert truth.pump_flow_fraction == 1.0
    assert truth.radiator_nodes_degc == (truth.radiator_temp_degc,)
    assert PlantConfig() != FULL
