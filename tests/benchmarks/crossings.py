"""From a limit that is crossed to the response on the wire: the real ``flightd``, real wires, the bench's clock.

The bench holds the far ends of both wires. It samples a satellite that is well at the sensor rate, and at a random
instant something in it goes beyond a limit: the next sample shows it, the daemon's next minor frame sees it, and
the response is the actuator frame that switches the GPU's rail off. Latency counts from the instant in the world,
so the wait for the sample is part of it: at most one sample period. Persistence (``trip_s``), debounce
(``recover_s``, ``hold_s``) and the dwells of load shedding are configured to 0, because they are time that somebody
asked for.

``LIMITS`` are the hard limits of the code on readings and one row of a table of limits, loaded by telecommand. The
floor of the charge is not among them: the charge is estimated, and a gauge that jumps is refused, not obeyed.
"""

import os
import random
import select
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from rig import sunlit

from flightsw.core import executive, fdir_table
from flightsw.link import avionics
from flightsw.link.bodies import CommandBody, VerificationBody, pack_body
from flightsw.link.codec import decode_telemetry
from flightsw.link.dictionary import APID_TELECOMMAND, TELECOMMAND_BY_NAME
from flightsw.link.limit_tables import Actionpoint, ActionTable, Response, Watchpoint, WatchTable, encode
from flightsw.link.packet import ACK_ALL, TcPacket, encode_tc
from flightsw.link.schema import FailureCode, Stage
from flightsw.link.tables import PIECE_BYTES_MAX
from hil.wires import LinkKind, make_wire

SAMPLE_S: Final = 0.1
"""Period of the sensors, and of the minor frame."""
STEADY_FRAMES: Final = 3
ANSWER_MAX_S: Final = 5.0
START_MAX_S: Final = 30.0
LIMITS: Final[dict[str, dict[str, float]]] = {
    "GPU node over its limit": {"gpu_temp_degc": 85.0},
    "radiator node over its limit": {"radiator_temp_degc": 70.0},
    "bus under its limit": {"bus_voltage_v": 20.0},
    "actionpoint of a table": {"battery_temp_degc": 60.0},
}
UNPOWERED: Final = {"gpu_rail_on": False, "gpu_rail_power_w": 0.0, "bus_current_a": 2.1}
WATCHED: Final = Watchpoint(
    id=9001, name="bench.battery_hot", parameter="eps.battery_temp_degc", operator=">", trip=50.0, stale_s=60.0
)
ACTED: Final = Actionpoint(
    id=9001, name="bench.battery_hot", condition=(9001,), release_s=0.0, response=Response.SAFE, domain="power"
)

MISSION: Final = """
[mission]
name = "crossings"
state_dir = "state"
[avionics]
endpoint = "{avionics}"
[radio]
endpoint = "{radio}"
[probe]
source = "none"
[log]
level = "error"
[eps]
trip_s = 0.0
[thermal]
trip_s = 0.0
[mode]
recover_s = 0.0
[bus_alarm]
hold_s = 0.0
off_s = 0.0
[shedding]
derate_dwell_s = 0.0
budget_dwell_s = 0.0
shed_dwell_s = 0.0
off_dwell_s = 0.0
"""


