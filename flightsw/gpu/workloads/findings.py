"""Findings on their way out of a worker: into the tally that the daemon gets, and one line each for people.

The lines are bounded: ``LINES_MAX`` in ``LINES_S``, then one that says that more follow unseen. The tally counts
all.
"""

import sys
import time
from collections.abc import Callable
from typing import Final

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.tally import Tally

LINES_MAX: Final = 20
LINES_S: Final = 60.0


class Findings:
    """``add`` is a ``finding.Report``. For one thread."""

    def __init__(self, tally: Tally, job: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally = tally
        self._job = job
        self._clock = clock
        self._since_s = -LINES_S
        self._lines = 0

    def add(self, finding: Finding) -> None:
        """Count a finding, and say it."""
        self._tally.add(finding)
        now_s = self._clock()
        if now_s - self._since_s >= LINES_S:
            self._since_s, self._lines = now_s, 0
        self._lines += 1
        if self._lines <= LINES_MAX:
            detail = f": {finding.detail}" if finding.detail else ""
            line = f"{finding.where}: {finding.outcome} ({finding.detector}){detail}"
            print(f"{self._job}: integrity: {line}", file=sys.stderr)
        elif self._lines == LINES_MAX + 1:
            print(f"{self._job}: integrity: more findings, not shown for {LINES_S:g} s", file=sys.stderr)
