"""The setter: nothing changes that was not asked for, everything is put back at every end, on a card in a file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import file_nvml
import pytest

from flightsw.gpu.actuators.saved import Saved, SavedFile
from flightsw.gpu.protocol import (
    Adjust,
    Applied,
    Fault,
    FromChild,
    Pace,
    SetterSpec,
    Stop,
    decode_from_child,
    encode,
)
from flightsw.gpu.setter import serve
from tests.background import Child

NVPMODEL = """#!/bin/sh
echo "$@" >> "$0.log"
case "$1" in
  -q) echo "NV Power Mode: MODE"; cat "$0.mode" ;;
  -m) if [ "$2" -gt 3 ]; then echo "NVPM ERROR: invalid mode $2" >&2; exit 255; fi; echo "$2" > "$0.mode" ;;
esac
"""


class Bench:
    """A card and a board in one folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "card.json"
        self.saved = folder / "actuators.saved"
        self.program = folder / "nvpmodel"
        self.program.write_text(NVPMODEL)
        self.program.chmod(0o755)
        self.mode_file = folder / "nvpmodel.mode"
        self.mode_file.write_text("2\n")
        self.set()

    def set(self, **changes: Any) -> None:
        old = json.loads(self.file.read_text()) if self.file.exists() else file_nvml.FRESH
        self.file.write_text(json.dumps({**old, **changes}))

    @property
    def card(self) -> dict[str, Any]:
        return json.loads(self.file.read_text())

    @property
    def state(self) -> tuple[int, int, int]:
        return self.card["limit"], self.card["locked"], int(self.mode_file.read_text())

    def spec(self, **wanted: Any) -> SetterSpec:
        return SetterSpec(
            saved_file=str(self.saved), nvml_module="file_nvml", nvpmodel_program=str(self.program), **wanted
        )

    def serve(self, *messages: Any, **wanted: Any) -> tuple[int, list[FromChild]]:
        """A whole life in this process: it ends after its first hold."""
        told: list[FromChild] = []
        ended = threading.Event()

        def send(message: FromChild) -> None:
            told.append(message)
            if len(told) > len(messages) + 1:
                ended.set()

        return serve(self.spec(**wanted), send, ended, deque(messages)), told


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("FILE_NVML", str(tmp_path / "card.json"))
    monkeypatch.setattr("flightsw.gpu.setter.HOLD_S", 0.01)
    return Bench(tmp_path)


AS_FOUND = (700_000, 0, 2)
ALL = {"power_limit_w": 450.0, "clock_lock_mhz": 1410, "nvpmodel_mode": 1}


def test_settings_are_set_held_and_put_back(bench: Bench) -> None:
    status, told = bench.serve(**ALL)
    assert status == 0
    assert told[0] == Applied(values={"power_limit": 450_000, "clock_lock": 1410, "nvpmodel": 1}, restored=False)
    assert told[-1] == Applied(values={"power_limit": 700_000, "clock_lock": -1, "nvpmodel": 2}, restored=True)
    assert bench.state == AS_FOUND
    assert not bench.saved.exists()


def test_nothing_wanted_nothing_called(bench: Bench) -> None:
    assert bench.serve() == (0, [])
    assert bench.card["calls"] == []
    assert not (bench.program.with_name("nvpmodel.log")).exists()


