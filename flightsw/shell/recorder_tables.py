"""The recorder's database: its tables, and one transaction over all that waits.

Kept apart from the thread so that each rule can be read, and tried, as a plain function on a connection.

    packets    store and forward: one row a packet, by (boot, APID, sequence)
    events     the ring (``event_ring``)
    tallies    packets, bytes and unacknowledged packets of each group, kept by triggers, so that nobody counts

Playback takes what is not acknowledged: most important first, then what was sent least often, then the oldest. How
often a packet was sent is durable. When, is in the recorder's own time ``recorded_s``: it runs while the daemon
does and goes on after a restart. What was in flight at a restart waits its whole ``ack_timeout_s`` again, so
nothing is sent twice because of the restart, and what was never sent goes before it.

``synchronous=FULL`` makes a commit survive a power cut, not only the end of the process; on flash one costs well
under a millisecond, and there are ten a second at most. The log is checkpointed every ``WAL_PAGES``, so that the
recorder needs little disk beside the database.
"""

import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from flightsw.core.effects import SetRetention
from flightsw.core.link_budget import FRAMING_BYTES
from flightsw.core.recording import REPLY, group_of
from flightsw.link.apids import APID_EVENT, APID_HK_FAST, APID_HK_MAIN, APID_HK_SLOW, APID_VERIFICATION
from flightsw.link.dictionary import DESTINATION_PLAYBACK, PRIORITY_EVENT, RECORDER_GROUPS
from flightsw.link.errors import PacketError
from flightsw.link.packet import redirect

from . import event_ring, recorder_room

FILE_MODE: Final = 0o600
PLAYBACK_PACKETS_MAX: Final = 1024
BUSY_TIMEOUT_S: Final = 1.0
WAL_PAGES: Final = 128
ROW_BYTES: Final = 96
"""What a row costs beside its packet, about: its other columns and its places in three indexes."""
VERSION: Final = 2
"""Of the schema; 0 is the one before groups."""

Range = tuple[int, int, int, int]
"""boot, APID, first and last sequence of an acknowledgement."""

