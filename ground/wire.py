"""What the station asks of a wire, whatever the wire is made of.

A wire takes whole units in and gives whole units out. It never blocks and never raises after it was opened; what
goes wrong is counted in its ``WireStatus``. ``transport.open_wire`` opens the kind that an endpoint names.
"""

from typing import Protocol

import msgspec


class WireStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State and counters of a wire since the station started.

    ``up`` is false while a serial line is being tried again; ``fault`` then says why. ``dropped`` counts units by
    reason: frame (COBS broken), oversize, stranger (datagram from another peer), unsent (line down or full).
    """

    endpoint: str
    up: bool
    fault: str
    reopened: int
    bytes_in: int
    bytes_out: int
    units_in: int
    units_out: int
    dropped: dict[str, int]


class Wire(Protocol):
    """What the station needs of a wire."""

    def fileno(self) -> int:
        """Descriptor to wait on, or −1 while the wire is down."""

    @property
    def wants_write(self) -> bool:
        """Whether units wait for room on the line."""

    def receive(self) -> list[bytes]:
        """Units that have come; never blocks, bounded work."""

    def send(self, unit: bytes) -> bool:
        """Queue one unit; false when it was dropped."""

    def service(self, now_s: float) -> None:
        """Flush the queue and reopen what is down, when its time has come."""

    def status(self) -> WireStatus:
        """State and counters."""

    def close(self) -> None:
        """Release the device or port."""


def nonzero(**counts: int) -> dict[str, int]:
    """Counters that have counted something; what ``WireStatus.dropped`` shows."""
    return {name: count for name, count in counts.items() if count}


def reason(error: Exception) -> str:
    """Why the system refused, in its own words."""
    return getattr(error, "strerror", None) or str(error)
