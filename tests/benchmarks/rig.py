"""A daemon under full load, for measuring it: real ``flightd``, real worker on all cores, real station and wires.

The rig is the smallest bench there is. It feeds constant sensor frames of a sunlit, cool, charged satellite, so
that the governor allows all the duty there is, and joins the daemon's radio to the station's without a channel in
between. All that is measured comes from outside: ``/proc`` of the daemon, its recorder, the station's socket.
"""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from flightsw.link import avionics
from flightsw.link.codec import unpack_housekeeping
from flightsw.link.dictionary import GROUP_BY_NAME
from flightsw.link.packet import decode_tm
from hil.wires import Wire, make_wire

SENSOR_PERIOD_S = 0.05
POLL_S = 0.001
TAI_2026_S = 2_147_000_000.0

MISSION = """
[mission]
name = "benchmark"
state_dir = "state"
[avionics]
endpoint = "{avionics}"
[radio]
endpoint = "{radio}"
# The wire is a pseudo-terminal: pings one after another would fill a slower radio, and its queue be measured.
rate_bps = 10000000
[probe]
source = "none"
[log]
level = "warning"
[[jobs]]
kind = "train"
id = "train"
preset = "char"
batch_size = 2
device = "cpu"
threads = {threads}
micro_batch_max_s = 10.0
"""


class Rig:
    """Context manager: everything runs inside ``with``; leaving it ends all processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "station.sock"
        self._avionics, self._radio, self._station = (
            make_wire("pty", folder, name) for name in ("avionics", "radio", "station")
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rig", daemon=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        mission = self.folder / "mission.toml"
        mission.write_text(
            MISSION.format(
                avionics=self._avionics.endpoint, radio=self._radio.endpoint, threads=os.cpu_count() or 1
            )
        )
        self._thread.start()
        self._start("flightd", "-m", "flightsw", "--config", str(mission))
        self._start(
            "ground", "-m", "ground.cli", "listen", "--plain", "--link", self._station.endpoint,
            "--archive", str(self.folder / "ground.sqlite"), "--socket", str(self.socket),
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        self._ended.set()
        self._thread.join()
        for wire in (self._avionics, self._radio, self._station):
            wire.close()

    def _start(self, name: str, *arguments: str) -> None:
        with open(self.folder / f"{name}.out", "wb") as out:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def _run(self) -> None:
        """The world: sensor frames at 20 Hz, and a wire between the two radios."""
        sequence, due_s = 0, time.monotonic()
        started_s = due_s
        while not self._ended.is_set():
            relay(self._radio, self._station)
            relay(self._station, self._radio)
            self._avionics.receive()
            now_s = time.monotonic()
            if now_s >= due_s:
                due_s += SENSOR_PERIOD_S
                sequence += 1
                self._avionics.send(avionics.encode(sunlit(sequence, now_s - started_s)))
            for wire in (self._avionics, self._radio, self._station):
                wire.flush()
            time.sleep(POLL_S)

    def processor_s(self) -> float:
        """Processor time that the daemon process has used, all its threads, without its children."""
        fields = Path(f"/proc/{self.processes['flightd'].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory_mb(self) -> float:
        """Peak resident memory of the daemon process, MB."""
        status = Path(f"/proc/{self.processes['flightd'].pid}/status").read_text()
        return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1000.0

    def fast_values(self, name: str, after_sequence: int = 0) -> list[float]:
        """One parameter of the fast group from the daemon's own recorder, oldest first.

        Raises ``RuntimeError`` with the daemon's last words when it has ended.
        """
        if self.processes["flightd"].poll() is not None:
            raise RuntimeError(f"flightd ended: {(self.folder / 'flightd.out').read_text()[-500:]}")
        group = GROUP_BY_NAME["fast"]
        with sqlite3.connect(f"file:{self.folder / 'state' / 'recorder.sqlite'}?mode=ro", uri=True) as recorder:
            rows = recorder.execute(
                "SELECT packet FROM packets WHERE apid = ? AND sequence > ? ORDER BY sequence",
                (group.apid, after_sequence),
            ).fetchall()
        return [unpack_housekeeping(group, decode_tm(packet).body)[name] for (packet,) in rows]


def relay(source: Wire, sink: Wire) -> None:
    """Pass every unit on."""
    for unit in source.receive():
        sink.send(unit)


def sunlit(sequence: int, world_s: float) -> avionics.SensorFrame:
    """A satellite with sun, a full battery, cool radiators and a station in view.

    The card draws what an idle one does, whatever is commanded: a frame that does not change contradicts neither
    itself nor any command, and a light load is no latch-up.
    """
    return avionics.SensorFrame(
        sequence=sequence,
        world_s=world_s,
        tai_s=TAI_2026_S + world_s,
        warp=1.0,
        bus_voltage_v=33.4,
        bus_current_a=4.5,
        array_power_w=1200.0,
        battery_voltage_v=33.4,
        battery_current_a=1.0,
        battery_temp_degc=20.0,
        soc_fraction=0.995,
        sun_fraction=1.0,
        gpu_temp_degc=21.0,
        radiator_temp_degc=15.0,
        gpu_rail_power_w=80.0,
        gpu_rail_on=True,
        latitude_deg=10.0,
        longitude_deg=20.0,
        altitude_km=550.0,
        proton_flux_cm2_s=0.0,
        radio_lock=True,
    )
