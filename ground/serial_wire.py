"""The radio wire over a serial device or pty: COBS frames in an octet stream.

A line that hangs up (a cable, a pty whose other end went away) is closed and tried again with a back-off that
doubles from ``RETRY_S_MIN`` to ``RETRY_S_MAX``; what was queued for it is dropped and counted, because the
commanding layer above sends again until it is answered.
"""

import contextlib
import errno
from typing import Final

import serial

from flightsw.link.endpoint import SerialEndpoint
from flightsw.link.errors import FrameError
from flightsw.link.frame import Deframer, encode_frame

from .errors import GroundError
from .wire import WireStatus, nonzero, reason

RETRY_S_MIN: Final = 0.25
RETRY_S_MAX: Final = 5.0
READ_BYTES_MAX: Final = 65_536
"""Most bytes taken from a serial line in one call, so that a flood cannot hold the loop."""
SEND_QUEUE_BYTES_MAX: Final = 65_536


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
            dropped=nonzero(frame=frames.bad, oversize=frames.oversize, unsent=self._unsent),
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
        self._fault = f"{self._endpoint.path} hung up: {reason(error)}"


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
            hint = reason(error)
    return f"radio serial device {endpoint.path}: {hint}"
