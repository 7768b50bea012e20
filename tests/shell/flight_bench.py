"""A small bench for the real ``flightd`` process: the bus on one wire, a ground station on the other.

``turn`` plays both: it sends a sensor frame when one is due and collects what came down. Everything is done by the
test's own thread, so a test decides when the world stands still.
"""

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import tty
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from flightsw.link import avionics
from flightsw.link.bodies import CommandBody, EventBody, ReplyBody, VerificationBody, pack_body
from flightsw.link.codec import HousekeepingBody, Telemetry, decode_telemetry
from flightsw.link.dictionary import APID_TELECOMMAND, EVENT_BY_ID, TELECOMMAND_BY_NAME
from flightsw.link.frame import Deframer, encode_frame
from flightsw.link.packet import ACK_ALL, ACK_NONE, TcPacket, encode_tc
from tests.background import Patience

WORKER = Path(__file__).with_name("scripted_worker.py")
SENSOR_INTERVAL_S = 0.1


class Line:
    """Our end of a wire: a pty, whose other end has a name, or a UDP socket."""

    def __init__(self, kind: str, resources: ExitStack) -> None:
        self.kind = kind
        self._deframer = Deframer()
        if kind == "pty":
            self._fd, slave = pty.openpty()
            tty.setraw(slave)
            self.endpoint = f"serial:{os.ttyname(slave)}"
            # Our own hold on the device's end lets the daemon come and go without a hang-up.
            resources.callback(os.close, slave)
            resources.callback(os.close, self._fd)
            os.set_blocking(self._fd, False)
        else:
            ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "ab")
            for end in (ours, theirs):
                end.bind(("127.0.0.1", 0))
            self._peer = theirs.getsockname()
            theirs.close()
            self._socket = resources.enter_context(ours)
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._fd = ours.fileno()
            self.endpoint = f"udp:127.0.0.1:{self._peer[1]}/127.0.0.1:{ours.getsockname()[1]}"

    def fileno(self) -> int:
        return self._fd

    def send(self, unit: bytes) -> None:
        self.send_raw(encode_frame(unit) if self.kind == "pty" else unit)

    def send_raw(self, data: bytes) -> None:
        with suppress(BlockingIOError, ConnectionRefusedError):
            if self.kind == "pty":
                os.write(self._fd, data)
            else:
                self._socket.sendto(data, self._peer)

    def units(self, timeout_s: float = 0.0) -> list[bytes]:
        """Units that have come; waits for the first up to ``timeout_s``."""
        units: list[bytes] = []
        while select.select([self._fd], [], [], 0.0 if units else timeout_s)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                break
            units += self._deframer.receive(data) if self.kind == "pty" else [data]
            timeout_s = 0.0
        return units


