"""The tally: findings and checks of a worker, added up for the daemon.

A worker reports totals, not single findings: a storm of damage makes one small message a second, and a report that
is lost costs nothing, because the next one says the same and more. The first finding of each outcome goes out at
once: it is the one an operator waits for. Later ones keep ``protocol.INTEGRITY_REPORT_S`` of distance, and while
nothing is found, ``QUIET_REPORT_S`` is enough for the counts of sound checks.

*Open damage* is found where memory is checked, and whose memory it is acts a moment later: it rolls back, loads the
model again, computes the answer anew. What it did comes as a finding of ``ACTED`` and settles what was open before;
the daemon need not kill anybody for that. What nobody has settled ``OPEN_GRACE_S`` after the next question for a
report is told as open, and then it does.

Any thread may add; the owner of the job asks ``due`` between two pieces of work.
"""

import threading
from typing import Final

from flightsw.gpu.protocol import INTEGRITY_REPORT_S, WHERE_CHARACTERS_MAX, IntegrityReport, LevelName
from flightsw.link.integrity import Level

from .finding import Detector, Finding, Outcome

QUIET_REPORT_S: Final = 10.0
"""Without a finding, totals are reported this often."""
OPEN_GRACE_S: Final = 10.0
"""Time in which the owner of damaged memory may act before the daemon hears of it."""
ACTED: Final = frozenset((d, o) for d in ("digest", "replay") for o in ("contained", "recomputed"))
"""Detector and outcome of findings with which an owner says that it has acted: state or a whole step or answer was
thrown away or done again. Findings of single operations do not say so."""
NAMES: Final[dict[Level, LevelName]] = {
    Level.OFF: "off",
    Level.WATCH: "watch",
    Level.STANDARD: "standard",
    Level.STORM: "storm",
}
"""Names of levels as messages write them."""
LEVELS: Final[dict[str, Level]] = {name: level for level, name in NAMES.items()}
"""Levels by these names."""


def starting_level(integrity: str) -> Level:
    """Level at the start of a worker whose specification says ``integrity``: "auto" begins at STANDARD.

    ``KeyError`` for an unknown name.
    """
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
        self._held = 0
        self._held_s: float | None = None
        self._last: tuple[Detector | str, str] = ("", "")
        self._told: IntegrityReport | None = None
        self._told_s = float("-inf")
        self._urgent = False

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        with self._lock:
            if finding.outcome == "open":
                self._held += 1
            else:
                self._count(finding.outcome, 1)
            if self._held and (finding.detector, finding.outcome) in ACTED:
                self._settle("contained")
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
        """Totals of this moment; what is open and may still be settled counts as open."""
        with self._lock:
            return self._report(self._held)

    def due(self, now_s: float) -> IntegrityReport | None:
        """The report to send at ``now_s`` (monotonic), or None; what is returned counts as sent."""
        with self._lock:
            if self._held:
                self._held_s = now_s if self._held_s is None else self._held_s
                if now_s - self._held_s >= OPEN_GRACE_S:
                    self._settle("open")
            report = self._report()
            wait_s = 0.0 if self._urgent or self._told is None else self._wait_s(report, self._told)
            if now_s - self._told_s < wait_s:
                return None
            self._told, self._told_s, self._urgent = report, now_s, False
            return report

    def _settle(self, outcome: Outcome) -> None:
        self._count(outcome, self._held)
        self._held, self._held_s = 0, None

    def _count(self, outcome: Outcome, count: int) -> None:
        self._urgent = self._urgent or self._outcomes[outcome] == 0
        self._outcomes[outcome] += count

    def _report(self, held: int = 0) -> IntegrityReport:
        detector, where = self._last
        return IntegrityReport(
            level=NAMES[self.level],
            checks=self._checks,
            detected=sum(self._outcomes.values()) + held,
            repaired=self._outcomes["repaired"],
            recomputed=self._outcomes["recomputed"],
            contained=self._outcomes["contained"],
            open=self._outcomes["open"] + held,
            scrubs=self._scrubs,
            last_detector=detector,
            last_where=where,
        )

    @staticmethod
    def _wait_s(report: IntegrityReport, told: IntegrityReport) -> float:
        news = report.detected != told.detected or report.level != told.level
        return INTEGRITY_REPORT_S if news else QUIET_REPORT_S
