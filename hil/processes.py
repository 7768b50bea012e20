"""Programs that the bench starts: the daemon, the station, the twin. Each has a log file and a bounded end.

Every child gets a session of its own, so that a Ctrl-C at the terminal reaches the bench alone, which then ends
things in order. Should the bench itself be killed, the kernel sends SIGTERM to its children
(``PR_SET_PDEATHSIG``): no training run is left behind on somebody's machine.

The way down is a ladder: ask (SIGTERM), wait, then SIGKILL the whole process group. No step waits for ever.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
POLL_S: Final = 0.02
TAIL_BYTES: Final = 8192
REAP_S: Final = 5.0

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Child:
    """One running program."""

    def __init__(
        self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None, nice: int = 0
    ) -> None:
        """Start it; raises ``OSError`` when that is impossible."""
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)

        def before_exec() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if nice:
                os.nice(nice)

        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=before_exec,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the process; nothing happens when it is gone."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended_within(self, timeout_s: float) -> bool:
        """Wait for its end, up to a deadline."""
        deadline_s = time.monotonic() + timeout_s
        while self.returncode is None:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(POLL_S)
        return True

    def kill(self) -> None:
        """SIGKILL the whole group and reap the leader."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ended_within(REAP_S)

    def stop(self, timeout_s: float) -> bool:
        """Ask, wait, then kill; False when it had to be killed. Also ends what it left behind in its group."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        orderly = self.ended_within(timeout_s)
        self.kill()
        return orderly

    def last_words(self) -> str:
        """The last line of its log that says something, for a message."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def obituary(self) -> str:
        """One line on how it ended and what it said last."""
        code = self.returncode
        if code is None:
            return f"{self.name} is running"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        words = self.last_words()
        return f"{self.name} ended with {how}{': ' + words if words else ''} (log: {self.log})"