@pytest.mark.parametrize("found", [{"limit": 500_000}, {"limit": 500_000, "locked": 900}])
def test_what_was_found_is_put_back_not_the_default(bench: Bench, found: dict[str, int]) -> None:
    bench.set(**found)
    bench.serve(power_limit_w=450.0)
    assert bench.card["limit"] == 500_000
    assert bench.card["locked"] == found.get("locked", 0), "a clock lock that was not asked for is left alone"


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # case: what is wanted, how the card is, what is told
    "limit under the card's": (
        {"power_limit_w": 100.0},
        {},
        "power_limit = 100000 mW: allowed are 200000 to 700000",
    ),
    "limit over the card's": ({"power_limit_w": 900.0}, {}, "allowed are 200000 to 700000"),
    "limit outside the configuration's": (
        {"power_limit_w": 450.0, "power_limit_max_w": 400.0},
        {},
        "allowed are 200000 to 400000",
    ),
    "ranges without an overlap": ({"power_limit_w": 150.0, "power_limit_max_w": 180.0}, {}, "nothing in common"),
    "no permission": (
        {"power_limit_w": 450.0},
        {"fail": {"nvmlDeviceSetPowerManagementLimit": 4}},
        "no permission",
    ),
    "a card that refuses": (
        {"power_limit_w": 450.0},
        {"fail": {"nvmlDeviceSetPowerManagementLimit": 999}},
        "the card refuses",
    ),
    "not offered": (
        {"power_limit_w": 450.0},
        {"fail": {"nvmlDeviceGetPowerManagementLimitConstraints": 3}},
        "does not offer it",
    ),
    "impossible constraints": ({"power_limit_w": 450.0}, {"low": -5}, "-5 is no believable value"),
    "clock over the card's": ({"clock_lock_mhz": 3000}, {}, "clock_lock = 3000 MHz: allowed are 1 to 1980"),
    "clock refused after the limit was set": (
        {"power_limit_w": 450.0, "clock_lock_mhz": 1410},
        {"fail": {"nvmlDeviceSetGpuLockedClocks": 4}},
        "clock_lock: no permission",
    ),
    "no driver": ({"power_limit_w": 450.0}, {"fail": {"nvmlInit": 9}}, "no card to set"),
    "wrong nvpmodel mode": ({"nvpmodel_mode": 9}, {}, "status 255: NVPM ERROR: invalid mode 9"),
    "mode out of any range": ({"nvpmodel_mode": 99}, {}, "nvpmodel = 99 mode: allowed are 0 to 31"),
    "mode wrong after the limit was set": ({"power_limit_w": 450.0, "nvpmodel_mode": 9}, {}, "invalid mode 9"),
}


