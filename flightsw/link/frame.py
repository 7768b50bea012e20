"""Framing on a byte stream: COBS with the delimiter 0x00.

Consistent overhead byte stuffing (Cheshire and Baker, 1999) rewrites a unit without any zero at a cost of at most
one byte in 254, so that a zero on the line always ends a frame and nothing else does. After any damage the
next zero is a sure place to start again.

A frame is sent with a zero on *both* sides. With a trailing one only, noise on an idle line would be glued to
the next frame and spoil it; the leading zero closes the noise off as a bad frame of its own. It costs one byte.
An empty frame between two zeros is normal and is not counted.

``Deframer`` does no I/O: bytes in, units out, in whatever pieces they come. It knows nothing of what a unit means;
integrity is the CRC of the unit, one layer up.
"""

from typing import Final

import msgspec
from cobs import cobs

from .errors import FrameError
from .packet import PACKET_BYTES_MAX

UNIT_BYTES_MAX: Final = PACKET_BYTES_MAX
_DELIMITER: Final = b"\0"


def encoded_bytes_max(unit_bytes: int) -> int:
    """Most bytes that COBS makes of a unit, without delimiters."""
    return unit_bytes + unit_bytes // 254 + 1


def encode_frame(unit: bytes) -> bytes:
    """One frame, delimiters included; raises ``FrameError`` for an empty or oversize unit."""
    if not 0 < len(unit) <= UNIT_BYTES_MAX:
        raise FrameError(f"unit of {len(unit)} bytes, allowed are 1 to {UNIT_BYTES_MAX}")
    return _DELIMITER + bytes(cobs.encode(unit)) + _DELIMITER


class DeframerStatistics(msgspec.Struct, frozen=True):
    """Counts since the deframer was made.

    ``good`` frames decoded to units; ``bad`` broke a rule of COBS; ``oversize`` were longer than allowed.
    ``discarded_bytes`` is what bad and oversize frames cost, ``buffered_bytes`` what waits for its delimiter.
    """

    good: int = 0
    bad: int = 0
    oversize: int = 0
    discarded_bytes: int = 0
    buffered_bytes: int = 0


class Deframer:
    """Cuts a byte stream into units; never raises, never holds more than one frame.

    After garbage it is in step again at the next delimiter, so damage costs the frame it hit and no other.
    """

    def __init__(self, unit_bytes_max: int = UNIT_BYTES_MAX) -> None:
        self._unit_bytes_max = unit_bytes_max
        self._frame_bytes_max = encoded_bytes_max(unit_bytes_max)
        self._buffer = bytearray()
        # True from the moment a frame grows too long until its delimiter.
        self._skipping = False
        self._good = self._bad = self._oversize = self._discarded_bytes = 0

    def receive(self, data: bytes) -> list[bytes]:
        """Units that are complete with these bytes, in order."""
        units: list[bytes] = []
        start = 0
        while (end := data.find(_DELIMITER, start)) >= 0:
            self._extend(data, start, end)
            self._finish(units)
            start = end + 1
        self._extend(data, start, len(data))
        return units

    def statistics(self) -> DeframerStatistics:
        """An immutable copy of the counters."""
        return DeframerStatistics(self._good, self._bad, self._oversize, self._discarded_bytes, len(self._buffer))

    def _extend(self, data: bytes, start: int, end: int) -> None:
        # Slicing comes after the check, so a flood without delimiters is never copied.
        if not self._skipping and len(self._buffer) + end - start <= self._frame_bytes_max:
            self._buffer += data[start:end]
            return
        if not self._skipping:
            self._skipping = True
            self._oversize += 1
        self._discarded_bytes += len(self._buffer) + end - start
        self._buffer.clear()

    def _finish(self, units: list[bytes]) -> None:
        if self._skipping:
            self._skipping = False
            return
        if not self._buffer:
            return
        try:
            unit = bytes(cobs.decode(self._buffer))
        except cobs.DecodeError:
            unit = b""
        # A frame can be short enough and still hold too long a unit, by at most the slack of the stuffing.
        if 0 < len(unit) <= self._unit_bytes_max:
            self._good += 1
            units.append(unit)
        else:
            self._bad += not unit
            self._oversize += bool(unit)
            self._discarded_bytes += len(self._buffer)
        self._buffer.clear()
