"""Reading an archive, also while a station writes it. Rows come out as records, ordered by mission time.

A file that another dictionary has written is read as far as both know: parameters are found by name in the
order that was in force when the packet was filed, unknown events keep the text that was rendered then.
"""

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

import msgspec

from flightsw.link.codec import unpack_housekeeping
from flightsw.link.dictionary import DICTIONARY_HASH, HOUSEKEEPING, PARAMETER_BY_NAME, TELECOMMAND_BY_NAME
from flightsw.link.errors import LinkError
from flightsw.link.packet import CRC_BYTES, TM_HEADER_BYTES
from flightsw.link.schema import FailureCode, HousekeepingGroup, Stage

from .archive import SCHEMA_VERSION, command_name
from .commanding import failure_name, shown_arguments
from .errors import GroundError
from .protocol import EventLine

_DOUBLE: Final = Struct(">d")
_VALUES_OFFSET: Final = TM_HEADER_BYTES + 3
"""Octets before the first element: headers, then the array head."""
_ELEMENT_BYTES: Final = 9
_ARRAY_16: Final = 0xDC
_FLOAT_64: Final = 0xCB


class Identity(NamedTuple):
    """One archived packet; ``playback`` tells how its first copy came."""

    boot: int
    apid: int
    sequence: int
    playback: bool


class PacketRow(msgspec.Struct, frozen=True):
    """Header data of one archived packet; times in seconds, ``*_utc_s`` since 1970."""

    boot: int
    apid: int
    sequence: int
    service: int
    subtype: int
    world_s: float
    onboard_utc_s: float
    received_utc_s: float
    playback: bool
    bytes: int


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


class Series(NamedTuple):
    """A parameter over mission time, in seconds and in the parameter's unit; NaN is "no valid value"."""

    world_s: list[float]
    value: list[float]


