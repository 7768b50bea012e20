"""Space packets: golden octets, round trips, every single-byte error, and redirection for playback."""

import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.errors import PacketError
from flightsw.link.packet import (
    ACK_ALL,
    PACKET_BYTES_MAX,
    TC_BODY_BYTES_MAX,
    TM_BODY_BYTES_MAX,
    TcPacket,
    TmPacket,
    decode_tc,
    decode_tm,
    encode_tc,
    encode_tm,
    redirect,
)

# Values chosen so that no field is zero. The octets were put together by hand from the layout in the standards;
# the CRC is that of `printf … | python -c crc_hqx`, which spacepackets confirms in test_oracles.py.
TM = TmPacket(0x123, 0x2345, 3, 25, 0x0607, 0x0809, 2, 0x0A0B0C0D + 0.5, b"\x81\xa1t\x01")
TM_OCTETS = "0923 e345 001322 03 19 0607 08091e 0a0b0c0d 800081a17401"
TC = TcPacket(0x123, 0x2345, 8, 1, 0x0607, ACK_ALL, b"\x81\xa2op\x01")
TC_OCTETS = "1923 e345 000b2f 08 01 060781a26f7001"

octet = st.integers(0, 255)
word = st.integers(0, 0xFFFF)
tm_packets = st.builds(
    TmPacket,
    apid=st.integers(0, 0x7FF),
    sequence_count=st.integers(0, 0x3FFF),
    service=octet,
    subtype=octet,
    message_count=word,
    destination=word,
    time_quality=st.integers(0, 15),
    tai_s=st.integers(0, 2**48 - 1).map(lambda ticks: ticks / 65_536),
    body=st.binary(max_size=TM_BODY_BYTES_MAX),
)
tc_packets = st.builds(
    TcPacket,
    apid=st.integers(0, 0x7FF),
    sequence_count=st.integers(0, 0x3FFF),
    service=octet,
    subtype=octet,
    source=word,
    ack_flags=st.integers(0, 15),
    body=st.binary(max_size=TC_BODY_BYTES_MAX),
)


def with_crc(octets: bytes) -> bytes:
    return octets + binascii.crc_hqx(octets, 0xFFFF).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("encode", "decode", "packet", "octets"),
    [(encode_tm, decode_tm, TM, TM_OCTETS), (encode_tc, decode_tc, TC, TC_OCTETS)],
    ids=["telemetry", "telecommand"],
)
def test_golden(encode, decode, packet, octets):
    unit = with_crc(bytes.fromhex(octets))
    assert encode(packet) == unit
    assert decode(unit) == packet


@given(tm_packets)
def test_telemetry_round_trip(packet):
    assert decode_tm(encode_tm(packet)) == packet


@given(tc_packets)
def test_telecommand_round_trip(packet):
    assert decode_tc(encode_tc(packet)) == packet


def test_counts_wrap():
    packet = TmPacket(1, 16_384 + 5, 3, 25, 65_536 + 7, 0, 0, 1.0, b"")
    decoded = decode_tm(encode_tm(packet))
    assert (decoded.sequence_count, decoded.message_count) == (5, 7)


@pytest.mark.parametrize("decode", [decode_tm, decode_tc])
@pytest.mark.parametrize("unit", [encode_tm(TM), encode_tc(TC)], ids=["telemetry", "telecommand"])
def test_any_single_byte_change_is_refused(decode, unit):
    for position in range(len(unit)):
        for flip in range(1, 256):
            damaged = bytearray(unit)
            damaged[position] ^= flip
            with pytest.raises(PacketError):
                decode(bytes(damaged))


@pytest.mark.parametrize("decode", [decode_tm, decode_tc])
@given(unit=st.binary(max_size=64).map(lambda octets: with_crc(octets)) | st.binary(max_size=64))
def test_garbage_is_a_packet_error(decode, unit):
    try:
        packet = decode(unit)
    except PacketError:
        return
    # A fuzzer may well make a packet: then it must be one.
    assert (encode_tm if decode is decode_tm else encode_tc)(packet) == unit


