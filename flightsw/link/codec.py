"""From values to packet bodies and back, driven by the dictionary.

Housekeeping is the hot path. A body is a msgpack array 16 (0xDC, count) of float64 (0xCB, 8 octets): always that
head, also for fewer than 16 elements, so that the layout is fixed and any fixed-layout decoder can read it by
skipping the tag octets. One precompiled ``struct`` per length writes and reads all values at once; tags are set and
checked by one strided slice.

``decode_telemetry`` is the ground's entry: any bytes in, a typed ``Telemetry`` or a ``LinkError`` out.
"""

import functools
import math
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

import msgspec

from .arguments import check_arguments, parse_argument_text
from .bodies import (
    CommandBody,
    EventBody,
    PingBody,
    ReplyBody,
    TableBody,
    TelemetryBody,
    VerificationBody,
    cut_text,
    pack_body,
    split_text,
    unpack_command,
    unpack_event,
    unpack_ping,
    unpack_reply,
    unpack_table,
    unpack_verification,
)
from .dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_VERIFICATION,
    DESTINATION_PLAYBACK,
    HOUSEKEEPING,
    IDENTITY,
)
from .errors import BodyError
from .packet import TM_BODY_BYTES_MAX, TmPacket, decode_tm
from .render import event_text
from .schema import HousekeepingGroup

__all__ = [
    "CommandBody",
    "EventBody",
    "HousekeepingBody",
    "PingBody",
    "ReplyBody",
    "TableBody",
    "Telemetry",
    "UnknownBody",
    "VerificationBody",
    "check_arguments",
    "cut_text",
    "decode_telemetry",
    "event_text",
    "pack_body",
    "pack_housekeeping",
    "parse_argument_text",
    "split_text",
    "unpack_command",
    "unpack_event",
    "unpack_housekeeping",
    "unpack_ping",
    "unpack_reply",
    "unpack_verification",
]

_ARRAY_16: Final = 0xDC
_FLOAT_64: Final = 0xCB
_HEAD_BYTES: Final = 3
_ELEMENT_BYTES: Final = 9
HOUSEKEEPING_VALUES_MAX: Final = (TM_BODY_BYTES_MAX - _HEAD_BYTES) // _ELEMENT_BYTES
_GROUP_BY_APID: Final = {group.apid: group for group in HOUSEKEEPING}
_UNPACK_BY_APID: Final[dict[int, Callable[[bytes], TelemetryBody]]] = {
    APID_VERIFICATION: unpack_verification,
    APID_EVENT: unpack_event,
    APID_REPLY: unpack_reply,
    APID_PING: unpack_ping,
    APID_TABLE: unpack_table,
}


class HousekeepingBody(msgspec.Struct, frozen=True):
    """A housekeeping report: dictionary group, and its values by parameter name (NaN is "no valid value")."""

    boot: int
    seq: int
    t: float
    group: str
    values: dict[str, float]


class UnknownBody(msgspec.Struct, frozen=True):
    """A report of an APID that this dictionary does not have: its identity, so that it can still be filed."""

    boot: int
    seq: int
    t: float


class Telemetry(msgspec.Struct, frozen=True):
    """One packet as the ground files it: header and typed body."""

    packet: TmPacket
    body: HousekeepingBody | TelemetryBody | UnknownBody

    @property
    def boot(self) -> int:
        """Boot count of the daemon that made it."""
        return self.body.boot

    @property
    def apid(self) -> int:
        """Application process identifier."""
        return self.packet.apid

    @property
    def seq(self) -> int:
        """Whole sequence within boot and APID."""
        return self.body.seq

    @property
    def world_s(self) -> float:
        """Mission time at which it was made."""
        return self.body.t

    @property
    def identity(self) -> tuple[int, int, int]:
        """(boot, apid, sequence): what makes two copies the same packet."""
        return self.body.boot, self.packet.apid, self.body.seq

    @property
    def playback(self) -> bool:
        """True when the recorder sent it, so that live alarms stay mute."""
        return self.packet.destination == DESTINATION_PLAYBACK


