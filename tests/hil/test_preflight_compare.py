"""A run against the plan that it could have had: the figures, where work is missing, what cannot be compared."""

import json

import msgspec
import pytest
from hil_evidence import event, evidence
from typer.testing import CliRunner

from hil.cli import app
from hil.evidence import save
from hil.plant.plant import Plant, PlantConfig
from hil.preflight import compare, flown, orbit_figure
from hil.preflight.document import PlanError

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def flight():
    """One orbit of the executive in virtual time."""
    return flown.record(Plant(PlantConfig(), seed=1), 5760.0, 2.0, seed=1)


@pytest.fixture(scope="module")
def compared(flight):
    return compare.compare(flight[1])


def bench_run():
    """The bench's evidence with the faults that hit work, and workers that were ready after 90 s."""
    made = evidence()
    made.faults = [fault for fault in made.faults if fault.id in ("kill", "flip", "outage")]
    made.onboard.events.insert(0, event(90.0, "WORKER_READY", job="train"))
    made.truth["gpu_rail_on"] = [1.0] * len(made.truth["world_s"])
    return made


def quantity(comparison, id):
    return {row.id: row for row in comparison.quantities}[id]


def hil(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_recording_is_the_flight(flight):
    books, run = flight
    assert min(run.soc) == pytest.approx(books.soc_min, abs=5e-4)
    assert max(run.gpu_degc) == pytest.approx(books.gpu_temp_max_degc, abs=0.05)
    watts = [w for w, lit in zip(run.gpu_w, run.sunlit, strict=True) if lit >= 0.5]
    assert sum(watts) / len(watts) == pytest.approx(books.gpu_power_sun_w, rel=0.01)


def test_no_flight_beats_its_plan(compared):
    share = quantity(compared, "compute_share")
    assert 0.9 * share.planned < share.measured <= share.planned
    assert quantity(compared, "soc_end").planned >= quantity(compared, "soc_end").measured - 1e-3
    assert quantity(compared, "array_wh").relative == pytest.approx(0.0, abs=0.005)
    assert quantity(compared, "gpu_max").planned <= 80.01


def test_missing_work_adds_up(compared):
    assert sum(cause.hours for cause in compared.when) == pytest.approx(
        -quantity(compared, "gpu_hours").difference, abs=1e-6
    )
    assert sum(cause.time_s for cause in compared.when) == pytest.approx(compared.length_s)
    assert {cause.cause for cause in compared.when} == {"eclipse", "sunlight"}


def test_a_periodic_plan_uses_what_the_margins_keep(flight):
    given = compare.compare(flight[1])
    periodic = compare.compare(flight[1], periodic=True)
    assert quantity(periodic, "soc_min").planned == pytest.approx(70.0, abs=0.05)
    charge = next(cause for cause in periodic.margins if cause.cause.startswith("charge"))
    assert charge.hours > 0.002
    assert quantity(given, "soc_min").planned > 70.5


def test_faults_and_starts_take_their_part_of_the_missing_work():
    run = flown.of_evidence(bench_run())
    causes = {cause.cause: cause for cause in compare.compare(run).when}
    assert causes["fault kill"].time_s == pytest.approx(250.0, abs=20.0)
    assert causes["fault flip"].time_s == pytest.approx(300.0, abs=20.0)
    assert "fault outage" not in causes
    assert causes["start of the workers"].time_s == pytest.approx(90.0, abs=10.0)
    assert causes["mode BOOT"].time_s == pytest.approx(10.0)
    assert sum(cause.hours for cause in causes.values()) > 0.0


def test_a_rail_that_is_off_is_named():
    spoiled = bench_run()
    spoiled.truth["gpu_rail_on"] = [0.0 if 100 <= i < 200 else 1.0 for i in range(571)]
    causes = {cause.cause: cause for cause in compare.compare(flown.of_evidence(spoiled)).when}
    assert causes["GPU rail off"].time_s == pytest.approx(1000.0)
    assert causes["GPU rail off"].hours > 0.15


def test_a_bench_run_is_compared_by_the_command(tmp_path):
    save(bench_run(), tmp_path / "evidence.msgpack")
    result = hil("plan", "--compare", tmp_path, "--json", "--out", tmp_path / "plan")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "plan" / "compare.json").read_text())
    assert (tmp_path / "plan" / "compare.png").read_bytes().startswith(PNG)
    assert {row["id"] for row in found["quantities"]} >= {"gpu_hours", "gpu_wh", "soc_min", "gpu_max"}
    shown = hil("plan", "--compare", tmp_path)
    assert shown.exit_code == 0
    assert "fault kill" in shown.output


def test_a_flight_in_virtual_time_is_compared_by_the_command(tmp_path):
    made = hil("inproc", "--orbits", "0.2", "--rate", "0.5", "--out", tmp_path)
    assert made.exit_code == 0
    assert hil("plan", "--compare", tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "neither evidence.msgpack"),
        (lambda folder: (folder / "evidence.msgpack").write_bytes(b"\x01"), "no evidence of this version"),
        (lambda folder: (folder / "flown.msgpack").write_bytes(b"\x01"), "no flight of this version"),
    ],
)
def test_a_folder_without_a_run_is_one_line(tmp_path, make, words):
    make(tmp_path)
    result = hil("plan", "--compare", tmp_path)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_too_short_a_run_is_refused():
    short = bench_run()
    short.truth = {name: values[:20] for name, values in short.truth.items()}
    with pytest.raises(PlanError, match="600 s are needed"):
        flown.of_evidence(short)


def test_a_run_from_where_no_plan_can_begin_is_refused(flight):
    hot = msgspec.structs.replace(flight[1], limits=msgspec.structs.replace(flight[1].limits, gpu_degc=22.0))
    with pytest.raises(PlanError, match="no plan keeps its limits from where it began"):
        compare.compare(hot)


def test_a_flight_of_no_length_is_refused():
    with pytest.raises(ValueError, match="allowed are up to"):
        flown.record(Plant(PlantConfig(), seed=1), 0.0, 1.0, seed=1)


def test_the_picture_of_the_handbook_is_made_by_a_command(tmp_path, monkeypatch, capsys, compared):
    monkeypatch.setattr(orbit_figure, "orbit", lambda: compared)
    monkeypatch.setattr("sys.argv", ["orbit_figure", str(tmp_path / "pictures" / "orbit.png")])
    assert orbit_figure.main() == 0
    picture = (tmp_path / "pictures" / "orbit.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) < 200_000
    assert "mean throughput" in capsys.readouterr().out
