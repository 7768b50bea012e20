"""A station and a spacecraft double, joined by a real wire; the station in a thread of the test or in a process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from spacecraft_double import PtyLine, SpacecraftDouble, UdpLine

from flightsw.link.endpoint import parse_endpoint
from ground.client import ArchiveReader, StationClient
from ground.station import Station


class Ground:
    """A running station with its client and its archive."""

    def __init__(self, craft: SpacecraftDouble, directory: Path) -> None:
        self.craft = craft
        self.archive = directory / "archive.sqlite"
        self.socket = directory / "station.sock"
        self.client = StationClient(self.socket)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        station = Station(parse_endpoint(self.craft.line.station_endpoint), self.archive, self.socket)
        self._thread = threading.Thread(target=station.run)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self.client.stop()
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._thread = None

    def identities(self) -> set[tuple[int, int, int]]:
        with ArchiveReader(self.archive) as reader:
            return {(i.boot, i.apid, i.sequence) for i in reader.identities()}


class StationProcess:
    """``ground listen`` as an operator starts it."""

    def __init__(self, craft: SpacecraftDouble, directory: Path, *options: str) -> None:
        self.archive = directory / "archive.sqlite"
        self.socket = directory / "station.sock"
        self.command = [
            *(sys.executable, "-m", "ground.cli", "listen", "--link", craft.line.station_endpoint),
            *("--archive", str(self.archive), "--socket", str(self.socket), *options),
        ]
        self.client = StationClient(self.socket)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert self.process.stdout is not None
        # The first line of a plain station tells the state of the link: from then on the socket answers.
        assert "nothing heard" in self.process.stdout.readline()

    def kill(self, number: int = signal.SIGKILL) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        self.client.close()
        return self.process.returncode, out, err


@pytest.fixture(params=["udp", "pty"])
def craft(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SpacecraftDouble]:
    line = UdpLine() if request.param == "udp" else PtyLine(tmp_path / "radio")
    with SpacecraftDouble(line) as double:
        yield double


@pytest.fixture
def udp_craft() -> Iterator[SpacecraftDouble]:
    with SpacecraftDouble(UdpLine()) as double:
        yield double


@pytest.fixture
def station(craft: SpacecraftDouble, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(craft, tmp_path)
    ground.start()
    yield ground
    ground.stop()
    ground.client.close()


@pytest.fixture
def udp_station(udp_craft: SpacecraftDouble, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(udp_craft, tmp_path)
    ground.start()
    yield ground
    ground.stop()
    ground.client.close()


@pytest.fixture
def station_process(udp_craft: SpacecraftDouble, tmp_path: Path) -> Iterator[StationProcess]:
    process = StationProcess(udp_craft, tmp_path, "--plain")
    yield process
    if process.process.poll() is None:
        process.kill()
    for stream in (process.process.stdout, process.process.stderr):
        assert stream is not None
        stream.close()
    process.client.close()


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Default socket and archive fall into the test's own directory."""
    monkeypatch.setenv("GROUND_SOCKET", os.fspath(tmp_path / "station.sock"))
    monkeypatch.setenv("GROUND_ARCHIVE", os.fspath(tmp_path / "archive.sqlite"))
    monkeypatch.setenv("COLUMNS", "120")
