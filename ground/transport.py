"""The station's end of the radio wire: whole units in, whole units out, over serial or UDP.

A wire never blocks and never raises after it was opened. A serial line that hangs up (a cable, a pty whose
other end went away) is closed and tried again with a back-off that doubles from ``RETRY_S_MIN`` to
``RETRY_S_MAX``; what was queued for it is dropped and counted, because the commanding layer above sends again
until it is answered.

Opening is different: an operator who names a missing device or a port in use wants to be told at once, so the first
``open`` raises ``GroundError`` with one line.
"""

import contextlib
import errno
import socket
from typing import Any, Final, Protocol

import msgspec
import serial

from flightsw.link.endpoint import Endpoint, SerialEndpoint, UdpEndpoint
from flightsw.link.errors import FrameError
from flightsw.link.frame import UNIT_BYTES_MAX, Deframer, DeframerStatistics, encode_frame

from .errors import GroundError

RETRY_S_MIN: Final = 0.25
RETRY_S_MAX: Final = 5.0
READ_BYTES_MAX: Final = 65_536
"""Most bytes taken from a serial line in one call, so that a flood cannot hold the loop."""
DATAGRAMS_PER_CALL_MAX: Final = 256
SEND_QUEUE_BYTES_MAX: Final = 65_536
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Kernel buffer that holds datagrams while the archive commits."""


class WireStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State and counters of a wire since the station started.

    ``up`` is false while a serial line is being tried again; ``fault`` then says why. ``dropped`` counts units by
    reason: frame (COBS broken), oversize, stranger (datagram from another peer), unsent (line down or full).
    """

    endpoint: str
    up: bool
    fault: str
    reopened: int
    bytes_in: int
    bytes_out: int
    units_in: int
    units_out: int
    dropped: dict[str, int]


class Wire(Protocol):
    """What the station needs of a wire."""

    def fileno(self) -> int:
        """Descriptor to wait on, or −1 while the wire is down."""

    @property
    def wants_write(self) -> bool:
        """Whether units wait for room on the line."""

    def receive(self) -> list[bytes]:
        """Units that have come; never blocks, bounded work."""

    def send(self, unit: bytes) -> bool:
        """Queue one unit; false when it was dropped."""

    def service(self, now_s: float) -> None:
        """Flush the queue and reopen what is down, when its time has come."""

    def status(self) -> WireStatus:
        """State and counters."""

    def close(self) -> None:
        """Release the device or port."""


def open_wire(endpoint: Endpoint) -> Wire:
    """Open the wire; raises ``GroundError`` for a missing device, a port in use or a lack of permission."""
    match endpoint:
        case SerialEndpoint():
            return SerialWire(endpoint)
        case UdpEndpoint():
            return UdpWire(endpoint)
        case None:
            return NoWire()


class SerialWire:
    """COBS frames on a serial device or pty."""

    def __init__(self, endpoint: SerialEndpoint) -> None:
        self._endpoint = endpoint
        self._deframer = Deframer()
        self._queue = bytearray()
        self._retry_s = RETRY_S_MIN
        self._retry_at_s = 0.0
        self._fault = ""
        self._reopened = self._bytes_in = self._bytes_out = self._units_out = self._unsent = 0
        self._port: serial.Serial | None = None
        try:
            self._port = self._open()
        except (OSError, ValueError) as error:
            raise GroundError(_serial_trouble(endpoint, error)) from None

    def _open(self) -> serial.Serial:
        return serial.Serial(self._endpoint.path, self._endpoint.baud, timeout=0, write_timeout=0, exclusive=True)

    def fileno(self) -> int:
        return -1 if self._port is None else int(self._port.fileno())

    @property
    def wants_write(self) -> bool:
        return bool(self._queue) and self._port is not None

    def receive(self) -> list[bytes]:
        if self._port is None:
            return []
        try:
            data = bytes(self._port.read(READ_BYTES_MAX))
        except (OSError, serial.SerialException, TypeError) as error:  # TypeError: closed under our feet.
            self._hang_up(error)
            return []
        self._bytes_in += len(data)
        if data:
            self._retry_s = RETRY_S_MIN
        return self._deframer.receive(data)

    def send(self, unit: bytes) -> bool:
        try:
            frame = encode_frame(unit)
        except FrameError:
            self._unsent += 1
            return False
        if self._port is None or len(self._queue) + len(frame) > SEND_QUEUE_BYTES_MAX:
            self._unsent += 1
            return False
        self._queue += frame
        self._units_out += 1
        self._flush()
        return True

    def service(self, now_s: float) -> None:
        if self._port is None and now_s >= self._retry_at_s:
            self._retry_at_s = now_s + self._retry_s
            self._retry_s = min(2.0 * self._retry_s, RETRY_S_MAX)
            try:
                self._port = self._open()
            except (OSError, ValueError) as error:
                self._fault = _serial_trouble(self._endpoint, error)
            else:
                self._fault = ""
                self._reopened += 1
        self._flush()

    def status(self) -> WireStatus:
        frames = self._deframer.statistics()
        return WireStatus(
            endpoint=str(self._endpoint),
            up=self._port is not None,
            fault=self._fault,
            reopened=self._reopened,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            units_in=frames.good,
            units_out=self._units_out,
            dropped=_dropped(frames, unsent=self._unsent),
        )

    def close(self) -> None:
        if self._port is not None:
            with contextlib.suppress(OSError):
                self._port.close()
            self._port = None

    def _flush(self) -> None:
        if self._port is None or not self._queue:
            return
        try:
            written = int(self._port.write(self._queue) or 0)
        except (OSError, serial.SerialException, TypeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.EINTR):
                return
            self._hang_up(error)
            return
        self._bytes_out += written
        del self._queue[:written]

    def _hang_up(self, error: Exception) -> None:
        self.close()
        self._queue.clear()
        self._fault = f"{self._endpoint.path} hung up: {_reason(error)}"


