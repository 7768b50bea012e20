"""The recorder: every telemetry packet on disk, until the ground has it or something more important needs the room.

One SQLite database in WAL mode, owned by one thread, so that the control loop never waits for a disk. The loop
puts orders into bounded queues; the thread takes all that wait and commits them as one transaction. A packet is
identified by (boot, APID, sequence); an acknowledged one is kept as history and is the first to go.

    record      → insert; over ``QUEUE_PACKETS_MAX`` waiting it is dropped and counted
    acknowledge → mark a range; over ``QUEUE_RANGES_MAX`` it is dropped, the ground says it again
    play back   → unacknowledged, never sent or sent longer than ``ack_timeout_s`` ago; by priority, then oldest

Send times are machine time and mean nothing after a restart, so opening forgets them: what was in flight goes
again, and the ground knows a packet that it has. A fault of the disk (full, EIO) is told in the status while the
packets wait in the queue and the thread tries again. A database that is damaged is set aside and a new one is
begun.
"""

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flightsw.core.inputs import AdapterStatus, RecorderStatus

from . import recorder_tables as tables
from .clock import now_s

QUEUE_PACKETS_MAX: Final = 4096
QUEUE_RANGES_MAX: Final = 256
PLAYBACK_BYTES_MAX: Final = 65_536
RETRY_S: Final = 1.0
FAULT_SHOWN_S: Final = 3.0
CLOSE_TIMEOUT_S: Final = 10.0
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Recorder:
    """Handle of the recorder thread. All methods but ``open`` and ``close`` return at once.

    ``deliver`` is called on the recorder thread with the packets of a playback, already marked as such.
    """

    def __init__(
        self,
        path: Path,
        *,
        quota_mb: float,
        ack_timeout_s: float,
        commit_interval_s: float,
        deliver: Callable[[list[bytes]], None],
    ) -> None:
        self._path = path
        self._quota_bytes = int(quota_mb * 1e6)
        self._ack_timeout_s = ack_timeout_s
        self._commit_interval_s = commit_interval_s
        self._deliver = deliver
        self._wake = threading.Condition()
        self._packets: deque[tables.Row] = deque()
        self._ranges: deque[tables.Range] = deque()
        self._playback_bytes = 0
        self._closing = False
        self._pending = self._dropped = self._shed = self._playback = 0
        self._fault, self._fault_until_s = "", 0.0
        self._highest_boot = 0
        self._executions = 0
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def open(self) -> int:
        """Open or make the database and start the thread; returns the highest boot count in it, 0 for none.

        A disk that refuses is a fault in the status, not an exception: the thread goes on trying.
        """
        try:
            self._connect()
        except (sqlite3.Error, OSError) as error:
            self._suffer(error)
        self._thread.start()
        return self._highest_boot

    def record(self, row: tables.Row) -> bool:
        """Queue a packet; False when the queue was full and the packet was dropped."""
        with self._wake:
            if len(self._packets) >= QUEUE_PACKETS_MAX:
                self._dropped += 1
                return False
            self._packets.append(row)
            return True

    def acknowledge(self, boot: int, apid: int, first: int, last: int) -> bool:
        """Queue an acknowledgement of ``first`` to ``last``; False when the queue was full."""
        with self._wake:
            if len(self._ranges) >= QUEUE_RANGES_MAX:
                return False
            self._ranges.append((boot, apid, first, last))
            return True

    def play_back(self, budget_bytes: int) -> None:
        """Ask for playback; budgets add up to ``PLAYBACK_BYTES_MAX`` while the thread is busy."""
        with self._wake:
            self._playback_bytes = min(self._playback_bytes + budget_bytes, PLAYBACK_BYTES_MAX)
            self._wake.notify()

    def status(self) -> RecorderStatus:
        """Counters and the present fault. ``sent`` is the radio's to count and stays 0 here."""
        with self._wake:
            return RecorderStatus(
                pending=self._pending + len(self._packets),
                shed=self._shed,
                playback=self._playback,
                dropped=self._dropped,
                fault=self._fault if now_s() < self._fault_until_s else "",
            )

    def adapter_status(self) -> AdapterStatus:
        """The thread as the watchdog sees it: it is mandatory, and it tries again by itself."""
        return AdapterStatus(name="recorder", executions=self._executions, restarts=0, failed=False, mandatory=True)

    @property
    def executions(self) -> int:
        """Moves with every turn of the thread, and stands still while a disk holds it up."""
        return self._executions

    def close(self) -> str:
        """Commit what is queued and close; returns "" or what was lost. Waits ``CLOSE_TIMEOUT_S`` at most."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            return f"recorder did not finish within {CLOSE_TIMEOUT_S:g} s"
        lost = len(self._packets)
        return f"{lost} packets were not recorded: {self._fault}" if lost else ""

    def _run(self) -> None:
        closing = failing = False
        while not closing:
            closing = self._wait(failing)
            failing = not self._turn()
            self._executions += 1
        self._disconnect()

    def _wait(self, failing: bool) -> bool:
        """Until there is reason for a turn; True when it is the last one."""
        with self._wake:
            # Playback is answered at once; packets wait a moment, so that one commit carries many.
            # A disk that refused is left alone for a while, whatever is asked of it.
            self._wake.wait_for(
                lambda: self._closing or (self._playback_bytes > 0 and not failing),
                RETRY_S if failing else self._commit_interval_s,
            )
            return self._closing

    def _turn(self) -> bool:
        """One transaction over all that waits; False when the disk did not take it and it waits on."""
        with self._wake:
            packets, ranges = list(self._packets), list(self._ranges)
            budget_bytes, self._playback_bytes = self._playback_bytes, 0
        if not (packets or ranges or budget_bytes):
            return True
        try:
            outcome = tables.transact(
                self._connection or self._connect(),
                packets,
                ranges,
                budget_bytes,
                now_s=now_s(),
                ack_timeout_s=self._ack_timeout_s,
                quota_bytes=self._quota_bytes,
            )
        except (sqlite3.Error, OSError) as error:
            self._suffer(error)
            return False
        with self._wake:
            # Only this thread takes from the left, so what was committed is still in front.
            _drop_left(self._packets, len(packets))
            _drop_left(self._ranges, len(ranges))
            self._pending += outcome.pending_change
            self._shed += outcome.shed
            self._playback += len(outcome.playback)
        if outcome.corrupt:
            self._report(f"{outcome.corrupt} packets had gone bad on disk and were removed")
        if outcome.playback:
            self._deliver(outcome.playback)
        return True

    def _suffer(self, error: sqlite3.Error | OSError) -> None:
        self._disconnect()
        text = str(error)
        # Full disks and EIO pass; these two codes say that the file is no sound database.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            text += f": {tables.set_aside(self._path)}"
        self._report(text)

    def _report(self, text: str) -> None:
        with self._wake:
            self._fault, self._fault_until_s = f"{self._path.name}: {text}", now_s() + FAULT_SHOWN_S

    def _connect(self) -> sqlite3.Connection:
        connection = tables.connect(self._path)
        try:
            pending, highest_boot = tables.survey(connection)
        except sqlite3.Error:
            connection.close()
            raise
        with self._wake:
            self._pending, self._highest_boot = pending, max(highest_boot, self._highest_boot)
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _drop_left(queue: deque[Any], count: int) -> None:
    for _ in range(count):
        queue.popleft()
