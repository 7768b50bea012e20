"""The station as a process: killed, starved of disk, started wrongly, stopped politely."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import StationProcess
from spacecraft_double import SpacecraftDouble

from ground import cli
from ground.client import ArchiveReader
from ground.errors import ExitCode
from tests.background import Background, Child

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def telemetry(craft: SpacecraftDouble, interval_s: float = 0.002) -> Iterator[None]:
    """Housekeeping as fast as a good pass, until the block ends."""
    enough = threading.Event()

    def emit() -> None:
        while not enough.wait(interval_s):
            craft.housekeeping("fast")

    with Background(emit, enough.set):
        yield


def archived(path: Path) -> set[tuple[int, int, int]]:
    with ArchiveReader(path) as reader:
        return {(row.boot, row.apid, row.sequence) for row in reader.identities()}


def test_what_was_acknowledged_survives_kill_9(
    station_process: StationProcess, udp_craft: SpacecraftDouble
) -> None:
    """Killed at the very moment an acknowledgement arrives: everything it names must be in the file.

    Seen red with the acknowledgement taken at reception instead of after the commit.
    """
    for _ in range(2):
        known = len(udp_craft.acknowledged)
        with telemetry(udp_craft):
            assert udp_craft.wait_for(lambda known=known: len(udp_craft.acknowledged) > known + 100, 20)
            station_process.kill(signal.SIGKILL)
        acknowledged = set(udp_craft.acknowledged)
        assert acknowledged
        assert acknowledged <= archived(station_process.archive)
        station_process.start()
    # The new station takes what the old one had not; nothing is lost in the end.
    udp_craft.play_back()
    assert udp_craft.wait_for(lambda: udp_craft.acknowledged >= set(udp_craft.recorder), 20)
    assert station_process.client.send("ping", timeout_s=10).outcome == "completed"
    ids = [id for _, _, id, _ in udp_craft.received]
    assert len(set(ids)) == len(ids)


def test_a_full_disk_is_reported_and_nothing_is_acknowledged_meanwhile(
    station_process: StationProcess, udp_craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    """The kernel refuses the file to grow; then it may again."""
    pid, client = station_process.process.pid, station_process.client
    udp_craft.housekeeping()
    assert udp_craft.wait_for(lambda: len(udp_craft.acknowledged) == 1)
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (16_384, hard))
    with telemetry(udp_craft):
        eventually(lambda: client.status().archive_fault, 10, "fault")
        before = set(udp_craft.acknowledged)
        held = client.status().archive_pending
        eventually(lambda: client.status().archive_pending > held + 100, 10, "packets held")
        # Live data go on, and commands too.
        assert client.send("ping", timeout_s=10).outcome == "completed"
        assert "archive" in " ".join(client.status().notices)
        assert udp_craft.acknowledged <= before | archived(station_process.archive)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    eventually(lambda: not client.status().archive_fault, 10, "recovery")
    udp_craft.housekeeping()
    assert udp_craft.wait_for(lambda: udp_craft.acknowledged >= set(udp_craft.recorder), 20)
    assert archived(station_process.archive) >= udp_craft.acknowledged


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_commits_and_ends_well(
    station_process: StationProcess, udp_craft: SpacecraftDouble, number: int
) -> None:
    udp_craft.housekeeping()
    assert station_process.process.stdout is not None
    assert "link: contact" in station_process.process.stdout.readline()
    code, _, err = station_process.kill(number)
    assert (code, err) == (0, "")
    assert archived(station_process.archive) == set(udp_craft.recorder)
    assert not station_process.socket.exists()


def test_json_lines(udp_craft: SpacecraftDouble, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "ground.cli", "listen", "--link", udp_craft.line.station_endpoint, "--json"),
        *("--archive", str(tmp_path / "a.sqlite"), "--socket", str(tmp_path / "s.sock")),
    ]
    with Child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "status"
        udp_craft.boot_event()
        udp_craft.housekeeping(eps__soc_fraction=0.5)
        kinds = {json.loads(process.stdout.readline())["type"] for _ in range(3)}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert kinds == {"event", "alarm", "status"}
    assert (process.returncode, err) == (0, b"")


def wrong_starts(tmp_path: Path, taken: int) -> list[tuple[list[str], int, str]]:
    text = tmp_path / "text"
    text.write_text("this is no database, as anybody can see from its first bytes")
    return [
        (["--link", "serial:/dev/nowhere"], ExitCode.ERROR, "no such device"),
        (["--link", f"udp:127.0.0.1:{taken}/127.0.0.1:9"], ExitCode.ERROR, "in use"),
        (["--link", "udp:203.0.113.7:5000/127.0.0.1:9"], ExitCode.ERROR, "no such address"),
        (["--link", "udp:127.0.0.1:5000"], ExitCode.USAGE, "is no endpoint"),
        (["--link", "tcp:1"], ExitCode.USAGE, "is no endpoint"),
        ([], ExitCode.USAGE, "Missing option '--link'"),
        (["--link", "none", "--archive", str(text)], ExitCode.ERROR, "not a database"),
        (["--link", "none", "--archive", "/proc/nowhere/a.sqlite"], ExitCode.ERROR, "archive /proc/nowhere"),
        (["--link", "none", "--socket", "/proc/nowhere/s"], ExitCode.ERROR, "control socket /proc/nowhere"),
        (["--link", "none", "--sockets", "x"], ExitCode.USAGE, "No such option"),
    ]


def test_wrong_starts_end_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        for options, code, words in wrong_starts(tmp_path, holder.getsockname()[1]):
            assert cli.run(["listen", *options]) == code, options
            out, err = capsys.readouterr()
            assert words in err
            assert err.count("\n") == 1
            assert err.startswith("ground: ")
            assert out == ""


def test_a_serial_device_in_use_is_named(tmp_path: Path) -> None:
    import pty

    import serial

    master, slave = pty.openpty()
    path = os.ttyname(slave)
    with serial.Serial(path, exclusive=True):
        done = subprocess.run(
            [sys.executable, "-m", "ground.cli", "listen", "--link", f"serial:{path}"],
            capture_output=True,
            text=True,
            timeout=30,
            cwd=REPOSITORY,
            check=False,
        )
    os.close(master)
    os.close(slave)
    assert done.returncode == ExitCode.ERROR
    assert (
        done.stderr
        == f"ground: radio serial device {path}: in use by another program: stop it, or name another device\n"
    )
