"""What the tests of the recorder share: packets, rows, one transaction, and a recorder on a folder."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from flightsw.core import recording
from flightsw.core.effects import SetRetention
from flightsw.link.apids import APID_EVENT, APID_HK_FAST, APID_HK_MAIN, APID_HK_SLOW, APID_REPLY, APID_VERIFICATION
from flightsw.link.packet import TmPacket, decode_tm, encode_tm
from flightsw.shell import recorder_tables as tables
from flightsw.shell.recorder import Recorder
from flightsw.shell.recorder_tables import Row

APIDS = {0: APID_VERIFICATION, 1: APID_EVENT, 2: APID_REPLY, 3: APID_HK_MAIN, 4: APID_HK_SLOW, 5: APID_HK_FAST}
TAI_S = 1_900_000_000
SEQUENCES_MAX = 1_000_000
FOREVER = (0.0,) * 7


def retention(
    quota_mb: float = 1000.0,
    shares: tuple[float, ...] = (1.0,) * 7,
    ages: tuple[float, ...] = FOREVER,
    ack_timeout_s: float = 8.0,
) -> SetRetention:
    return SetRetention(
        quota_bytes=int(quota_mb * 1e6), ack_timeout_s=ack_timeout_s, shares=shares, max_ages_s=ages
    )


def packet(sequence: int, size: int = 40, apid: int = APID_HK_MAIN, boot: int = 1) -> bytes:
    """A packet whose time tells its boot and its sequence (``identity``)."""
    return encode_tm(
        TmPacket(
            apid=apid,
            sequence_count=sequence,
            service=3,
            subtype=25,
            message_count=sequence,
            destination=0,
            time_quality=1,
            tai_s=TAI_S + boot * SEQUENCES_MAX + sequence,
            body=bytes([sequence % 251]) * size,
        )
    )


def row(
    sequence: int,
    *,
    priority: int = 3,
    apid: int | None = None,
    sent: bool = False,
    boot: int = 1,
    size: int = 40,
    severity: int | None = None,
) -> Row:
    """A row of the APID that has this priority, in the group it belongs to."""
    apid = APIDS[priority] if apid is None else apid
    return Row(
        boot=boot,
        apid=apid,
        sequence=sequence,
        priority=priority,
        world_s=float(sequence),
        sent=sent,
        packet=packet(sequence, size, apid, boot),
        group=recording.group_of(apid, priority),
        severity=severity,
    )


def event(sequence: int, severity: int = 1, boot: int = 1, size: int = 40) -> Row:
    """An event report; CRITICAL (4) and FATAL are of the first priority."""
    return row(sequence, priority=int(severity < 4), apid=APID_EVENT, boot=boot, severity=severity, size=size)


def identity(octets: bytes) -> tuple[int, int, int]:
    """boot, APID and sequence of a packet made here."""
    decoded = decode_tm(octets)
    boot, sequence = divmod(round(decoded.tai_s) - TAI_S, SEQUENCES_MAX)
    return boot, decoded.apid, sequence


def sequences(packets: list[bytes]) -> list[int]:
    return [decode_tm(p).sequence_count for p in packets]


def transact(
    connection: sqlite3.Connection,
    rows: Sequence[Row] = (),
    ranges: Sequence[tables.Range] = (),
    *,
    budget: int = 0,
    replay: Sequence[int] = (),
    now_s: float = 100.0,
    resumed_s: float = 0.0,
    ceiling: int | None = None,
    **bounds: object,
) -> tables.Outcome:
    terms = tables.Terms(
        now_s=now_s,
        resumed_s=resumed_s,
        retention=retention(**bounds),  # type: ignore[arg-type]
        ceiling_bytes=ceiling,
    )
    return tables.transact(connection, list(rows), list(ranges), budget, list(replay), terms)


def left(connection: sqlite3.Connection, table: str = "packets") -> list[int]:
    """Sequences in a table, in order."""
    return [s for (s,) in connection.execute(f"SELECT sequence FROM {table} ORDER BY sequence")]


class Bench:
    """A recorder on a folder, and what it delivered."""

    def __init__(self, folder: Path, **bounds: object) -> None:
        self.path = folder / "recorder.sqlite"
        self.delivered: list[bytes] = []
        self.recorder = Recorder(
            self.path,
            retention=retention(**bounds),  # type: ignore[arg-type]
            commit_interval_s=0.01,
            deliver=self.delivered.extend,
        )

    def stored(self, table: str = "packets") -> int:
        """Rows in the file as another process reads it; −1 while it cannot be read."""
        try:
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
        except sqlite3.Error:
            return -1
