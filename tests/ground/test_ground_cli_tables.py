"""``ground sequence``, ``table``, ``parameter``, ``resets`` as an operator meets them, against the double."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from conftest import Ground
from spacecraft_double import SpacecraftDouble
from test_ground_cli import completion_request
from test_ground_sources import ABSOLUTE, LIMITS, SEQUENCE, changed

from flightsw.core import parameter_set
from flightsw.link import limit_tables, sequence, settings
from flightsw.link.schema import FailureCode
from flightsw.link.sequence import Status
from flightsw.link.settings import SETTINGS
from ground import cli
from ground.errors import ExitCode
from ground.parameter_report import parameter_report
from tests.background import Child

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in (("s.toml", SEQUENCE), ("a.toml", ABSOLUTE), ("l.toml", LIMITS)):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def run(udp_station: Ground, udp_craft: SpacecraftDouble, files: Path, capsys, monkeypatch):
    """One command line in the directory of the files; returns exit code, standard output and standard error."""
    monkeypatch.chdir(files)
    udp_craft.housekeeping()

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(list(arguments))
        return code, *capsys.readouterr()

    return command


def test_r4_a_sequence_from_file_to_slot_and_back(run, udp_craft, files):
    code, out, _ = run("sequence", "load", "rts5", "s.toml")
    assert code == 0
    assert re.search(r"rts05: \d+ bytes, CRC-32 [0-9a-f]{8}\n  valid: rts05 is valid\n  rts05 active", out)
    code, out, _ = run("sequence", "show", "rts05", "-o", "back.toml")
    assert (code, out) == (0, "")
    code, again, _ = run("sequence", "check", "back.toml", "--steps")
    assert "relative, 3 steps, from dispatch" in again
    assert run("table", "diff", "rts05", "s.toml")[:2] == (0, "rts05: the same as s.toml\n")
    (files / "s.toml").write_text(changed(SEQUENCE, '"1 min 30 s"', '"2 min"'))
    code, out, _ = run("table", "diff", "rts05", "s.toml")
    assert code == 1
    assert '-after = "1 min 30 s"\n+after = "2 min"\n' in out
    code, out, _ = run("sequence", "show", "rts05", "--json")
    assert [step["command"] for step in json.loads(out)["steps"]][1:] == [
        "arm opcode=gpu.rail",
        "gpu.rail on=false",
    ]
    assert sequence.decode(udp_craft.tables.active["rts05"]).name == "night pass"


def test_loading_without_activation_and_appending(run, udp_craft):
    code, out, _ = run("sequence", "load", "ats1", "a.toml", "--no-activate")
    assert code == 0
    assert "not active: ground send table.activate table=ats1" in out
    assert "ats1" not in udp_craft.tables.active
    code, out, _ = run("sequence", "load", "ats1", "a.toml", "--append", "--json")
    assert code == 0
    assert json.loads(out)["activated"] == "1 steps appended"
    assert ("sequence.append", {"sequence": 101}) in udp_craft.executed


def test_orders_to_a_sequence(run, udp_craft):
    for order in ("start", "suspend", "resume", "step", "abort"):
        code, out, _ = run("sequence", order, "rts05")
        assert code == 0
        assert f"sequence.{order} sequence=rts05" in out
        assert (f"sequence.{order}", {"sequence": 205}) in udp_craft.executed


def test_the_list_of_sequences(run, udp_craft):
    assert run("sequence", "list")[1] == "no sequence is loaded\n"
    rows = (
        Status("ats1", "window", "WAITING", 0, 3, 0, 0, 0, 2),
        Status("rts05", "night pass", "RUNNING", 3, 3, 1, 3, 1, 0),
    )
    udp_craft.tables.active["sequence_status"] = sequence.encode_status(rows)
    udp_craft.world_s += 1
    code, out, _ = run("sequence", "list")
    assert code == 0
    assert re.search(r"ats1 +window +WAITING +1 of 3 +0 +0 +2 +0\n", out)
    assert re.search(r"rts05 +night pass +RUNNING +end of 3 +3 +1 +0 +1\n", out)
    assert json.loads(run("sequence", "list", "--json")[1])[1]["state"] == "RUNNING"


def test_r8_limit_tables_from_file_and_back(run, udp_craft, files):
    assert run("table", "load", "watchpoints", "l.toml")[0] == 0
    assert run("table", "load", "actionpoints", "l.toml")[0] == 0
    only = LIMITS[: LIMITS.index("[[watchpoint]]")] + LIMITS[LIMITS.index("[[actionpoint]]") :]
    (files / "only.toml").write_text(only)
    # Without watchpoints in the file, those on board are asked for.
    assert run("table", "load", "actionpoints", "only.toml", "--json")[0] == 0
    code, out, _ = run("table", "dump", "actionpoints")
    assert code == 0
    assert 'when = "gpu.hot and not stale(soc.low)"' in out
    assert "# actionpoints as it was on board: " in out
    (files / "back.toml").write_text(out)
    assert run("table", "diff", "actionpoints", "back.toml")[:2] == (0, "actionpoints: the same as back.toml\n")
    assert run("table", "diff", "watchpoints", "l.toml")[0] == 0
    assert len(limit_tables.decode_watchpoints(udp_craft.tables.active["watchpoints"]).watchpoints) == 2
    assert run("table", "reset", "rts05")[0] == 0
    assert run("table", "dump", "rts05")[::2] == (1, "ground: rts05 is empty\n")


def test_the_list_of_tables(run):
    code, out, _ = run("table", "list")
    assert code == 0
    assert "fdir_status" in out
    assert "rts01 to rts64" in out
    assert len(out.splitlines()) < 12
    assert len(json.loads(run("table", "list", "--json")[1])) == 72


def test_r7_parameters_are_set_together_or_not_at_all(run, udp_craft):
    code, out, _ = run("parameter", "set", "eps.soc_safe=0.72", "checkpoint.before_eclipse=off")
    assert code == 0
    assert re.search(r"eps.soc_safe +0\.7  →  0\.72", out)
    assert re.search(r"checkpoint.before_eclipse +true  →  false", out)
    active = settings.decode(udp_craft.tables.active["parameters"]).values
    assert active == {"eps.soc_safe": 0.72, "checkpoint.before_eclipse": False}
    code, out, _ = run("parameter", "set", "eps.soc_safe=0.73", "--json")
    assert json.loads(out)["changed"] == [{"name": "eps.soc_safe", "old": "0.72", "new": "0.73", "unit": ""}]
    code, out, err = run("parameter", "set", "eps.soc_safe=0.74", "eps.dod_max=2")
    assert (code, out) == (2, "")
    assert err == "ground: eps.dod_max = 2 is not a number from 0.05 to 0.9\n"


def test_r7_a_set_that_is_refused_leaves_nothing_staged(run, udp_craft):
    refuse = (FailureCode.INVALID_TABLE, "parameters: eps: soc_safe must be under soc_recovered")
    udp_craft.tables.verdict = lambda name: refuse if name == "table.validate" else None
    before = udp_craft.tables.active["parameters"]
    code, out, err = run("parameter", "set", "eps.soc_safe=0.72")
    assert (code, out) == (ExitCode.FAILED, "")
    assert err == f"ground: parameters: table.validate failed: INVALID_TABLE: {refuse[1]}\n"
    assert udp_craft.wait_for(lambda: not udp_craft.tables.loads)
    assert udp_craft.tables.active["parameters"] == before


def test_what_another_operator_staged_is_not_activated_with_it(run, udp_craft):
    assert run("send", "parameter.stage", "parameter=eps.dod_max", "value=0.4")[0] == 0
    assert run("parameter", "set", "eps.soc_safe=0.72")[0] == 0
    assert settings.decode(udp_craft.tables.active["parameters"]).values == {"eps.soc_safe": 0.72}


def test_the_list_of_parameters(run, udp_craft):
    run("parameter", "set", "eps.soc_safe=0.72")
    udp_craft.world_s += 1
    code, out, _ = run("parameter", "list")
    assert code == 0
    assert len(out.splitlines()) == len(SETTINGS) + 3
    assert re.search(r"eps.soc_safe +0\.72 +0\.1 to 0\.95 +SAFE under", out)
    assert re.search(r"eps.dod_max +· +0\.05 to 0\.9", out)
    assert f"set 'staged': 1 of {len(SETTINGS)} set in flight" in out
    code, out, _ = run("parameter", "list", "--changed", "--ask")
    assert re.search(r"eps.soc_safe +0\.72 +0\.7 +0\.1 to 0\.95", out)
    told = json.loads(run("parameter", "list", "--changed", "--ask", "--json")[1])
    assert [(p["name"], p["value"], p["file"]) for p in told["parameters"]] == [("eps.soc_safe", "0.72", "0.7")]
    code, out, _ = run("parameter", "get", "eps.soc_safe")
    assert out.startswith("eps.soc_safe = 0.72, file 0.7; allowed is a number from 0.1 to 0.95\n")
    assert json.loads(run("parameter", "get", "eps.soc_safe", "--json")[1])["file"] == "0.7"


@pytest.mark.parametrize("value", [True, False, 3, 0.71, 1e-9, 123456789012])
@pytest.mark.parametrize("staged", [True, False])
def test_a_report_of_the_satellite_is_understood(value, staged):
    """The line is the flight software's own (``parameter_set.told``); here its pieces must be found again."""
    shown = parameter_set.shown(value)
    for setting in SETTINGS:
        unit = f" {setting.unit}" if setting.unit else ""
        text = f"{setting.name} = {shown}{unit}, file {shown}{f', staged {shown}' if staged else ''}"
        report = parameter_report(f"{text}; allowed is {settings.describe(setting)}")
        assert report is not None
        assert (report.name, report.value, report.filed) == (setting.name, shown, shown)
        assert report.staged == (shown if staged else "")


