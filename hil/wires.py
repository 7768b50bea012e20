"""The bench's ends of the wires: pty pairs that look like serial lines, and UDP sockets on loopback.

A wire carries whole *units* (packets, avionics messages). On a pty a unit is COBS-framed; on UDP it is one
datagram. The device at the far end opens the text in ``endpoint`` exactly as it would open real hardware; only
the bench knows that there is none.

Rules
-----
- Never block: what the far end does not read waits in a bounded buffer (``BACKLOG_BYTES_MAX``); beyond that whole
  units are dropped and counted, as a full UART would drop them.
- A pty keeps its slave side open here. Without that, a device that closes its port hangs the master up and a
  restarted daemon would find a dead line.
- A pty has a stable name (a symbolic link in the run folder), so that a configuration file outlives the kernel's
  numbering.
"""

import contextlib
import errno
import os
import socket
import tty
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from flightsw.link.errors import FrameError
from flightsw.link.frame import Deframer, encode_frame

LinkKind = Literal["pty", "udp"]

BACKLOG_BYTES_MAX: Final = 1 << 18
READ_BYTES_MAX: Final = 1 << 16
READS_PER_POLL_MAX: Final = 64
DATAGRAM_BYTES_MAX: Final = 65_535


class WireCounters(msgspec.Struct):
    """What went over a wire since it was made, seen from the bench."""

    units_in: int = 0
    units_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    frames_bad: int = 0
    dropped: int = 0


class Wire(Protocol):
    """One end of one wire. ``endpoint`` is what the device at the far end is configured with."""

    endpoint: str
    counters: WireCounters

    def fileno(self) -> int:
        """File descriptor that becomes readable when units have come."""
        ...

    def receive(self) -> list[bytes]:
        """Every whole unit that has come; never blocks."""
        ...

    def send(self, unit: bytes) -> bool:
        """Queue one unit; False when the backlog is full and it was dropped."""
        ...

    def flush(self) -> None:
        """Write as much of the backlog as the far end takes; never blocks."""
        ...

    def close(self) -> None:
        """Release descriptors and names; harmless when repeated."""
        ...


class PtyWire:
    """A pseudo-terminal in raw mode; the far end opens ``name`` as a serial device."""

    def __init__(self, name: Path) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._name = name.absolute()
        self._name.parent.mkdir(parents=True, exist_ok=True)
        self._name.unlink(missing_ok=True)
        self._name.symlink_to(os.ttyname(self._slave))
        self._deframer = Deframer()
        self._backlog = bytearray()
        self._open = True
        self.endpoint = f"serial:{self._name}"
        self.counters = WireCounters()

    def fileno(self) -> int:
        return self._master

    def receive(self) -> list[bytes]:
        units: list[bytes] = []
        for _ in range(READS_PER_POLL_MAX):
            try:
                chunk = os.read(self._master, READ_BYTES_MAX)
            except BlockingIOError:
                break
            if not chunk:
                break
            self.counters.bytes_in += len(chunk)
            units.extend(self._deframer.receive(chunk))
        self.counters.units_in += len(units)
        statistics = self._deframer.statistics()
        self.counters.frames_bad = statistics.bad + statistics.oversize
        return units

    def send(self, unit: bytes) -> bool:
        try:
            frame = encode_frame(unit)
        except FrameError:
            frame = b""
        if not frame or len(self._backlog) + len(frame) > BACKLOG_BYTES_MAX:
            self.counters.dropped += 1
            return False
        self._backlog += frame
        self.counters.units_out += 1
        self.flush()
        return True

    def flush(self) -> None:
        while self._backlog:
            try:
                written = os.write(self._master, self._backlog)
            except BlockingIOError:
                return
            self.counters.bytes_out += written
            del self._backlog[:written]

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        os.close(self._master)
        os.close(self._slave)
        self._name.unlink(missing_ok=True)


class UdpWire:
    """A UDP socket on a free loopback port, with a port reserved for the far end.

    The far end's port is found by binding it once and letting go of it just before the device takes it. Datagrams
    that come from elsewhere are counted as bad and dropped.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
            reserved.bind(("127.0.0.1", 0))
            self._peer: tuple[str, int] = reserved.getsockname()
        own_port: int = self._socket.getsockname()[1]
        self.endpoint = f"udp:127.0.0.1:{self._peer[1]}/127.0.0.1:{own_port}"
        self.counters = WireCounters()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[bytes]:
        units: list[bytes] = []
        for _ in range(READS_PER_POLL_MAX):
            try:
                datagram, sender = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError as error:  # A refused datagram of ours comes back as an error of the next read.
                if error.errno != errno.ECONNREFUSED:
                    raise
                continue
            self.counters.bytes_in += len(datagram)
            if sender != self._peer or not datagram:
                self.counters.frames_bad += 1
                continue
            units.append(datagram)
        self.counters.units_in += len(units)
        return units

    def send(self, unit: bytes) -> bool:
        try:
            self._socket.sendto(unit, self._peer)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNREFUSED, errno.EMSGSIZE, errno.ENOBUFS}:
                raise
            self.counters.dropped += 1
            return False
        self.counters.units_out += 1
        self.counters.bytes_out += len(unit)
        return True

    def flush(self) -> None:
        """Datagrams leave at once; there is no backlog."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def make_wire(kind: LinkKind, folder: Path, name: str) -> Wire:
    """A wire of the chosen kind; a pty gets the stable name ``folder/name``."""
    return PtyWire(folder / name) if kind == "pty" else UdpWire()
