"""The real daemon and the real station, joined by two pty's; the test's bench is the bus between them."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacecraft_double import PtyLine

from ground.client import StationClient
from tests.background import Background
from tests.shell.flight_bench import Flight

REPOSITORY = Path(__file__).parents[2]
END_MAX_S = 20.0


class GroundedFlight(Flight):
    """A ``Flight`` whose radio is carried to a station by a thread that also plays the bus."""

    def __init__(self, folder: Path, resources: contextlib.ExitStack, **sections: dict[str, Any]) -> None:
        # Before the flight, so closed after it: a flight that is ended turns once more.
        self.line = PtyLine(folder / "radio")
        resources.callback(self.line.close)
        super().__init__(folder, "pty", resources, **sections)
        self.archive, self.socket = folder / "archive.sqlite", folder / "station.sock"
        self._landed = threading.Event()
        self._landed.set()

    @contextlib.contextmanager
    def flying(self) -> Iterator[StationClient]:
        """Daemon, station and world running; world and station are over at the end, the daemon flies on."""
        self._landed.clear()
        self.start()
        with Background(self._turn_on, self._landed.set), self._station(), StationClient(self.socket) as client:
            yield client

    @contextlib.contextmanager
    def _station(self) -> Iterator[None]:
        command = [
            *(sys.executable, "-m", "ground.cli", "listen", "--link", self.line.station_endpoint, "--plain"),
            *("--archive", str(self.archive), "--socket", str(self.socket)),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as station:
            try:
                assert station.stdout is not None
                assert station.stdout.readline(), "from its first line on the socket answers"
                yield
                station.terminate()
                station.communicate(timeout=END_MAX_S)
            finally:
                station.kill()

    def hear(self, units: list[bytes]) -> None:
        """While the station flies along, the radio is its own."""
        for unit in units:
            if self._landed.is_set():
                super().hear([unit])
            else:
                self.line.send(unit)

    def _turn_on(self) -> None:
        while not self._landed.is_set():
            for unit in self.line.receive():
                self.radio.send(unit)
            self.turn()
