"""What came in: units judged, and packets counted by stream.

A unit that is no telemetry of ours is counted by its reason and dropped, never raised. A stream is one boot and
APID; its packets are counted as they are filed, so that what is missing in it is known without asking the archive.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from flightsw.link.codec import Telemetry, decode_telemetry
from flightsw.link.errors import BodyError, LinkError

from .archive import Received, StreamCount

STREAMS_MAX: Final = 4096
BOOT_MAX: Final = 2**32 - 1
SEQUENCE_MAX: Final = 2**53
"""What ``recorder.acknowledge`` can name; another identity could be neither filed nor acknowledged."""


class Intake:
    """Counters since the station started, on top of the streams that the archive had before.

    ``units_bad`` counts dropped units by reason: header, crc, body, identity. ``packets`` counts live, playback and
    duplicates.
    """

    def __init__(self, archived: list[StreamCount]) -> None:
        self.units_bad: Counter[str] = Counter()
        self.packets: Counter[str] = Counter()
        self._streams = {(s.boot, s.apid): s for s in archived[-STREAMS_MAX:]}

    def decode(self, unit: bytes) -> Telemetry | None:
        """The telemetry in a unit; None when it was counted as bad."""
        try:
            telemetry = decode_telemetry(unit)
        except LinkError as error:
            reason = "body" if isinstance(error, BodyError) else "crc" if "CRC" in str(error) else "header"
            self.units_bad[reason] += 1
            return None
        if not (1 <= telemetry.boot <= BOOT_MAX and telemetry.seq <= SEQUENCE_MAX):
            self.units_bad["identity"] += 1
            return None
        return telemetry

    def filed(self, new: Iterable[Received], duplicates: int) -> None:
        """Count packets that the archive has committed."""
        for received in new:
            boot, apid, sequence = received.telemetry.identity
            self.packets["playback" if received.telemetry.playback else "live"] += 1
            stream = self._streams.get((boot, apid))
            if stream is not None:
                self._streams[boot, apid] = StreamCount(
                    boot, apid, stream.received + 1, min(stream.first, sequence), max(stream.last, sequence)
                )
            elif len(self._streams) < STREAMS_MAX:
                self._streams[boot, apid] = StreamCount(boot, apid, 1, sequence, sequence)
        self.packets["duplicates"] += duplicates

    def streams(self) -> list[StreamCount]:
        """Every stream, ordered by boot and APID."""
        return sorted(self._streams.values())
