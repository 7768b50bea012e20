"""Two watchdogs above the daemon: the service manager's, and one inside the process for when there is none.

*systemd* (``sd_notify(3)``): datagrams on the unix socket named by ``NOTIFY_SOCKET`` say READY=1, WATCHDOG=1 and
STOPPING=1. A kick counts only when the datagram was taken whole, so telemetry never calls a dead
watchdog healthy. Without the variable there is nothing to notify, and that is no fault.

*stall timer*: ``faulthandler`` runs a timer in a C thread that does not need the interpreter. Each kick re-arms
it; when it runs out it writes where every thread stands to a file and ends the process at once, without clean-up.
The children die with the process, and the next boot finds the file, logs it and knows that this one was stuck.
"""

import contextlib
import faulthandler
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO

KICK_INTERVAL_S: Final = 1.0
"""A kick is passed on once a second, not once a frame: each renewal of the timer costs a thread."""


class Watchdog:
    """Owns the notification socket and the stall timer; ``stall_s`` 0 leaves the timer off."""

    def __init__(
        self, environment: Mapping[str, str], stall_s: float = 0.0, stall_file: Path | None = None
    ) -> None:
        """``stall_file`` gets the traces of a stall; without it, or when it cannot be made, the terminal does."""
        self._stall_output: TextIO = sys.__stderr__ or sys.stderr
        if stall_file is not None:
            with contextlib.suppress(OSError):
                self._stall_output = stall_file.open("w", encoding="utf-8")
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._stall_s = stall_s
        self._due_s = float("-inf")
        self.kicks = 0
        self.fault = ""
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> None:
        """The daemon is up; the service manager may start what depends on it."""
        self._notify(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def kick(self, now_s: float) -> bool:
        """A frame completed and all that is mandatory moved; False when the service manager did not hear it."""
        if now_s < self._due_s:
            return True
        if self._stall_s > 0.0:
            faulthandler.dump_traceback_later(self._stall_s, exit=True, file=self._stall_output)
        if not self._notify("WATCHDOG=1"):
            return False
        self._due_s = now_s + KICK_INTERVAL_S
        self.kicks += 1
        return True

    def stopping(self, status: str) -> None:
        """An orderly end has begun; it has its own deadline, so the stall timer is switched off."""
        faulthandler.cancel_dump_traceback_later()
        self._stall_s = 0.0
        self._notify(f"STOPPING=1\nSTATUS={status}")

    def close(self) -> None:
        """Release the socket and the timer."""
        faulthandler.cancel_dump_traceback_later()
        if self._stall_output is not (sys.__stderr__ or sys.stderr):
            self._stall_output.close()
        if self._socket:
            self._socket.close()
            self._socket = None

    def _notify(self, text: str) -> bool:
        if self._socket is None:
            return True
        message = text.encode()
        self.fault = "the service manager took only part of a notification"
        with contextlib.suppress(OSError):
            if self._socket.sendto(message, self._address) == len(message):
                self.fault = ""
        return not self.fault


def _address(text: str) -> str:
    """A socket address; systemd writes an abstract one with a leading @."""
    return "\0" + text[1:] if text.startswith("@") else text