MISTAKES = (
    (["sequence", "load", "rts77", "s.toml"], "no table 'rts77'; did you mean"),
    (["sequence", "load", "watchpoints", "s.toml"], "watchpoints is no slot of a sequence: rts01 to"),
    (["sequence", "load", "ats1", "s.toml"], "s.toml:3: ats1 holds an absolute sequence, this is a relative one"),
    (["sequence", "load", "rts05", "none.toml"], "none.toml: No such file or directory"),
    (["sequence", "load", "rts05", "s.toml", "--append"], "--append: rts05 is relative"),
    (["sequence", "load", "ats1", "a.toml", "--append", "--no-activate"], "choose one"),
    (["sequence", "start", "rts"], "no table 'rts'"),
    (["sequence", "run"], "No such command 'run'"),
    (["table", "load", "resets", "l.toml"], "resets is a report and has no source: see ground resets"),
    (["table", "load", "watchpoint", "l.toml"], "no table 'watchpoint'; did you mean watchpoints"),
    (["table", "check", "watchpoints", "s.toml"], "s.toml:1: a limit table: unknown key 'sequence'"),
    (["parameter", "set", "eps.soc_saf=1"], "no parameter 'eps.soc_saf' that can be changed in flight; did"),
    (["parameter", "set", "eps.soc_safe"], "'eps.soc_safe' is not NAME=VALUE"),
    (["parameter", "set", "eps.soc_safe=low"], "eps.soc_safe = 'low' is not a number from 0.1 to 0.95"),
    (["parameter", "set", "eps.soc_safe=nan"], "eps.soc_safe = nan is not a number from 0.1 to 0.95"),
    (["parameter", "set", "eps.soc_safe=0.7", "eps.soc_safe=0.8"], "eps.soc_safe is given twice"),
    (["parameter", "set", "checkpoint.before_eclipse=maybe"], "is not true (1) or false (0)"),
    (["parameter", "set", "payload.restarts_max=1.5"], "payload.restarts_max = '1.5' is not a whole number"),
    (["parameter", "set"], "Missing argument 'NAME=VALUE"),
    (["parameter", "get", "eps.soc"], "no parameter 'eps.soc'"),
    (["resets", "--last", "0"], "'--last'"),
    (["events", "--replay", "0"], "'--replay'"),
    (["send", "table.begin", "table=rts5", "size_bytes=1", "crc32=0"], "did you mean rts05"),
    (["send", "table.data", "table=rts05", "offset=0", "data=xyz"], "data = 'xyz' is not octets as hexadecimal"),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(row[0])[:50] for row in MISTAKES])
