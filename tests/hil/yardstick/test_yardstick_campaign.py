"""``hil governor-bench``: results that survive an interruption, orders that are refused, a table that counts."""

import csv
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hil import cli
from hil.yardstick import campaign, certificates, score
from hil.yardstick.campaign import Order, OrderError, carry_out
from hil.yardstick.certificates import Clairvoyant
from hil.yardstick.records import Line, Records, digest_of
from hil.yardstick.score import RIVALS, Run
from hil.yardstick.work import spread

CHEAP = ("hysteresis", "closed_form")


class Fact(Line, frozen=True, kw_only=True):
    value: float


def fact(number, version="1", value=0.5):
    return Fact(scenario=number, version=version, value=value)


def silent(label, done, of):
    """Nobody watches."""


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (b"", {1, 2}),
        (b'\n{"scenario":3,"version":"1","val', {1, 2}),  # cut short
        (b'\n{"scenario":3,"version":"0","value":0.1}', {1, 2}),  # another version
        (b"\n\xff\xfe nonsense", {1, 2}),
        (b'\n{"scenario":3,"version":"1","value":0.1}', {1, 2, 3}),
    ],
)
def test_records_survive_what_an_interruption_leaves(tmp_path, tail, found):
    path = tmp_path / "deep" / "facts.jsonl"
    kept = Records(path, Fact, "1")
    kept.add(fact(1))
    kept.add(fact(2))
    path.write_bytes(path.read_bytes() + tail)
    again = Records(path, Fact, "1")
    assert set(again.found) == found
    assert again.missing(range(1, 5)) == sorted({1, 2, 3, 4} - found)
    again.add(fact(4, value=0.25))
    assert Records(path, Fact, "1").found[4].value == 0.25


def test_a_changed_source_is_another_version():
    assert digest_of("hil/yardstick/flight.py") == digest_of("hil/yardstick/flight.py")
    assert digest_of("hil/yardstick/flight.py") != digest_of("hil/yardstick/plant.py")
    assert RIVALS["closed_form"].version != RIVALS["hysteresis"].version


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"set_name": "exam"}, "--set exam: unknown; allowed are tune, report"),
        ({"scenarios": 0}, "--scenarios 0: the set report has 1 to 1000"),
        ({"scenarios": 1001}, "--scenarios 1001: the set report has 1 to 1000"),
        ({"rivals": ("closed_form", "wishful")}, "--rivals wishful: unknown; allowed are hysteresis"),
        ({"rivals": ()}, "--rivals: name at least one"),
        ({"bounds": -1}, "--bounds -1: allowed are 0 and more"),
    ],
)
def test_orders_that_cannot_be_carried_out(tmp_path, order, said):
    with pytest.raises(OrderError, match=said):
        Order(folder=tmp_path, **order)


def test_the_sample_is_random_fixed_and_within_the_order(tmp_path):
    order = Order(folder=tmp_path, scenarios=50, bounds=10)
    assert order.sample == Order(folder=tmp_path, scenarios=50, bounds=10).sample
    assert len(order.sample) == 10
    assert set(order.sample) < set(order.numbers)
    assert order.sample != order.numbers[:10]
    assert Order(folder=tmp_path, scenarios=5, bounds=100).sample == list(range(100_000, 100_005))


def flown(number, share, *, soc_s=0.0, heat_s=0.0):
    return Run(
        scenario=number,
        version="1",
        mean_throughput=share * 0.8,
        soc_min=0.71,
        gpu_max_k=352.0,
        radiator_max_k=320.0,
        soc_violation_s=soc_s,
        heat_violation_s=heat_s,
        tick_cpu_s=2e-5,
    )


BEST = {
    number: Clairvoyant(
        scenario=number, version="1", achievable=0.8, reference=0.81, eclipse_min=dark_min, seconds=1.0
    )
    for number, dark_min in ((0, 5.0), (1, 32.0), (2, 33.0))
}


