"""A small spacecraft for the ground's tests: it speaks the real wire, obeys a script and keeps a recorder.

It is built on ``flightsw.link`` alone. What the station believes about the spacecraft is checked here: a
command id runs once however often it comes, a repeated command is answered again, and only what was
acknowledged is forgotten. Run as a program it flies by itself, for looking at the screens:

    python tests/ground/spacecraft_double.py udp:127.0.0.1:5002/127.0.0.1:5001
"""

import contextlib
import math
import os
import pty
import random
import select
import socket
import sys
import threading
import time
import tty
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from table_double import TableDouble

from flightsw.link import leap
from flightsw.link.arguments import check_arguments
from flightsw.link.bodies import (
    EventBody,
    PingBody,
    ReplyBody,
    TableBody,
    VerificationBody,
    pack_body,
    unpack_command,
)
from flightsw.link.codec import pack_housekeeping
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_VERIFICATION,
    DESTINATION_LIVE,
    DESTINATION_PLAYBACK,
    DICTIONARY_HASH,
    EVENT_BY_NAME,
    GROUP_BY_NAME,
    TELECOMMAND_BY_OPCODE,
)
from flightsw.link.endpoint import UdpEndpoint, parse_endpoint
from flightsw.link.errors import ArgumentError, LinkError
from flightsw.link.frame import Deframer, encode_frame
from flightsw.link.packet import TcPacket, TmPacket, decode_tc, encode_tm, redirect
from flightsw.link.schema import FailureCode, Hazard, Severity, Stage, Telecommand
from tests.background import Background

Identity = tuple[int, int, int]
JOBS = ("train", "talk")
SUBTYPES = {Severity.DIAGNOSTIC: 1, Severity.INFO: 1, Severity.WARNING: 2, Severity.ERROR: 3}