class ArchiveReader:
    """Read-only view; raises ``GroundError`` when the file is missing or no archive of this schema."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise GroundError(f"no archive {path}: start a station with ground listen, or name one with --archive")
        try:
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0
            )
            row = self._database.execute("SELECT value FROM meta WHERE key='schema_version'").fetchone()
        except sqlite3.Error as error:
            raise GroundError(f"archive {path}: {error}") from None
        if row is None or row[0] != SCHEMA_VERSION:
            self._database.close()
            raise GroundError(f"archive {path} has schema {row and row[0]}, this program reads {SCHEMA_VERSION}")

    def __enter__(self) -> "ArchiveReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def identities(self) -> list[Identity]:
        """Every archived packet, ordered by boot, APID and sequence."""
        return [
            Identity(boot, apid, sequence, bool(playback))
            for boot, apid, sequence, playback in self._rows(
                "SELECT boot, apid, sequence, playback FROM packets ORDER BY boot, apid, sequence"
            )
        ]

    def packets(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[PacketRow]:
        """Headers of packets, by mission time."""
        statement = (
            "SELECT boot, apid, sequence, service, subtype, world_s, onboard_utc_s, received_utc_s, playback,"
            " length(packet) AS octets, id FROM packets"
        )
        return [
            PacketRow(
                boot, apid, sequence, service, subtype, _real(world_s), onboard, received, bool(playback), octets
            )
            for boot, apid, sequence, service, subtype, world_s, onboard, received, playback, octets, _ in (
                self._select(statement, "boot, world_s, id", since, until, last)
            )
        ]

    def packet(self, boot: int, apid: int, sequence: int) -> bytes | None:
        """The octets of one packet as they were received."""
        rows = list(
            self._rows("SELECT packet FROM packets WHERE boot=? AND apid=? AND sequence=?", boot, apid, sequence)
        )
        return bytes(rows[0][0]) if rows else None

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
                world_s=_real(world_s),
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
                _real(world_s), received, command, command_name(opcode), _stage(stage), failure_name(code), text
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
                    world_s=_real(world_s),
                    received_utc_s=max(row[3] for row in rows),
                    command=command,
                    job=job,
                    request=request,
                    text="".join(row[4] for row in sorted(rows)),
                    tokens=tokens,
                    finish=finish,
                    generation=generation,
                    duration_s=_real(duration_s),
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
                    _real(world_s),
                    transmissions,
                    *_outcome(reports.get(id, []), expired is not None),
                )
            )
        return rows

    def alarms(self) -> list[tuple[float, str, str, str]]:
        """(mission time, parameter, level, text) of every crossing of an operator limit."""
        return [
            (_real(world_s), parameter, level, text)
            for world_s, parameter, level, text in self._rows(
                "SELECT world_s, parameter, level, text FROM alarms ORDER BY id"
            )
        ]

    def counter(self, name: str) -> int:
        """A counter of the station, kept over its restarts."""
        return next((int(value) for (value,) in self._rows("SELECT value FROM counters WHERE name=?", name)), 0)

    def dictionaries(self) -> list[str]:
        """Hashes of the dictionaries that wrote this archive."""
        return [hash for (hash,) in self._rows("SELECT hash FROM dictionaries ORDER BY first_used_s")]

    def notices(self) -> list[str]:
        """What a reader should know about this file: dictionaries other than ours."""
        others = [hash for hash in self.dictionaries() if hash != DICTIONARY_HASH]
        return [f"archive written with dictionary {hash}, this program has {DICTIONARY_HASH}" for hash in others]

    def parameters(self) -> list[str]:
        """Names of parameters that have packets here."""
        apids = {apid for (apid,) in self._rows("SELECT DISTINCT apid FROM packets")}
        names = [name for group in HOUSEKEEPING if group.apid in apids for name in group.parameters]
        return list(dict.fromkeys(names))

    def series(
        self, name: str, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> Series:
        """A parameter over mission time, from every housekeeping group that carries it.

        Raises ``GroundError`` for a name that is not in the dictionary.
        """
        if name not in PARAMETER_BY_NAME:
            raise GroundError(f"no parameter {name!r}: see ground query --list")
        points: list[tuple[float, float]] = []
        for group in HOUSEKEEPING:
            if name not in group.parameters:
                continue
            index = group.parameters.index(name)
            statement = f"SELECT world_s, packet, id FROM packets WHERE apid = {group.apid}"
            for world_s, packet, _id in self._select(statement, "world_s, id", since, until, last):
                value = _element(packet, index)
                if value is not None and world_s is not None:
                    points.append((world_s, value))
        points.sort(key=lambda point: point[0])
        if last:
            points = points[-last:]
        return Series([world_s for world_s, _ in points], [value for _, value in points])

    def receptions(self) -> list[tuple[float, float, bool]]:
        """(UTC of reception, mission time, playback) of every packet, in the order of reception."""
        return [
            (received, _real(world_s), bool(playback))
            for received, world_s, playback in self._rows(
                "SELECT received_utc_s, world_s, playback FROM packets ORDER BY received_utc_s, id"
            )
        ]

    def world_span(self) -> tuple[float | None, float | None]:
        """First and last mission time; None in an empty archive."""
        first, last = next(self._rows("SELECT MIN(world_s), MAX(world_s) FROM packets"))
        return first, last

    def columns(self, group: HousekeepingGroup) -> dict[str, list[float]]:
        """Every value of a housekeeping group by parameter, in the order of mission time; for whole-archive
        sums."""
        columns: dict[str, list[float]] = {name: [] for name in group.parameters}
        for (packet,) in self._rows("SELECT packet FROM packets WHERE apid = ? ORDER BY world_s, id", group.apid):
            try:
                values = unpack_housekeeping(group, packet[TM_HEADER_BYTES:-CRC_BYTES])
            except LinkError:
                continue
            for name, value in values.items():
                columns[name].append(value)
        return columns

    def streams(self) -> list[tuple[int, int, int, int, int, int]]:
        """(boot, apid, live, playback, first, last) of every stream."""
        return [
            tuple(row)
            for row in self._rows(
                "SELECT boot, apid, SUM(playback=0), SUM(playback), MIN(sequence), MAX(sequence) FROM packets"
                " GROUP BY boot, apid"
            )
        ]

    def gaps(self, limit: int = 1000) -> list[tuple[int, int, int, int]]:
        """(boot, apid, first, last) of every run of missing sequences, at most ``limit``."""
        return [
            tuple(row)
            for row in self._rows(
                "SELECT boot, apid, sequence + 1, following - 1 FROM (SELECT boot, apid, sequence, LEAD(sequence)"
                " OVER (PARTITION BY boot, apid ORDER BY sequence) AS following FROM packets)"
                " WHERE following > sequence + 1 LIMIT ?",
                limit,
            )
        ]

    def _select(
        self,
        statement: str,
        order: str,
        since: float | None,
        until: float | None,
        last: int | None,
        where: str = "1",
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of a statement that has a column ``world_s``, within the times, the last ones, in ascending
        order."""
        bounds = [f"world_s {sign} {time!r}" for sign, time in ((">=", since), ("<=", until)) if time is not None]
        descending = ", ".join(f"{column} DESC" for column in order.split(", "))
        newest = f"SELECT * FROM ({statement}) WHERE {' AND '.join([where, *bounds])} ORDER BY {descending} LIMIT ?"
        return self._rows(f"SELECT * FROM ({newest}) ORDER BY {order}", -1 if last is None else last)

    def _rows(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise GroundError(f"archive {self.path}: {error}") from None


def _real(value: float | None) -> float:
    return math.nan if value is None else value


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


def _element(packet: bytes, index: int) -> float | None:
    """One value of a housekeeping packet by its place; None when the packet is shorter or laid out otherwise."""
    offset = _VALUES_OFFSET + _ELEMENT_BYTES * index
    if len(packet) < offset + _ELEMENT_BYTES + CRC_BYTES:
        return None
    if packet[TM_HEADER_BYTES] != _ARRAY_16 or packet[offset] != _FLOAT_64:
        return None
    value: float = _DOUBLE.unpack_from(packet, offset + 1)[0]
    return value
