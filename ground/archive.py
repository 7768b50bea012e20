"""The archive: every packet once, what it says in tables, and every command sent. One writer, any number of
readers.

A packet's identity is (boot, apid, sequence). The first copy is kept, whether it came live, late or played
back; further copies are counted. Rows carry the mission time of the packet itself, so data that come out of
order are filed where they belong, and the time of reception beside it.

Durability is the whole point: the station acknowledges a packet only when ``commit`` has returned it, and the
recorder may then forget it. So SQLite runs in WAL mode with ``synchronous=FULL`` (an fsync per commit), and
commits are batched to keep that affordable. When a commit fails (disk full, I/O error), nothing of the batch is
reported as archived; the batch is kept, bounded, and tried again.

Housekeeping values are not copied out of their packets: the body is a fixed array of float64, so a reader takes
one column by its offset. The parameter order at the time of writing is kept in ``dictionaries``, so an archive
explains itself.
"""

import contextlib
import fcntl
import math
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from flightsw.link import leap
from flightsw.link.bodies import EventBody, ReplyBody, TableBody, VerificationBody
from flightsw.link.codec import Telemetry, event_text
from flightsw.link.dictionary import DICTIONARY_HASH, EVENT_BY_ID, HOUSEKEEPING, TELECOMMAND_BY_OPCODE

from .errors import GroundError

SCHEMA_VERSION: Final = 2
SCHEMA_OLDEST: Final = 1
"""Archives since this schema can be read, and are brought to the newest by a station that writes them."""
PENDING_PACKETS_MAX: Final = 5000
"""Packets that wait for a commit; while the disk is full, more are dropped unacknowledged and played back later."""
PENDING_NOTES_MAX: Final = 5000
RETRY_S: Final = 1.0
SQL_INTEGER_MAX: Final = 2**63 - 1
COMMAND_ID_BLOCK: Final = 65_536

_SCHEMA: Final = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL);
CREATE TABLE dictionaries(hash TEXT PRIMARY KEY, first_used_s REAL NOT NULL, housekeeping TEXT NOT NULL);
CREATE TABLE packets(
  id INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL, apid INTEGER NOT NULL, sequence INTEGER NOT NULL,
  service INTEGER NOT NULL, subtype INTEGER NOT NULL, time_quality INTEGER NOT NULL,
  world_s REAL, onboard_utc_s REAL NOT NULL, received_utc_s REAL NOT NULL,
  playback INTEGER NOT NULL, packet BLOB NOT NULL,
  UNIQUE(boot, apid, sequence));
CREATE INDEX packets_by_time ON packets(apid, world_s);
CREATE TABLE events(
  packet INTEGER PRIMARY KEY REFERENCES packets(id),
  world_s REAL, event INTEGER NOT NULL, name TEXT NOT NULL, severity INTEGER NOT NULL,
  text TEXT NOT NULL, fields TEXT NOT NULL);
