"""Space packets with PUS-C secondary headers: the unit that every wire, archive and recorder carries.

Layouts, big-endian (CCSDS 133.0-B-2 section 4.1, ECSS-E-ST-70-41C section 7.4):

    telemetry    id 2 · sequence 2 · length 2 │ 0x20+time quality 1 · service 1 · subtype 1 · message count 2 ·
                 destination 2 · CUC time 7 │ body │ CRC-16 2
    telecommand  id 2 · sequence 2 · length 2 │ 0x20+ack flags 1 · service 1 · subtype 1 · source 2 │ body │
                 CRC-16 2

*id* is version 0 (3 bits), type (1: telecommand), secondary header flag 1, APID (11). *sequence* is the flags 0b11
(unsegmented) and a count modulo 2^14. *length* is the octets after the primary header, less one. The CRC is
CCITT-FALSE (polynomial 0x1021, preset 0xFFFF) over all that precedes it: it finds every error burst up to 16 bits.

This is the hot path of the link, so a header is packed and unpacked by one precompiled ``Struct``.
"""

from binascii import crc_hqx
from struct import Struct, pack_into
from struct import error as LayoutError
from typing import Final

import msgspec

from . import cuc
from .errors import PacketError

PACKET_BYTES_MAX: Final = 1200
"""Bound on a whole packet: one UDP datagram that no path fragments."""
CRC_BYTES: Final = 2
PRIMARY_HEADER_BYTES: Final = 6

_TM: Final = Struct(">HHHBBBHHBIH")
_TC: Final = Struct(">HHHBBBH")
_CRC: Final = Struct(">H")
TM_HEADER_BYTES: Final = _TM.size
TC_HEADER_BYTES: Final = _TC.size
TM_BODY_BYTES_MAX: Final = PACKET_BYTES_MAX - TM_HEADER_BYTES - CRC_BYTES
TC_BODY_BYTES_MAX: Final = PACKET_BYTES_MAX - TC_HEADER_BYTES - CRC_BYTES
DESTINATION_OFFSET: Final = 11

SEQUENCE_COUNT_MODULO: Final = 1 << 14
MESSAGE_COUNT_MODULO: Final = 1 << 16
APID_MAX: Final = 0x7FF

ACK_ACCEPTANCE: Final = 0b1000
ACK_START: Final = 0b0100
ACK_PROGRESS: Final = 0b0010
ACK_COMPLETION: Final = 0b0001
ACK_ALL: Final = 0b1111
ACK_NONE: Final = 0

_TM_ID: Final = 0x0800
_TC_ID: Final = 0x1800
_ID_MASK: Final = 0xF800
_UNSEGMENTED: Final = 0xC000
_PUS_C: Final = 0x20
_CRC_PRESET: Final = 0xFFFF


class TmPacket(msgspec.Struct, frozen=True):
    """One telemetry packet.

    ``sequence_count`` travels modulo 2^14 and ``message_count`` modulo 2^16; both may be given unreduced.
    ``destination`` is 16 bits; ``time_quality`` 0 to 15; ``tai_s`` is seconds of TAI since 1958.
    """

    apid: int
    sequence_count: int
    service: int
    subtype: int
    message_count: int
    destination: int
    time_quality: int
    tai_s: float
    body: bytes


class TcPacket(msgspec.Struct, frozen=True):
    """One telecommand packet; ``ack_flags`` are ``ACK_*`` or-ed, ``source`` is 16 bits."""

    apid: int
    sequence_count: int
    service: int
    subtype: int
    source: int
    ack_flags: int
    body: bytes


def encode_tm(packet: TmPacket) -> bytes:
    """Octets of a telemetry packet; raises ``PacketError`` when a field does not fit its place."""
    body, apid, quality = packet.body, packet.apid, packet.time_quality
    ticks = cuc.ticks(packet.tai_s)
    if not (0 <= apid <= APID_MAX and 0 <= quality <= 15 and len(body) <= TM_BODY_BYTES_MAX):
        raise _misfit(apid, quality, len(body), TM_BODY_BYTES_MAX)
    try:
        head = _TM.pack(
            _TM_ID | apid,
            _UNSEGMENTED | packet.sequence_count % SEQUENCE_COUNT_MODULO,
            len(body) + (TM_HEADER_BYTES + CRC_BYTES - PRIMARY_HEADER_BYTES - 1),
            _PUS_C | quality,
            packet.service,
            packet.subtype,
            packet.message_count % MESSAGE_COUNT_MODULO,
            packet.destination,
            cuc.P_FIELD,
            ticks >> 16,
            ticks & 0xFFFF,
        )
    except LayoutError as reason:
        raise PacketError(f"telemetry header: {reason}") from None
    unit = head + body
    return unit + crc_hqx(unit, _CRC_PRESET).to_bytes(2, "big")


