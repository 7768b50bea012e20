"""Room for the recorder: what goes when it is short, and the reserve that a full disk leaves untouched.

Three bounds, each held in the transaction that would break it:

    age      packets older than ``max_ages_s`` of their group                      acknowledged or not
    share    a group over its share of the quota                                   its acknowledged, then its oldest
    quota    pages in use over the quota, or over the ceiling of a full disk       acknowledged of every group,
                                                                                   then ``SHED_ORDER``, oldest first

Pages in use count indexes and half-empty pages, too; the ring of events has its own bound and is not counted. The
file keeps its size and reuses the room, so on a full disk it goes on working: ``make_room`` sheds, checkpoints the
log, and the new packets go into the freed pages.

SQLite needs a little disk even to delete. ``Reserve`` keeps that little in a file that is given up when the disk is
full and taken back when there is room for it twice over.
"""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from flightsw.core.effects import SetRetention
from flightsw.core.recording import SHED_ORDER

SHED_BATCH: Final = 128
SHED_BATCHES_MAX: Final = 16
RESERVE_BYTES: Final = 1 << 20
"""More than the write-ahead log grows to between two checkpoints (``WAL_PAGES`` of ``recorder_tables``)."""
CEILING_STEP_BYTES: Final = 128 * 1024
"""A full disk takes at least this off the ceiling, so that one batch always fits into freed pages."""
CEILING_STEP_FRACTION: Final = 1 / 16
CEILING_MIN_BYTES: Final = 256 * 1024
"""A full disk does not press the database under this: the reserve, once given up, has room for it."""
MAKE_ROOM_BATCHES_MAX: Final = 4096

_USED: Final = "SELECT grp, bytes, packets - pending, pending FROM tallies"
_SHED: Final = (
    "DELETE FROM packets WHERE rowid IN (SELECT rowid FROM packets"
    " WHERE grp=? AND acknowledged=? ORDER BY recorded_s, rowid LIMIT ?)"
)
_EXPIRE: Final = (
    "DELETE FROM packets WHERE rowid IN (SELECT rowid FROM packets"
    " WHERE grp=? AND acknowledged=? AND recorded_s<? ORDER BY recorded_s LIMIT ?)"
)
_DISK_CODES: Final = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the pages that hold something, without the ring's."""
    page_bytes, pages, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    ring = connection.execute("SELECT COALESCE(SUM(LENGTH(packet)), 0) FROM events").fetchone()[0]
    return int(page_bytes * (pages - free) - ring)


def hold(
    connection: sqlite3.Connection, retention: SetRetention, ceiling_bytes: int | None, now_s: float
) -> tuple[int, int]:
    """Hold all three bounds within the caller's transaction; unacknowledged packets shed, and packets expired.

    ``now_s`` is the recorder's own time. The work is bounded; what is left over goes with the next transaction.
    """
    expired = 0
    for group, age_s in enumerate(retention.max_ages_s):
        if age_s:
            for acknowledged in (1, 0):
                terms = (group, acknowledged, now_s - age_s, SHED_BATCH)
                expired += connection.execute(_EXPIRE, terms).rowcount
    shed = 0
    for group, share in enumerate(retention.shares):
        shed += _hold_share(connection, group, int(share * retention.quota_bytes))
    quota = retention.quota_bytes if ceiling_bytes is None else min(ceiling_bytes, retention.quota_bytes)
    for _ in range(SHED_BATCHES_MAX):
        if used_bytes(connection) <= quota:
            break
        lost = shed_least(connection)
        if lost is None:
            break
        shed += lost
    return shed, expired


def make_room(connection: sqlite3.Connection) -> tuple[int, int]:
    """On a full disk: shed until a step of the pages in use is free; returns the new ceiling and packets shed.

    Small transactions, each followed by a checkpoint, so that the log stays as small as it can. Raises
    ``sqlite3.Error`` when the disk does not even take that.
    """
    used = used_bytes(connection)
    step = max(CEILING_STEP_BYTES, int(used * CEILING_STEP_FRACTION))
    ceiling = max(used - step, CEILING_MIN_BYTES)
    shed = 0
    connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    for _ in range(MAKE_ROOM_BATCHES_MAX):
        if used_bytes(connection) <= ceiling:
            break
        # A statement of its own is a transaction of its own.
        lost = shed_least(connection)
        if lost is None:
            break
        shed += lost
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    return ceiling, shed


def shed_least(connection: sqlite3.Connection) -> int | None:
    """Delete one batch of the least important packets; how many were unacknowledged, or None when none are left."""
    tallies = {group: (acknowledged, pending) for group, _, acknowledged, pending in connection.execute(_USED)}
    for pending in (0, 1):
        for group in SHED_ORDER:
            if tallies[group][pending]:
                return connection.execute(_SHED, (group, 1 - pending, SHED_BATCH)).rowcount * pending
    return None


def is_full(error: sqlite3.Error | OSError, path: Path) -> bool:
    """Whether a full disk is what the error is about."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # SQLite has a code for a full disk, but not everything that needs a page (shared memory, fsync) gives it.
    return code == sqlite3.SQLITE_FULL or (code in _DISK_CODES and free_bytes(path) < RESERVE_BYTES)


def free_bytes(path: Path) -> int:
    """Free bytes of the disk under ``path`` for a process without privilege; 0 when it cannot be asked."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


class Reserve:
    """A file of ``RESERVE_BYTES`` beside the database that only a full disk makes us give up."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + "-reserve")

    def release(self) -> None:
        """Give the bytes back to the disk."""
        self._path.unlink(missing_ok=True)

    def take(self) -> bool:
        """Have the reserve, if it is there or the disk has room for it twice over."""
        try:
            if self._path.exists() and self._path.stat().st_size == RESERVE_BYTES:
                return True
            if free_bytes(self._path) < 2 * RESERVE_BYTES:
                return False
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return True


def _hold_share(connection: sqlite3.Connection, group: int, bytes_max: int) -> int:
    shed = 0
    for _ in range(SHED_BATCHES_MAX):
        _, octets, acknowledged, _pending = connection.execute(f"{_USED} WHERE grp=?", (group,)).fetchone()
        if octets <= bytes_max:
            break
        gone = connection.execute(_SHED, (group, 1 if acknowledged else 0, SHED_BATCH)).rowcount
        shed += 0 if acknowledged else gone
    return shed