class Crossings:
    """Context manager: a daemon and the two far ends of its wires; leaving it ends the daemon."""

    def __init__(self, folder: Path, kind: LinkKind, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._avionics, self._radio = (make_wire(kind, folder, name) for name in ("avionics", "radio"))
        self._sequence = self._command = 0
        self._begun_s = self._due_s = time.monotonic()
        self._values: dict[str, float] = {}
        self._rail = [False] * STEADY_FRAMES
        self._seen_s = 0.0
        self._answers: list[VerificationBody] = []

    def __enter__(self) -> Self:
        config = self._folder / "mission.toml"
        config.write_text(MISSION.format(avionics=self._avionics.endpoint, radio=self._radio.endpoint))
        with open(self._folder / "flightd.out", "wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flightsw", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._until(self._steady, START_MAX_S, "the first actuator frames")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for wire in (self._avionics, self._radio):
            wire.close()

    def load_tables(self) -> None:
        """The shipped tables of limits and one row more, loaded and activated as an operator does it."""
        watch, actions = fdir_table.shipped(executive.Config())
        watch = msgspec.structs.replace(watch, watchpoints=(*watch.watchpoints, WATCHED))
        actions = msgspec.structs.replace(actions, actionpoints=(*actions.actionpoints, ACTED))
        self._load("watchpoints", watch)
        self._load("actionpoints", actions)

    def latency_s(self, limit: str) -> float:
        """Cross this limit once, at a random instant, and wait for the rail to go off; then be well again."""
        self._until(self._steady, START_MAX_S, f"rail on before: {limit}")
        at_s = time.monotonic() + self._random.uniform(0.0, SAMPLE_S)
        while time.monotonic() < at_s:
            self._turn()
        crossed_s = time.monotonic()
        self._values = LIMITS[limit]
        self._until(lambda: not self._rail[-1], ANSWER_MAX_S, f"rail off after: {limit}")
        latency_s = self._seen_s - crossed_s
        self._values = {}
        return latency_s

    def _load(self, table: str, image: WatchTable | ActionTable) -> None:
        octets = encode(image)
        self._order("table.begin", table=table, size_bytes=len(octets), crc32=zlib.crc32(octets))
        for offset in range(0, len(octets), PIECE_BYTES_MAX):
            self._order("table.data", table=table, offset=offset, data=octets[offset : offset + PIECE_BYTES_MAX])
        self._order("table.validate", table=table)
        self._order("table.activate", table=table)

    def _order(self, name: str, **arguments: object) -> None:
        """Send a telecommand and wait for its completion; ``RuntimeError`` when it is refused or fails."""
        self._command += 1
        spec, identity = TELECOMMAND_BY_NAME[name], os.getpid() * 100_000 + self._command
        body = pack_body(CommandBody(spec.opcode, identity, arguments))
        self._radio.send(
            encode_tc(TcPacket(APID_TELECOMMAND, self._command, spec.service, spec.subtype, 1, ACK_ALL, body))
        )
        self._until(lambda: any(self._final(a, identity) for a in self._answers), ANSWER_MAX_S, f"an end of {name}")
        answer = next(a for a in self._answers if self._final(a, identity))
        if answer.code != FailureCode.NONE:
            raise RuntimeError(f"{name} {arguments.get('table', '')}: {answer.text}")

    @staticmethod
    def _final(answer: VerificationBody, identity: int) -> bool:
        return answer.id == identity and (answer.stage == Stage.COMPLETION or answer.code != FailureCode.NONE)

    def _steady(self) -> bool:
        return all(self._rail)

    def _until(self, condition: object, timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():  # type: ignore[operator]
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{what}: not within {timeout_s:g} s\n{self._last_words()}")
            self._turn()

    def _last_words(self) -> str:
        return (self._folder / "flightd.out").read_text()[-800:]

    def _turn(self) -> None:
        """A moment of the world: sample when it is time, see what has come."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = max(self._due_s + SAMPLE_S, now_s)
            self._sequence += 1
            frame = sunlit(self._sequence, now_s - self._begun_s)
            if not self._rail[-1]:
                frame = msgspec.structs.replace(frame, **UNPOWERED)
            self._avionics.send(avionics.encode(msgspec.structs.replace(frame, **self._values)))
        for unit in self._avionics.receive():
            message = avionics.decode(unit)
            if isinstance(message, avionics.ActuatorFrame):
                self._seen_s = time.monotonic()
                self._rail = [*self._rail[1:], message.gpu_rail_on]
        for unit in self._radio.receive():
            body = decode_telemetry(unit).body
            if isinstance(body, VerificationBody):
                self._answers.append(body)
        self._avionics.flush()
        self._radio.flush()
        select.select([self._avionics, self._radio], [], [], min(0.001, max(0.0, self._due_s - time.monotonic())))


def measure(folder: Path, kind: LinkKind, crossings: int, seed: int, *, tables: bool = True) -> list[float]:
    """Latencies in seconds of this many crossings, the limits in turn."""
    limits = [name for name in LIMITS if tables or name != "actionpoint of a table"]
    with Crossings(folder, kind, seed) as bench:
        if tables:
            bench.load_tables()
        return [bench.latency_s(limits[number % len(limits)]) for number in range(crossings)]
