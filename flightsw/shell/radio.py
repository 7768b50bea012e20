"""The radio adapter: packets between the transceiver's wire and the daemon.

A received unit is handed on at once, outside the minor frame, so that acceptance of a telecommand does not wait for
the next one. What the unit is worth is for the core to judge; here only frames are counted. Downlink is
fire and forget: a packet that is dropped here was recorded as not sent, and playback brings it later.
"""

from collections.abc import Callable, Iterable

from flightsw.core.link_budget import FRAMING_BYTES
from flightsw.link.endpoint import Endpoint
from flightsw.link.packet import PACKET_BYTES_MAX

from .make_wire import make_wire


class Radio:
    """One wire and its counters. ``receive`` is called on the event loop with every unit."""

    def __init__(self, endpoint: Endpoint, receive: Callable[[bytes], None]) -> None:
        self.wire = make_wire(endpoint, receive, PACKET_BYTES_MAX)
        self._sent = self._sent_bytes = self._playback = self._dropped = 0

    def send(self, packet: bytes) -> bool:
        """Send a live packet; False when it was dropped."""
        sent = self.wire.send(packet)
        self._count(sent, packet)
        return sent

    def play_back(self, packets: Iterable[bytes]) -> None:
        """Send packets of the recorder; what is dropped now is played back again later."""
        for packet in packets:
            sent = self.wire.send(packet)
            self._count(sent, packet)
            self._playback += sent

    def _count(self, sent: bool, packet: bytes) -> None:
        self._sent += sent
        self._sent_bytes += sent * (len(packet) + FRAMING_BYTES)
        self._dropped += not sent

    @property
    def sent(self) -> int:
        """Packets handed to the wire since boot, playback included."""
        return self._sent

    @property
    def sent_bytes(self) -> int:
        """Their bytes with framing."""
        return self._sent_bytes

    @property
    def playback(self) -> int:
        """Of these, played back."""
        return self._playback

    @property
    def dropped(self) -> int:
        """Packets that the wire did not take."""
        return self._dropped

    @property
    def frames_bad(self) -> int:
        """Frames and datagrams from the wire that were no unit."""
        return self.wire.statistics().bad
