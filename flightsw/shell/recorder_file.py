"""The recorder's file as its thread uses it: the connection, the recorder's own time, the answer to a full disk.

    sound      one transaction takes all that waits
    full       the disk refused: the reserve is given up, the least important packets are shed until a step of the
               pages is free, and from then on the database stays under that ceiling; what comes is committed in
               small batches, most important first
    sound      the disk has room for the reserve twice over again

Errors that are no full disk are for the caller, as is a full disk that does not even let us shed.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from flightsw.core.effects import SetRetention

from . import event_ring, recorder_room
from . import recorder_tables as tables
from .recorder_tables import Holding, Outcome, Range, Row, Terms

FULL_BATCH: Final = 64
"""Packets of one transaction on a full disk: less than ``CEILING_STEP_BYTES`` of the longest."""
RECOVERY_INTERVAL_S: Final = 2.0
"""A full disk is looked at again after this."""


class RecorderFile:
    """Database, reserve and the recorder's own time; for one thread. ``retention`` may be changed at any time.

    ``shed``, ``expired`` and ``corrupt`` count packets since it was made.
    """

    def __init__(self, path: Path, retention: SetRetention) -> None:
        self.path = path
        self.retention = retention
        self._reserve = recorder_room.Reserve(path)
        self._connection: sqlite3.Connection | None = None
        self._ceiling_bytes: int | None = None
        self._looked_s = float("-inf")
        self._resumed_s = self._offset_s = 0.0
        self.shed = self.expired = self.corrupt = 0

    @property
    def full(self) -> bool:
        """Whether the disk, not the quota, is the limit."""
        return self._ceiling_bytes is not None

    def open(self, now_s: float) -> tuple[Holding, int]:
        """Open or make the database; what it holds, and the highest boot count.

        Raises ``sqlite3.Error`` or ``OSError``.
        """
        try:
            connection = tables.connect(self.path)
        except (sqlite3.Error, OSError) as error:
            if not recorder_room.is_full(error, self.path):
                raise
            self._reserve.release()
            connection = tables.connect(self.path)
        try:
            held, highest, self._resumed_s = tables.survey(connection)
        except sqlite3.Error:
            connection.close()
            raise
        self._offset_s = self._resumed_s - now_s
        self._connection = connection
        if not self._reserve.take() and not self.full:
            self._ceiling_bytes = recorder_room.used_bytes(connection)
        return held, highest

    def close(self) -> None:
        """Close the database, whatever state it is in."""
        if self._connection:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def select(self, count: int, severity_min: int, now_s: float) -> list[int]:
        """Numbers of the newest events of the ring. Raises ``sqlite3.Error``, ``OSError``."""
        return event_ring.select(self._opened(now_s), count, severity_min)

    def transact(
        self, rows: list[Row], ranges: list[Range], budget_bytes: int, replay: list[int], now_s: float
    ) -> Outcome:
        """Commit all of it; on a full disk at the cost of what matters less.

        Raises ``sqlite3.Error`` or ``OSError``.
        """
        self._opened(now_s)
        if self.full:
            self._look(now_s)
        try:
            return self._commit(rows, ranges, budget_bytes, replay, now_s)
        except (sqlite3.Error, OSError) as error:
            if not recorder_room.is_full(error, self.path):
                raise
        self._make_room()
        return self._commit(rows, ranges, budget_bytes, replay, now_s)

    def _opened(self, now_s: float) -> sqlite3.Connection:
        if self._connection is None:
            self.open(now_s)
        assert self._connection is not None, "open makes it or raises"
        return self._connection

    def _commit(
        self, rows: list[Row], ranges: list[Range], budget_bytes: int, replay: list[int], now_s: float
    ) -> Outcome:
        assert self._connection is not None, "transact has opened it"
        terms = Terms(
            now_s=now_s + self._offset_s,
            resumed_s=self._resumed_s,
            retention=self.retention,
            ceiling_bytes=self._ceiling_bytes,
        )
        if self.full:
            # One that was committed before a later batch failed is committed again: it is the same packet.
            rows = sorted(rows, key=lambda row: row.priority)
            while len(rows) > FULL_BATCH:
                self._count(tables.transact(self._connection, rows[:FULL_BATCH], [], 0, [], terms))
                rows = rows[FULL_BATCH:]
        outcome = tables.transact(self._connection, rows, ranges, budget_bytes, replay, terms)
        self._count(outcome)
        return outcome

    def _count(self, outcome: Outcome) -> None:
        self.shed += outcome.shed
        self.expired += outcome.expired
        self.corrupt += outcome.corrupt

    def _make_room(self) -> None:
        assert self._connection is not None, "transact has opened it"
        self._reserve.release()
        self._ceiling_bytes, shed = recorder_room.make_room(self._connection)
        self.shed += shed

    def _look(self, now_s: float) -> None:
        """See whether the disk has room again."""
        if now_s - self._looked_s >= RECOVERY_INTERVAL_S:
            self._looked_s = now_s
            if self._reserve.take():
                self._ceiling_bytes = None
