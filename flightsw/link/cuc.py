"""CCSDS unsegmented time code (CUC), 4 octets of seconds and 2 of fraction, epoch 1958-01-01 TAI.

CCSDS 301.0-B-4, section 3.2. The preamble (P-field) 0x1E says: level 1 epoch (TAI, 1958), four octets of
coarse time, two of fine time. One tick is 1/65,536 s, about 15 µs; the code ends in the year 2094.

TAI has no leap seconds, so differences of onboard times are elapsed seconds; ``leap`` knows UTC.
"""

from struct import Struct
from struct import error as LayoutError
from typing import Final

from .errors import PacketError

P_FIELD: Final = 0x1E
CUC_BYTES: Final = 7
TICKS_PER_S: Final = 65_536
TICKS_MAX: Final = 2**48 - 1

_LAYOUT: Final = Struct(">BIH")


def ticks(tai_s: float) -> int:
    """Time code as an integer of 48 bits, rounded to the nearest tick.

    Total on purpose: a clock that has run out of range saturates and NaN becomes 0, because a wrong time
    stamp must not silence telemetry. The time quality of the packet tells the ground what to think of it.
    """
    if 0.0 <= tai_s < 2.0**32:
        return min(int(tai_s * TICKS_PER_S + 0.5), TICKS_MAX)
    return TICKS_MAX if tai_s > 0.0 else 0


def encode(tai_s: float) -> bytes:
    """Seven octets, P-field included, of a TAI time in seconds since 1958."""
    return _LAYOUT.pack(P_FIELD, *divmod(ticks(tai_s), TICKS_PER_S))


def decode(code: bytes) -> float:
    """TAI seconds since 1958; raises ``PacketError`` for a wrong length or another P-field."""
    try:
        p_field, seconds, fraction = _LAYOUT.unpack(code)
    except LayoutError:
        raise PacketError(f"time code of {len(code)} bytes, expected {CUC_BYTES}") from None
    if p_field != P_FIELD:
        raise PacketError(f"time code with P-field 0x{p_field:02X}, expected 0x{P_FIELD:02X} (CUC 4+2, TAI)")
    tai_s: float = seconds + fraction / TICKS_PER_S
    return tai_s