@functools.lru_cache(maxsize=HOUSEKEEPING_VALUES_MAX + 1)
def _layout(count: int) -> tuple[Struct, bytes, bytes]:
    """Struct, head and tags of an array of this length; the struct has pad octets where head and tags are."""
    return Struct(">3x" + "xd" * count), bytes((_ARRAY_16, *count.to_bytes(2, "big"))), bytes([_FLOAT_64]) * count


def pack_housekeeping(group: HousekeepingGroup, values: Sequence[float]) -> bytes:
    """Body of a housekeeping report; ``values`` in the order of ``group.parameters``.

    A wrong count is a mistake of ours: ``ValueError``.
    """
    count = len(values)
    if count != len(group.parameters) or count > HOUSEKEEPING_VALUES_MAX:
        raise ValueError(f"group {group.name} has {len(group.parameters)} parameters, {count} values were given")
    layout, head, tags = _layout(count)
    body = bytearray(layout.pack(*values))
    body[:_HEAD_BYTES] = head
    body[_HEAD_BYTES::_ELEMENT_BYTES] = tags
    return bytes(body)


def unpack_housekeeping(group: HousekeepingGroup, body: bytes) -> dict[str, float]:
    """Values by parameter name.

    An array from an older dictionary is shorter: what it has is returned. One from a newer dictionary is longer:
    what this one knows is returned. Raises ``BodyError`` when the layout is another.
    """
    return dict(zip(group.parameters, _values(body), strict=False))


def decode_telemetry(packet: bytes) -> Telemetry:
    """One received unit, checked and typed.

    Raises ``PacketError`` when it is no telemetry packet and ``BodyError`` when its body is not what the
    dictionary says.
    """
    header = decode_tm(packet)
    return Telemetry(header, _body(header.apid, header.body))


def _body(apid: int, octets: bytes) -> HousekeepingBody | TelemetryBody | UnknownBody:
    if (group := _GROUP_BY_APID.get(apid)) is not None:
        values = _values(octets)
        return HousekeepingBody(*_identity(values), group.name, dict(zip(group.parameters, values, strict=False)))
    if (unpack := _UNPACK_BY_APID.get(apid)) is not None:
        return unpack(octets)
    # A newer dictionary on board: arrays and maps both start with the identity.
    if octets[:1] == bytes([_ARRAY_16]):
        return UnknownBody(*_identity(_values(octets)))
    head = unpack_ping(octets)
    return UnknownBody(head.boot, head.seq, head.t)


def _values(body: bytes) -> tuple[float, ...]:
    count, rest = divmod(len(body) - _HEAD_BYTES, _ELEMENT_BYTES)
    if rest or not 0 <= count <= HOUSEKEEPING_VALUES_MAX:
        raise BodyError(f"housekeeping body of {len(body)} bytes is no array of float64")
    layout, head, tags = _layout(count)
    if body[:_HEAD_BYTES] != head or body[_HEAD_BYTES::_ELEMENT_BYTES] != tags:
        raise BodyError(f"housekeeping body is no array 16 of {count} float64")
    return layout.unpack(body)


def _identity(values: tuple[float, ...]) -> tuple[int, int, float]:
    """Boot, sequence and mission time: the first three values of every housekeeping report."""
    if len(values) < len(IDENTITY):
        raise BodyError(f"housekeeping report of {len(values)} values lacks its identity {IDENTITY}")
    boot, sequence, world_s = values[: len(IDENTITY)]
    if not (0.0 <= boot <= 2.0**53 and 0.0 <= sequence <= 2.0**53 and math.isfinite(world_s)):
        raise BodyError(f"housekeeping report with identity {boot}, {sequence}, {world_s}")
    return int(boot), int(sequence), world_s
