"""Recordings: what is written is what is read, what cannot be followed is said, and what is broken is one line."""

from math import isnan

import pytest

from hil.plant.engine import Loads
from hil.plant.plant import Plant, PlantConfig
from hil.plant.presets import FULL
from hil.plant.recording import COLUMNS, Record, Recording, read_record
from hil.plant.replay import ReplayPlant

LOADS = Loads(gpu_power_w=420.0)


@pytest.fixture(scope="module")
def flown(tmp_path_factory):
    """A recording over a pass and into the eclipse at 10 s, with its truths."""
    path = tmp_path_factory.mktemp("replay") / "flight.csv"
    plant = Plant(FULL, seed=1)
    truths = [plant.truth()]
    with Recording(path) as record:
        record.add(truths[0])
        for _ in range(240):
            truths.append(plant.step(10.0, LOADS))
            record.add(truths[-1])
    return path, truths


def test_a_replay_is_the_flight_to_the_last_bit(flown):
    path, truths = flown
    replay = ReplayPlant.of(path)
    assert replay.truth() == truths[0]
    for truth in truths[1:]:
        assert replay.step(10.0, LOADS) == truth


def test_between_two_rows_the_earlier_holds(flown):
    path, truths = flown
    replay = ReplayPlant.of(path)
    assert replay.step(9.0, LOADS) == truths[0]
    assert replay.step(1.5, LOADS) == truths[1]
    assert replay.step(9.5, LOADS) == truths[2]


def test_the_end_of_the_record_is_a_clear_error(flown):
    path, truths = flown
    replay = ReplayPlant.of(path)
    replay.step(2400.0, LOADS)
    assert replay.truth() == truths[-1]
    with pytest.raises(ValueError, match=r"\Areplay of [^\n]+flight.csv: ends at 2400 s, 2401 s was asked for\Z"):
        replay.step(1.0, LOADS)
    assert replay.truth() == truths[-1]
    with pytest.raises(ValueError, match=r"ends at 2400 s, a forecast to 2500 s was asked for\Z"):
        replay.forecast(100.0)


def test_loads_that_it_cannot_follow_are_ignored_and_told(flown):
    path, truths = flown
    replay = ReplayPlant.of(path)
    replay.step(10.0, LOADS)
    assert replay.remarks.endswith("loads change nothing")
    assert replay.step(10.0, Loads(gpu_power_w=700.0)) == truths[2]
    replay.step(10.0, Loads(gpu_power_w=100.0))
    replay.step(10.0, Loads(gpu_power_w=420.0, gpu_rail_on=False))
    assert "3 of 4 steps asked for another GPU power than was recorded, by up to 420 W" in replay.remarks


def test_faults_of_its_world_are_refused_and_those_of_sensors_act(flown):
    replay = ReplayPlant.of(flown[0])
    with pytest.raises(ValueError, match=r"\Aplant fault pump_stop: a replay cannot be disturbed, [^\n]+\Z"):
        replay.inject("pump_stop", flow_fraction=0.0)
    replay.inject("battery_bias", offset=-0.3)
    assert replay.sense().soc_fraction == pytest.approx(replay.truth().soc_fraction - 0.3, abs=0.01)


def test_its_forecast_is_that_of_the_flight_to_a_row(flown):
    path, _ = flown
    ours, theirs = Plant(FULL).forecast(2390.0), ReplayPlant.of(path).forecast(2390.0)
    assert [p.station for p in theirs.passes] == [p.station for p in ours.passes]
    for name in ("eclipses", "passes", "contacts", "anomalies"):
        for one, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=10.1)


def test_a_run_s_evidence_and_poor_telemetry_are_played_too():
    """Names of the evidence's truth; what has no column is a sensor without a value."""
    columns = {
        "world_s": [0.0, 1.0, 2.0],
        "machine_s": [5.0, 5.1, 5.2],
        "gpu_power_w": [100.0, 200.0, 300.0],
        "soc_fraction": [0.9, 0.8, 0.7],
        "latitude_deg": [1.0, 2.0, 3.0],
    }
    replay = ReplayPlant(Record(columns, "run"), sensor_noise=0.0)
    truth = replay.step(1.0, Loads(gpu_power_w=200.0))
    assert (truth.gpu_rail_power_w, truth.soc_fraction, truth.latitude_deg) == (200.0, 0.8, 2.0)
    assert isnan(truth.gpu_temp_degc)
    assert truth.visible == ()
    frame = replay.sense()
    assert (frame.gpu_rail_power_w, frame.soc_fraction) == (200.0, 0.8)
    assert isnan(frame.gpu_temp_degc)


def _written(path, head, *rows):
    path.write_text("\n".join((",".join(head), *rows)) + "\n")
    return path


@pytest.mark.parametrize(
    ("head", "rows", "complaint"),
    [
        (["soc_fraction"], ["0.5"], "no column world_s"),
        (["world_s"], [], "no rows"),
        (["world_s", "soc_fraction"], ["0,0.5", "1"], "row 2 has 1 cells, the head has 2"),
        (["world_s", "soc_fraction"], ["0,0.5", "1,half"], "row 2, soc_fraction: 'half' is no number"),
        (["world_s"], ["0", "0"], "row 2: world_s 0 is not after 0"),
        (["world_s"], ["0", "nan"], "world_s is not finite everywhere"),
        (["world_s", "visible"], ["0,kiruna=high"], "row 1, visible: 'kiruna=high'"),
        (["world_s", "radiator_nodes_degc"], ["0,1;x"], "row 1, radiator_nodes_degc: '1;x'"),
    ],
)
def test_broken_recordings_are_refused_in_one_line(tmp_path, head, rows, complaint):
    path = _written(tmp_path / "broken.csv", head, *rows)
    with pytest.raises(ValueError, match=r"\Arecording [^\n]+\Z") as caught:
        read_record(path)
    assert complaint in str(caught.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80" * 10)
    for name in ("missing.csv", "empty.csv", "binary.csv", "."):
        with pytest.raises(ValueError, match=r"\Arecording [^\n]+\Z"):
            read_record(tmp_path / name)
    with pytest.raises(ValueError, match=r"\Arecording [^\n]+\Z"):
        Recording(tmp_path / "no" / "folder.csv")


def test_columns_are_named_as_truth_is():
    truth = Plant(PlantConfig()).truth()
    for name in COLUMNS:
        assert name.startswith("position_") or hasattr(truth, name)
    with pytest.raises(ValueError, match="columns of different lengths"):
        Record({"world_s": [0.0, 1.0], "soc_fraction": [1.0]}, "x")
