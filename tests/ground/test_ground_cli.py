"""The command line as an operator meets it: answers, help, completion, exit codes, one-line complaints."""

import csv
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ground
from spacecraft_double import SpacecraftDouble
from typer.testing import CliRunner

from flightsw.link.dictionary import TELECOMMANDS
from flightsw.link.schema import Hazard
from ground import cli
from ground.client import ArchiveReader
from ground.errors import ExitCode

REPOSITORY = Path(__file__).parents[2]
runner = CliRunner()

SENT = (
    (["ping"], 0, ["acceptance ok", "completion ok", "completed"]),
    (
        ["job.infer", "job=talk", "prompt=Once"],
        0,
        ["prompt=Once", "reply: 12 tokens", "│ Once there was", r"It\x1b[31m"],
    ),
    (["job.infer", "--job", "talk", "--prompt", "Once", "--max-tokens", "9"], 0, ["max_tokens=9"]),
    (["hk.enable", "group=MAIN"], 0, ["group=main", "completed"]),
    (["gpu.rail", "on=off", "--yes"], 0, ["arm opcode=49", "gpu.rail on=false", "completed"]),
    (["ping", "--wait", "none"], 0, ["sent"]),
    (["ping", "--wait", "acceptance"], 0, ["accept"]),
    (["job.start", "job=nobody"], 3, ["UNKNOWN_TARGET: no job 'nobody'", "refused"]),
    (["job.checkpoint", "job=talk"], 4, ["EXECUTION_FAILED", "failed"]),
)