@pytest.mark.parametrize(
    ("violations", "soc", "heat", "rate"),
    [
        (({}, {}, {}), 0, 0, 3.0 / 18.0),
        (({"soc_s": 10.0}, {}, {}), 1, 0, None),
        (({"soc_s": 10.0, "heat_s": 20.0}, {}, {"heat_s": 10.0}), 1, 2, None),
    ],
)
def test_a_row_of_the_table(violations, soc, heat, rate):
    runs = [flown(n, share, **v) for n, share, v in zip(BEST, (0.9, 0.95, 0.97), violations, strict=True)]
    row = score.score(RIVALS["pi"], runs, BEST)
    assert row.mean == pytest.approx(94.0)
    assert (row.worst, row.worst_scenario) == (pytest.approx(90.0), 0)
    assert row.of_reference == pytest.approx(94.0 * 0.8 / 0.81)
    assert row.by_eclipse == {"0–10 min": pytest.approx(90.0), "31–36 min": pytest.approx(96.0)}
    assert (row.soc_violations, row.heat_violations) == (soc, heat)
    assert row.violation_rate_bound == rate
    assert row.broken is (rate is None)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished order of two scenarios, interrupted once on the way."""
    folder = tmp_path_factory.mktemp("governor-bench")
    order = Order(set_name="tune", scenarios=2, rivals=CHEAP, bounds=1, jobs=1, folder=folder)
    calls = []

    def impatient(label, finished, of):
        calls.append((label, finished, of))
        if (label, finished) == ("flight closed form", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(order, impatient)
    return order, calls


def test_an_interrupted_order_goes_on_where_it_was(done):
    order, calls = done
    assert ("clairvoyant", 2, 2) in calls
    seen = []
    report, results = carry_out(order, lambda *call: seen.append(call))
    assert ("clairvoyant", 1, 2) not in seen, "nothing is done twice"
    assert [call for call in seen if call[0] == "flight closed form"] == [
        ("flight closed form", 1, 2),
        ("flight closed form", 2, 2),
    ]
    assert [row.rival for row in report.scores] == list(CHEAP)
    assert report.gap is not None
    assert 0.0 < report.gap.worst < campaign.GAP_LIMIT
    assert report.scores[1].mean > 95.0 > report.scores[0].mean
    assert len(results.shares("hysteresis")) == 2
    assert report.held
    assert any("proved for 1 of 2" in line for line in report.lines())


@pytest.mark.parametrize(
    ("rival", "gap_over", "held"), [("hysteresis", 0, True), ("closed_form", 0, False), ("hysteresis", 1, False)]
)
def test_the_verdict_looks_at_flight_code_and_gap(rival, gap_over, held):
    row = score.score(RIVALS[rival], [flown(0, 0.9, soc_s=10.0)], BEST)
    report = campaign.Report(
        set_name="tune",
        scenarios=1,
        commit="",
        yardstick_version="1",
        achievable_mean=0.8,
        reference_mean=0.81,
        gap=campaign.Gap(scenarios=1, mean=0.05, worst=0.05, over_limit=gap_over, processor_s=1.0),
        scores=(row,),
    )
    assert report.held is held


def test_command_writes_table_report_and_pictures(done, tmp_path):
    order, _ = done
    picture = tmp_path / "readme.png"
    options = ["--set", "tune", "--scenarios", "2", "--rivals", ",".join(CHEAP), "--bounds", "1", "--jobs", "1"]
    result = CliRunner().invoke(
        cli.app, ["governor-bench", *options, "--out", str(order.folder), "--picture", str(picture), "--json"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["set_name"] == "tune"
    assert json.loads((order.folder / "report.json").read_text())["scores"] == report["scores"]
    with (order.folder / "table.csv").open() as file:
        assert [row["rival"] for row in csv.DictReader(file)] == list(CHEAP)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (order.folder / "governor-bench.svg").read_text()
    shown = CliRunner().invoke(cli.app, ["governor-bench", *options, "--out", str(order.folder)])
    assert shown.exit_code == 0
    assert "flight closed form" in shown.stdout
    assert "set tune" in shown.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "exam"], "hil: --set exam: unknown; allowed are tune, report\n"),
        (["--rivals", "wishful"], "hil: --rivals wishful: unknown; allowed are hysteresis"),
        (["--scenarios", "2000"], "hil: --scenarios 2000: the set report has 1 to 1000\n"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, options, said):
    result = CliRunner().invoke(cli.app, ["governor-bench", *options, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1


def test_a_folder_has_one_writer_and_a_file_is_no_folder(done, tmp_path):
    order, _ = done
    from hil.cli_governor import alone

    with alone(order.folder):
        taken = CliRunner().invoke(cli.app, ["governor-bench", "--set", "tune", "--out", str(order.folder)])
    assert (taken.exit_code, "another run is writing there" in taken.stderr) == (2, True)
    (tmp_path / "file").write_text("")
    blocked = CliRunner().invoke(cli.app, ["governor-bench", "--set", "tune", "--out", str(tmp_path / "file")])
    assert blocked.exit_code == 2
    assert blocked.stderr.count("\n") == 1


def test_interrupted_command_says_how_to_go_on(monkeypatch, tmp_path):
    def stopped(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "clairvoyant", stopped)
    result = CliRunner().invoke(cli.app, ["governor-bench", "--jobs", "1", "--out", str(tmp_path)])
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr


def test_contradiction_is_one_line(monkeypatch, tmp_path):
    def contradicted(number):
        return certificates.agreed(number, 0.8, 0.7)

    monkeypatch.setattr(certificates, "clairvoyant", contradicted)
    result = CliRunner().invoke(cli.app, ["governor-bench", "--jobs", "1", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == "hil: scenario 100000: flown 0.80000 is over the bound 0.70000\n"


def test_missing_solver_is_one_line():
    code = "import sys; sys.modules['highspy'] = None; from hil.cli import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", code, "governor-bench"], capture_output=True, text=True, check=False, timeout=120
    )
    assert said.returncode == 2
    assert said.stderr == "hil: hil governor-bench needs the solver HiGHS: pip install highspy\n"


@pytest.mark.process
def test_work_is_spread_over_processes():
    assert sorted(spread(abs, [-3, -1, -2, -5], jobs=2)) == [1, 2, 3, 5]


def test_work_that_fails_is_not_swallowed():
    with pytest.raises(TypeError):
        list(spread(len, [1], jobs=1))
    assert sorted(spread(abs, [], jobs=2)) == []
