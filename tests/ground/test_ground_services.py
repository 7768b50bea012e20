"""The operator's commands against the real daemon over pty's: what is loaded acts, and survives a restart."""

import contextlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grounded_flight import GroundedFlight

from ground import cli
from ground.client import ArchiveReader, StationClient

pytestmark = pytest.mark.process

SEQUENCE = """\
[sequence]
name = "say hello"
kind = "relative"
reference = "completion"
on_failure = "abort"
wait_for_time = false

[[step]]
after = "100 ms"
command = "ping"

[[step]]
after = "200 ms"
command = "hk.request"
group = "slow"

[[step]]
after = "1 h"
command = "ping"
"""


class Operator:
    """Types commands; what they print is the answer."""

    def __init__(self, flight: GroundedFlight, client: StationClient, capsys: pytest.CaptureFixture[str]) -> None:
        self.flight, self.client, self._capsys = flight, client, capsys

    def __call__(self, line: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert cli.run(line.split()) == code, (line, self._capsys.readouterr())
        return self._capsys.readouterr().out

    def events(self, name: str) -> list[str]:
        with ArchiveReader(self.flight.archive) as reader:
            return [event.text for event in reader.events() if event.name == name]


@pytest.fixture
def operator(tmp_path: Path, capsys, monkeypatch, eventually: Callable[..., None]) -> Iterator[Operator]:
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as resources:
        flight = GroundedFlight(tmp_path, resources)
        with flight.flying() as client:
            eventually(lambda: client.status().contact, 20, "contact")
            yield Operator(flight, client, capsys)


def test_r4_a_sequence_is_loaded_runs_and_is_dumped(operator, eventually, tmp_path):
    (tmp_path / "hello.toml").write_text(SEQUENCE)
    assert re.search(r"valid: say hello, 3 steps.*\n  rts07 active", operator("sequence load rts7 hello.toml"))
    assert re.search(r"rts07 +say hello +LOADED +1 of 3", operator("sequence list"))
    operator("sequence start rts07")
    with ArchiveReader(operator.flight.archive) as reader:
        eventually(lambda: any(p.service == 17 for p in reader.packets()), 10, "the ping of the sequence")
    eventually(lambda: "3 of 3" in operator("sequence list"), 10, "the first two steps")
    operator("sequence suspend rts07")
    operator("sequence step rts07")
    eventually(lambda: operator.events("SEQUENCE_ENDED"), 10, "the end of the sequence")
    assert "3 dispatched, 0 failed" in operator.events("SEQUENCE_ENDED")[0]
    operator("sequence abort rts07", 4)
    operator("sequence show rts07 -o back.toml")
    assert "the same" in operator("table diff rts07 back.toml")
    assert "the same" in operator("table diff rts07 hello.toml")


def test_r8_limits_are_loaded_trip_and_are_switched(operator, eventually, tmp_path):
    """A limit that the bench's state of charge of 0.95 is past: its response is seen, then switched off."""
    text = operator("table dump watchpoints")
    more = 'id = 9001\nname = "test.soc"\nparameter = "eps.soc_fraction"\noperator = "<"\ntrip = 0.99\n'
    (tmp_path / "w.toml").write_text(f"{text}\n[[watchpoint]]\n{more}")
    operator("table load watchpoints w.toml")
    text = operator("table dump actionpoints")
    more = 'id = 9002\nname = "test.report"\nwhen = "test.soc"\nresponse = "report"\ndomain = "power"\n'
    (tmp_path / "a.toml").write_text(f"{text}\n[[actionpoint]]\n{more}")
    operator("table load actionpoints a.toml")
    eventually(lambda: any("test.report" in text for text in operator.events("FDIR_TRIPPED")), 10, "the response")
    shown = operator("limits --tripped")
    assert re.search(r"9001 +test\.soc +TRIPPED +0\.95 +< 0\.99", shown)
    assert re.search(r"9002 +test\.report +active +1 +report +1 ", shown)
    operator("action test.report disabled")
    told = json.loads(operator("limits --json"))
    assert next(a for a in told["actionpoints"] if a["id"] == 9002)["state"] == "disabled"
    assert "the same" in operator("table diff actionpoints a.toml")
    operator("table reset actionpoints")
    operator("table reset watchpoints")
    assert "test.soc" not in operator("table dump watchpoints")


def test_r7_parameters_change_together_and_outlive_a_restart(operator, eventually):
    operator("parameter set eps.soc_safe=0.75 eps.dod_max=0.35", 4)
    assert operator("parameter list --changed").count("\n") == 3, "nothing has changed"
    shown = operator("parameter set housekeeping.main_interval_s=0.5 eps.dod_max=0.28")
    assert re.search(r"housekeeping.main_interval_s +1  →  0.5", shown)
    changed = "eps.dod_max: 0.3 → 0.28"
    eventually(lambda: any(changed in text for text in operator.events("PARAMETERS_CHANGED")), 10, "the event")
    boot = operator.client.status().boot
    assert operator.flight.process is not None
    operator.flight.process.send_signal(signal.SIGKILL)
    operator.flight.process.wait(20)
    operator.flight.start()
    eventually(lambda: operator.client.status().boot == boot + 1, 20, "the next boot")
    assert "eps.dod_max = 0.28, file 0.3" in operator("parameter get eps.dod_max")
    assert re.search(rf"\n *{boot + 1} +.*\n", operator("resets"))
    assert "PARAMETERS_CHANGED" in operator("events --replay 50")
    operator("table reset parameters")
    assert "eps.dod_max = 0.3, file 0.3" in operator("parameter get eps.dod_max")