_PACKETS: Final = """
CREATE TABLE IF NOT EXISTS packets(
  boot INTEGER, apid INTEGER, sequence INTEGER, priority INTEGER, world_s REAL,
  sent_s REAL NULL, acknowledged INTEGER DEFAULT 0, packet BLOB,
  grp INTEGER NOT NULL, sends INTEGER NOT NULL DEFAULT 0, recorded_s REAL NOT NULL DEFAULT 0.0,
  PRIMARY KEY(boot, apid, sequence));
"""
_KNOWN: Final = (APID_VERIFICATION, APID_EVENT, APID_HK_FAST, APID_HK_MAIN, APID_HK_SLOW)
_MIGRATE: Final = f"""
ALTER TABLE packets ADD COLUMN grp INTEGER NOT NULL DEFAULT {REPLY};
ALTER TABLE packets ADD COLUMN sends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE packets ADD COLUMN recorded_s REAL NOT NULL DEFAULT 0.0;
UPDATE packets SET sends = sent_s IS NOT NULL, sent_s = CASE WHEN sent_s IS NULL THEN NULL ELSE 0.0 END,
  grp = CASE apid {" ".join(f"WHEN {a} THEN {group_of(a, PRIORITY_EVENT)}" for a in _KNOWN)} ELSE {REPLY} END;
DROP INDEX IF EXISTS packets_order;
"""
_REST: Final = f"""
CREATE INDEX IF NOT EXISTS packets_due ON packets(priority, sends) WHERE acknowledged=0;
CREATE INDEX IF NOT EXISTS packets_group ON packets(grp, acknowledged, recorded_s);
CREATE TABLE IF NOT EXISTS tallies(grp INTEGER PRIMARY KEY, packets INTEGER, bytes INTEGER, pending INTEGER);
INSERT OR IGNORE INTO tallies
  SELECT grp, COUNT(*), SUM(LENGTH(packet)) + COUNT(*) * {ROW_BYTES}, SUM(acknowledged=0) FROM packets GROUP BY grp;
INSERT OR IGNORE INTO tallies VALUES {", ".join(f"({code}, 0, 0, 0)" for code in range(len(RECORDER_GROUPS)))};
CREATE TRIGGER IF NOT EXISTS packet_in AFTER INSERT ON packets BEGIN
  UPDATE tallies SET packets = packets + 1, bytes = bytes + LENGTH(NEW.packet) + {ROW_BYTES},
    pending = pending + (NEW.acknowledged=0) WHERE grp = NEW.grp; END;
CREATE TRIGGER IF NOT EXISTS packet_out AFTER DELETE ON packets BEGIN
  UPDATE tallies SET packets = packets - 1, bytes = bytes - LENGTH(OLD.packet) - {ROW_BYTES},
    pending = pending - (OLD.acknowledged=0) WHERE grp = OLD.grp; END;
CREATE TRIGGER IF NOT EXISTS packet_acknowledged AFTER UPDATE OF acknowledged ON packets BEGIN
  UPDATE tallies SET pending = pending + OLD.acknowledged - NEW.acknowledged WHERE grp = NEW.grp; END;
{event_ring.SCHEMA}
PRAGMA user_version={VERSION};
"""
_INSERT: Final = (
    "INSERT OR IGNORE INTO packets(boot, apid, sequence, priority, world_s, sent_s, packet, grp, sends, recorded_s)"
    " VALUES(?,?,?,?,?,?,?,?,?,?)"
)
_ACKNOWLEDGE: Final = (
    "UPDATE packets SET acknowledged=1 WHERE boot=? AND apid=? AND sequence BETWEEN ? AND ? AND acknowledged=0"
)
_DUE: Final = (
    "SELECT rowid, packet FROM packets WHERE acknowledged=0 AND (sends=0 OR sent_s<:due_s)"
    " ORDER BY priority, sends, rowid LIMIT :limit"
)
_NEVER_SENT: Final = (
    "SELECT rowid, packet FROM packets WHERE acknowledged=0 AND sends<1"
    " ORDER BY priority, sends, rowid LIMIT :limit"
)
"""The same while nothing is due again: the index answers it without a look at what is in flight. An equality would
make SQLite sort by age what the index has in order."""
_TALLIES: Final = "SELECT bytes, pending FROM tallies ORDER BY grp"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One packet to record; ``sent`` when it was sent live, ``severity`` when it is an event."""

    boot: int
    apid: int
    sequence: int
    priority: int
    world_s: float
    sent: bool
    packet: bytes
    group: int
    severity: int | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a transaction: the recorder's own time, when this life of it began, what it is to hold, and
    on a full disk the ceiling of the pages in use."""

    now_s: float
    resumed_s: float
    retention: SetRetention
    ceiling_bytes: int | None = None

    @property
    def due_s(self) -> float | None:
        """A packet sent before this is due again; None while those of an earlier life wait their time."""
        timeout_s = self.retention.ack_timeout_s
        return self.now_s - timeout_s if self.now_s - self.resumed_s >= timeout_s else None


class Holding(msgspec.Struct, frozen=True):
    """What the database holds: unacknowledged packets, bytes by group, events in the ring."""

    pending: int
    used_bytes: tuple[int, ...]
    ring: int


class Outcome(msgspec.Struct, frozen=True):
    """What a transaction did: packets shed unacknowledged, expired, and removed because they went bad on the disk;
    packets to play back (marked as such), of which the first ``replay_packets`` are of the ring; numbers of the
    replay that are done; and what is held now."""

    shed: int
    expired: int
    corrupt: int
    playback: list[bytes]
    replay_packets: int
    replay_done: int
    holding: Holding


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the database; raises ``sqlite3.Error``. The connection may pass from one thread to another."""
    path.touch(FILE_MODE)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < VERSION:
            old = connection.execute("SELECT 1 FROM sqlite_master WHERE name='packets'").fetchone()
            connection.executescript(f"BEGIN IMMEDIATE;{_MIGRATE if old else _PACKETS}{_REST}COMMIT;")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def survey(connection: sqlite3.Connection) -> tuple[Holding, int, float]:
    """After opening: what is held, the highest boot count, and the recorder's own time when it last wrote."""
    highest = connection.execute("SELECT COALESCE(MAX(boot), 0) FROM packets").fetchone()[0]
    last = connection.execute("SELECT recorded_s, sent_s FROM packets ORDER BY rowid DESC LIMIT 1").fetchone()
    return holding(connection), highest, max(last[0], last[1] or 0.0) if last else 0.0


