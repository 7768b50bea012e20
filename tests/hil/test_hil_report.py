"""Summary, figures, page and configuration: complete, self-contained, honest about what is missing."""

import json
import math
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hil_evidence import evidence

from hil import figures, report
from hil.evidence import Evidence, ReplyRecord, load, save
from hil.judge import judge
from hil.mission import MissionPlan, OrbitNumbers, render, toml_value
from hil.summary import dark_spans, mode_time_s, summarise
from hil.twin import Journal, compare

# What issue and users read by name.
KEYS = (
    "orbits", "eclipse_s", "mode_time_s", "soc_min", "soc_floor", "gpu_temp_max_degc", "gpu_temp_limit_degc",
    "train_steps", "loss_first", "loss_last", "inference_replies", "checkpoints_committed", "checkpoints_rejected",
    "worker_kills", "twin_digest_equal", "packets_sent", "packets_live", "packets_playback",
    "packets_lost_acknowledged", "faults", "seed", "commit", "versions", "machine", "verdict", "invariants",
)  # fmt: skip


def test_summary_has_every_key_and_the_right_figures() -> None:
    run = evidence()
    summary = summarise(run, judge(run))
    assert [key for key in KEYS if key not in summary] == []
    assert (summary["orbits"], summary["eclipse_s"]) == (1.0, 2000.0)
    assert (summary["train_steps"], summary["loss_first"], summary["loss_last"]) == (140, 5.0, 2.0)
    assert (summary["packets_live"], summary["packets_playback"], summary["packets_sent"]) == (50, 50, 130)
    assert (summary["worker_kills"], summary["checkpoints_rejected"], summary["inference_replies"]) == (2, 1, 1)
    assert summary["twin_digest_equal"] is True
    assert summary["mode_time_s"]["COMPUTE"] == 5200.0
    assert {"id", "kind", "fired", "outcome"} <= set(summary["faults"][0])
    json.dumps(summary, allow_nan=False)


def test_what_was_not_measured_is_null_not_zero() -> None:
    run = evidence()
    run.truth = {"soc_fraction": [math.nan]}
    run.onboard.series = {}
    run.twin.compared = []
    run.faults = []
    summary = summarise(run, judge(run))
    assert summary["soc_min"] is summary["gpu_temp_max_degc"] is summary["loss_last"] is None
    assert summary["twin_digest_equal"] is None
    json.dumps(summary, allow_nan=False)


def test_mode_time_adds_up_to_the_housekeeping() -> None:
    assert sum(mode_time_s(evidence()).values()) == pytest.approx(5700.0)


def test_dark_spans_are_joined() -> None:
    assert dark_spans([0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 0.2, 0.0, 1.0, 1.0]) == [(1.0, 3.0)]