def test_mistakes_are_one_line_and_send_nothing(run, udp_craft, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert words in err
    assert err.startswith("ground: ")
    assert err.count("\n") == 1
    assert [name for _, name, *_ in udp_craft.received if name.name != "recorder.acknowledge"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["sequence", "load", "rts05", "s.toml"],
        ["sequence", "start", "rts05"],
        ["sequence", "list"],
        ["sequence", "show", "rts05"],
        ["table", "dump", "watchpoints"],
        ["parameter", "list"],
        ["parameter", "set", "eps.soc_safe=0.7"],
        ["resets"],
        ["events", "--replay", "3"],
    ],
    ids=" ".join,
)
def test_without_a_station(files, monkeypatch, capsys, arguments):
    monkeypatch.chdir(files)
    assert cli.run(arguments) == ExitCode.ERROR
    assert re.fullmatch(r"ground: no station at .*\n", capsys.readouterr().err)


def test_a_refusal_has_its_exit_code_and_reason(run, udp_craft):
    udp_craft.tables.verdict = lambda name: (FailureCode.BUSY, "no") if name == "table.dump" else None
    code, out, err = run("table", "dump", "watchpoints")
    assert (code, out) == (ExitCode.FAILED, "")
    assert err == "ground: watchpoints: table.dump failed: BUSY: no\n"
    udp_craft.tables.verdict = lambda name: None
    udp_craft.tables.active["watchpoints"] = b"\xc1"
    udp_craft.world_s += 1
    code, out, err = run("table", "dump", "watchpoints")
    assert (code, out) == (ExitCode.ERROR, "")
    assert err.startswith("ground: watchpoints: cannot be read with this dictionary: is no image of watchpoints")


