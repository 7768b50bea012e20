"""A serial device or pty as a wire: COBS frames, non-blocking, watched by the event loop.

pyserial opens the device and sets its line up; from then on its descriptor is read and written directly, because
the event loop must never wait for a line. The device is locked for us, so that two programs cannot share one
line without noticing.
"""

import asyncio
import errno
import os
from collections import deque
from typing import Final

import serial

from flightsw.link.endpoint import SerialEndpoint
from flightsw.link.errors import FrameError
from flightsw.link.frame import Deframer, encode_frame

from .wire import Receive, Wire, WireError

QUEUE_BYTES_MAX: Final = 65_536
READ_BYTES: Final = 4096


class SerialWire(Wire):
    """COBS frames on a serial device or pty."""

    def __init__(self, endpoint: SerialEndpoint, receive: Receive, unit_bytes_max: int) -> None:
        super().__init__(receive, unit_bytes_max)
        self._endpoint = endpoint
        self._port: serial.Serial | None = None
        self._fd = -1
        self._deframer = Deframer(unit_bytes_max)
        self._bad_before = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0

    async def _open(self) -> None:
        where = self._endpoint
        try:
            self._port = serial.Serial(where.path, where.baud, timeout=0, write_timeout=0, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise WireError(_why_not_open(where, error)) from None
        self._fd = self._port.fileno()
        self._count_bad()
        self._deframer = Deframer(self._unit_bytes_max)
        self._bad_before = self._bad
        self._queue.clear()
        self._queued_bytes = 0

    def _close(self) -> None:
        if self._port is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._fd)
        try:
            self._port.close()
        except (serial.SerialException, OSError) as error:
            # A device that was unplugged cannot even be closed cleanly; its descriptor is gone all the same.
            self._failure = self._failure or WireError(str(error))
        self._port, self._fd = None, -1

    def _watch(self, reading: bool) -> None:
        if self._port is not None:
            loop = asyncio.get_running_loop()
            if reading:
                loop.add_reader(self._fd, self._on_readable)
            else:
                loop.remove_reader(self._fd)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(f"{self._endpoint.path}: {error.strerror}: the device went away")
            return
        if not data:
            self._fail(f"{self._endpoint.path}: hung up: the other end closed or the device was unplugged")
            return
        for unit in self._deframer.receive(data):
            self._take(unit)
        self._count_bad()
        self._spend(len(data))

    def _count_bad(self) -> None:
        statistics = self._deframer.statistics()
        self._bad = self._bad_before + statistics.bad + statistics.oversize

    def send(self, unit: bytes) -> bool:
        try:
            frame = encode_frame(unit)
        except FrameError:
            frame = b""
        if not frame or self._port is None or self._failure or self._queued_bytes + len(frame) > QUEUE_BYTES_MAX:
            self._dropped += 1
            return False
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        if len(self._queue) == 1:
            self._on_writable()
        return True

    def _on_writable(self) -> None:
        while self._queue:
            frame = self._queue[0]
            try:
                written = os.write(self._fd, frame)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._fail(f"{self._endpoint.path}: {error.strerror}: the device went away")
                break
            self._queued_bytes -= written
            if written < len(frame):
                self._queue[0] = frame[written:]
                break
            self._queue.popleft()
            self._sent += 1
        loop = asyncio.get_running_loop()
        if self._queue and self._failure is None:
            loop.add_writer(self._fd, self._on_writable)
        else:
            loop.remove_writer(self._fd)


def _why_not_open(where: SerialEndpoint, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, FileNotFoundError) or number == errno.ENOENT:
        return f"serial device {where.path} does not exist; plug it in or correct the endpoint"
    if number in (errno.EACCES, errno.EPERM):
        return f"serial device {where.path}: permission denied; join its group (often dialout) or change its mode"
    if "exclusively lock" in str(error) or number in (errno.EAGAIN, errno.EBUSY):
        return f"serial device {where.path} is in use by another program; stop that one"
    reason = os.strerror(number) if isinstance(number, int) else str(error)
    return f"serial device {where.path} at {where.baud} baud cannot be opened: {reason}"
