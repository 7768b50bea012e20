"""The radio channel: what lies between the spacecraft's transceiver and the station's, as a pure model.

Each direction is one transmitter that serialises units at ``rate_bps``, a path that delays them and loses some.

    offer ──► queue (bounded) ──► on air for 8·bytes/rate ──► delay ──► poll

A unit is lost when the carrier is not locked at the moment it leaves the antenna, when an outage is on, or by a
seeded draw with probability ``loss_fraction``. An outage is the nasty kind: the carrier stays locked, so that
neither side notices by itself, and only store and forward can mend what it takes.

All times are of the machine clock: the daemon emits frames at machine rate also at warp k, and the link
timers of both ends run on it.
"""

import heapq
import random
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

QUEUE_UNITS_MAX: Final = 8192


class ChannelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both directions of the radio, as a scenario's section ``[radio]``."""

    downlink_bps: Annotated[float, Meta(ge=1_000.0, le=1e9)] = 2_000_000.0
    """Rate from the spacecraft, bit per machine second."""
    uplink_bps: Annotated[float, Meta(ge=1_000.0, le=1e9)] = 64_000.0
    """Rate to the spacecraft, bit per machine second."""
    delay_s: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.010
    """One-way delay: light time and modem, machine seconds."""
    loss_fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Probability that a unit is lost although the carrier is locked."""
    queue_bytes: Annotated[int, Meta(ge=2_048, le=1 << 28)] = 262_144
    """Bound of the transmitter's queue; a unit that does not fit is dropped and counted."""


class Counters(msgspec.Struct):
    """Fate of every unit that was offered; the parts add up to ``offered`` once the channel is empty."""

    offered: int = 0
    delivered: int = 0
    lost_no_carrier: int = 0
    lost_outage: int = 0
    lost_noise: int = 0
    dropped_queue_full: int = 0

    @property
    def lost(self) -> int:
        """Units that left a transmitter and never arrived, or never left it."""
        return self.lost_no_carrier + self.lost_outage + self.lost_noise + self.dropped_queue_full


class Direction:
    """One direction of the channel. ``now_s`` never goes backwards."""

    def __init__(
        self, rate_bps: float, delay_s: float, loss_fraction: float, queue_bytes: int, rng: random.Random
    ) -> None:
        self._rate_bps = rate_bps
        self._delay_s = delay_s
        self._loss_fraction = loss_fraction
        self._queue_bytes = queue_bytes
        self._rng = rng
        self._idle_at_s = float("-inf")
        self._on_air: list[tuple[float, int, bytes]] = []
        self._in_flight: list[tuple[float, int, bytes]] = []
        self._order = 0
        self.counters = Counters()
        self.lost_units: list[bytes] = []

    def offer(self, unit: bytes, now_s: float) -> bool:
        """Hand a unit to the transmitter; False when its queue is full and the unit is dropped."""
        self.counters.offered += 1
        start_s = max(now_s, self._idle_at_s)
        backlog_bytes = (start_s - now_s) * self._rate_bps / 8.0
        if backlog_bytes + len(unit) > self._queue_bytes or len(self._on_air) >= QUEUE_UNITS_MAX:
            self.counters.dropped_queue_full += 1
            return False
        self._idle_at_s = start_s + 8.0 * len(unit) / self._rate_bps
        self._order += 1
        heapq.heappush(self._on_air, (self._idle_at_s, self._order, unit))
        return True

    def poll(self, now_s: float, *, locked: bool, outage: bool) -> Iterator[bytes]:
        """Units that arrive at ``now_s`` or before.

        ``locked`` and ``outage`` hold since the last poll: the bench polls faster than either changes.
        """
        while self._on_air and self._on_air[0][0] <= now_s:
            sent_s, order, unit = heapq.heappop(self._on_air)
            draw = self._rng.random()  # One draw for every unit, so that a fault elsewhere shifts no other fate.
            if not locked:
                self.counters.lost_no_carrier += 1
            elif outage:
                self.counters.lost_outage += 1
                self.lost_units.append(unit)
            elif draw < self._loss_fraction:
                self.counters.lost_noise += 1
            else:
                heapq.heappush(self._in_flight, (sent_s + self._delay_s, order, unit))
        while self._in_flight and self._in_flight[0][0] <= now_s:
            self.counters.delivered += 1
            yield heapq.heappop(self._in_flight)[2]

    def due_s(self) -> float:
        """When the next unit leaves the transmitter or arrives; infinite when the channel is empty."""
        return min((queue[0][0] for queue in (self._on_air, self._in_flight) if queue), default=float("inf"))

    def take_lost_units(self) -> list[bytes]:
        """Units that an outage took since the last call; the caller keeps their identities as evidence."""
        taken, self.lost_units = self.lost_units, []
        return taken


class Channel:
    """Both directions with their common carrier and outage."""

    def __init__(self, config: ChannelConfig, down_rng: random.Random, up_rng: random.Random) -> None:
        self.down = Direction(
            config.downlink_bps, config.delay_s, config.loss_fraction, config.queue_bytes, down_rng
        )
        self.up = Direction(config.uplink_bps, config.delay_s, config.loss_fraction, config.queue_bytes, up_rng)
        self.outage = False
        self.locked = False

    def due_s(self) -> float:
        """When either direction has something to do next."""
        return min(self.down.due_s(), self.up.due_s())

    def downlink(self, now_s: float) -> Iterator[bytes]:
        """Units that reach the station now."""
        return self.down.poll(now_s, locked=self.locked, outage=self.outage)

    def uplink(self, now_s: float) -> Iterator[bytes]:
        """Units that reach the spacecraft now."""
        return self.up.poll(now_s, locked=self.locked, outage=self.outage)
