"""Wires: a serial line or a UDP socket behind one interface that sends and receives whole units.

A wire is an object that outlives its connection. ``run`` opens the endpoint and serves it until it fails, with a
``WireError`` of one clear line; the supervisor pauses and calls ``run`` again, and counters go on. ``send`` may
be called at any time: what cannot leave at once waits in a bounded queue, and when that is full the unit is
dropped and counted. A wire that is not open drops, because old telemetry is the recorder's business and an old
command is none.

Reading is bounded too: per tick a wire takes ``UNITS_PER_TICK_MAX`` units and ``BYTES_PER_TICK_MAX`` bytes and
leaves the rest in the kernel until the next, so that a babbling peer costs the daemon a bounded share of its
time.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import msgspec

TICK_S: Final = 0.05
UNITS_PER_TICK_MAX: Final = 32
BYTES_PER_TICK_MAX: Final = 65_536

Receive = Callable[[bytes], None]


class WireError(Exception):
    """A wire cannot be opened or has failed; the text says which, why, and what to do."""


class WireStatistics(msgspec.Struct, frozen=True):
    """Counts since the wire was made. ``bad`` are frames or datagrams that are no unit or come from a stranger."""

    received: int = 0
    sent: int = 0
    dropped: int = 0
    bad: int = 0


class Wire(ABC):
    """One endpoint. ``receive`` is called on the event loop with each unit."""

    def __init__(self, receive: Receive, unit_bytes_max: int) -> None:
        self._receive = receive
        self._unit_bytes_max = unit_bytes_max
        self.opened = asyncio.Event()
        self._failure: WireError | None = None
        self._reading = False
        self._units_left = self._bytes_left = 0
        self._received = self._sent = self._dropped = self._bad = 0
        self._executions = 0

    @abstractmethod
    async def _open(self) -> None:
        """Open the endpoint or raise ``WireError``."""

    @abstractmethod
    def _close(self) -> None:
        """Release what ``_open`` took."""

    @abstractmethod
    def _watch(self, reading: bool) -> None:
        """Switch the wish to read on or off on the event loop."""

    @abstractmethod
    def send(self, unit: bytes) -> bool:
        """Send or queue a unit; False when it was dropped."""

    async def run(self) -> None:
        """Open and serve until failure; raises ``WireError``, or ``CancelledError`` when asked to end."""
        self._failure = None
        await self._open()
        self.opened.set()
        try:
            while self._failure is None:
                self._units_left, self._bytes_left = UNITS_PER_TICK_MAX, BYTES_PER_TICK_MAX
                self._set_reading(True)
                self._executions += 1
                await asyncio.sleep(TICK_S)
            raise self._failure
        finally:
            self.opened.clear()
            self._set_reading(False)
            self._close()

    @property
    def executions(self) -> int:
        """Moves with every tick of an open wire."""
        return self._executions

    def statistics(self) -> WireStatistics:
        """An immutable copy of the counters."""
        return WireStatistics(self._received, self._sent, self._dropped, self._bad)

    def _set_reading(self, reading: bool) -> None:
        if reading != self._reading:
            self._watch(reading)
            self._reading = reading

    def _take(self, unit: bytes) -> None:
        self._received += 1
        self._units_left -= 1
        self._receive(unit)

    def _spend(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left <= 0 or self._units_left <= 0:
            self._set_reading(False)

    def _fail(self, text: str) -> None:
        if self._failure is None:
            self._failure = WireError(text)
        self._set_reading(False)


class NoWire(Wire):
    """Nothing is plugged in: opens always, receives nothing, drops what is sent."""

    async def _open(self) -> None:
        return

    def _close(self) -> None:
        return

    def _watch(self, reading: bool) -> None:
        return

    def send(self, unit: bytes) -> bool:
        self._dropped += 1
        return False