@pytest.mark.parametrize(("arguments", "code", "words"), SENT, ids=[" ".join(case[0]) for case in SENT])
def test_send(
    udp_station: Ground,
    udp_craft: SpacecraftDouble,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    udp_craft.housekeeping()
    assert cli.run(["send", *arguments]) == code
    out = capsys.readouterr().out
    assert all(word in out for word in words), out


def test_send_as_json(udp_station: Ground, udp_craft: SpacecraftDouble, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["send", "job.infer", "job=talk", "prompt=Once", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["outcome"] == "completed"
    assert [stage["stage"] for stage in result["stages"]] == ["acceptance", "start", "completion"]
    assert result["reply"]["text"].startswith("Once there was")


def test_no_contact_is_exit_code_5(
    udp_station: Ground, udp_craft: SpacecraftDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    udp_craft.deaf = True
    assert cli.run(["send", "ping", "--timeout", "0.2"]) == ExitCode.NO_CONTACT
    out = capsys.readouterr().out
    assert "no contact (nothing heard yet)" in out
    assert "timeout" in out


REFUSED = (
    (["send", "ping", "x"], "'x' is not name=value"),
    (["send", "ping", "x=1"], "unknown argument 'x'"),
    (["send", "job.start"], "argument job is missing"),
    (["send", "job.start", "job=a", "--job", "b"], "job is given twice"),
    (["send", "job.start", "job=a", "job=b"], "job is given twice"),
    (["send", "governor.cap", "power_cap_w=lots"], "power_cap_w = 'lots' is not a number from 0 to 2000 W"),
    (["send", "governor.cap", "power_cap_w=nan"], "is not a number from 0 to 2000 W"),
    (["send", "gpu.rail", "on=maybe"], "is not true or false"),
    (["send", "mode.set", "mode=FAST"], "one of SAFE (1), NOMINAL (2)"),
    (["send", "job.infer", "job=talk", "prompt=" + "é" * 800], "bytes"),
    (["send", "gpu.rail", "on=true"], "hazardous: say --yes"),
    (["send", "ping", "--wait", "ever"], "--wait ever"),
    (["send", "ping", "--timeout", "-1"], "timeout -1 s"),
    (["send", "pong"], "No such command 'pong'"),
    (["query", "eps.soc_frac"], "did you mean eps.soc_fraction"),
    (["query", "packets", "--csv", "--json"], "choose one"),
    (["report", "--html", "--json"], "choose one"),
    (["events", "--severity", "loud"], "allowed are DIAGNOSTIC"),
    (["help", "job.inf"], "did you mean job.infer"),
    (["nonsense"], "No such command 'nonsense'"),
    (["query", "mode", "--since", "now"], "valid number"),
    (["query", "mode", "--since", "nan"], "seconds of mission time"),
)


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[" ".join(case[0])[:40] for case in REFUSED])
def test_mistakes_are_one_line_and_send_nothing(
    udp_station: Ground,
    udp_craft: SpacecraftDouble,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert cli.run(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert words in err
    assert err.startswith("ground: ")
    assert err.count("\n") == 1
    assert out == ""
    assert udp_craft.received == []


@pytest.mark.parametrize("arguments", [["status"], ["watch"], ["stop"], ["send", "ping"], ["events", "--follow"]])
def test_without_a_station(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == ExitCode.ERROR
    assert re.fullmatch(
        r"ground: no station at .*: start one with ground listen --link ENDPOINT\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [["events"], ["query", "mode"], ["query"], ["report"]])
def test_without_an_archive(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.run(arguments) == ExitCode.ERROR
    assert re.fullmatch(r"ground: no archive .*\n", capsys.readouterr().err)


@pytest.fixture
def filled(udp_station: Ground, udp_craft: SpacecraftDouble) -> Ground:
    """A station with a short story in its archive."""
    udp_craft.boot_event()
    for count in range(10):
        udp_craft.world_s = 1000.0 + count
        udp_craft.housekeeping(send=count != 4, mode=2.0, eps__soc_fraction=0.8 - count / 50, gpu__power_w=300.0)
    udp_craft.event("WORKER_DIED", job="train", returncode=-9, reason="killed")
    assert cli.run(["send", "job.infer", "job=talk", "prompt=Once"]) == 0
    assert cli.run(["send", "job.start", "job=nobody"]) == 3
    udp_station.client.send("ping", timeout_s=10)
    # Two rounds: the archive has everything that was heard.
    heard = {identity for identity in udp_craft.recorder if identity[1:] != (0x21, 5)}
    assert udp_craft.wait_for(lambda: udp_craft.acknowledged >= heard)
    return udp_station


def test_status_and_lookups(filled: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    capsys.readouterr()
    for line in (
        "status", "status --json", "events", "events --severity error", "events --json", "query", "query mode",
        "query eps.soc_fraction --json", "query eps.soc_fraction --csv", "query eps.soc_fraction --since -3.5",
        "query packets --last 3", "query packets --csv", "query verifications --json", "query replies",
        "query commands", "query commands --json", "query eps.soc_fraction --last 2", "commands", "commands --json",
        "report", "report --json", "report --html", "help job.infer", "help eps.soc_fraction", "query --json",
    ):  # fmt: skip
        assert cli.run(line.split()) == 0, line
        shown[line], err = capsys.readouterr()
        assert err == ""
    assert "NOMINAL, boot 1, mission time 1,009.0 s" in shown["status"]
    assert json.loads(shown["status --json"])["missing"] == 1
    assert "BOOT: boot 1" in shown["events"]
    assert "BOOT" not in shown["events --severity error"]
    assert "worker ended with -9" in shown["events --severity error"]
    assert [json.loads(row)["name"] for row in shown["events --json"].splitlines()] == ["BOOT", "WORKER_DIED"]
    assert "Battery state of charge" in shown["query"]
    assert "NOMINAL" in shown["query mode"]
    series = json.loads(shown["query eps.soc_fraction --json"])
    assert series["world_s"] == [1000.0 + count for count in range(10) if count != 4]
    rows = list(csv.reader(io.StringIO(shown["query eps.soc_fraction --csv"])))
    assert rows[0] == ["world_s", "eps.soc_fraction"]
    assert len(rows) == 10
    assert "4 valid" in shown["query eps.soc_fraction --since -3.5"]
    assert "2 valid" in shown["query eps.soc_fraction --last 2"]
    assert len(shown["query packets --last 3"].splitlines()) == 4
    assert len(shown["query packets --csv"].splitlines()) > 20
    assert "\x1b" not in shown["query replies"]
    assert "refused" in shown["query commands"]
    outcomes = [json.loads(row)["outcome"] for row in shown["query commands --json"].splitlines()]
    assert outcomes == ["completed", "refused", "completed"]
    assert len(json.loads(shown["commands --json"])) == len(TELECOMMANDS)
    report = json.loads(shown["report --json"])
    assert (report["missing"], report["outcomes"]) == (1, {"completed": 2, "refused": 1})
    assert report["gaps"] == [[1, 0x21, 5, 5]]
    soc = next(p for p in report["parameters"] if p["name"] == "eps.soc_fraction")
    assert (soc["samples"], round(soc["minimum"], 9), soc["red"], soc["yellow"]) == (9, 0.62, 4, 1)
    assert "1 missing" in shown["report"]
    page = shown["report --html"]
    assert "<svg" in page
    assert not re.search(r"(src|href)=|<script|@import", page), "self-contained"
    assert "Sampling temperature" in shown["help job.infer"]
    assert "red low 0.7" in shown["help eps.soc_fraction"]


def test_report_to_a_file(filled: Ground, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "--html", "-o", str(tmp_path / "deep" / "r.html")]) == 0
    assert (tmp_path / "deep" / "r.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert cli.run(["report", "-o", "/proc/nowhere/r"]) == ExitCode.ERROR
    assert capsys.readouterr().err.startswith("ground: report /proc/nowhere/r: ")


def test_hostile_text_is_harmless_in_html(
    udp_station: Ground, udp_craft: SpacecraftDouble, capsys: pytest.CaptureFixture[str]
) -> None:
    udp_station.client.send("job.infer", {"job": "talk", "prompt": "<script>alert(1)</script>"}, timeout_s=10)
    assert cli.run(["report", "--html"]) == 0
    assert "<script" not in capsys.readouterr().out


def test_help_is_made_from_the_dictionary() -> None:
    for telecommand in TELECOMMANDS:
        shown = runner.invoke(cli.app, ["send", telecommand.name, "--help"])
        assert shown.exit_code == 0
        words = re.sub(r"[│\s]+", " ", shown.output)
        assert telecommand.text in words
        for argument in telecommand.arguments:
            assert f"--{argument.name}" in words
        assert ("HAZARDOUS" in words) == (telecommand.hazard is Hazard.HAZARDOUS)


def completion_request(line: str) -> dict[str, str]:
    """What bash puts into the environment to complete the last word of the line."""
    return {"_GROUND_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}


COMPLETIONS = (
    ("ground lis", ["listen"]),
    ("ground send job.i", ["job.infer"]),
    ("ground send job.", ["job.start", "job.stop", "job.checkpoint", "job.infer"]),
    ("ground send job.infer m", ["max_tokens="]),
    ("ground send job.infer job=talk p", ["prompt="]),
    ("ground send hk.enable group=m", ["group=main"]),
    ("ground send hk.enable group = m", ["main"]),
    ("ground send gpu.rail --on ", ["true", "false"]),
    ("ground send job.infer --max", ["--max_tokens", "--max-tokens"]),
    ("ground query eps.so", ["eps.soc_fraction", "eps.soc_sigma"]),
    ("ground events --severity C", ["CRITICAL"]),
)


@pytest.mark.parametrize(("line", "expected"), COMPLETIONS, ids=[case[0] for case in COMPLETIONS])
def test_completion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]
) -> None:
    for name, value in completion_request(line).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        cli.run([])
    assert capsys.readouterr().out.split() == expected


def test_completion_as_the_shell_calls_it() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("ground")],
        env={**os.environ, **completion_request("ground send job.i")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["job.infer"], "")


def shown(terminal: int, enough: Callable[[str], bool]) -> str:
    """What a terminal shows until that is ``enough``, its last user has gone, or 20 s have passed."""
    screen, deadline_s = "", time.monotonic() + 20
    while not enough(screen) and time.monotonic() < deadline_s:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # Linux's way to say that nobody has it open.
                break
            screen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part.decode(errors="replace"))
    return screen


def test_the_page_on_a_terminal(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    """``ground watch`` in a real terminal of 80 × 24: what matters is on the screen, Ctrl-C leaves no trace."""
    udp_craft.boot_event()
    udp_craft.housekeeping(mode=3.0, eps__soc_fraction=0.65)
    udp_station.client.send("ping", timeout_s=10)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPOSITORY)
        os.environ |= {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        os.execv(sys.executable, [sys.executable, "-m", "ground.cli", "watch"])
    wanted = ("COMPUTE", "soc_fraction", "0.65", "completed ping", "BOOT", "red limit")
    screen = shown(terminal, lambda screen: all(word in screen for word in wanted))
    assert all(word in screen for word in wanted), screen[-3000:]
    os.write(terminal, b"\x03")
    screen += shown(terminal, lambda screen: False)  # To the end: a terminal that nobody reads stops who writes.
    os.kill(pid, signal.SIGKILL)  # No more than a name if it has ended.
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) in (0, ExitCode.INTERRUPTED)
    assert "Traceback" not in screen


def test_a_reader_that_goes_away_is_no_error(filled: Ground) -> None:
    line = f"{sys.executable} -m ground.cli query packets --json | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.stderr == ""
    assert json.loads(done.stdout)["boot"] == 1


def test_who_sent_it_is_the_kernels_word(filled: Ground) -> None:
    import getpass

    with ArchiveReader(filled.archive) as reader:
        assert {command.operator for command in reader.commands()} == {getpass.getuser()}
