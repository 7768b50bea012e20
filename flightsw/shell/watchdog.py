"""Three watchdogs above the daemon: the service manager's, the kernel's, and one inside the process.

*Service manager* (``sd_notify(3)``; systemd, or ``flightd --guard``): datagrams on the unix socket named by
``NOTIFY_SOCKET`` say READY=1, WATCHDOG=1 and STOPPING=1. A kick counts only when the datagram was taken whole,
and it is *confirmed* by a barrier: a descriptor sent along with BARRIER=1, which the manager closes when it has
read all that came before. A manager that lets ``BARRIER_KICKS_MAX`` kicks pass without doing so is not reading.

*Kernel*: the device of ``watchdog_device``, kicked beside it.

*Stall timer*: ``faulthandler`` runs a timer in a C thread that does not need the interpreter. Each kick re-arms
it; when it runs out it writes where every thread stands to a file and ends the process at once, without clean-up.
The children die with the process, and the next boot finds the file, logs it and knows that this one was stuck. The
same file gets the traces of a fatal signal, of the guard's SIGABRT among them.

Without a manager or a device there is nothing to notify, and that is no fault. ``confirmed`` is then None:
telemetry calls no kick healthy that nobody confirms.
"""

import array
import contextlib
import faulthandler
import os
import select
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

from .watchdog_device import WatchdogDevice

KICK_INTERVAL_S: Final = 1.0
"""A kick is passed on once a second, not once a frame: each renewal of the timer costs a thread."""
BARRIER_KICKS_MAX: Final = 5
"""Kicks within which the manager must have answered a barrier."""


class Watchdog:
    """Owns the notification socket, the device and the stall timer; ``stall_s`` 0 leaves the timer off.

    ``kicks`` counts those that were heard; ``fault`` says what is wrong with the last one.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        stall_s: float = 0.0,
        stall_file: Path | None = None,
        device: WatchdogDevice | str = "",
    ) -> None:
        """``stall_file`` gets the traces of a stall; without it, or when it cannot be made, the terminal does.

        ``device`` is open, or the reason why there is none; such a reason stays the fault of every kick.
        """
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._interval_s = _interval_s(environment.get("WATCHDOG_USEC", ""))
        self._socket: socket.socket | None = None
        self._barrier = _Barrier()
        self._device = None if isinstance(device, str) else device
        self._missing = device if isinstance(device, str) else ""
        self._stall_s = stall_s
        self._stall_output: TextIO = sys.__stderr__ or sys.stderr
        if stall_file is not None:
            with contextlib.suppress(OSError):
                self._stall_output = stall_file.open("w", encoding="utf-8")
                faulthandler.enable(self._stall_output)
        self._due_s = float("-inf")
        self.kicks = 0
        self.fault = self._missing
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @property
    def confirmed(self) -> bool | None:
        """Whether the kicks are seen to count by everybody who can tell; None when nobody can."""
        device = None if self._device is None else self._device.confirmed
        told = [answer for answer in (self._barrier.confirmed, device) if answer is not None]
        return all(told) if told else None

    def ready(self, status: str) -> None:
        """The daemon is up; the service manager may start what depends on it."""
        self._notify(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def kick(self, now_s: float) -> bool:
        """A frame completed and all that is mandatory moved; False when somebody did not hear it."""
        if now_s < self._due_s:
            return True
        if self._stall_s > 0.0:
            faulthandler.dump_traceback_later(self._stall_s, exit=True, file=self._stall_output)
        deaf = self._notify("WATCHDOG=1")
        fault = self._device.kick() if self._device is not None else ""
        if deaf or fault:
            self.fault = deaf or fault
            return False
        if self._socket is not None:
            self._barrier.pass_by(self._socket, self._address)
        self.fault = self._barrier.fault or self._missing
        self._due_s = now_s + self._interval_s
        self.kicks += 1
        return True

    def stopping(self, status: str) -> None:
        """An orderly end has begun; it has its own deadline, so the stall timer is switched off."""
        faulthandler.cancel_dump_traceback_later()
        self._stall_s = 0.0
        self._notify(f"STOPPING=1\nSTATUS={status}")

    def close(self, *, orderly: bool = True) -> None:
        """Release everything; the device's timer is stopped only at an ``orderly`` end for good."""
        faulthandler.cancel_dump_traceback_later()
        if self._stall_output is not (sys.__stderr__ or sys.stderr):
            faulthandler.disable()
            self._stall_output.close()
        if self._device:
            self._device.close(orderly=orderly)
            self._device = None
        self._barrier.close()
        if self._socket:
            self._socket.close()
            self._socket = None

    def _notify(self, text: str) -> str:
        """Send a notification; returns why it was not heard, or ""."""
        if self._socket is None:
            return ""
        message = text.encode()
        try:
            if self._socket.sendto(message, self._address) == len(message):
                return ""
        except OSError as error:
            return f"the service manager does not hear: {error.strerror}"
        return "the service manager took only part of a notification"


class _Barrier:
    """One barrier on its way: a pipe whose other end the manager holds until it has read all before it."""

    def __init__(self) -> None:
        self._fd = -1
        self._age = 0
        self.confirmed: bool | None = None
        self.fault = ""

    def pass_by(self, sender: socket.socket, address: str) -> None:
        """Look whether the last barrier came through; send the next one when it did."""
        if self._fd >= 0:
            if not select.select([self._fd], [], [], 0.0)[0]:
                self._age += 1
                if self._age >= BARRIER_KICKS_MAX:
                    self.confirmed = False
                    self.fault = "the service manager does not read its notifications"
                return
            self.close()
            self.confirmed, self.fault = True, ""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))
        try:
            sender.sendmsg([b"BARRIER=1"], [rights], 0, address)
            self._fd, self._age = ours, 0
        except OSError:
            os.close(ours)
        finally:
            os.close(theirs)

    def close(self) -> None:
        """Give up the barrier."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _address(text: str) -> str:
    """A socket address; systemd writes an abstract one with a leading @."""
    return "\0" + text[1:] if text.startswith("@") else text


def _interval_s(text: str) -> float:
    """Time between two kicks: a quarter of what the manager allows, at most ``KICK_INTERVAL_S``."""
    return min(KICK_INTERVAL_S, int(text) / 4e6) if text.isdecimal() else KICK_INTERVAL_S
