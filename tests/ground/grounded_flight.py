"""The real daemon and the real station, joined by two pty's; the test's bench is the bus between them."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spacecraft_double import PtyLine

from ground.client import StationClient
from tests.shell.flight_bench import Flight, Line

REPOSITORY = Path(__file__).parents[2]


class GroundedFlight(Flight):
    """A ``Flight`` whose radio is carried to a station by a thread that also plays the bus."""

    def __init__(self, folder: Path, resources: contextlib.ExitStack, **sections: dict[str, Any]) -> None:
        super().__init__(folder, "pty", resources, **sections)
        self.line = PtyLine(folder / "radio")
        resources.callback(self.line.close)
        self.radio.units = _carry(self.radio, self.line)  # type: ignore[method-assign]
        self.archive, self.socket = folder / "archive.sqlite", folder / "station.sock"
        self._enough = threading.Event()
        self._world = threading.Thread(target=self._turn_on)

    @contextlib.contextmanager
    def flying(self) -> Iterator[StationClient]:
        """Daemon, station and world running."""
        self.start()
        self._world.start()
        command = [
            *(sys.executable, "-m", "ground.cli", "listen", "--link", self.line.station_endpoint, "--plain"),
            *("--archive", str(self.archive), "--socket", str(self.socket)),
        ]
        station = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        try:
            assert station.stdout is not None
            assert station.stdout.readline(), "from its first line on the socket answers"
            with StationClient(self.socket) as client:
                yield client
        finally:
            station.terminate()
            station.communicate(timeout=20)
            self._enough.set()
            self._world.join()

    def _turn_on(self) -> None:
        while not self._enough.is_set():
            for unit in self.line.receive():
                self.radio.send(unit)
            self.turn()


def _carry(radio: Line, line: PtyLine) -> Callable[[float], list[bytes]]:
    """``radio.units`` that hands what it hears to the station and keeps nothing."""
    hear = radio.units

    def units(timeout_s: float = 0.0) -> list[bytes]:
        for unit in hear(timeout_s):
            line.send(unit)
        return []

    return units