@pytest.mark.parametrize(("wanted", "card", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_one_line_and_leaves_nothing_changed(
    bench: Bench, wanted: dict[str, Any], card: dict[str, Any], reason: str
) -> None:
    bench.set(**card)
    status, told = bench.serve(**wanted)
    faults = [message.reason for message in told if isinstance(message, Fault)]
    assert status == 1
    assert len(faults) == 1
    assert reason in faults[0]
    assert "\n" not in faults[0]
    assert bench.state == AS_FOUND
    assert not bench.saved.exists()


def test_a_missing_program_is_told(bench: Bench) -> None:
    bench.program.unlink()
    status, (fault,) = bench.serve(nvpmodel_mode=1)
    assert status == 1
    assert "cannot be started: No such file" in fault.reason


def test_without_a_place_to_save_nothing_is_changed(bench: Bench) -> None:
    bench.saved.mkdir()
    status, told = bench.serve(power_limit_w=450.0)
    assert (status, bench.card["calls"]) == (1, [])
    assert "actuators.saved" in told[0].reason


def test_a_card_that_vanishes_keeps_its_file_for_the_next_start(bench: Bench) -> None:
    def vanish(message: FromChild) -> None:
        told.append(message)
        bench.set(fail={"*": 15})

    told: list[FromChild] = []
    assert serve(bench.spec(power_limit_w=450.0), vanish, threading.Event(), deque()) == 1
    assert "GPU is lost" in told[1].reason
    assert "keeps them for the next start" in told[2].reason
    assert bench.saved.exists()
    status, (fault,) = bench.serve()
    assert (status, bench.saved.exists()) == (1, True)
    assert "no card to set" in fault.reason
    bench.set(fail={})
    status, told = bench.serve()
    assert (status, told) == (0, [Applied(values={"power_limit": 700_000}, restored=True)])
    assert bench.state == AS_FOUND
    assert not bench.saved.exists()


BAD_FILES = {
    "garbage": (b"\xff\xfe", "is no file of saved settings"),
    "another format": (b'{"format": 2, "card": "GPU-a", "values": {}}', "is no file of saved settings"),
    "unknown setting": (b'{"card": "GPU-a", "values": {"voltage": 1}}', "holds unknown settings voltage"),
    "another card": (b'{"card": "GPU-b", "values": {"power_limit": 300000}}', "of card GPU-b, this is GPU-a"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_trusted_changes_nothing(bench: Bench, content: bytes, reason: str) -> None:
    bench.saved.write_bytes(content)
    status, (fault,) = bench.serve(power_limit_w=450.0)
    assert status == 1
    assert reason in fault.reason
    assert bench.card["calls"] == []
    assert bench.saved.exists()


@pytest.mark.parametrize(
    ("adjust", "reason", "limit"),
    [
        (Adjust(setting="power_limit", value=300_000), "", 300_000),
        (Adjust(setting="power_limit", value=100_000), "allowed are 250000 to 600000", 450_000),
        (Adjust(setting="power_limit", value=650_000), "allowed are 250000 to 600000", 450_000),
        (Adjust(setting="clock_lock", value=900), "is not switched on", 450_000),
        (Adjust(setting="voltage", value=1), "is not switched on", 450_000),
        (Pace(0.5), "", 450_000),
    ],
)
def test_adjusting_within_the_range_of_card_and_configuration(
    bench: Bench, adjust: Any, reason: str, limit: int
) -> None:
    seen: list[int] = []
    told: list[FromChild] = []
    ended = threading.Event()

    def send(message: FromChild) -> None:
        told.append(message)
        seen.append(bench.card["limit"])
        if len(told) >= 4:
            ended.set()

    spec = bench.spec(power_limit_w=450.0, power_limit_min_w=250.0, power_limit_max_w=600.0)
    assert serve(spec, send, ended, deque([adjust])) == 0
    assert seen[2] == limit
    assert [reason in message.reason for message in told if isinstance(message, Fault)] == [True] * bool(reason)
    assert bench.state == AS_FOUND


def test_somebody_elses_change_is_told_once_and_put_back_at_the_end(bench: Bench) -> None:
    told: list[FromChild] = []
    ended = threading.Event()

    def send(message: FromChild) -> None:
        told.append(message)
        if len(told) == 1:
            bench.set(limit=333_000)
        if len(told) == 6:
            ended.set()

    assert serve(bench.spec(power_limit_w=450.0), send, ended, deque()) == 0
    faults = [message.reason for message in told if isinstance(message, Fault)]
    assert len(faults) == 1
    assert "333000 mW, not 450000: somebody else" in faults[0]
    assert bench.state == AS_FOUND


# --- the real process --------------------------------------------------------------------------------------


@contextlib.contextmanager
def setter(bench: Bench, **wanted: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The process once it has set what was wanted."""
    path = os.pathsep.join([str(Path(file_nvml.__file__).parent), os.environ.get("PYTHONPATH", "")])
    with Child(
        [sys.executable, "-m", "flightsw.gpu.setter"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path},
    ) as process:  # fmt: skip
        process.stdin.write(encode(bench.spec(**wanted)))
        process.stdin.flush()
        yield process


def told_by(process: subprocess.Popen[bytes]) -> FromChild:
    prefix = process.stdout.read(4)
    return decode_from_child(process.stdout.read(int.from_bytes(prefix, "little")))


ENDS = {
    "end of file": lambda process: process.stdin.close(),
    "stop": lambda process: (process.stdin.write(encode(Stop())), process.stdin.flush()),
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
}


@pytest.mark.process
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_every_end_puts_back(bench: Bench, end: Any) -> None:
    with setter(bench, **ALL) as process:
        assert told_by(process).values["power_limit"] == 450_000
        assert bench.state == (450_000, 1410, 1)
        end(process)
        process.stdout.read()
        assert process.wait(20) == 0
    assert bench.state == AS_FOUND
    assert not bench.saved.exists()


@pytest.mark.process
def test_sigkill_leaves_the_file_and_the_next_start_puts_back_first(bench: Bench) -> None:
    with setter(bench, **ALL) as process:
        told_by(process)
        process.kill()
        process.wait(20)
    assert bench.state == (450_000, 1410, 1), "nobody could do anything"
    with setter(bench, power_limit_w=300.0) as process:
        assert told_by(process) == Applied(
            values={"power_limit": 700_000, "clock_lock": -1, "nvpmodel": 2}, restored=True
        )
        assert told_by(process) == Applied(values={"power_limit": 300_000}, restored=False)
        process.stdin.close()
        process.stdout.read()
        assert process.wait(20) == 0
    assert bench.state == AS_FOUND


@pytest.mark.process
def test_a_wrong_first_message_changes_nothing(bench: Bench) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "flightsw.gpu.setter"], input=encode(Pace(0.5)), capture_output=True, check=False
    )
    assert process.returncode == 1
    assert b"not a SetterSpec" in process.stdout
    empty = subprocess.run(
        [sys.executable, "-m", "flightsw.gpu.setter"], input=b"", capture_output=True, check=False
    )
    assert (empty.returncode, empty.stdout) == (0, b"")
    assert bench.card["calls"] == []


def test_the_saved_file_is_replaced_whole(tmp_path: Path) -> None:
    file = SavedFile(tmp_path / "saved")
    assert file.load() is None
    file.save(Saved("GPU-a", {"power_limit": 1}))
    file.save(Saved("GPU-a", {"power_limit": 2}))
    assert file.load() == Saved("GPU-a", {"power_limit": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    file.clear()
    file.clear()
    assert file.load() is None