# (what, octets before the CRC, words of the refusal)
FOREIGN_TM = (
    ("telecommand", TC_OCTETS + "00" * 9, "packet identification 0x1923"),
    ("version 1", "2" + TM_OCTETS[1:], "packet identification 0x2923"),
    ("no secondary header", "01" + TM_OCTETS[2:], "packet identification 0x0123"),
    ("first segment", TM_OCTETS.replace("e345", "6345"), "segmented"),
    ("length", TM_OCTETS.replace("0013", "0014"), "length field says 27 bytes, 26 came"),
    ("PUS-A", TM_OCTETS.replace("22 03", "12 03"), "PUS version 1"),
    ("another clock", TM_OCTETS.replace("1e 0a", "2e 0a"), "P-field 0x2E"),
)
FOREIGN_TC = (
    ("telemetry", TM_OCTETS, "packet identification 0x0923"),
    ("last segment", TC_OCTETS.replace("e345", "a345"), "segmented"),
    ("length", TC_OCTETS.replace("000b", "ffff"), "length field says 65542 bytes, 18 came"),
    ("PUS-A", TC_OCTETS.replace("2f 08", "1f 08"), "PUS version 1"),
)


@pytest.mark.parametrize(("octets", "reason"), [row[1:] for row in FOREIGN_TM], ids=[row[0] for row in FOREIGN_TM])
def test_foreign_telemetry(octets, reason):
    with pytest.raises(PacketError, match=reason):
        decode_tm(with_crc(bytes.fromhex(octets)))


@pytest.mark.parametrize(("octets", "reason"), [row[1:] for row in FOREIGN_TC], ids=[row[0] for row in FOREIGN_TC])
def test_foreign_telecommands(octets, reason):
    with pytest.raises(PacketError, match=reason):
        decode_tc(with_crc(bytes.fromhex(octets)))


@pytest.mark.parametrize("decode", [decode_tm, decode_tc])
@pytest.mark.parametrize("size", [0, 1, 12, PACKET_BYTES_MAX + 1, 1 << 20])
def test_sizes_out_of_bounds(decode, size):
    with pytest.raises(PacketError, match=f"of {size} bytes, allowed are"):
        decode(bytes(size))


@pytest.mark.parametrize(
    ("encode", "base", "largest"), [(encode_tm, TM, TM_BODY_BYTES_MAX), (encode_tc, TC, TC_BODY_BYTES_MAX)]
)
def test_the_largest_body_makes_the_largest_packet(encode, base, largest):
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    assert len(encode(type(base)(**fields | {"body": bytes(largest)}))) == PACKET_BYTES_MAX
    with pytest.raises(PacketError, match="out of range"):
        encode(type(base)(**fields | {"body": bytes(largest + 1)}))


@pytest.mark.parametrize(
    ("encode", "base", "field", "value"),
    [
        (encode_tm, TM, "apid", 0x800),
        (encode_tm, TM, "apid", -1),
        (encode_tm, TM, "time_quality", 16),
        (encode_tm, TM, "service", 256),
        (encode_tm, TM, "destination", -1),
        (encode_tc, TC, "apid", 0x800),
        (encode_tc, TC, "ack_flags", 16),
        (encode_tc, TC, "subtype", 256),
        (encode_tc, TC, "source", 0x10000),
    ],
)
def test_fields_that_do_not_fit(encode, base, field, value):
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    with pytest.raises(PacketError):
        encode(type(base)(**fields | {field: value}))


@given(tm_packets, word)
def test_redirect_changes_the_destination_only(packet, destination):
    unit = encode_tm(packet)
    fields = {name: getattr(packet, name) for name in packet.__struct_fields__}
    assert decode_tm(redirect(unit, destination)) == TmPacket(**fields | {"destination": destination})
    assert redirect(redirect(unit, destination), packet.destination) == unit


def test_redirect_does_not_bless_a_damaged_packet():
    unit = bytearray(encode_tm(TM))
    unit[21] ^= 1
    with pytest.raises(PacketError, match="CRC"):
        redirect(bytes(unit), 1)


@pytest.mark.parametrize(
    ("unit", "destination"), [(encode_tc(TC), 1), (b"", 1), (encode_tm(TM), 0x10000), (encode_tm(TM), -1)]
)
def test_redirect_refuses(unit, destination):
    with pytest.raises(PacketError):
        redirect(unit, destination)