CREATE INDEX events_by_time ON events(world_s);
CREATE TABLE verifications(
  packet INTEGER PRIMARY KEY REFERENCES packets(id),
  world_s REAL, command INTEGER, opcode INTEGER, stage INTEGER NOT NULL, code INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX verifications_by_command ON verifications(command);
CREATE TABLE replies(
  packet INTEGER PRIMARY KEY REFERENCES packets(id),
  world_s REAL, command INTEGER, job TEXT NOT NULL, request INTEGER, part INTEGER, parts INTEGER,
  text TEXT NOT NULL, tokens INTEGER, finish TEXT NOT NULL, generation INTEGER, duration_s REAL);
CREATE INDEX replies_by_command ON replies(command);
CREATE TABLE commands(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, opcode INTEGER NOT NULL, arguments TEXT NOT NULL,
  operator TEXT NOT NULL, sent_utc_s REAL NOT NULL, world_s REAL, transmissions INTEGER NOT NULL DEFAULT 0,
  expired_utc_s REAL);
CREATE TABLE alarms(
  id INTEGER PRIMARY KEY, received_utc_s REAL NOT NULL, world_s REAL, parameter TEXT NOT NULL,
  level TEXT NOT NULL, value REAL, text TEXT NOT NULL);
CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_SCHEMA_2: Final = """
CREATE TABLE table_pieces(
  packet INTEGER PRIMARY KEY REFERENCES packets(id),
  world_s REAL, code INTEGER NOT NULL, offset INTEGER NOT NULL, total INTEGER NOT NULL, crc32 INTEGER NOT NULL,
  data BLOB NOT NULL);
CREATE INDEX table_pieces_by_code ON table_pieces(code);
"""
"""Schema 2 has the pieces of dumped tables beside what schema 1 has."""


class Received(msgspec.Struct, frozen=True):
    """One decoded packet as it came, with the UTC time of its reception in seconds."""

    telemetry: Telemetry
    packet: bytes
    received_utc_s: float


class StreamCount(NamedTuple):
    """What is archived of one (boot, apid)."""

    boot: int
    apid: int
    received: int
    first: int
    last: int

    @property
    def missing(self) -> int:
        """Sequences between the first and the last that have not come."""
        return self.last - self.first + 1 - self.received


class Archive:
    """The writer. Used by one thread at a time; one per file, held by a lock that dies with the process.

    Raises ``GroundError`` when the file cannot be opened, is no archive, has another schema or has a writer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fault = ""
        self.unarchived = 0
        self._pending: list[Received] = []
        self._notes: list[tuple[str, tuple[Any, ...]]] = []
        self._retry_at_s = 0.0
        self._lock = _lock(path)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except sqlite3.Error as error:
            os.close(self._lock)
            raise GroundError(f"archive {path}: {error}; name another file with --archive") from None
        except GroundError:
            self._database.close()
            os.close(self._lock)
            raise

    def _prepare(self) -> None:
        database = self._database
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if not tables:
            database.executescript(f"BEGIN;{_SCHEMA}{_SCHEMA_2}COMMIT;")
            database.execute("INSERT INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,))
        elif "packets" not in tables or "meta" not in tables:
            raise GroundError(f"archive {self.path}: this is some other SQLite file; name another with --archive")
        (version,) = database.execute("SELECT value FROM meta WHERE key='schema_version'").fetchone() or (None,)
        if version == SCHEMA_OLDEST:
            database.executescript(
                f"BEGIN;{_SCHEMA_2}UPDATE meta SET value={SCHEMA_VERSION} WHERE key='schema_version';COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise GroundError(
                f"archive {self.path} has schema {version}, this program writes {SCHEMA_VERSION};"
                " name another file with --archive"
            )
        layout = {str(group.apid): group.parameters for group in HOUSEKEEPING}
        database.execute(
            "INSERT OR IGNORE INTO dictionaries VALUES (?, ?, ?)",
            (DICTIONARY_HASH, time.time(), msgspec.json.encode(layout).decode()),
        )

    @property
    def pending(self) -> int:
        """Packets that wait for the next commit."""
        return len(self._pending)

    @property
    def dirty(self) -> bool:
        """Whether a commit has anything to do."""
        return bool(self._pending or self._notes)

    def add(self, received: Received) -> bool:
        """Queue a packet for the next commit; false when the queue is full, which only a failing disk causes."""
        if len(self._pending) >= PENDING_PACKETS_MAX:
            self.unarchived += 1
            return False
        self._pending.append(received)
        return True

    def note(self, statement: str, *values: Any) -> None:
        """Queue one statement of ours (command, alarm, counter) for the next commit."""
        if len(self._notes) < PENDING_NOTES_MAX:
            self._notes.append((statement, values))

    def commit(self, now_s: float) -> tuple[list[Received], list[Received]]:
        """Make the queue durable; returns (new, duplicates), both of which may now be acknowledged.

        Returns nothing while the disk refuses; ``fault`` then says why, and the queue is kept.
        """
        if not self.dirty or now_s < self._retry_at_s:
            return [], []
        new: list[Received] = []
        duplicates: list[Received] = []
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for received in self._pending:
                (new if self._insert(received) else duplicates).append(received)
            if duplicates:
                self._database.execute(
                    "INSERT INTO counters VALUES ('duplicates', ?1)"
                    " ON CONFLICT(name) DO UPDATE SET value = value + ?1",
                    (len(duplicates),),
                )
            for statement, values in self._notes:
                self._database.execute(statement, values)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self.fault = f"{error}: nothing is archived or acknowledged until {self.path} can be written"
            self._retry_at_s = now_s + RETRY_S
            return [], []
        self.fault = ""
        self._pending.clear()
        self._notes.clear()
        return new, duplicates

    def limit_pages(self, pages: int) -> None:
        """Let the file grow to at most this many pages; SQLite raises the number to what is in use already."""
        self._database.execute(f"PRAGMA max_page_count={int(pages)}")

    def streams(self) -> list[StreamCount]:
        """Archived packets by boot and APID."""
        return [
            StreamCount(*row)
            for row in self._database.execute(
                "SELECT boot, apid, COUNT(*), MIN(sequence), MAX(sequence) FROM packets GROUP BY boot, apid"
            )
        ]

    def counter(self, name: str) -> int:
        """A counter kept over restarts."""
        row = self._database.execute("SELECT value FROM counters WHERE name=?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def reserve_command_ids(self, at_least: int) -> range:
        """A block of command ids that no station on this archive has had before, reserved durably.

        ``at_least`` is the clock in microseconds: blocks follow it, and stay ahead of it when it steps back. A disk
        that refuses must not silence the operator, so then the clock alone has to do.
        """
        first = at_least
        try:
            first = max(at_least, self.counter("command_ids"))
            self._database.execute(
                "INSERT INTO counters VALUES ('command_ids', ?1) ON CONFLICT(name) DO UPDATE SET value = ?1",
                (first + COMMAND_ID_BLOCK,),
            )
        except sqlite3.Error as error:
            self.fault = f"{error}: command ids are not reserved"
        return range(first, first + COMMAND_ID_BLOCK)

    def close(self) -> None:
        """Release file and lock. What was not committed is not archived, and was not acknowledged."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        os.close(self._lock)

    def _insert(self, received: Received) -> bool:
        telemetry, header = received.telemetry, received.telemetry.packet
        world_s = telemetry.world_s if math.isfinite(telemetry.world_s) else None
        cursor = self._database.execute(
            "INSERT OR IGNORE INTO packets(boot, apid, sequence, service, subtype, time_quality, world_s,"
            " onboard_utc_s, received_utc_s, playback, packet) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                *telemetry.identity,
                header.service,
                header.subtype,
                header.time_quality,
                world_s,
                leap.unix_of_tai(header.tai_s),
                received.received_utc_s,
                telemetry.playback,
                received.packet,
            ),
        )
        if cursor.rowcount != 1:
            return False
        row, body = cursor.lastrowid, telemetry.body
        match body:
            case EventBody():
                event = EVENT_BY_ID.get(body.id)
                self._database.execute(
                    "INSERT INTO events VALUES (?,?,?,?,?,?,?)",
                    (
                        row,
                        world_s,
                        _integer(body.id),
                        event.name if event else f"0x{body.id:02X}",
                        _integer(body.sev),
                        event_text(body),
                        msgspec.json.encode(body.fields).decode(),
                    ),
                )
            case VerificationBody():
                self._database.execute(
                    "INSERT INTO verifications VALUES (?,?,?,?,?,?,?)",
                    (row, world_s, *map(_integer, (body.id, body.op, body.stage, body.code)), body.text),
                )
            case ReplyBody():
                self._database.execute(
                    "INSERT INTO replies VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        row,
                        world_s,
                        _integer(body.id),
                        body.job,
                        _integer(body.request),
                        _integer(body.part),
                        _integer(body.parts),
                        body.text,
                        _integer(body.tokens),
                        body.finish,
                        _integer(body.generation),
                        body.duration_s,
                    ),
                )
            case TableBody():
                self._database.execute(
                    "INSERT INTO table_pieces VALUES (?,?,?,?,?,?,?)",
                    (row, world_s, *map(_integer, (body.table, body.offset, body.total, body.crc32)), body.data),
                )
        return True


def command_name(opcode: int) -> str:
    """Name of an opcode, or the opcode when this dictionary does not know it."""
    command = TELECOMMAND_BY_OPCODE.get(opcode)
    return command.name if command else f"0x{opcode:02X}"


def _integer(value: int) -> int:
    """msgpack carries integers to 2^64 − 1, SQLite to 2^63 − 1: a foreign one beyond that saturates."""
    return max(-SQL_INTEGER_MAX, min(value, SQL_INTEGER_MAX))


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise GroundError(f"archive {path}: {error.strerror}; name another file with --archive") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise GroundError(
            f"archive {path}: another station writes it; stop that one, or name another file with --archive"
        ) from None
    return descriptor
