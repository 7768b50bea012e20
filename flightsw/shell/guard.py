"""The guard: a small parent that restarts the daemon when it ends, and ends it when it is stuck.

``flightd --guard`` becomes this program where no systemd does the same work:

    python guard.py WATCHDOG_S START_S STOP_S RESTARTS_MAX WINDOW_S PROGRAM ARGUMENT…

It starts the program in a session of its own and offers it a service manager's socket (``NOTIFY_SOCKET``,
``WATCHDOG_USEC``, as systemd does). READY=1 has to come within START_S, and from then on WATCHDOG=1 within
WATCHDOG_S; after STOPPING=1 the program has STOP_S to end or to be ready again. Silence means SIGABRT, so that
it can say where it stands, and ``ABORT_S`` later SIGKILL, both to the whole process group: a stopped or stuck
program cannot refuse.

Only datagrams of the program itself count (the kernel tells who sent one). ``BARRIER=1`` is answered by closing the
descriptor that comes with it: so the program sees that its kicks are read.

A program that ends with 0 or 2 (orderly, or wrong configuration) is not started again. Every other end is
followed by a restart after a pause that doubles up to ``PAUSE_MAX_S``; the reason goes to the next life in
``GPUSAT_LAST_END``. More than RESTARTS_MAX restarts within WINDOW_S are given up with status 1. SIGTERM, SIGINT
and SIGHUP are passed on.

It runs under ``python -I -S`` and imports nothing of ours, so that nothing of ours can break it.
"""

import array
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

ABORT_S = 2.0
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0
DATAGRAM_BYTES_MAX = 4096
FINAL = (0, 2)
"""Statuses that are not followed by a restart."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CREDENTIALS = struct.Struct("3i")


class Guard:
    """One program under guard; ``run`` returns the guard's own status."""

    def __init__(
        self,
        watchdog_s: float,
        start_s: float,
        stop_s: float,
        restarts_max: int,
        window_s: float,
        command: list[str],
    ) -> None:
        self._watchdog_s, self._start_s, self._stop_s = watchdog_s, start_s, stop_s
        self._restarts_max, self._window_s = restarts_max, window_s
        self._command = command
        self._restarts: list[float] = []
        self._asked = 0
        self._pid = 0
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in FORWARDED:
            signal.signal(number, self._forward)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # The kernel chooses a free abstract name: nothing is left behind in a file system.
        self._socket.bind("")
        self._address = "@" + self._socket.getsockname()[1:].decode()

    def run(self) -> int:
        """Start, watch, restart; the status of the last program, or 1 when it is given up."""
        last_end = ""
        while True:
            status, last_end = self._live(last_end)
            if status in FINAL or self._ending():
                return status if status >= 0 else 1
            at_s = time.monotonic()
            self._restarts = [t for t in self._restarts if at_s - t < self._window_s]
            if len(self._restarts) >= self._restarts_max:
                _say(
                    f"{last_end}; {len(self._restarts)} restarts in {self._window_s:g} s did not help, giving up."
                    " The log of the program says why; start it again when that is mended"
                )
                return 1
            pause_s = min(PAUSE_FIRST_S * 2.0 ** len(self._restarts), PAUSE_MAX_S)
            self._restarts.append(at_s)
            _say(f"{last_end}; restart {len(self._restarts)} of {self._restarts_max} in {pause_s:g} s")
            resume_s = at_s + pause_s
            while (rest_s := resume_s - time.monotonic()) > 0.0 and not self._ending():
                self._wait(rest_s)
            if self._ending():
                return 0

    def _live(self, last_end: str) -> tuple[int, str]:
        """One life of the program: its status (negative for a signal) and how it ended, in words."""
        environment = {**os.environ, "NOTIFY_SOCKET": self._address}
        environment["WATCHDOG_USEC"] = str(int(self._watchdog_s * 1e6))
        environment.pop("GPUSAT_LAST_END", None)
        if last_end:
            environment["GPUSAT_LAST_END"] = last_end
        self._drain()
        try:
            process = subprocess.Popen(self._command, env=environment, start_new_session=True)
        except OSError as error:
            return 2, f"cannot start {self._command[0]}: {error.strerror}"
        self._pid = process.pid
        if self._asked:
            self._forward(self._asked, None)
        _say(f"process {process.pid} started")
        killed = self._watch(process)
        self._pid = 0
        # What is left of the group goes with its leader.
        _kill(process.pid, signal.SIGKILL)
        status = process.returncode
        if killed:
            return status, killed
        if status < 0:
            return status, f"ended by {signal.Signals(-status).name}"
        return status, f"ended with status {status}"

    def _watch(self, process: "subprocess.Popen[bytes]") -> str:
        """Until the program is gone; why it was killed, or ""."""
        deadline_s, silence = time.monotonic() + self._start_s, f"not ready within {self._start_s:g} s"
        stopping, killed = False, ""
        while process.poll() is None:
            if time.monotonic() >= deadline_s:
                number = signal.SIGKILL if killed else signal.SIGABRT
                killed = killed or f"watchdog: {silence}"
                _say(f"{killed}: {number.name} to process group {process.pid}")
                _kill(process.pid, number)
                deadline_s = time.monotonic() + ABORT_S
            self._wait(deadline_s - time.monotonic())
            for message in self._drain():
                if killed:
                    continue
                # While it stops it may have no frames any more, so a late kick must not shorten the time for that.
                if "READY=1" in message or ("WATCHDOG=1" in message and not stopping):
                    stopping = False
                    deadline_s = time.monotonic() + self._watchdog_s
                    silence = f"no sign of life for {self._watchdog_s:g} s"
                elif "STOPPING=1" in message:
                    stopping = True
                    deadline_s = time.monotonic() + self._stop_s
                    silence = f"not gone within {self._stop_s:g} s"
        return killed

    def _wait(self, timeout_s: float) -> None:
        """Until a datagram, a signal or the end of a child; whatever it is, the caller looks for itself."""
        ready = select.select([self._socket.fileno(), self._wake], [], [], max(0.0, timeout_s))[0]
        if self._wake in ready:
            os.read(self._wake, 512)

    def _drain(self) -> list[list[str]]:
        """Lines of each datagram that the program itself has sent."""
        messages: list[list[str]] = []
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * 8)
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(DATAGRAM_BYTES_MAX, space)
            except BlockingIOError:
                return messages
            sender = 0
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    sender = _CREDENTIALS.unpack(payload[: _CREDENTIALS.size])[0]
                elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    for descriptor in array.array("i", payload[: len(payload) - len(payload) % 4]):
                        os.close(descriptor)
            if sender == self._pid and self._pid:
                messages.append(data.decode(errors="replace").split("\n"))

    def _ending(self) -> bool:
        """Whether somebody asked for the end, by a signal."""
        return self._asked != 0

    def _forward(self, number: int, frame: object) -> None:
        self._asked = number
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


def _kill(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _say(text: str) -> None:
    print(f"guard: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Entry point; the arguments are those of the module's docstring."""
    watchdog_s, start_s, stop_s, window_s = (float(arguments[i]) for i in (0, 1, 2, 4))
    return Guard(watchdog_s, start_s, stop_s, int(arguments[3]), window_s, arguments[5:]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