class Flight:
    """One state directory, two wires, and the daemon process that is started and ended at will."""

    def __init__(self, folder: Path, kind: str, resources: ExitStack, **sections: dict[str, Any]) -> None:
        self.folder = folder
        self.radio, self.bus = Line(kind, resources), Line(kind, resources)
        self.radio_lock, self.listening = True, True
        self.packets: list[Telemetry] = []
        self.actuators: list[avionics.ActuatorFrame] = []
        self.process: subprocess.Popen[str] | None = None
        self._output = folder / "output.txt"
        self._sensors_due_s = 0.0
        self._sequence = self._command = 0
        self._world_s = 1000.0
        self._write(sections)
        resources.callback(self.end)

    def _write(self, sections: dict[str, dict[str, Any]]) -> None:
        made: dict[str, dict[str, Any]] = {
            "mission": {"state_dir": "state"},
            "radio": {"endpoint": self.radio.endpoint, "rate_bps": 2_000_000},
            "avionics": {"endpoint": self.bus.endpoint},
            "worker": {
                "command": [sys.executable, str(WORKER), "good"],
                "probe_command": [sys.executable, str(WORKER), "probe"],
                "stop_timeout_s": 5.0,
            },
            "recorder": {"ack_timeout_s": 1.0, "commit_interval_s": 0.05},
            "supervisor": {"backoff_first_s": 0.1, "backoff_max_s": 0.5},
            "payload": {"backoff_s": 0.1},
            # A planner is 0.4 s of processor time for every daemon that is started; its own tests switch it on.
            "planning": {"enabled": False},
        }
        for name, keys in sections.items():
            made.setdefault(name, {}).update(keys)
        jobs = "\n[[jobs]]\nkind='train'\nid='train'\n\n[[jobs]]\nkind='infer'\nid='infer'\nautostart=false\n"
        text = "".join(
            f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
            for name, keys in made.items()
        )
        self.config.write_text(text + jobs)

    @property
    def config(self) -> Path:
        return self.folder / "mission.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self, *, prelude: str = "", guard: bool = False, **environment: str) -> None:
        """Start the daemon; ``prelude`` is code that runs in its process first, to plant a fault in it.

        With ``guard`` the process is ``flightd --guard``.
        """
        program = ["-m", "flightsw"]
        if prelude:
            program = ["-c", f"{prelude}\nimport sys, flightsw.__main__\nsys.exit(flightsw.__main__.main())"]
        with self._output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, *program, *(("--guard",) if guard else ()), "--config", str(self.config)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                env=os.environ | environment,
            )

    def end(self, number: signal.Signals = signal.SIGKILL, timeout_s: float = 20.0) -> int:
        """Signal the daemon and turn until it is gone; returns its status."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        try:
            if process.poll() is None:
                process.send_signal(number)
            patience = Patience(timeout_s)
            while process.poll() is None:
                assert not patience.over(), f"the daemon does not end\n{self.output}"
                self.turn()
            self.turn()
        finally:
            # Whatever failed on the way, no daemon outlives its bench.
            process.kill()
            process.wait()
        return process.returncode

    def turn(self) -> bool:
        """A moment of the world: sensors when due, telemetry in. Always True, to stand in a condition."""
        if (at_s := time.monotonic()) >= self._sensors_due_s:
            self._sensors_due_s = at_s + SENSOR_INTERVAL_S
            self._sequence += 1
            self._world_s += SENSOR_INTERVAL_S
            self.bus.send(avionics.encode(self._sensors()))
        self.hear(self.radio.units(0.01))
        for unit in self.bus.units():
            message = avionics.decode(unit)
            assert isinstance(message, avionics.ActuatorFrame)
            self.actuators.append(message)
        return True

    def hear(self, units: list[bytes]) -> None:
        """What the radio brought in a turn."""
        if self.listening:
            self.packets += [decode_telemetry(unit) for unit in units]

    def until(self, condition: Any, timeout_s: float = 15.0, what: str = "condition") -> Any:
        """Turn until the condition is true, and return what it gave."""
        patience = Patience(timeout_s)
        while not (value := condition()):
            if patience.over() or (self.process and self.process.poll() is not None):
                status = self.process.poll() if self.process else None
                raise AssertionError(f"{what}: not within {timeout_s:g} s, daemon status {status}\n{self.output}")
            self.turn()
        return value

    def _sensors(self) -> avionics.SensorFrame:
        return avionics.SensorFrame(
            sequence=self._sequence, world_s=self._world_s, tai_s=2e9 + self._world_s, warp=1.0, bus_voltage_v=33.0,
            bus_current_a=8.0, array_power_w=1100.0, battery_voltage_v=33.0, battery_current_a=0.0,
            battery_temp_degc=18.0, soc_fraction=0.95, sun_fraction=1.0, gpu_temp_degc=45.0, radiator_temp_degc=5.0,
            gpu_rail_power_w=200.0, gpu_rail_on=True, latitude_deg=10.0, longitude_deg=20.0, altitude_km=550.0,
            proton_flux_cm2_s=0.5, radio_lock=self.radio_lock,
        )  # fmt: skip

    def send(self, name: str, ack_flags: int = ACK_ALL, **arguments: Any) -> int:
        """Send a telecommand; returns its id."""
        command = TELECOMMAND_BY_NAME[name]
        self._command += 1
        identity = os.getpid() * 1_000_000 + self._command
        self.radio.send(
            encode_tc(
                TcPacket(
                    apid=APID_TELECOMMAND,
                    sequence_count=self._command,
                    service=command.service,
                    subtype=command.subtype,
                    source=1,
                    ack_flags=ack_flags,
                    body=pack_body(CommandBody(op=command.opcode, id=identity, args=arguments)),
                )
            )
        )
        return identity

    def acknowledge(self, boot: int, apid: int, first: int, last: int) -> None:
        self.send("recorder.acknowledge", ACK_NONE, boot=boot, apid=apid, first=first, last=last)

    def verifications(self, command: int) -> list[VerificationBody]:
        bodies = [p.body for p in self.packets if isinstance(p.body, VerificationBody)]
        return [body for body in bodies if body.id == command]

    def events(self, name: str, boot: int | None = None) -> list[EventBody]:
        bodies = [p.body for p in self.packets if isinstance(p.body, EventBody)]
        return [b for b in bodies if EVENT_BY_ID[b.id].name == name and boot in (None, b.boot)]

    def replies(self) -> list[ReplyBody]:
        return [p.body for p in self.packets if isinstance(p.body, ReplyBody)]

    def newest(self, group: str) -> dict[str, float]:
        """Values of the newest report of a housekeeping group, empty when there is none."""
        bodies = [p.body for p in self.packets if isinstance(p.body, HousekeepingBody)]
        bodies = [body for body in bodies if body.group == group]
        return max(bodies, key=lambda b: (b.boot, b.seq)).values if bodies else {}

    @property
    def output(self) -> str:
        """What the daemon wrote on its terminal."""
        return self._output.read_text() if self._output.exists() else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