class UdpWire:
    """One unit per datagram between a bound socket and its one peer."""

    def __init__(self, endpoint: UdpEndpoint) -> None:
        self._endpoint = endpoint
        self._bytes_in = self._bytes_out = self._units_in = self._units_out = 0
        self._stranger = self._oversize = self._unsent = 0
        self._fault = ""
        try:
            family, _, _, _, peer = socket.getaddrinfo(
                endpoint.peer_host, endpoint.peer_port, type=socket.SOCK_DGRAM
            )[0]
            self._peer: tuple[Any, ...] = peer
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise GroundError(f"radio {endpoint}: peer {endpoint.peer_host}: {_reason(error)}") from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((endpoint.bind_host, endpoint.bind_port))
        except OSError as error:
            self._socket.close()
            raise GroundError(_udp_trouble(endpoint, error)) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        return False

    def receive(self) -> list[bytes]:
        units: list[bytes] = []
        for _ in range(DATAGRAMS_PER_CALL_MAX):
            try:
                data, peer = self._socket.recvfrom(UNIT_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError as error:
                self._fault = _reason(error)
                break
            self._bytes_in += len(data)
            if peer[:2] != self._peer[:2]:
                self._stranger += 1
            elif len(data) > UNIT_BYTES_MAX:
                self._oversize += 1
            else:
                self._units_in += 1
                units.append(data)
        if units:
            self._fault = ""
        return units

    def send(self, unit: bytes) -> bool:
        try:
            self._socket.sendto(unit, self._peer)
        except OSError as error:  # A full buffer or no route: as lost as any datagram.
            self._unsent += 1
            self._fault = _reason(error)
            return False
        self._bytes_out += len(unit)
        self._units_out += 1
        return True

    def service(self, now_s: float) -> None:
        del now_s

    def status(self) -> WireStatus:
        return WireStatus(
            endpoint=str(self._endpoint),
            up=True,
            fault=self._fault,
            reopened=0,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            units_in=self._units_in,
            units_out=self._units_out,
            dropped=_nonzero(stranger=self._stranger, oversize=self._oversize, unsent=self._unsent),
        )

    def close(self) -> None:
        self._socket.close()


class NoWire:
    """Endpoint ``none``: nothing is plugged in. The archive and the control socket still work."""

    def __init__(self) -> None:
        self._unsent = 0

    def fileno(self) -> int:
        return -1

    @property
    def wants_write(self) -> bool:
        return False

    def receive(self) -> list[bytes]:
        return []

    def send(self, unit: bytes) -> bool:
        del unit
        self._unsent += 1
        return False

    def service(self, now_s: float) -> None:
        del now_s

    def status(self) -> WireStatus:
        return WireStatus(
            endpoint="none",
            up=False,
            fault="no radio is configured",
            reopened=0,
            bytes_in=0,
            bytes_out=0,
            units_in=0,
            units_out=0,
            dropped=_nonzero(unsent=self._unsent),
        )

    def close(self) -> None:
        pass


def _nonzero(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _dropped(frames: DeframerStatistics, unsent: int) -> dict[str, int]:
    return _nonzero(frame=frames.bad, oversize=frames.oversize, unsent=unsent)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _serial_trouble(endpoint: SerialEndpoint, error: Exception) -> str:
    # pyserial wraps the OSError and keeps only its number.
    match getattr(error, "errno", None):
        case errno.ENOENT:
            hint = "no such device: is it plugged in, and is the path right?"
        case errno.EACCES | errno.EPERM:
            hint = "permission denied: join the group that owns the device (often dialout)"
        case errno.EBUSY | errno.EAGAIN:
            hint = "in use by another program: stop it, or name another device"
        case None if "exclusively lock" in str(error):
            hint = "in use by another program: stop it, or name another device"
        case _:
            hint = _reason(error)
    return f"radio serial device {endpoint.path}: {hint}"


def _udp_trouble(endpoint: UdpEndpoint, error: OSError) -> str:
    where = f"radio UDP port {endpoint.bind_host}:{endpoint.bind_port}"
    match error.errno:
        case errno.EADDRINUSE:
            hint = "in use: is another station running? Stop it, or bind another port"
        case errno.EADDRNOTAVAIL | socket.EAI_NONAME:
            hint = "this machine has no such address"
        case errno.EACCES:
            hint = "permission denied: ports under 1024 need privileges"
        case _:
            hint = _reason(error)
    return f"{where}: {hint}"
