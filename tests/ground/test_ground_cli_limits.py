"""``ground limits`` and ``ground action`` against the double, and the shipped tables among the examples."""

import json
import math
import os
import re
from pathlib import Path

import pytest
from conftest import Ground
from spacecraft_double import SpacecraftDouble
from test_ground_sources import LIMITS

from flightsw.core import fdir_table
from flightsw.core.vehicle import Config
from flightsw.link import limit_status
from flightsw.link.limit_status import ActionStatus, LimitStatus, WatchStatus
from ground import cli
from ground.errors import ExitCode
from ground.limit_source import (
    actionpoints_text,
    compile_actionpoints,
    compile_watchpoints,
    watchpoints_text,
)
from ground.source import Source

EXAMPLES = Path(cli.__file__).parent / "examples"
STATUS = LimitStatus(
    watch=(
        WatchStatus(id=3, name="gpu.hot", result="TRIPPED", value=79.25, age_s=0.1),
        WatchStatus(id=4, name="soc.low", result="CLEAR", value=0.8, age_s=0.0),
        WatchStatus(id=5, name="gpu.steep", result="STALE", value=math.nan, age_s=math.inf),
        WatchStatus(id=6, name="mode.safe", result="CLEAR", value=3.0, age_s=0.0),
        WatchStatus(id=99, name="gone", result="CLEAR", value=1.5, age_s=2.0),
    ),
    action=(
        ActionStatus(
            id=7,
            name="throttle",
            switch="passive",
            spent=True,
            condition="TRUE",
            tripped=True,
            acting=True,
            count=2,
        ),
        ActionStatus(
            id=8, name="idle", switch="active", spent=False, condition="FALSE", tripped=False, acting=False, count=0
        ),
        ActionStatus(
            id=99,
            name="gone",
            switch="active",
            spent=False,
            condition="UNKNOWN",
            tripped=False,
            acting=False,
            count=0,
        ),
    ),
)
MORE = """
[[watchpoint]]
id = 5
name = "gpu.steep"
parameter = "thermal.gpu_degc"
quantity = "rate"
operator = ">"
trip = 0.5

[[watchpoint]]
id = 6
name = "mode.safe"
parameter = "mode"
operator = "=="
trip = 1

[[actionpoint]]
id = 8
name = "idle"
when = "mode.safe"
response = "report"
domain = "task"
"""


@pytest.fixture
def run(udp_station: Ground, udp_craft: SpacecraftDouble, tmp_path: Path, capsys, monkeypatch):
    """One command line with limits on board; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.toml").write_text(LIMITS + MORE)
    udp_craft.housekeeping()
    udp_craft.tables.active["fdir_status"] = limit_status.encode_status(STATUS)

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        udp_craft.world_s += 1
        code = cli.run(list(arguments))
        return code, *capsys.readouterr()

    for table in ("watchpoints", "actionpoints"):
        assert command("table", "load", table, "l.toml")[0] == 0
    return command


def test_r8_every_limit_and_response_is_shown(run):
    code, out, _ = run("limits")
    assert code == 0
    for row in (
        r"3 +gpu\.hot +TRIPPED +79\.25 degC +>= 78 degC +0\.1 +thermal\.gpu_degc",
        r"4 +soc\.low +CLEAR +0\.8 +< 0\.72 +0\.0 +eps\.soc_fraction",
        r"5 +gpu\.steep +STALE +– +> 0\.5 degC/s +never +thermal\.gpu_degc",
        r"6 +mode\.safe +CLEAR +COMPUTE +== SAFE +0\.0 +mode",
        r"99 +gone +CLEAR +1\.5 +2\.0",
        r"7 +throttle +passive \(spent\) +2 +throttle 0\.5 +2 +acting +gpu\.hot and not stale\(soc\.low\) for 60 s",
        r"8 +idle +active +1 +report +0 +false +mode\.safe",
        r"99 +gone +active +0 +unknown",
    ):
        assert re.search(rf"^ *{row}$", out, re.MULTILINE), (row, out)
    assert out.endswith("\n5 watchpoints: 3 clear, 1 tripped, 1 stale; 3 actionpoints: 1 acting\n")


def test_only_what_is_not_clear(run):
    _, out, _ = run("limits", "--tripped")
    assert re.findall(r"^ *(\d+) ", out, re.MULTILINE) == ["3", "5", "7", "5"]


def test_limits_as_json(run):
    told = json.loads(run("limits", "--json")[1])
    assert told["watchpoints"][2] == {"id": 5, "name": "gpu.steep", "result": "STALE", "value": None, "age_s": None}
    assert (told["actionpoints"][0]["level"], told["actionpoints"][0]["response"]) == (2, "throttle")


def test_a_status_that_cannot_be_read(run, udp_craft):
    udp_craft.tables.active["fdir_status"] = b"\xc1"
    code, out, err = run("limits")
    assert (code, out) == (ExitCode.ERROR, "")
    assert err.startswith("ground: fdir_status: cannot be read with this dictionary: ")


@pytest.mark.parametrize("which", ["7", "throttle"])
def test_an_actionpoint_is_switched_by_id_or_name(run, udp_craft, which):
    code, out, _ = run("action", which, "disabled")
    assert code == 0
    assert "action.state action=7 state=DISABLED" in out
    assert udp_craft.executed[-1] == ("action.state", {"action": 7, "state": 2})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["action", "7", "asleep"], "'asleep' is no state of an actionpoint: active, passive, disabled"),
        (
            ["action", "throtle", "active"],
            "no actionpoint 'throtle' on board; did you mean throttle?: see ground limits",
        ),
        (["action", "0", "active"], "action = 0 is not a whole number from 1 to 9999"),
        (["action", "7"], "Missing argument"),
    ],
)
def test_mistakes_with_an_action(run, udp_craft, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert words in err
    assert "action.state" not in [name for name, _ in udp_craft.executed]


SHIPPED = "as the satellite ships it: {} of the default configuration"


@pytest.mark.parametrize("name", ["watchpoints", "actionpoints"])
def test_r9_the_shipped_tables_are_among_the_examples(name):
    """R9: what an operator edits first. When what is shipped changes, this test writes it anew:

    WRITE_EXAMPLES=1 python -m pytest tests/ground/test_ground_cli_limits.py
    """
    watch, action = fdir_table.shipped(Config())
    comment = SHIPPED.format(name)
    text = watchpoints_text(watch, comment) if name == "watchpoints" else actionpoints_text(action, watch, comment)
    path = EXAMPLES / f"{name}.toml"
    if os.environ.get("WRITE_EXAMPLES"):
        path.write_text(text)
    assert path.read_text() == text, "WRITE_EXAMPLES=1 writes it anew"
    source = Source(path)
    if name == "watchpoints":
        assert compile_watchpoints(source) == watch
    else:
        assert compile_actionpoints(source, watch) == action
