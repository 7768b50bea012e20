"""Following a telecommand on the ground: PUS service 1 reports become one status per command.

Reports may be lost on a live link, come back by playback later, come twice, and come in any order. So a status
is a set of facts that only grows: which stages succeeded, and the first failure. What an operator sees
(``Status.progress``) is derived from it, and an outcome once known never changes.

    SENT ──► ACCEPTED ──► STARTED ──► PROGRESS ──► COMPLETED
      │          └─────────────┴──────────┴──────► FAILED
      └──► REFUSED

A command without an outcome at its deadline is marked overdue and goes on following reports.
State is a value: each function returns a new ``Tracker``. ``now_s`` is the ground's monotonic clock.
"""

from enum import StrEnum, unique
from typing import Final

import msgspec

from .bodies import VerificationBody
from .schema import FailureCode, Stage

COMMANDS_MAX: Final = 1024
"""Bound on commands followed at once; one more forgets the oldest, finished ones first."""


@unique
class Progress(StrEnum):
    """How far a command came, as an operator says it."""

    SENT = "sent"
    ACCEPTED = "accepted"
    STARTED = "started"
    PROGRESS = "in progress"
    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"


_BY_STAGE: Final = {
    Stage.COMPLETION: Progress.COMPLETED,
    Stage.PROGRESS: Progress.PROGRESS,
    Stage.START: Progress.STARTED,
    Stage.ACCEPTANCE: Progress.ACCEPTED,
}
"""Furthest stage first."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One command. ``code`` and ``text`` tell why it was refused or failed.

    ``deadline_s`` is None for a command that this station did not send itself or whose outcome is known.
    """

    command: int
    opcode: int
    reached: frozenset[Stage] = frozenset()
    failed_at: Stage | None = None
    code: int = int(FailureCode.NONE)
    text: str = ""
    deadline_s: float | None = None
    overdue: bool = False

    @property
    def progress(self) -> Progress:
        """The outcome, or the furthest stage that was reported."""
        if self.failed_at is not None:
            return Progress.REFUSED if self.failed_at is Stage.ACCEPTANCE else Progress.FAILED
        return next((name for stage, name in _BY_STAGE.items() if stage in self.reached), Progress.SENT)

    @property
    def finished(self) -> bool:
        """True when nothing more is expected."""
        return self.failed_at is not None or Stage.COMPLETION in self.reached


class Tracker(msgspec.Struct, frozen=True):
    """Every command that is followed, oldest first."""

    commands: dict[int, Status] = {}


def sent(tracker: Tracker, command: int, opcode: int, deadline_s: float | None = None) -> Tracker:
    """Follow a command that goes out now; sending it again renews its deadline and keeps what is known."""
    status = tracker.commands.get(command) or Status(command=command, opcode=opcode)
    if not status.finished:
        status = msgspec.structs.replace(status, deadline_s=deadline_s, overdue=False)
    return _with(tracker, status)


def observe(tracker: Tracker, report: VerificationBody) -> Tracker:
    """Take in a report, also about a command that was never announced here.

    A stage of a newer dictionary changes nothing.
    """
    try:
        stage = Stage(report.stage)
    except ValueError:
        return tracker
    status = tracker.commands.get(report.id) or Status(command=report.id, opcode=report.op)
    if report.code == FailureCode.NONE:
        status = msgspec.structs.replace(status, reached=status.reached | {stage})
    elif not status.finished:
        status = msgspec.structs.replace(status, failed_at=stage, code=report.code, text=report.text)
    if status.finished:
        status = msgspec.structs.replace(status, deadline_s=None, overdue=False)
    return _with(tracker, status)


def step(tracker: Tracker, now_s: float) -> tuple[Tracker, tuple[Status, ...]]:
    """Let time pass: commands whose deadline went by without an outcome are marked overdue and returned, once."""
    overdue = tuple(
        msgspec.structs.replace(status, overdue=True)
        for status in tracker.commands.values()
        if status.deadline_s is not None and not status.overdue and now_s >= status.deadline_s
    )
    if overdue:
        tracker = Tracker({**tracker.commands, **{status.command: status for status in overdue}})
    return tracker, overdue


def _with(tracker: Tracker, status: Status) -> Tracker:
    commands = {**tracker.commands, status.command: status}
    if len(commands) > COMMANDS_MAX:
        others = [s for s in commands.values() if s.command != status.command]
        oldest = next((s for s in others if s.finished), others[0])
        del commands[oldest.command]
    return Tracker(commands)
