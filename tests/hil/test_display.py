"""The display: what a terminal and a log file show, drawn from values that may all be missing."""

import io
import sys

import pytest
from hil_evidence import evidence
from rich.console import Console

from hil.display import Panelled, Plain, Silent, View, clock, make_display, number, panel


def view(**changes: object) -> View:
    fields: dict[str, object] = {
        "phase": "flight", "title": "A [run]", "now_s": 1.0, "world_s": 2500.0, "end_s": 5700.0, "warp": 48.0,
        "sun_fraction": 0.0, "array_w": 0.0, "gpu_w": 260.0, "rail_on": True, "soc": 0.88, "soc_floor": 0.7,
        "gpu_degc": 61.2, "gpu_limit_degc": 80.0, "radiator_degc": 30.0, "radiator_limit_degc": 60.0, "passing": "",
        "pass_left_s": 0.0, "next_pass": "awarua", "next_pass_s": 780.0, "outage": False,
        "values": {"mode": 3.0, "train.step": 312.0, "train.loss": 2.31}, "events": evidence().onboard.events,
        "event_counts": {"CHECKPOINT_COMMITTED": 4}, "recorded": 900, "acknowledged": 600, "replies": 3,
        "status": None, "faults": [("kill", "worker_kill", True)], "twin_step": 420,
    }  # fmt: skip
    return View(**{**fields, **changes})  # type: ignore[arg-type]


def drawn(shown: View, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(panel(shown, width))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [60, 90, 120, 200])
def test_panel_says_what_an_operator_watches(width: int) -> None:
    text = drawn(view(), width)
    for part in ("A [run]", "ECLIPSE", "COMPUTE", "88.0%", "step 312", "4 committed", "WORKER_READY", "next pass"):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"outage": True}, "RADIO OUTAGE"),
        ({"passing": "kiruna", "pass_left_s": 61.0}, "PASS kiruna 01:01 left"),
        ({"next_pass": ""}, "no more passes"),
        ({"sun_fraction": 1.0}, "SUN"),
        ({"values": {}, "events": [], "event_counts": {}}, "step –, loss –"),
        ({"twin_step": None}, "does not fly along"),
        ({"values": {}}, "no level, – found"),
        (
            {"values": {"integrity.level": 3.0, "integrity.detected": 4.0, "integrity.open": 1.0}},
            "STORM, 1 of 4 open",
        ),
        (
            {"values": {"integrity.level": 2.0, "integrity.detected": 4.0, "integrity.open": 0.0}},
            "STANDARD, 4 found",
        ),
    ],
)
def test_panel_in_other_states(changes: dict[str, object], part: str) -> None:
    assert part in drawn(view(**changes), 120)


def test_a_log_file_gets_a_line_now_and_then() -> None:
    console = Console(file=io.StringIO(), width=300)
    display = make_display(console, quiet=False)
    assert isinstance(display, Plain)
    display.announce("operator sends [ping]")
    for now_s in (0.0, 1.0, 2.0, 11.0):
        display.show(view(now_s=now_s))
    for step in (0, 1, 50, 100):
        display.twin(step, 100)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "operator sends [ping]"
    assert sum("SoC 88.0%" in line for line in lines) == 2
    assert lines[-1] == "twin at step 100 of 100"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    display = make_display(Console(file=sys.stdout), quiet=True)
    assert isinstance(display, Silent)
    display.announce("x")
    display.show(view())
    display.twin(1, 2)
    display.close()
    assert capsys.readouterr().out == ""


def test_terminal_gets_the_panel_and_gives_it_back() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = make_display(console, quiet=False)
    assert isinstance(display, Panelled)
    display.show(view())
    display.announce("fault kill: worker killed")
    display.twin(3, 9)
    display.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "41:40  fault kill: worker killed" in text
    assert "step 3 of 9" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (61.9, "01:01"), (3661, "1:01:01"), (-5, "00:00"), (float("nan"), "00:00")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1.25, "1.2"), (float("nan"), "–"), (None, "–")])
def test_number(value: object, text: str) -> None:
    assert number(value, 1) == text
