"""The recorder's database: its table, one transaction over all that waits, and what the quota sheds.

Kept apart from the thread so that each rule can be read, and tried, as a plain function on a connection.

The quota is held against the pages in use, so indexes count too. What goes first: acknowledged packets (the
ground has them), then the unacknowledged with the highest priority number; among equals the oldest. The file
keeps its size and reuses the room.

``synchronous=FULL`` makes a commit survive a power cut, not only the end of the process; on flash one costs well
under a millisecond, and there are ten a second at most.
"""

import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from flightsw.link.dictionary import DESTINATION_PLAYBACK
from flightsw.link.errors import PacketError
from flightsw.link.packet import redirect

FILE_MODE: Final = 0o600
SHED_BATCH: Final = 128
SHED_BATCHES_MAX: Final = 16
PLAYBACK_PACKETS_MAX: Final = 1024
BUSY_TIMEOUT_S: Final = 1.0

Range = tuple[int, int, int, int]
"""boot, APID, first and last sequence of an acknowledgement."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS packets(
  boot INTEGER, apid INTEGER, sequence INTEGER, priority INTEGER, world_s REAL,
  sent_s REAL NULL, acknowledged INTEGER DEFAULT 0, packet BLOB,
  PRIMARY KEY(boot, apid, sequence));
CREATE INDEX IF NOT EXISTS packets_order ON packets(acknowledged, priority);
"""
_INSERT: Final = (
    "INSERT OR REPLACE INTO packets(boot, apid, sequence, priority, world_s, sent_s, packet) VALUES(?,?,?,?,?,?,?)"
)
_ACKNOWLEDGE: Final = (
    "UPDATE packets SET acknowledged=1 WHERE boot=? AND apid=? AND sequence BETWEEN ? AND ? AND acknowledged=0"
)
_DUE: Final = (
    "SELECT rowid, packet FROM packets WHERE acknowledged=0 AND (sent_s IS NULL OR sent_s<?)"
    " ORDER BY priority, rowid LIMIT ?"
)
_LEAST: Final = "SELECT MAX(priority) FROM packets WHERE acknowledged=?"
_SHED: Final = (
    "DELETE FROM packets WHERE rowid IN"
    " (SELECT rowid FROM packets WHERE acknowledged=? AND priority=? ORDER BY rowid LIMIT ?)"
)


class Row(msgspec.Struct, frozen=True):
    """One packet to record; ``sent_s`` is machine time when it was sent live, None when it was not."""

    boot: int
    apid: int
    sequence: int
    priority: int
    world_s: float
    sent_s: float | None
    packet: bytes


class Outcome(msgspec.Struct, frozen=True):
    """What a transaction did: change of the count of unacknowledged packets, packets shed unacknowledged, packets
    to play back (marked as such), and packets that were removed because they went bad on the disk."""

    pending_change: int
    shed: int
    playback: list[bytes]
    corrupt: int


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the database; raises ``sqlite3.Error``. The connection may pass from one thread to another."""
    path.touch(FILE_MODE)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def survey(connection: sqlite3.Connection) -> tuple[int, int]:
    """After opening: forget the send times of an earlier life; returns unacknowledged packets and highest boot."""
    connection.execute("UPDATE packets SET sent_s=NULL WHERE acknowledged=0 AND sent_s IS NOT NULL")
    pending = connection.execute("SELECT COUNT(*) FROM packets WHERE acknowledged=0").fetchone()[0]
    highest = connection.execute("SELECT COALESCE(MAX(boot), 0) FROM packets").fetchone()[0]
    return pending, highest


def transact(
    connection: sqlite3.Connection,
    rows: list[Row],
    ranges: list[Range],
    budget_bytes: int,
    *,
    now_s: float,
    ack_timeout_s: float,
    quota_bytes: int,
) -> Outcome:
    """Insert, acknowledge, select for playback and hold the quota, all or nothing; raises ``sqlite3.Error``."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_INSERT, [msgspec.structs.astuple(row) for row in rows])
        pending = len(rows)
        for each in ranges:
            pending -= connection.execute(_ACKNOWLEDGE, each).rowcount
        playback, corrupt = _play_back(connection, budget_bytes, now_s, ack_timeout_s)
        shed = _hold_quota(connection, quota_bytes)
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return Outcome(pending - corrupt - shed, shed, playback, corrupt)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the pages that hold something."""
    page_bytes, pages, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page_bytes * (pages - free))


def set_aside(path: Path) -> str:
    """Rename a damaged database and its log out of the way; returns a sentence about it."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.replace(target)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        return f"it could not be set aside: {error.strerror}"
    return f"set aside as {target.name}, a new one was begun"


def _play_back(
    connection: sqlite3.Connection, budget_bytes: int, now_s: float, ack_timeout_s: float
) -> tuple[list[bytes], int]:
    if budget_bytes <= 0:
        return [], 0
    marked: list[bytes] = []
    sent: list[tuple[float, int]] = []
    corrupt: list[tuple[int]] = []
    for rowid, packet in connection.execute(_DUE, (now_s - ack_timeout_s, PLAYBACK_PACKETS_MAX)):
        if len(packet) > budget_bytes:
            break
        try:
            marked.append(redirect(packet, DESTINATION_PLAYBACK))
        except PacketError:
            corrupt.append((rowid,))
            continue
        budget_bytes -= len(packet)
        sent.append((now_s, rowid))
    connection.executemany("UPDATE packets SET sent_s=? WHERE rowid=?", sent)
    connection.executemany("DELETE FROM packets WHERE rowid=?", corrupt)
    return marked, len(corrupt)


def _hold_quota(connection: sqlite3.Connection, quota_bytes: int) -> int:
    shed = 0
    for _ in range(SHED_BATCHES_MAX):
        if used_bytes(connection) <= quota_bytes:
            break
        for acknowledged in (1, 0):
            priority = connection.execute(_LEAST, (acknowledged,)).fetchone()[0]
            if priority is not None:
                deleted = connection.execute(_SHED, (acknowledged, priority, SHED_BATCH)).rowcount
                shed += deleted * (1 - acknowledged)
                break
        else:
            break
    return shed