def test_r14_the_last_resets(run, udp_craft):
    assert run("resets")[:2] == (0, "no reset is recorded\n")
    udp_craft.world_s += 1
    record = {"boot": 7, "cause": "WATCHDOG", "uptime_s": 81.25, "mode": "SAFE", "safe_cause": "SOC_LOW"}
    rows = [
        record | {"boot": 6, "tai_s": None, "reason": ""},
        record | {"tai_s": 2_174_097_637.0, "reason": "stuck"},
    ]
    udp_craft.tables.active["resets"] = msgspec.msgpack.encode(rows)
    code, out, _ = run("resets")
    assert code == 0
    assert re.search(r"\n +6 +– +WATCHDOG +81\.2 +SAFE +SOC_LOW +–\n", out)
    assert re.search(r"\n +7 +2026-11-23T04:00:00Z +WATCHDOG +81\.2 +SAFE +SOC_LOW +stuck\n", out)
    assert [row["boot"] for row in json.loads(run("resets", "--last", "1", "--json")[1])] == [7]
    udp_craft.tables.active["resets"] = b"\xc1"
    udp_craft.world_s += 1
    assert run("resets")[2].startswith("ground: resets: cannot be read with this dictionary: ")


def test_events_replay(run, udp_craft):
    lost = [udp_craft.event("WORKER_DIED", send=False, job="train", returncode=n, reason="x") for n in (1, 2)]
    udp_craft.replayed = lost
    code, out, err = run("events", "--replay", "2")
    assert code == 0
    assert err == "ground: replayed: 2 events\n"
    assert [line.partition("ended with ")[2][0] for line in out.splitlines()] == ["1", "2"]


def test_ctrl_c_during_a_load_discards_it(udp_station: Ground, udp_craft: SpacecraftDouble, files: Path) -> None:
    udp_craft.housekeeping()
    udp_craft.hold = {"table.validate"}
    command = [sys.executable, "-m", "ground.cli", "sequence", "load", "rts05", str(files / "s.toml")]
    with Child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=os.environ) as process:
        assert udp_craft.wait_for(lambda: any(c.name == "table.validate" for _, c, *_ in udp_craft.received))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (ExitCode.INTERRUPTED, b"", b"")
    assert udp_craft.wait_for(lambda: not udp_craft.tables.loads)
    assert "rts05" not in udp_craft.tables.active


COMPLETIONS = (
    ("ground seq", ["sequence"]),
    ("ground sequence su", ["suspend"]),
    ("ground sequence load rts6", ["rts60", "rts61", "rts62", "rts63", "rts64"]),
    ("ground table load w", ["watchpoints"]),
    ("ground parameter get eps.soc_", ["eps.soc_safe", "eps.soc_recovered"]),
    ("ground parameter set eps.soc_s", ["eps.soc_safe="]),
    ("ground send table.dump table=fd", ["table=fdir_status"]),
)


@pytest.mark.parametrize(("line", "expected"), COMPLETIONS, ids=[case[0] for case in COMPLETIONS])
def test_completion(monkeypatch, capsys, line, expected):
    for name, value in completion_request(line).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        cli.run([])
    assert capsys.readouterr().out.split() == expected


def test_long_lists_of_choices_are_short_in_help(capsys):
    assert cli.run(["help", "table.begin"]) == 0
    out = capsys.readouterr().out
    assert "rts01 (201) to rts64 (264)" in out
    assert cli.run(["help", "parameter.stage"]) == 0
    out = capsys.readouterr().out
    assert f"… {len(SETTINGS)} in all" in out
    assert max(map(len, out.splitlines())) < 400
