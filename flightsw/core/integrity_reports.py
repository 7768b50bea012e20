"""What workers tell of their integrity checks: totals that never fall, and the events that follow from them.

A worker reports totals since its start (``gpu.protocol.IntegrityReport``). They are added up over restarts, so a
report that is lost costs nothing and nothing counted here ever falls. What is new is told by outcome, the first at
once and later ones at most every ``REPORT_S``; each report has the number since the last one, so none is hidden.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.integrity import LEVEL_BY_NAME, Level

from .events import Event, Fields
from .inputs import WorkerIntegrity
from .limits import NEVER

REPORT_S: Final = 10.0
"""Findings of one worker and outcome are reported at most this often (machine clock)."""
OPEN_REPORT_S: Final = 1.0
"""The same for damage that stayed open."""
OUTCOMES: Final[tuple[tuple[str, str, float], ...]] = (
    ("repaired", "INTEGRITY_REPAIRED", REPORT_S),
    ("recomputed", "INTEGRITY_RECOMPUTED", REPORT_S),
    ("contained", "INTEGRITY_CONTAINED", REPORT_S),
    ("open", "INTEGRITY_OPEN", OPEN_REPORT_S),
)
"""Outcomes of findings: count in a report, event, least time between two of them."""


class Counts(Struct, frozen=True):
    """Totals of findings and checks; the names are those of ``WorkerIntegrity``."""

    checks: int = 0
    detected: int = 0
    repaired: int = 0
    recomputed: int = 0
    contained: int = 0
    open: int = 0
    scrubs: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Sum by name."""
        if other is NOTHING:
            return self
        return Counts(
            self.checks + other.checks,
            self.detected + other.detected,
            self.repaired + other.repaired,
            self.recomputed + other.recomputed,
            self.contained + other.contained,
            self.open + other.open,
            self.scrubs + other.scrubs,
        )

    def behind(self, other: "Counts") -> bool:
        """Whether any count is under that of ``other``: then these are not the same worker's."""
        return any(getattr(self, name) < getattr(other, name) for name in FIELDS)


FIELDS: Final = tuple(Counts.__struct_fields__)
NOTHING: Final = Counts()
NEVER_TOLD: Final = (NEVER,) * len(OUTCOMES)


class Worker(Struct, frozen=True, kw_only=True):
    """Memory of one job.

    ``ordered`` was sent at ``ordered_s``; ``level`` is what the worker reports. ``before`` are the totals of
    earlier workers, ``now`` those of this one; ``told`` is what the events have said, at the times ``told_s`` by
    outcome.
    """

    ordered: Level | None = None
    ordered_s: float = NEVER
    level: Level | None = None
    before: Counts = NOTHING
    now: Counts = NOTHING
    told: Counts = NOTHING
    told_s: tuple[float, ...] = NEVER_TOLD
    detector: str = ""
    where: str = ""

    @property
    def totals(self) -> Counts:
        """Since boot of the daemon."""
        return self.before if self.now is NOTHING else self.before.plus(self.now)


def restarted(worker: Worker) -> Worker:
    """The job has another process: it has been told nothing, and counts from zero."""
    return replace(worker, ordered=None, level=None, before=worker.totals, now=NOTHING)


def heard(worker: Worker, report: WorkerIntegrity, now_s: float) -> tuple[Worker, tuple[Event, ...]]:
    """The worker after a report, and what is to be told of it now."""
    # A damaged worker may say anything: no count is negative, and one that falls is another process's.
    said = Counts(*(max(0, getattr(report, name)) for name in FIELDS))
    if said.behind(worker.now):
        worker = replace(worker, before=worker.totals, now=NOTHING)
    worker = replace(
        worker,
        level=LEVEL_BY_NAME.get(report.level),
        now=said,
        detector=report.last_detector or worker.detector,
        where=report.last_where or worker.where,
    )
    found: list[Event] = []
    totals, told, told_s = worker.totals, worker.told, list(worker.told_s)
    for place, (name, event, every_s) in enumerate(OUTCOMES):
        count = getattr(totals, name) - getattr(told, name)
        if count and now_s - told_s[place] >= every_s:
            fields: Fields = {
                "job": report.job,
                "count": count,
                "detector": worker.detector,
                "where": worker.where,
            }
            found.append(Event(event, fields))
            told, told_s[place] = replace(told, **{name: getattr(totals, name)}), now_s
    return replace(worker, told=told, told_s=tuple(told_s)), tuple(found)
