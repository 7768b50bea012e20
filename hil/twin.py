"""The undisturbed twin: the same training run without a satellite around it.

It is the real worker, run alone from the same spec, writing the digest of its whole training state after every
step. If the satellite's checkpoints, which went through kills, restores and pauses, show the same digests at the
same steps, then nothing that happened to them changed a single bit.

On a CPU the twin flies along at the lowest priority and is paused while it leads by more than ``LEAD_MAX``
steps, so that it takes no time from the satellite. On a GPU it flies afterwards, because two runs on one card
would disturb the measured power.
"""

import json
import math
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
LEASH_S: Final = 1.0
REACH_MAX_S: Final = 240.0
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


class Companion:
    """The twin of one flight: flies along or afterwards, and is compared when the flight is over."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        """``spec`` is the satellite's training job. Nothing is started."""
        self._spec, self._folder = spec, folder
        self._twin: Twin | None = None
        self._leashed_at_s = -math.inf

    def start(self) -> Twin:
        """Start the twin. Raises ``OSError``."""
        self._twin = Twin(self._spec, self._folder)
        return self._twin

    @property
    def step(self) -> int | None:
        """The last step it has finished; None when it does not fly."""
        return self._twin.journal.last if self._twin is not None else None

    def leash(self, now_s: float, step: float) -> None:
        """Keep it near the satellite's ``step`` (NaN when unknown), once in ``LEASH_S``."""
        if self._twin is None or now_s - self._leashed_at_s < LEASH_S:
            return
        self._leashed_at_s = now_s
        self._twin.keep_near(step if math.isfinite(step) else 0.0)

    def finish(
        self,
        committed: list[tuple[int, int, str]],
        interrupted: bool,
        announce: Callable[[str], None],
        progress: Callable[[int, int], bool],
    ) -> TwinRecord | None:
        """Let it reach the last committed checkpoint, then end and compare it; None when it never flew."""
        detail = ""
        if committed and not interrupted:
            twin = self._twin or self.start()
            last = max(step for _, step, _ in committed)
            announce(f"the undisturbed twin flies to step {last}")
            detail = twin.reach(last, REACH_MAX_S, progress)
        elif interrupted:
            detail = "the run was interrupted before the twin was compared"
        if self._twin is None:
            return None
        self._twin.journal.read_on()
        self._twin.stop()
        return compare(committed, self._twin.journal.digests, detail)

    def stop(self) -> None:
        """End it, if it flies."""
        if self._twin is not None:
            self._twin.stop()


def compare(committed: list[tuple[int, int, str]], digests: dict[int, str], detail: str) -> TwinRecord:
    """Hold every committed checkpoint (generation, step, digest) against the twin's digest of that step."""
    record = TwinRecord(flown=True, steps=max(digests, default=0), detail=detail, compared=[], missing=[])
    for generation, step, digest in committed:
        if step in digests:
            record.compared.append((generation, step, digest, digests[step]))
        else:
            record.missing.append((generation, step, digest))
    return record
