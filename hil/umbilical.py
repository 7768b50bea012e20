"""The umbilical: a look into the recorder's file while the daemon writes it, for the display and for the twin's
leash.

On a test stand one watches a satellite over a cable, because the radio is silent most of the time. This one reads
the recorder read-only and changes nothing. No verdict hangs on it: the judge reads the file after the flight.
"""

import contextlib
import math
import sqlite3
import threading
from collections import deque
from pathlib import Path
from typing import Final

from flightsw.link.bodies import EventBody
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import APID_EVENT, APID_HK_FAST, APID_HK_MAIN, APID_HK_SLOW, APID_REPLY
from flightsw.link.errors import LinkError

from .evidence import EventRecord, event_record

POLL_S: Final = 0.5
EVENTS_KEPT: Final = 64
ROWS_PER_POLL_MAX: Final = 2000

_NEWEST: Final = "SELECT packet FROM packets WHERE apid=? ORDER BY rowid DESC LIMIT 1"
_EVENTS: Final = "SELECT rowid, packet FROM packets WHERE apid=? AND rowid>? ORDER BY rowid LIMIT ?"
_COUNTS: Final = "SELECT COUNT(*), COALESCE(SUM(acknowledged), 0) FROM packets"


class Umbilical:
    """Newest housekeeping values, events and counts of the recorder; polled in a thread of its own."""

    def __init__(self, database: Path) -> None:
        self._path = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="umbilical", daemon=True)
        self._event_row = 0
        self.values: dict[str, float] = {}
        self.events: deque[EventRecord] = deque(maxlen=EVENTS_KEPT)
        self.event_counts: dict[str, int] = {}
        self.recorded = 0
        self.acknowledged = 0
        self.replies = 0

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0 * POLL_S)

    def value(self, name: str) -> float:
        """The newest value of a parameter; NaN before the first."""
        return self.values.get(name, math.nan)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connect()) as database:
                while not self._stop.wait(POLL_S):
                    self._poll(database)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)

    def _poll(self, database: sqlite3.Connection) -> None:
        for apid in (APID_HK_SLOW, APID_HK_MAIN, APID_HK_FAST):
            row = database.execute(_NEWEST, (apid,)).fetchone()
            if row is None:
                continue
            with contextlib.suppress(LinkError):
                body = decode_telemetry(row[0]).body
                if isinstance(body, HousekeepingBody):
                    self.values.update(body.values)
        for rowid, packet in database.execute(_EVENTS, (APID_EVENT, self._event_row, ROWS_PER_POLL_MAX)):
            self._event_row = rowid
            with contextlib.suppress(LinkError):
                body = decode_telemetry(packet).body
                if isinstance(body, EventBody):
                    event = event_record(body)
                    self.events.append(event)
                    self.event_counts[event.name] = self.event_counts.get(event.name, 0) + 1
        self.recorded, self.acknowledged = database.execute(_COUNTS).fetchone()
        self.replies = database.execute("SELECT COUNT(*) FROM packets WHERE apid=?", (APID_REPLY,)).fetchone()[0]