def decode_tm(unit: bytes) -> TmPacket:
    """Inverse of ``encode_tm``; raises ``PacketError`` that names what is wrong."""
    size = len(unit)
    if not TM_HEADER_BYTES + CRC_BYTES <= size <= PACKET_BYTES_MAX:
        raise PacketError(f"telemetry packet of {size} bytes, allowed are 22 to {PACKET_BYTES_MAX}")
    # The CRC over a unit and its own CRC is zero.
    if crc_hqx(unit, _CRC_PRESET):
        raise PacketError("telemetry packet with a wrong CRC")
    identity, sequence, length, version, service, subtype, message, destination, p_field, seconds, fraction = (
        _TM.unpack_from(unit)
    )
    if (
        identity & _ID_MASK != _TM_ID
        or sequence < _UNSEGMENTED
        or length != size - (PRIMARY_HEADER_BYTES + 1)
        or version & 0xF0 != _PUS_C
        or p_field != cuc.P_FIELD
    ):
        raise _foreign("telemetry", identity, _TM_ID, sequence, length, size, version, p_field)
    return TmPacket(
        identity & APID_MAX,
        sequence & 0x3FFF,
        service,
        subtype,
        message,
        destination,
        version & 0x0F,
        seconds + fraction / cuc.TICKS_PER_S,
        unit[TM_HEADER_BYTES:-CRC_BYTES],
    )


def encode_tc(packet: TcPacket) -> bytes:
    """Octets of a telecommand packet; raises ``PacketError`` when a field does not fit its place."""
    body, apid, flags = packet.body, packet.apid, packet.ack_flags
    if not (0 <= apid <= APID_MAX and 0 <= flags <= ACK_ALL and len(body) <= TC_BODY_BYTES_MAX):
        raise _misfit(apid, flags, len(body), TC_BODY_BYTES_MAX)
    try:
        head = _TC.pack(
            _TC_ID | apid,
            _UNSEGMENTED | packet.sequence_count % SEQUENCE_COUNT_MODULO,
            len(body) + (TC_HEADER_BYTES + CRC_BYTES - PRIMARY_HEADER_BYTES - 1),
            _PUS_C | flags,
            packet.service,
            packet.subtype,
            packet.source,
        )
    except LayoutError as reason:
        raise PacketError(f"telecommand header: {reason}") from None
    unit = head + body
    return unit + crc_hqx(unit, _CRC_PRESET).to_bytes(2, "big")


def decode_tc(unit: bytes) -> TcPacket:
    """Inverse of ``encode_tc``; raises ``PacketError`` that names what is wrong."""
    size = len(unit)
    if not TC_HEADER_BYTES + CRC_BYTES <= size <= PACKET_BYTES_MAX:
        raise PacketError(f"telecommand packet of {size} bytes, allowed are 13 to {PACKET_BYTES_MAX}")
    if crc_hqx(unit, _CRC_PRESET):
        raise PacketError("telecommand packet with a wrong CRC")
    identity, sequence, length, version, service, subtype, source = _TC.unpack_from(unit)
    if (
        identity & _ID_MASK != _TC_ID
        or sequence < _UNSEGMENTED
        or length != size - (PRIMARY_HEADER_BYTES + 1)
        or version & 0xF0 != _PUS_C
    ):
        raise _foreign("telecommand", identity, _TC_ID, sequence, length, size, version, cuc.P_FIELD)
    return TcPacket(
        identity & APID_MAX,
        sequence & 0x3FFF,
        service,
        subtype,
        source,
        version & 0x0F,
        unit[TC_HEADER_BYTES:-CRC_BYTES],
    )


def redirect(unit: bytes, destination: int) -> bytes:
    """The same telemetry packet for another destination id (0 to 65,535), with its CRC renewed.

    The old CRC is checked first: renewing it over a packet that went bad in storage would hide the damage.
    Raises ``PacketError`` for that, or for a unit that is no telemetry packet.
    """
    decode_tm(unit)
    if not 0 <= destination <= 0xFFFF:
        raise PacketError(f"destination {destination}, allowed are 0 to 65535")
    patched = bytearray(unit)
    pack_into(">H", patched, DESTINATION_OFFSET, destination)
    _CRC.pack_into(patched, len(patched) - CRC_BYTES, crc_hqx(patched[:-CRC_BYTES], _CRC_PRESET))
    return bytes(patched)


def _misfit(apid: int, nibble: int, body_bytes: int, body_bytes_max: int) -> PacketError:
    return PacketError(
        f"APID {apid}, quality or ack flags {nibble} or body of {body_bytes} bytes out of range:"
        f" allowed are 0 to {APID_MAX}, 0 to 15 and at most {body_bytes_max} bytes"
    )


def _foreign(
    kind: str, identity: int, expected: int, sequence: int, length: int, size: int, version: int, p_field: int
) -> PacketError:
    if identity & _ID_MASK != expected:
        what = f"packet identification 0x{identity:04X} is not version 0 with a secondary header"
    elif sequence < _UNSEGMENTED:
        what = "segmented packets are not used"
    elif length != size - (PRIMARY_HEADER_BYTES + 1):
        what = f"length field says {length + PRIMARY_HEADER_BYTES + 1} bytes, {size} came"
    elif version & 0xF0 != _PUS_C:
        what = f"PUS version {version >> 4}, expected 2"
    else:
        what = f"time code with P-field 0x{p_field:02X}, expected 0x{cuc.P_FIELD:02X}"
    return PacketError(f"no {kind} packet of ours: {what}")
