"""The ring of events: the last ``EVENT_RING_MAX`` event reports, whatever the ground has acknowledged.

A table of its own in the recorder's database. It knows no acknowledgement, no quota and no shedding: a new event
takes the place of the oldest one. So after a restart, a power cut or a full disk the last events of this boot
and of earlier ones can be asked for (``event.replay``), also those whose packets were shed or never heard.

``number`` counts events as they come; the ring is cut by number, which costs nothing to find.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from flightsw.link.dictionary import DESTINATION_PLAYBACK
from flightsw.link.errors import PacketError
from flightsw.link.packet import redirect
from flightsw.link.telecommands import EVENT_RING_MAX

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events(
  number INTEGER PRIMARY KEY, boot INTEGER, sequence INTEGER, severity INTEGER, world_s REAL, packet BLOB,
  UNIQUE(boot, sequence));
"""
_INSERT: Final = "INSERT OR IGNORE INTO events(boot, sequence, severity, world_s, packet) VALUES(?,?,?,?,?)"
_TRIM: Final = "DELETE FROM events WHERE number <= (SELECT MAX(number) FROM events) - ?"
_SELECT: Final = "SELECT number FROM events WHERE severity >= ? ORDER BY number DESC LIMIT ?"

Entry = tuple[int, int, int, float, bytes]
"""boot, sequence, severity, mission time and packet of an event."""


def append(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Put events into the ring, within the caller's transaction; one that is in it already is no second event."""
    if connection.executemany(_INSERT, entries).rowcount > 0:
        connection.execute(_TRIM, (EVENT_RING_MAX,))


def count(connection: sqlite3.Connection) -> int:
    """Events in the ring."""
    return int(connection.execute("SELECT COUNT(*) FROM events").fetchone()[0])


def select(connection: sqlite3.Connection, newest: int, severity_min: int) -> list[int]:
    """Numbers of the newest events of at least this severity, oldest first."""
    rows = connection.execute(_SELECT, (severity_min, newest)).fetchall()
    return [number for (number,) in reversed(rows)]


def read(connection: sqlite3.Connection, number: int) -> bytes | None:
    """The packet of an event, marked as playback; None when newer ones took its place or it went bad on disk."""
    row = connection.execute("SELECT packet FROM events WHERE number=?", (number,)).fetchone()
    try:
        return None if row is None else redirect(row[0], DESTINATION_PLAYBACK)
    except PacketError:
        return None