class UdpLine:
    """One datagram per unit."""

    def __init__(self, endpoint: UdpEndpoint | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((endpoint.bind_host, endpoint.bind_port) if endpoint else ("127.0.0.1", 0))
        if endpoint:
            self._peer = (endpoint.peer_host, endpoint.peer_port)
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", 0))
                self._peer = probe.getsockname()

    @property
    def station_endpoint(self) -> str:
        """What ``ground listen --link`` takes."""
        here = self._socket.getsockname()
        return f"udp:{self._peer[0]}:{self._peer[1]}/{here[0]}:{here[1]}"

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[bytes]:
        return [self._socket.recv(4096)]

    def send(self, unit: bytes) -> None:
        self._socket.sendto(unit, self._peer)

    def send_raw(self, data: bytes) -> None:
        self._socket.sendto(data[:1500], self._peer)

    def close(self) -> None:
        self._socket.close()


class PtyLine:
    """COBS frames on a pty; ``path`` is a link, so that the line can hang up and come back under one name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._deframer = Deframer()
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))

    @property
    def station_endpoint(self) -> str:
        return f"serial:{self.path}"

    def fileno(self) -> int:
        return self._master

    def receive(self) -> list[bytes]:
        try:
            return self._deframer.receive(os.read(self._master, 4096))
        except OSError:
            return []

    def send(self, unit: bytes) -> None:
        self.send_raw(encode_frame(unit))

    def send_raw(self, data: bytes) -> None:
        # A pty holds a few kilobytes; who does not read for a second loses the rest, like on a real line.
        while data and select.select([], [self._master], [], 1.0)[1]:
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._master, data) :]

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)


class SpacecraftDouble:
    """Answers telecommands in a thread of its own; telemetry is sent by the test, packet by packet."""

    def __init__(self, line: UdpLine | PtyLine, boot: int = 1) -> None:
        self.line = line
        self.boot = boot
        self.world_s = 1000.0
        self.executed: list[tuple[str, dict[str, Any]]] = []
        self.received: list[tuple[TcPacket, Telecommand, int, dict[str, Any]]] = []
        self.garbage = 0
        self.recorder: dict[Identity, bytes] = {}
        self.acknowledged: set[Identity] = set()
        self.drop_reports: Callable[[VerificationBody], bool] = lambda report: False
        self.deaf = False
        self.hold: set[str] = set()
        self.lose_reports: Callable[[VerificationBody], bool] = lambda report: False
        self.ignore: Callable[[Telecommand, dict[str, Any]], bool] = lambda telecommand, args: False
        self.replayed: list[Identity] = []
        self.tables = TableDouble(self.table_piece)
        self._sequences: Counter[int] = Counter()
        self._answers: dict[int, list[VerificationBody]] = {}
        self._armed: set[int] = set()
        self._changed = threading.Condition(threading.RLock())
        self._woken, self._wake = os.pipe()
        self._start()

    def _start(self) -> None:
        self._listener = Background(self._listen, lambda: os.write(self._wake, b"\0")).start()
        self._plugged = True

    def unplug(self) -> None:
        """Pull the cable."""
        self._plugged = False
        try:
            self._listener.stop()
        finally:
            # Under a listener that still runs nothing is closed: its descriptors could be somebody else's next.
            if not self._listener.running:
                os.read(self._woken, 1)
                self.line.close()

    def plug_in(self) -> None:
        """Plug in a new cable under the old name."""
        assert isinstance(self.line, PtyLine)
        self.line.open()
        self._start()

    def close(self) -> None:
        try:
            if self._plugged:
                self.unplug()
        finally:
            if not self._listener.running:
                os.close(self._wake)
                os.close(self._woken)

    def __enter__(self) -> "SpacecraftDouble":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> bool:
        """Wait until a telecommand made the condition true."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout_s))

    # Telemetry.

    def next_sequence(self, apid: int) -> int:
        with self._changed:
            self._sequences[apid] += 1
            return self._sequences[apid]

    def emit(
        self, apid: int, service: int, subtype: int, sequence: int, body: bytes, send: bool = True
    ) -> Identity:
        """Record one packet and, unless the link is "lost", send it live."""
        packet = encode_tm(
            TmPacket(
                apid=apid,
                sequence_count=sequence,
                service=service,
                subtype=subtype,
                message_count=sequence,
                destination=DESTINATION_LIVE,
                time_quality=2,
                tai_s=leap.tai_of_unix(1_800_000_000.0 + self.world_s),
                body=body,
            )
        )
        identity = (self.boot, apid, sequence)
        with self._changed:
            self.recorder[identity] = packet
            if send:
                self.line.send(packet)
        return identity

    def housekeeping(self, group: str = "main", send: bool = True, **values: float) -> Identity:
        """One report; parameters by name with "." written "__", the others NaN."""
        structure = GROUP_BY_NAME[group]
        sequence = self.next_sequence(structure.apid)
        known = {name.replace("__", "."): value for name, value in values.items()}
        known |= {"boot_count": float(self.boot), "packet_sequence": float(sequence), "world_s": self.world_s}
        body = pack_housekeeping(structure, [known.get(name, math.nan) for name in structure.parameters])
        return self.emit(structure.apid, 3, 25, sequence, body, send)

    def event(self, name: str, send: bool = True, **fields: Any) -> Identity:
        report = EVENT_BY_NAME[name]
        sequence = self.next_sequence(APID_EVENT)
        body = pack_body(EventBody(self.boot, sequence, self.world_s, report.id, report.severity, fields))
        return self.emit(APID_EVENT, 5, SUBTYPES.get(report.severity, 4), sequence, body, send)

    def boot_event(self, dictionary: str = DICTIONARY_HASH) -> Identity:
        return self.event("BOOT", boot=self.boot, cause="power-on", dictionary=dictionary, configuration="c0ffee")

    def play_back(self, identities: list[Identity] | None = None) -> list[Identity]:
        """Send recorded packets that were not acknowledged, in the order given."""
        with self._changed:
            chosen = [i for i in identities or sorted(self.recorder) if i not in self.acknowledged]
            for identity in chosen:
                self.line.send(redirect(self.recorder[identity], DESTINATION_PLAYBACK))
        return chosen

    def report(self, report: VerificationBody) -> None:
        if not self.drop_reports(report):
            sequence = self.next_sequence(APID_VERIFICATION)
            body = VerificationBody(
                self.boot, sequence, self.world_s, report.id, report.op, report.stage, report.code, report.text
            )
            subtype = report.stage + (report.code != FailureCode.NONE)
            send = not self.lose_reports(report)
            self.emit(APID_VERIFICATION, 1, subtype, sequence, pack_body(body), send)

    # Telecommands.

    def _listen(self) -> None:
        while True:
            readable, _, _ = select.select([self.line.fileno(), self._woken], [], [], 0.2)
            if self._woken in readable:
                return
            if readable:
                for unit in self.line.receive():
                    with self._changed:
                        if not self.deaf:
                            self._telecommand(unit)
                        self._changed.notify_all()

    def _telecommand(self, unit: bytes) -> None:
        try:
            packet = decode_tc(unit)
            body = unpack_command(packet.body)
            telecommand = TELECOMMAND_BY_OPCODE[body.op]
        except (LinkError, KeyError):
            self.garbage += 1
            return
        if self.ignore(telecommand, body.args):
            return
        self.received.append((packet, telecommand, body.id, body.args))
        if telecommand.name == "recorder.acknowledge":
            boot, apid, first, last = (body.args[name] for name in ("boot", "apid", "first", "last"))
            self.acknowledged |= {(boot, apid, sequence) for sequence in range(first, last + 1)}
            return
        if body.id not in self._answers:
            self._answers[body.id] = self._execute(telecommand, body.id, body.args)
        for answer in self._answers[body.id]:
            self.report(answer)

    def _execute(self, telecommand: Telecommand, id: int, args: dict[str, Any]) -> list[VerificationBody]:
        def stage(stage: Stage, code: FailureCode = FailureCode.NONE, text: str = "") -> VerificationBody:
            return VerificationBody(self.boot, 0, self.world_s, id, telecommand.opcode, stage, code, text)

        try:
            check_arguments(telecommand, args)
        except ArgumentError as error:
            return [stage(Stage.ACCEPTANCE, FailureCode.BAD_ARGUMENT, str(error))]
        if args.get("job", JOBS[0]) not in JOBS:
            return [stage(Stage.ACCEPTANCE, FailureCode.UNKNOWN_TARGET, f"no job {args['job']!r}")]
        if telecommand.hazard is Hazard.HAZARDOUS and telecommand.opcode not in self._armed:
            return [stage(Stage.ACCEPTANCE, FailureCode.NOT_ARMED, "arm it first")]
        self.executed.append((telecommand.name, args))
        if telecommand.name in self.hold:
            return [stage(Stage.ACCEPTANCE)]
        outcome = self.tables.obey(telecommand, args)
        if telecommand.name == "sequence.append":
            outcome = FailureCode.NONE, "1 steps appended"
        if telecommand.name == "event.replay":
            self.play_back(self.replayed)
            outcome = FailureCode.NONE, f"{len(self.replayed)} events"
        if outcome is not None:
            return [stage(Stage.ACCEPTANCE), stage(Stage.START), stage(Stage.COMPLETION, *outcome)]
        match telecommand.name:
            case "arm":
                self._armed.add(args["opcode"])
            case "ping":
                sequence = self.next_sequence(APID_PING)
                self.emit(APID_PING, 17, 2, sequence, pack_body(PingBody(self.boot, sequence, self.world_s)))
            case "job.checkpoint" if args["job"] == "talk":
                failed = stage(Stage.COMPLETION, FailureCode.EXECUTION_FAILED, "an inference job has no checkpoint")
                return [stage(Stage.ACCEPTANCE), stage(Stage.START), failed]
            case "job.infer":
                self.reply(id, args["job"], f"{args['prompt']} there was a satellite.\nIt\x1b[31m learned.")
        return [stage(Stage.ACCEPTANCE), stage(Stage.START), stage(Stage.COMPLETION)]

    def table_piece(
        self, code: int, offset: int, total: int, crc32: int, data: bytes, send: bool = True
    ) -> Identity:
        """One piece of a dumped table."""
        sequence = self.next_sequence(APID_TABLE)
        body = TableBody(self.boot, sequence, self.world_s, code, offset, total, crc32, data)
        return self.emit(APID_TABLE, 8, 131, sequence, pack_body(body), send)

    def reply(self, command: int, job: str, text: str, parts: int = 1, send: bool = True) -> None:
        request, size = len(self.executed), -(-len(text) // parts)
        for part in range(parts):
            sequence = self.next_sequence(APID_REPLY)
            body = ReplyBody(
                self.boot,
                sequence,
                self.world_s,
                job,
                request,
                command,
                text[part * size : (part + 1) * size],
                12,
                "stop",
                3,
                0.42,
                part,
                parts,
            )
            self.emit(APID_REPLY, 8, 130, sequence, pack_body(body), send)


def fly(endpoint: str, duration_s: float) -> None:
    """One orbit in a minute, for the eye: sun and eclipse, training, an alarm, a lossy pass with playback."""
    parsed = parse_endpoint(endpoint)
    assert isinstance(parsed, UdpEndpoint)
    with SpacecraftDouble(UdpLine(parsed), boot=int(time.time()) % 100_000) as craft:
        craft.boot_event()
        started_s, step, soc, gpu = time.monotonic(), 0, 0.9, 50.0
        tick = threading.Event()
        for count in range(int(duration_s * 10)):
            craft.world_s = 1000.0 + 95.0 * (time.monotonic() - started_s)
            phase = craft.world_s % 5700 / 5700
            dark = phase > 0.63
            power = 180.0 if dark else 520.0
            soc = min(1.0, max(0.69, soc + (-0.0012 if dark else 0.0008)))
            gpu += (power * 0.16 - gpu) * 0.05
            step += 1 if dark else 3
            values = {
                "mode": 3.0,
                "eps__soc_fraction": soc,
                "eps__bus_voltage_v": 27.5 + soc,
                "eps__battery_current_a": -9.0 if dark else 14.0,
                "eps__array_power_w": 0.0 if dark else 1190.0 + random.uniform(-5, 5),
                "eps__eclipse": float(dark),
                "eps__arc_remaining_s": (1.0 - phase if dark else 0.63 - phase) * 5700,
                "eps__gpu_rail": 1.0,
                "thermal__gpu_degc": gpu,
                "thermal__radiator_degc": gpu - 18,
                "gpu__power_w": power,
                "governor__power_budget_w": power + 10,
                "governor__duty": power / 700,
                "governor__limit": 1.0 if dark else 2.0,
                "train__state": 2.0,
                "train__step": float(step),
                "train__loss": 1.4 + 3.0 * math.exp(-step / 500),
                "train__tokens_per_s": power * 40,
                "infer__state": 2.0,
                "infer__pending": 0.0,
                "infer__replies": float(len(craft.executed)),
                "checkpoint__generation": float(step // 300),
                "checkpoint__step": float(step // 300 * 300),
                "recorder__pending": float(len(craft.recorder) - len(craft.acknowledged)),
                "contact": 1.0,
                "uptime_s": time.monotonic() - started_s,
            }
            lost = count % 300 > 270
            craft.housekeeping("fast", send=not lost, **values)
            if count % 10 == 0:
                craft.housekeeping("main", send=not lost, **values)
            if count % 100 == 0:
                craft.housekeeping(
                    "slow", send=not lost, tc__accepted=float(len(craft.executed)), daemon__rss_mb=61.0
                )
            if count % 300 == 5:
                fields = {"generation": step // 300, "step": step, "digest": "a1b2c3d4e5f6", "stall_ms": 8.3}
                craft.event("CHECKPOINT_COMMITTED", job="train", **fields)
            if count % 300 == 150:
                craft.event("WORKER_DIED", job="train", returncode=-9, reason="killed by signal 9")
            if count % 300 == 200:
                craft.event("ECLIPSE_ENTERED" if dark else "ECLIPSE_LEFT", soc=soc)
            if count % 300 == 260:
                craft.event("SOC_LOW", soc=soc, limit=0.7)
            if count % 50 == 0 and not lost:
                craft.play_back([i for i in sorted(craft.recorder) if i not in craft.acknowledged][:40])
            tick.wait(max(0.0, started_s + (count + 1) / 10 - time.monotonic()))


if __name__ == "__main__":
    fly(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 3600.0)