def holding(connection: sqlite3.Connection) -> Holding:
    """What the database holds."""
    tallies = connection.execute(_TALLIES).fetchall()
    used = tuple([octets for octets, _ in tallies])
    return Holding(sum(pending for _, pending in tallies), used, event_ring.count(connection))


def transact(
    connection: sqlite3.Connection,
    rows: list[Row],
    ranges: list[Range],
    budget_bytes: int,
    replay: list[int],
    terms: Terms,
) -> Outcome:
    """Insert, acknowledge, replay, play back and hold the bounds, all or nothing; raises ``sqlite3.Error``.

    ``replay`` are numbers of the ring; they go before playback, as far as the budget reaches.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_INSERT, [_values(row, terms.now_s) for row in rows])
        event_ring.append(
            connection,
            [(r.boot, r.sequence, r.severity, r.world_s, r.packet) for r in rows if r.severity is not None],
        )
        for each in ranges:
            connection.execute(_ACKNOWLEDGE, each)
        playback, done, left = _replay(connection, replay, budget_bytes)
        replayed = len(playback)
        corrupt = _play_back(connection, playback, left, terms)
        shed, expired = recorder_room.hold(connection, terms.retention, terms.ceiling_bytes, terms.now_s)
        held = holding(connection)
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return Outcome(shed, expired, corrupt, playback, replayed, done, held)


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


def _values(row: Row, now_s: float) -> tuple[object, ...]:
    return (
        row.boot,
        row.apid,
        row.sequence,
        row.priority,
        row.world_s,
        now_s if row.sent else None,
        row.packet,
        row.group,
        int(row.sent),
        now_s,
    )


def _replay(connection: sqlite3.Connection, numbers: list[int], budget_bytes: int) -> tuple[list[bytes], int, int]:
    """Packets of the ring that the budget pays for, how many numbers that took, and what is left of the budget."""
    packets: list[bytes] = []
    for done, number in enumerate(numbers):
        packet = event_ring.read(connection, number)
        if packet is None:
            continue
        if len(packet) + FRAMING_BYTES > budget_bytes:
            return packets, done, 0
        budget_bytes -= len(packet) + FRAMING_BYTES
        packets.append(packet)
    return packets, len(numbers), budget_bytes


def _play_back(connection: sqlite3.Connection, packets: list[bytes], budget_bytes: int, terms: Terms) -> int:
    """Add what is due and paid for to ``packets``; returns how many were removed because they had gone bad."""
    if budget_bytes <= 0:
        return 0
    sent: list[tuple[float, int]] = []
    corrupt: list[tuple[int]] = []
    due_s = terms.due_s
    query = _NEVER_SENT if due_s is None else _DUE
    for rowid, packet in connection.execute(query, {"due_s": due_s, "limit": PLAYBACK_PACKETS_MAX}):
        if len(packet) + FRAMING_BYTES > budget_bytes:
            break
        try:
            packets.append(redirect(packet, DESTINATION_PLAYBACK))
        except PacketError:
            corrupt.append((rowid,))
            continue
        budget_bytes -= len(packet) + FRAMING_BYTES
        sent.append((terms.now_s, rowid))
    connection.executemany("UPDATE packets SET sent_s=?, sends=sends+1 WHERE rowid=?", sent)
    connection.executemany("DELETE FROM packets WHERE rowid=?", corrupt)
    return len(corrupt)
