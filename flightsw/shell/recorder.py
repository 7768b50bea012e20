"""The recorder: every telemetry packet on disk, until the ground has it or something more important needs the room.

One SQLite database in WAL mode, owned by one thread, so that the control loop never waits for a disk. The loop
puts orders into bounded queues; the thread takes all that wait and commits them as one transaction. A packet is
identified by (boot, APID, sequence); an acknowledged one is kept as history and is the first to go.

    record      → insert; over ``QUEUE_PACKETS_MAX`` waiting the least important is dropped and counted
    acknowledge → mark a range; over ``QUEUE_RANGES_MAX`` it is dropped, the ground says it again
    play back   → unacknowledged, never sent or sent longer than ``ack_timeout_s`` ago (``recorder_tables``)
    replay      → events of the ring (``event_ring``), before playback and from the same budget

What is kept is decided by the core (``recording``) and held by ``recorder_room``; a full disk is met by
``recorder_file``. Another fault of the disk (EIO) is told in the status while the packets wait in the queue and the
thread tries again. A database that is damaged is set aside and a new one is begun.
"""

import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flightsw.core.effects import Replay, SetRetention
from flightsw.core.inputs import AdapterStatus, RecorderStatus

from . import recorder_tables as tables
from .clock import now_s
from .recorder_file import RecorderFile
from .recorder_tables import Holding, Range, Row

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
        retention: SetRetention,
        commit_interval_s: float,
        deliver: Callable[[list[bytes]], None],
    ) -> None:
        self._path = path
        self._file = RecorderFile(path, retention)
        self._commit_interval_s = commit_interval_s
        self._deliver = deliver
        self._wake = threading.Condition()
        self._queues: defaultdict[int, deque[Row]] = defaultdict(deque)
        self._taken: list[Row] = []
        self._ranges: deque[Range] = deque()
        self._order: Replay | None = None
        self._replaying: Replay | None = None
        self._numbers: list[int] = []
        self._playback_bytes = 0
        self._closing = False
        self._waiting = self._dropped = self._playback = 0
        self._replay_packets = self._replayed = self._replayed_count = 0
        self._holding = Holding(0, (), 0)
        self._fault, self._fault_until_s = "", 0.0
        self._highest_boot = 0
        self._executions = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def open(self) -> int:
        """Open or make the database and start the thread; returns the highest boot count in it, 0 for none.

        A disk that refuses is a fault in the status, not an exception: the thread goes on trying.
        """
        try:
            self._holding, self._highest_boot = self._file.open(now_s())
        except (sqlite3.Error, OSError) as error:
            self._suffer(error)
        self._thread.start()
        return self._highest_boot

    def record(self, row: Row) -> bool:
        """Queue a packet; False when the queue was full of what is as important, and the packet was dropped."""
        with self._wake:
            if self._waiting + len(self._taken) >= QUEUE_PACKETS_MAX:
                self._dropped += 1
                least = max((p for p, queue in self._queues.items() if queue), default=row.priority)
                if least <= row.priority:
                    return False
                self._queues[least].popleft()
                self._waiting -= 1
            self._queues[row.priority].append(row)
            self._waiting += 1
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

    def replay(self, order: Replay) -> None:
        """Ask for events of the ring; takes the place of an earlier order."""
        with self._wake:
            self._order = order
            self._wake.notify()

    def retain(self, retention: SetRetention) -> None:
        """Hold other bounds from the next transaction on."""
        self._file.retention = retention

    def status(self) -> RecorderStatus:
        """Counters and the present fault. ``sent`` and ``sent_bytes`` are the radio's to count and stay 0 here."""
        with self._wake:
            return RecorderStatus(
                pending=self._holding.pending + self._waiting + len(self._taken),
                shed=self._file.shed,
                playback=self._playback,
                dropped=self._dropped,
                fault=self._fault if now_s() < self._fault_until_s else "",
                expired=self._file.expired,
                full=self._file.full,
                used_bytes=self._holding.used_bytes,
                ring=self._holding.ring,
                replay_left=len(self._numbers) + (self._order is not None),
                replayed=self._replayed,
                replayed_count=self._replayed_count,
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
        lost = self._waiting + len(self._taken)
        return f"{lost} packets were not recorded: {self._fault}" if lost else ""

    def _run(self) -> None:
        closing = failing = False
        while not closing:
            closing = self._wait(failing)
            failing = not self._turn()
            self._executions += 1
        self._file.close()

    def _wait(self, failing: bool) -> bool:
        """Until there is reason for a turn; True when it is the last one."""
        with self._wake:
            # Playback is answered at once; packets wait a moment, so that one commit carries many.
            # A disk that refused is left alone for a while, whatever is asked of it.
            self._wake.wait_for(
                lambda: self._closing or ((self._playback_bytes > 0 or self._order is not None) and not failing),
                RETRY_S if failing else self._commit_interval_s,
            )
            return self._closing

    def _turn(self) -> bool:
        """One transaction over all that waits; False when the disk did not take it and it waits on."""
        with self._wake:
            for priority in sorted(self._queues):
                self._taken.extend(self._queues[priority])
                self._queues[priority].clear()
            self._waiting = 0
            rows, ranges = self._taken, list(self._ranges)
            budget_bytes, self._playback_bytes = self._playback_bytes, 0
            order = self._order
        if not (rows or ranges or budget_bytes or order):
            return True
        at_s = now_s()
        before = self._file.corrupt
        try:
            if order:
                self._begin(order, self._file.select(order.count, order.severity, at_s))
            outcome = self._file.transact(rows, ranges, budget_bytes, self._numbers if budget_bytes else [], at_s)
        except (sqlite3.Error, OSError) as error:
            self._put_back()
            self._suffer(error)
            return False
        with self._wake:
            self._taken = []
            # Only this thread takes from the left, so what was committed is still in front.
            for _ in ranges:
                self._ranges.popleft()
            self._holding = outcome.holding
            self._playback += len(outcome.playback)
            if budget_bytes:
                self._numbers = self._numbers[outcome.replay_done :]
            self._count_replayed(outcome.replay_packets)
        if corrupt := self._file.corrupt - before:
            self._report(f"{corrupt} packets had gone bad on disk and were removed")
        if outcome.playback:
            self._deliver(outcome.playback)
        return True

    def _begin(self, order: Replay, numbers: list[int]) -> None:
        with self._wake:
            self._replaying, self._numbers, self._replay_packets = order, numbers, 0
            if self._order is order:
                self._order = None

    def _count_replayed(self, packets: int) -> None:
        """A replay is done when its last packet was handed over."""
        self._replay_packets += packets
        if self._replaying is not None and not self._numbers:
            self._replayed, self._replayed_count = self._replaying.id, self._replay_packets
            self._replaying = None

    def _put_back(self) -> None:
        with self._wake:
            for row in reversed(self._taken):
                self._queues[row.priority].appendleft(row)
            self._waiting += len(self._taken)
            self._taken = []

    def _suffer(self, error: sqlite3.Error | OSError) -> None:
        self._file.close()
        text = str(error)
        # EIO may pass; these two codes say that the file is no sound database.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            text += f": {tables.set_aside(self._path)}"
        self._report(text)

    def _report(self, text: str) -> None:
        with self._wake:
            self._fault, self._fault_until_s = f"{self._path.name}: {text}", now_s() + FAULT_SHOWN_S
