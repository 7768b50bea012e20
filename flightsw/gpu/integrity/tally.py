"""The tally: findings and checks of a worker, added up for the daemon.

A worker reports totals, not single findings: a storm of damage makes one small message a second, and a report that
is lost costs nothing, because the next one says the same and more. The first finding of each outcome goes out at
once: it is the one an operator waits for. Later ones keep ``protocol.INTEGRITY_REPORT_S`` of distance, and while
nothing is found, ``QUIET_REPORT_S`` is enough for the counts of sound checks.

Any thread may add; the owner of the job asks ``due`` between two pieces of work.
"""

import threading
from typing import Final

from flightsw.gpu.protocol import INTEGRITY_REPORT_S, WHERE_CHARACTERS_MAX, IntegrityReport, LevelName
from flightsw.link.integrity import Level

from .finding import Detector, Finding, Outcome

QUIET_REPORT_S: Final = 10.0
"""Without a finding, totals are reported this often."""
NAMES: Final[dict[Level, LevelName]] = {
    Level.OFF: "off",
    Level.WATCH: "watch",
    Level.STANDARD: "standard",
    Level.STORM: "storm",
}
LEVELS: Final[dict[str, Level]] = {name: level for level, name in NAMES.items()}
"""Levels by the names of messages; a specification's "auto" begins at STANDARD."""


def starting_level(integrity: str) -> Level:
    """Level at the start of a worker whose specification says ``integrity``; ``KeyError`` for an unknown name."""
    return Level.STANDARD if integrity == "auto" else LEVELS[integrity]


class Tally:
    """Totals since the worker started. ``add`` is a ``finding.Report``."""

    def __init__(self, level: Level) -> None:
        self.level = level
        """Level at work; the workload sets it when it changes."""
        self._lock = threading.Lock()
        self._checks = 0
        self._scrubs = 0
        self._outcomes: dict[Outcome, int] = {"repaired": 0, "recomputed": 0, "contained": 0, "open": 0}
        self._last: tuple[Detector | str, str] = ("", "")
        self._told: IntegrityReport | None = None
        self._told_s = float("-inf")
        self._urgent = False

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        with self._lock:
            self._urgent = self._urgent or self._outcomes[finding.outcome] == 0
            self._outcomes[finding.outcome] += 1
            self._last = (finding.detector, finding.where[:WHERE_CHARACTERS_MAX])

    def checked(self, count: int = 1) -> None:
        """Count comparisons that were made, whatever they found."""
        with self._lock:
            self._checks += count

    def scrubbed(self, passes: int) -> None:
        """Complete passes over resident state so far, as a total."""
        with self._lock:
            self._scrubs = passes

    @property
    def report(self) -> IntegrityReport:
        """Totals of this moment."""
        with self._lock:
            return self._report()

    def due(self, now_s: float) -> IntegrityReport | None:
        """The report to send at ``now_s`` (monotonic), or None; what is returned counts as sent."""
        with self._lock:
            report = self._report()
            wait_s = 0.0 if self._urgent or self._told is None else self._wait_s(report, self._told)
            if now_s - self._told_s < wait_s:
                return None
            self._told, self._told_s, self._urgent = report, now_s, False
            return report

    def _report(self) -> IntegrityReport:
        detector, where = self._last
        return IntegrityReport(
            level=NAMES[self.level],
            checks=self._checks,
            detected=sum(self._outcomes.values()),
            repaired=self._outcomes["repaired"],
            recomputed=self._outcomes["recomputed"],
            contained=self._outcomes["contained"],
            open=self._outcomes["open"],
            scrubs=self._scrubs,
            last_detector=detector,
            last_where=where,
        )

    @staticmethod
    def _wait_s(report: IntegrityReport, told: IntegrityReport) -> float:
        news = report.detected != told.detected or report.level != told.level
        return INTEGRITY_REPORT_S if news else QUIET_REPORT_S
