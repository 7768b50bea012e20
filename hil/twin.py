"""The undisturbed twin: the same training run without a satellite around it.

It is the real worker, run alone from the same spec, writing the digest of its whole training state after every
step. If the satellite's checkpoints, which went through kills, restores and pauses, show the same digests at the
same steps, then nothing that happened to them changed a single bit.

On a CPU the twin flies along at the lowest priority and is paused while it leads by more than ``LEAD_MAX``
steps, so that it takes no time from the satellite. On a GPU it flies afterwards, because two runs on one card
would disturb the measured power.
"""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .evidence import TwinRecord
from .processes import Child

LEAD_MAX: Final = 300
LEAD_RESUME: Final = 150
NICE: Final = 19
STOP_S: Final = 10.0
POLL_S: Final = 0.1


class Journal:
    """The twin's file of ``step digest`` lines, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.digests: dict[int, str] = {}

    def read_on(self) -> int:
        """Take what is new; returns the last step, 0 before the first."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return self.last
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            step, _, digest = line.decode("ascii", errors="replace").partition(" ")
            if step.isdigit() and digest:
                self.digests[int(step)] = digest.strip()
        return self.last

    @property
    def last(self) -> int:
        """The last step that the twin has finished."""
        return next(reversed(self.digests), 0)


class Twin:
    """The twin's process and its journal."""

    def __init__(self, spec: dict[str, Any], folder: Path, *, nice: int = NICE) -> None:
        """Start it; ``spec`` is the satellite's training job. Raises ``OSError``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder / "journal")
        spec = {
            **spec,
            "journal": str(folder / "journal"),
            "checkpoint_dir": str(folder / "checkpoints"),
            "meter": "",
        }
        path = folder / "spec.json"
        path.write_text(json.dumps(spec, indent=1))
        command = [sys.executable, "-m", "flightsw.gpu.worker", "--solo", str(path)]
        self._child = Child("twin", command, folder / "twin.log", nice=nice)
        self._paused = False

    def keep_near(self, step: float) -> None:
        """Pause while it leads the satellite's ``step`` by too much, and go on again."""
        lead = self.journal.read_on() - step
        if not self._paused and lead > LEAD_MAX:
            self._child.signal(signal.SIGSTOP)
            self._paused = True
        elif self._paused and lead < LEAD_RESUME:
            self._resume()

    def reach(self, step: int, timeout_s: float, progress: Callable[[int, int], bool]) -> str:
        """Let it run until ``step``; "" or why it did not get there.

        ``progress(steps done, steps wanted)`` is called all along; when it returns False the wait is given up.
        """
        self._resume()
        deadline_s = time.monotonic() + timeout_s
        while (done := self.journal.read_on()) < step:
            if self._child.returncode is not None and self.journal.read_on() < step:
                return self._child.obituary()
            if time.monotonic() >= deadline_s:
                return f"the twin reached step {done} of {step} in the {timeout_s:.0f} s it was given"
            if not progress(done, step):
                return f"the wait for the twin was given up at step {done} of {step}"
            time.sleep(POLL_S)
        progress(step, step)
        return ""

    def stop(self) -> None:
        """End it."""
        self._child.stop(STOP_S)

    def _resume(self) -> None:
        self._child.signal(signal.SIGCONT)
        self._paused = False


def compare(committed: list[tuple[int, int, str]], digests: dict[int, str], detail: str) -> TwinRecord:
    """Hold every committed checkpoint (generation, step, digest) against the twin's digest of that step."""
    record = TwinRecord(flown=True, steps=max(digests, default=0), detail=detail, compared=[], missing=[])
    for generation, step, digest in committed:
        if step in digests:
            record.compared.append((generation, step, digest, digests[step]))
        else:
            record.missing.append((generation, step, digest))
    return record
