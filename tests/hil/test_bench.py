"""The bench with everything real: daemon, workers, station, wires; a short flight, an early end, a dead daemon."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hil.cli import main
from hil.faults import children_of, process_state

pytestmark = pytest.mark.process

SHORT = """
schema = "hil/1"
name = "short"
title = "A few minutes in sunlight"
orbit = "leo_550"
duration_orbits = 0.19
warp = 60.0
[payload]
preset = "micro"
checkpoint_interval_s = 120.0
infer = false
[[telecommands]]
id = "hello"
send = "ping"
when = { anchor = "pass", offset_s = 20.0 }
[invariants]
checkpoints_min = 1
"""


class Run:
    """One ``hil run`` as a user starts it."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "short.toml").write_text(SHORT)
        self.out = folder / "out"
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from hil.cli import main; main()", "run", "short.toml",
             "--out", str(self.out), "--device", "cpu", "--json", *options],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, timeout_s: float) -> tuple[int, dict[str, Any], str]:
        """Exit status, summary and standard error."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, json.loads(out) if out else {}, err

    def flying(self) -> bool:
        """The daemon's training worker shows its activity."""
        return (self.out / "run" / "meters" / "train").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*options: str) -> Run:
        runs.append(Run(tmp_path, *options))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()


def test_a_short_flight_on_udp_is_flown_and_judged(start: Callable[..., Run]) -> None:
    run = start("--link", "udp", "--seed", "3")
    status, summary, err = run.finish(180)
    outcomes = {check["id"]: check["outcome"] for check in summary["invariants"]}
    assert status == 0, (outcomes, summary["bench"], err)
    assert set(outcomes.values()) <= {"PASS", "NOT_APPLICABLE"}
    assert summary["train_steps"] > 0
    assert summary["twin_digest_equal"] is True
    assert summary["packets_acknowledged"] > 0
    assert [c["outcome"] for c in summary["telecommands"]] == ["completed"]
    assert json.loads((run.out / "summary.json").read_text()) == summary
    assert (run.out / "report.html").stat().st_size > 20_000


def test_an_interrupt_lands_leaves_nothing_behind_and_reports(
    start: Callable[..., Run], eventually: Callable[..., None]
) -> None:
    run = start("--link", "pty")
    eventually(run.flying, 60, "a flight")
    children = children_of(run.process.pid)
    assert len(children) >= 2
    run.process.send_signal(signal.SIGINT)
    status, summary, _ = run.finish(90)
    assert (status, summary["interrupted"]) == (130, True)
    assert [pid for pid in children if process_state(pid)] == []
    assert not any((run.out / "run").glob("wires/*"))


def test_a_daemon_that_dies_is_reported_and_ends_the_run(
    start: Callable[..., Run], eventually: Callable[..., None]
) -> None:
    run = start("--link", "udp")
    eventually(run.flying, 60, "a flight")
    daemons = [
        pid for pid in children_of(run.process.pid) if b"--config" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(daemons) == 1
    os.kill(daemons[0], signal.SIGKILL)
    status, summary, _ = run.finish(90)
    assert status == 1
    assert "SIGKILL" in next(c["detail"] for c in summary["invariants"] if c["id"] == "daemon_alive")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nosuch"], "no scenario 'nosuch'; there are"),
        (["demo", "--link", "usb"], "--link usb: unknown; allowed are pty, udp"),
        (["demo", "--orbit", "mars", "--out", "{out}"], "orbit 'mars': neither a named orbit"),
        (["judge", "{out}"], "evidence.msgpack: No such file"),
        (["inproc", "--orbit", "mars"], "orbit 'mars'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(
    tmp_path: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    command = [argument.replace("{out}", str(tmp_path / "out")) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["hil", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capfd.readouterr().err
    assert says in told
    assert len(told.splitlines()) == 1
