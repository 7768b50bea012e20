"""The kernel's watchdog device: a timer in hardware that resets the computer unless it is kicked.

``/dev/watchdog`` (Documentation/watchdog/watchdog-api.rst of the kernel) starts its timer when it is opened. A
kick is one ``WDIOC_KEEPALIVE``. It is *confirmed* when the time left, as the device itself tells it
(``WDIOC_GETTIMELEFT``), went up or is full: a driver whose output pin is stuck or whose kick is lost shows as
time that runs down, and then telemetry does not call it healthy. A device that cannot tell leaves the flag
open.

Closing after the magic character "V" stops the timer. It is written at an orderly end only: a daemon that dies, or
that restarts, leaves the timer running, and its next life has to be there in time.

A device that is not there, is busy or refuses is told in one line, and the flight goes on without it.

The request numbers are those of the generic encoding (x86, Arm, RISC-V):
direction 2 bits · size 14 bits · type 'W' 8 bits · number 8 bits.
"""

import array
import fcntl
import os
from collections.abc import Callable
from typing import Final

_READ: Final = 2
_READ_WRITE: Final = 3
_INT_BYTES: Final = 4


def _request(direction: int, number: int) -> int:
    return direction << 30 | _INT_BYTES << 16 | ord("W") << 8 | number


WDIOC_KEEPALIVE: Final = _request(_READ, 5)
WDIOC_SETTIMEOUT: Final = _request(_READ_WRITE, 6)
WDIOC_GETTIMELEFT: Final = _request(_READ, 10)
MAGIC_CLOSE: Final = b"V"


Ioctl = Callable[[int, int, "array.array[int]", bool], int]


class WatchdogDeviceError(Exception):
    """The device cannot be used; the text says which, why, and what follows."""


class WatchdogDevice:
    """An open, running watchdog device."""

    def __init__(self, path: str, timeout_s: int, ioctl: Ioctl = fcntl.ioctl) -> None:
        """Open ``path`` and set its time-out; raises ``WatchdogDeviceError``.

        ``ioctl`` is the system call; a simulated device answers in its place.
        """
        self._request = ioctl
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise WatchdogDeviceError(f"{path}: {error.strerror}; flying without it") from None
        try:
            self.timeout_s = self._ioctl(WDIOC_SETTIMEOUT, timeout_s)
        except OSError as error:
            # Perhaps the timer runs already with a time-out that nobody knows: it is stopped, if it can be.
            self.close(orderly=True)
            raise WatchdogDeviceError(f"{path}: is no watchdog: {error.strerror}; flying without it") from None
        self.confirmed: bool | None = None

    def kick(self) -> str:
        """Kick, and see whether it helped (``confirmed``); returns a fault or ""."""
        before_s = self._time_left_s()
        try:
            self._ioctl(WDIOC_KEEPALIVE)
        except OSError as error:
            self.confirmed = False
            return f"the device refused a kick: {error.strerror}"
        after_s = self._time_left_s()
        if before_s is None or after_s is None:
            return ""
        if after_s > before_s or after_s >= self.timeout_s:
            self.confirmed = True
        elif after_s <= self.timeout_s / 2:
            # Whole seconds may hide one kick; half the time-out without a rise does not.
            self.confirmed = False
            return f"kicks have no effect, {after_s} s left"
        return ""

    def close(self, *, orderly: bool) -> None:
        """Let go of the device; the timer stops only when the end is ``orderly``."""
        try:
            if orderly:
                os.write(self._fd, MAGIC_CLOSE)
        except OSError:
            pass
        finally:
            os.close(self._fd)

    def _time_left_s(self) -> int | None:
        try:
            return self._ioctl(WDIOC_GETTIMELEFT)
        except OSError:
            return None

    def _ioctl(self, request: int, value: int = 0) -> int:
        cell = array.array("i", [value])
        self._request(self._fd, request, cell, True)
        return cell[0]
