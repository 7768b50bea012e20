"""A station and a spacecraft double, joined by a real wire; the station in a thread of the test or in a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from spacecraft_double import PtyLine, SpacecraftDouble, UdpLine

from flightsw.link.endpoint import parse_endpoint
from ground.client import ArchiveReader, StationClient
from ground.station import Station
from tests.background import Background


class Ground:
    """A running station with its client and its archive."""

    def __init__(self, craft: SpacecraftDouble, directory: Path) -> None:
        self.craft = craft
        self.archive = directory / "archive.sqlite"
        self.socket = directory / "station.sock"
        self.client = StationClient(self.socket)
        self._running: Background | None = None

    def start(self) -> None:
        station = Station(parse_endpoint(self.craft.line.station_endpoint), self.archive, self.socket)
        self._running = Background(station.run, self.client.stop).start()

    def stop(self) -> None:
        if (running := self._running) is not None:
            self._running = None
            running.stop()

    def __enter__(self) -> "Ground":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.client.close()

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
        line = self.process.stdout.readline()
        if "nothing heard" not in line:
            _, out, err = self.kill()
            raise AssertionError(f"the station does not start: {line}{out}{err}")

    def kill(self, number: int = signal.SIGKILL) -> tuple[int, str, str]:
        self.process.send_signal(number)
        try:
            out, err = self.process.communicate(timeout=20)
        finally:
            self.close()
        return self.process.returncode, out, err

    def close(self) -> None:
        """Whatever state it is in, nothing of it is left."""
        with self.process:
            self.process.kill()
        self.client.close()


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
    with Ground(craft, tmp_path) as ground:
        yield ground


@pytest.fixture
def udp_station(udp_craft: SpacecraftDouble, tmp_path: Path) -> Iterator[Ground]:
    with Ground(udp_craft, tmp_path) as ground:
        yield ground


@pytest.fixture
def station_process(udp_craft: SpacecraftDouble, tmp_path: Path) -> Iterator[StationProcess]:
    process = StationProcess(udp_craft, tmp_path, "--plain")
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Default socket and archive fall into the test's own directory."""
    monkeypatch.setenv("GROUND_SOCKET", os.fspath(tmp_path / "station.sock"))
    monkeypatch.setenv("GROUND_ARCHIVE", os.fspath(tmp_path / "archive.sqlite"))
    monkeypatch.setenv("COLUMNS", "120")
