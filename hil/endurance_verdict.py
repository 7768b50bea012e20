"""What the long mission ends with: one line per fault, what the standing rules found, and one outcome.

Values only, so that a verdict can be written as JSON, compared and printed. PASS needs every fault that was due:
begun, answered in time, recovered in time, and no standing rule broken at any frame.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

UNANSWERED: Final = "unanswered"
NOT_RECOVERED: Final = "not recovered"
ANSWERED: Final = "answered"


class FaultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How one fault went. Times are mission seconds; ``answer_s`` and ``recovery_s`` are delays, None for never."""

    number: int
    name: str
    begun_s: float
    ended_s: float
    outcome: str
    answer_s: float | None
    recovery_s: float | None
    missing: str = ""


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A standing rule that was broken, when it began to be, and the faults that were active then."""

    at_s: float
    rule: str
    detail: str
    during: tuple[str, ...]


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of the process over the run; the slope is that of the second half, per mission hour."""

    first_mb: float
    last_mb: float
    slope_mb_per_h: float
    limit_mb_per_h: float

    @property
    def ok(self) -> bool:
        """Whether it does not grow."""
        return self.slope_mb_per_h <= self.limit_mb_per_h


class MissionVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The whole run."""

    seed: int
    commit: str
    repeat: str
    hours: float
    frame_s: float
    frames: int
    wall_s: float
    processor_s: float
    digest: str
    due: int
    faults: tuple[FaultRecord, ...]
    violations: tuple[Violation, ...]
    violations_left_out: int
    mode_time_s: dict[str, float]
    safe_entries: int
    boots: int
    train_steps: int
    work_s: float
    packets_made: int
    packets_pending: int
    soc_min: float
    gpu_temp_max_degc: float
    radiator_temp_max_degc: float
    memory: Memory | None
    interrupted: bool

    @property
    def unanswered(self) -> int:
        """Faults without their answer, those that never came to pass included."""
        return sum(record.outcome == UNANSWERED for record in self.faults) + max(0, self.due - len(self.faults))

    @property
    def not_recovered(self) -> int:
        """Faults that were answered and whose end did not lead back."""
        return sum(record.outcome == NOT_RECOVERED for record in self.faults)

    @property
    def ok(self) -> bool:
        """Whether the mission passed."""
        clean = not self.violations and not self.interrupted and (self.memory is None or self.memory.ok)
        return clean and self.unanswered == 0 and self.not_recovered == 0


def lines(verdict: MissionVerdict) -> list[str]:
    """The verdict in words, shortest first: the counts, then everything that was wrong."""
    v = verdict
    modes = ", ".join(f"{name} {seconds / 3600.0:.2f} h" for name, seconds in v.mode_time_s.items())
    out = [
        f"{v.hours:g} h at {1.0 / v.frame_s:g} Hz, seed {v.seed}, commit {v.commit}: {v.frames} frames in "
        f"{v.wall_s:.1f} s ({v.processor_s:.1f} s of processor)",
        f"faults    {len(v.faults)} of {v.due} begun, {answered(v.faults)} answered and recovered, "
        f"{v.unanswered} unanswered, {v.not_recovered} not recovered",
        f"modes     {modes}; {v.safe_entries} entries into SAFE, {v.boots} boots",
        f"work      {v.train_steps} training steps, card busy for {v.work_s / 3600.0:.2f} h",
        f"limits    least charge {v.soc_min:.1%}, GPU node at most {v.gpu_temp_max_degc:.1f} degC, "
        f"radiator at most {v.radiator_temp_max_degc:.1f} degC",
        f"packets   {v.packets_made} made, {v.packets_pending} waiting at the end",
    ]
    if v.memory is not None:
        out.append(
            f"memory    {v.memory.first_mb:.1f} MB → {v.memory.last_mb:.1f} MB, slope of the second half "
            f"{v.memory.slope_mb_per_h:+.3f} MB/h, limit {v.memory.limit_mb_per_h:g}"
        )
    out += [f"{r.outcome:14s}{r.name} at {r.begun_s:.0f} s: {r.missing}" for r in v.faults if r.outcome != ANSWERED]
    out += [
        f"broken        {x.rule} at {x.at_s:.0f} s: {x.detail} (during {', '.join(x.during) or 'no fault'})"
        for x in v.violations
    ]
    if v.violations_left_out:
        out.append(f"              and {v.violations_left_out} more")
    if v.interrupted:
        out.append("interrupted   what was flown until then is above")
    out.append(f"verdict   {'PASS' if v.ok else 'INTERRUPTED' if v.interrupted else 'FAIL'}")
    if not v.ok:
        out.append(f"repeat    {v.repeat}")
    return out


def answered(records: Sequence[FaultRecord]) -> int:
    """Faults answered and recovered."""
    return sum(record.outcome == ANSWERED for record in records)


def by_name(records: Sequence[FaultRecord]) -> dict[str, int]:
    """How often each row came."""
    return dict(sorted(Counter(record.name for record in records).items()))
