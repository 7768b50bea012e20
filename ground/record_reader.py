"""What was reported and commanded: events, verifications, replies, commands and alarms of an archive.

Every row is a record with the names that an operator knows; an event unknown to this dictionary keeps the text
that was rendered when it was filed. Mission times are in seconds; NaN where a packet carries no valid one.
"""

from typing import Any

import msgspec

from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.schema import FailureCode, Stage

from .archive import command_name
from .archive_file import ArchiveFile, real
from .commanding import failure_name, shown_arguments
from .protocol import EventLine


class VerificationRow(msgspec.Struct, frozen=True):
    """One verification report; ``code`` is "" for success."""

    world_s: float
    received_utc_s: float
    command: int
    name: str
    stage: str
    code: str
    text: str


class ReplyRow(msgspec.Struct, frozen=True):
    """One inference reply, its parts joined; ``complete`` is false while parts are missing."""

    world_s: float
    received_utc_s: float
    command: int
    job: str
    request: int
    text: str
    tokens: int
    finish: str
    generation: int
    duration_s: float
    complete: bool


class CommandRow(msgspec.Struct, frozen=True):
    """One command sent, and its outcome as the archive knows it: sent, accepted, completed, refused, failed or
    timeout.

    ``answered_utc_s`` is when the report that decided the outcome came, None before that.
    """

    id: int
    name: str
    arguments: dict[str, Any]
    operator: str
    sent_utc_s: float
    world_s: float
    transmissions: int
    outcome: str
    code: str
    text: str
    answered_utc_s: float | None


class RecordReader(ArchiveFile):
    """Questions about events and commanding."""

    def events(
        self,
        since: float | None = None,
        until: float | None = None,
        last: int | None = None,
        severity: int = 0,
    ) -> list[EventLine]:
        """Event reports of at least this severity, by boot and mission time."""
        return [
            EventLine(
                boot=boot,
                sequence=sequence,
                world_s=real(world_s),
                onboard_utc_s=onboard_utc_s,
                severity=level,
                name=name,
                text=text,
                fields=msgspec.json.decode(fields),
                playback=bool(playback),
            )
            for boot, sequence, world_s, onboard_utc_s, level, name, text, fields, playback in self._select(
                "SELECT p.boot, p.sequence, e.world_s AS world_s, p.onboard_utc_s, e.severity, e.name, e.text,"
                " e.fields, p.playback FROM events e JOIN packets p ON p.id = e.packet",
                "boot, world_s, sequence",
                since,
                until,
                last,
                where=f"severity >= {int(severity)}",
            )
        ]

    def verifications(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[VerificationRow]:
        """Verification reports, by boot and mission time."""
        return [
            VerificationRow(
                real(world_s), received, command, command_name(opcode), _stage(stage), failure_name(code), text
            )
            for world_s, received, command, opcode, stage, code, text, _boot, _sequence in self._select(
                "SELECT v.world_s AS world_s, p.received_utc_s, v.command, v.opcode, v.stage, v.code, v.text,"
                " p.boot, p.sequence FROM verifications v JOIN packets p ON p.id = v.packet",
                "boot, world_s, sequence",
                since,
                until,
                last,
            )
        ]

    def replies(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[ReplyRow]:
        """Inference replies, by boot and mission time of their first part."""
        parts: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        for row in self._select(
            "SELECT p.boot, r.job, r.request, r.command, r.part, r.parts, r.world_s AS world_s, p.received_utc_s,"
            " r.text, r.tokens, r.finish, r.generation, r.duration_s"
            " FROM replies r JOIN packets p ON p.id = r.packet",
            "boot, world_s, part",
            since,
            until,
            None,
        ):
            parts.setdefault(row[:4], []).append(row[4:])
        replies = []
        for (_boot, job, request, command), rows in parts.items():
            _, count, world_s, _, _, tokens, finish, generation, duration_s = rows[0]
            replies.append(
                ReplyRow(
                    world_s=real(world_s),
                    received_utc_s=max(row[3] for row in rows),
                    command=command,
                    job=job,
                    request=request,
                    text="".join(row[4] for row in sorted(rows)),
                    tokens=tokens,
                    finish=finish,
                    generation=generation,
                    duration_s=real(duration_s),
                    complete=len(rows) == count,
                )
            )
        return replies[-last:] if last else replies

    def commands(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[CommandRow]:
        """Commands sent, oldest first; filed by the newest mission time known when each was sent."""
        reports: dict[int, list[tuple[Any, ...]]] = {}
        for command, *report in self._rows(
            "SELECT v.command, v.stage, v.code, v.text, p.received_utc_s FROM verifications v"
            " JOIN packets p ON p.id = v.packet JOIN commands c ON c.id = v.command"
        ):
            reports.setdefault(command, []).append(tuple(report))
        rows = []
        for id, name, arguments, operator, sent_utc_s, world_s, transmissions, expired in self._select(
            "SELECT id, name, arguments, operator, sent_utc_s, world_s, transmissions, expired_utc_s FROM commands",
            "id",
            since,
            until,
            last,
        ):
            values = msgspec.json.decode(arguments)
            telecommand = TELECOMMAND_BY_NAME.get(name)
            rows.append(
                CommandRow(
                    id,
                    name,
                    shown_arguments(telecommand, values) if telecommand else values,
                    operator,
                    sent_utc_s,
                    real(world_s),
                    transmissions,
                    *_outcome(reports.get(id, []), expired is not None),
                )
            )
        return rows

    def alarms(self) -> list[tuple[float, str, str, str]]:
        """(mission time, parameter, level, text) of every crossing of an operator limit."""
        return [
            (real(world_s), parameter, level, text)
            for world_s, parameter, level, text in self._rows(
                "SELECT world_s, parameter, level, text FROM alarms ORDER BY id"
            )
        ]


def _stage(code: int) -> str:
    return Stage(code).name.lower() if code in Stage.__members__.values() else str(code)


def _outcome(reports: list[tuple[Any, ...]], expired: bool) -> tuple[str, str, str, float | None]:
    """(outcome, code, text, answered) from (stage, code, text, received) reports in any order."""
    for stage, code, text, received in reports:
        if code != FailureCode.NONE:
            return "refused" if stage == Stage.ACCEPTANCE else "failed", failure_name(code), text, received
    for stage, _, _, received in reports:
        if stage == Stage.COMPLETION:
            return "completed", "", "", received
    if expired:
        return "timeout", "", "", None
    return ("accepted" if reports else "sent"), "", "", None