class Page(HTMLParser):
    """Collects tags, and every address the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"}]


def test_page_is_self_contained_and_complete(tmp_path: Path) -> None:
    run = evidence()
    report.write(run, judge(run), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert [address for address in page.loads if not address.startswith("#")] == []
    assert not re.search(r"@import|url\((?!['\"]?#)", text)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 1
    for part in (
        "Verdict",
        "PASS",
        "played_back",
        "State of charge",
        "tokens per machine second",
        "def ",
        "svalbard",
    ):
        assert part in text, part
    assert "$" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("orbits", "said"), [(1, "1 orbit of leo"), (2, "2 orbits of leo"), (0.6, "0.6 orbits of leo")]
)
def test_one_of_a_thing_is_one(orbits: float, said: str) -> None:
    run = evidence()
    summary = summarise(run, judge(run)) | {"orbits": orbits, "worker_kills": 1, "inference_replies": 1}
    text = report.page(run, judge(run), summary)
    for part in (said, "1 inference reply.", "1 worker kill, 1 checkpoint rejected"):
        assert part in text, part


@pytest.mark.parametrize("trained", [True, False])
def test_a_plot_without_values_says_so(trained: bool) -> None:
    run = evidence()
    if not trained:
        times, states = run.onboard.series["train.state"]
        run.onboard.series["train.state"] = (times, [0.0] * len(states))
    assert figures.draw(run).count("no training in this run") == (0 if trained else 2)


def test_drawing_follows_light_and_dark(tmp_path: Path) -> None:
    run = evidence()
    report.write(run, judge(run), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawing = text[text.index("<svg") : text.index("</svg>")]
    used = set(re.findall(r"var\(--([a-z-]+)\)", drawing))
    style = text[: text.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark")
    assert "#0101" not in drawing
    assert used
    assert [name for name in used if f"--{name}:" not in light or f"--{name}:" not in dark] == []


def test_text_from_the_wire_cannot_become_markup(tmp_path: Path) -> None:
    run = evidence()
    evil = "<script>alert(1)</script>\x1b[2J"
    run.archived.replies = [
        ReplyRecord(world_s=1.0, request=1, prompt=evil, text=evil, tokens=1, generation=0, finish=evil)
    ]
    run.onboard.events[0] = msgspec.structs.replace(run.onboard.events[0], text=evil, name=evil)
    report.write(run, judge(run), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\x1b" not in text


def empty() -> Evidence:
    run = evidence()
    run.truth, run.faults, run.commands, run.passes, run.eclipses = {}, [], [], [], []
    run.onboard.series, run.onboard.events = {}, []
    run.archived.replies = []
    run.flown_until_s = math.nan
    run.interrupted = True
    return run


def test_an_interrupted_run_still_has_a_report(tmp_path: Path) -> None:
    run = empty()
    summary = report.write(run, judge(run), tmp_path)
    assert (summary["interrupted"], summary["orbits"]) == (True, 0.0)
    assert "No inference reply" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_evidence_survives_its_file_and_is_judged_the_same(tmp_path: Path) -> None:
    run = evidence()
    save(run, tmp_path / "e")
    again = load(tmp_path / "e")
    assert judge(again) == judge(run)
    assert again.archived == run.archived


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80"])
def test_a_broken_evidence_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(ValueError, match="no evidence of this version"):
        load(tmp_path / "e")


PLAN = MissionPlan(
    name="hil-x", state_dir='/tmp/with "quotes"', avionics="none", radio="none", radio_bps=1000,
    nvml_module="m", warp=48.0, checkpoint_interval_s=300.0,
    orbit=OrbitNumbers(period_s=5700.0, eclipse_s=2100.0, eclipse_entry_s=1800.0),
    soc_floor=0.7, gpu_temp_limit_degc=80.0, radiator_temp_limit_degc=60.0,
    jobs=({"kind": "train", "id": "train"}, {"kind": "infer", "id": "infer"}),
    overrides={"eps": {"dod_max": 0.25}, "frame": {"rate_hz": 5.0}},
)  # fmt: skip


def test_mission_file_is_toml_and_overrides_win() -> None:
    read = tomllib.loads(render(PLAN))
    assert read["mission"]["state_dir"] == '/tmp/with "quotes"'
    assert (read["eps"]["dod_max"], read["frame"]["rate_hz"], read["eps"]["eclipse_entry_s"]) == (0.25, 5.0, 1800.0)
    assert [job["kind"] for job in read["jobs"]] == ["train", "infer"]


def test_mission_file_is_what_the_daemon_accepts(tmp_path: Path) -> None:
    from flightsw import config

    (tmp_path / "mission.toml").write_text(render(PLAN))
    assert config.load(tmp_path / "mission.toml").core.eps.dod_max == 0.25


def test_an_orbit_without_eclipse_has_no_entry() -> None:
    orbit = OrbitNumbers(period_s=5800.0, eclipse_s=0.0, eclipse_entry_s=None)
    read = tomllib.loads(render(msgspec.structs.replace(PLAN, orbit=orbit)))
    assert "eclipse_entry_s" not in read["eps"]


@pytest.mark.parametrize("value", [True, False, 0, -7, 1.5, 1e-9, "", 'ä\n\t\\"\x7f'])
def test_scalars_survive_toml(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    assert journal.read_on() == 0
    path.write_text("1 aa\n2 b")
    assert (journal.read_on(), journal.digests) == (1, {1: "aa"})
    with path.open("a") as file:
        file.write("b\nnonsense\n3 cc\n")
    assert (journal.read_on(), journal.digests) == (3, {1: "aa", 2: "bb", 3: "cc"})


def test_comparison_finds_a_different_and_a_missing_step() -> None:
    record = compare([(0, 1, "aa"), (1, 2, "XX"), (2, 9, "zz")], {1: "aa", 2: "bb"}, "")
    assert record.compared == [(0, 1, "aa", "aa"), (1, 2, "XX", "bb")]
    assert record.mismatches == [(1, 2, "XX", "bb")]
    assert record.missing == [(2, 9, "zz")]
