"""Decoders that are not ours, held against our packets: spacepackets, space_packet_parser with our XTCE.

``msgpack`` against every map body is in test_bodies.py, and against housekeeping in test_codec.py.
"""

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_packet_parser.xtce.definitions import XtcePacketDefinition
from space_packet_parser.xtce.validation import validate_xtce
from spacepackets.ecss.tc import PusTc
from spacepackets.ecss.tm import MiscParams, PusTm

from flightsw.link import cuc
from flightsw.link.codec import (
    CommandBody,
    EventBody,
    PingBody,
    ReplyBody,
    VerificationBody,
    decode_telemetry,
    pack_body,
    pack_housekeeping,
    unpack_command,
    unpack_housekeeping,
)
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_TELECOMMAND,
    APID_VERIFICATION,
    HOUSEKEEPING,
    PARAMETERS,
    TELECOMMANDS,
)
from flightsw.link.packet import TcPacket, TmPacket, decode_tc, decode_tm, encode_tc, encode_tm
from flightsw.link.xtce import export_xtce, xtce_name

octet = st.integers(0, 255)
word = st.integers(0, 0xFFFF)
apid = st.integers(0, 0x7FE)
count = st.integers(0, 0x3FFF)
octets = st.binary(max_size=300)


@given(apid, count, octet, octet, word, word, st.integers(0, 15), st.integers(0, 2**48 - 1), octets)
def test_spacepackets_reads_our_telemetry(
    apid, count, service, subtype, message, destination, quality, ticks, body
):
    packet = TmPacket(apid, count, service, subtype, message, destination, quality, ticks / 65_536, body)
    foreign = PusTm.unpack(encode_tm(packet), timestamp_len=cuc.CUC_BYTES)
    assert (foreign.apid, foreign.seq_count, foreign.service, foreign.message_subtype) == (
        apid,
        count,
        service,
        subtype,
    )
    header = foreign.pus_tm_sec_header
    assert (header.message_counter, header.dest_id, header.spacecraft_time_ref) == (message, destination, quality)
    assert foreign.timestamp == cuc.encode(packet.tai_s)
    assert foreign.source_data == body


@given(apid, count, octet, octet, word, word, st.integers(0, 15), st.integers(0, 2**48 - 1), octets)
def test_we_read_telemetry_of_spacepackets(
    apid, count, service, subtype, message, destination, quality, ticks, body
):
    foreign = PusTm(
        service,
        subtype,
        timestamp=cuc.encode(ticks / 65_536),
        source_data=body,
        apid=apid,
        seq_count=count,
        message_counter=message,
        destination_id=destination,
        misc_params=MiscParams(spacecraft_time_ref=quality),
    )
    expected = TmPacket(apid, count, service, subtype, message, destination, quality, ticks / 65_536, body)
    assert decode_tm(bytes(foreign.pack())) == expected


@given(apid, count, octet, octet, word, st.integers(0, 15), octets)
def test_spacepackets_reads_our_telecommands(apid, count, service, subtype, source, flags, body):
    foreign = PusTc.unpack(encode_tc(TcPacket(apid, count, service, subtype, source, flags, body)))
    assert (foreign.apid, foreign.seq_count, foreign.service, foreign.message_subtype) == (
        apid,
        count,
        service,
        subtype,
    )
    assert (foreign.source_id, foreign.pus_tc_sec_header.ack_flags, foreign.app_data) == (source, flags, body)


@given(apid, count, octet, octet, word, st.integers(0, 15), octets)
def test_we_read_telecommands_of_spacepackets(apid, count, service, subtype, source, flags, body):
    foreign = PusTc(service, subtype, apid=apid, app_data=body, seq_count=count, source_id=source, ack_flags=flags)
    assert decode_tc(bytes(foreign.pack())) == TcPacket(apid, count, service, subtype, source, flags, body)


def test_a_whole_command_through_spacepackets():
    body = CommandBody(0x10, 2**63 + 5, {"mode": 1})
    foreign = PusTc.unpack(encode_tc(TcPacket(APID_TELECOMMAND, 1, 8, 1, 2, 15, pack_body(body))))
    assert unpack_command(foreign.app_data) == body


@pytest.fixture(scope="module")
def definition() -> XtcePacketDefinition:
    return XtcePacketDefinition.from_xtce(io.BytesIO(export_xtce().encode()))


def test_the_xtce_is_valid_against_its_schema(tmp_path):
    file = tmp_path / "gpusat.xtce.xml"
    file.write_text(export_xtce(), encoding="utf-8")
    result = validate_xtce(str(file), print_results=False, raise_on_error=False, allow_schema_download=False)
    assert result.errors == []


@pytest.mark.parametrize("group", HOUSEKEEPING, ids=lambda g: g.name)
@settings(max_examples=20)
@given(st.data())
def test_xtce_decodes_housekeeping_field_by_field(definition, group, data):
    # NaN is compared by its octets, like every other value.
    length = len(group.parameters)
    values = data.draw(st.lists(st.floats(), min_size=length, max_size=length))
    body = pack_housekeeping(group, values)
    packet = encode_tm(TmPacket(group.apid, 5, 3, 25, 6, 1, 2, 2.1e9 + 0.5, body))
    # Warnings are errors here, so bits left over would fail.
    foreign = definition.parse_bytes(packet)
    decoded = [float(foreign[xtce_name(name)].raw_value) for name in group.parameters]
    ours = list(unpack_housekeeping(group, body).values())
    pack = struct.Struct(f">{length}d").pack
    assert pack(*decoded) == pack(*ours) == pack(*values)
    header = {"PKT_APID": group.apid, "SERVICE": 3, "SUBTYPE": 25, "MESSAGE_COUNT": 6, "DESTINATION": 1}
    assert {name: int(foreign[name]) for name in header} == header
    assert (int(foreign["TIME_SECONDS"]), int(foreign["TIME_FRACTION"])) == (2_100_000_000, 32_768)


MAPS = (
    ("event", APID_EVENT, EventBody(3, 4, 5.5, 0x02, 1, {"reason": "asked"})),
    ("verification", APID_VERIFICATION, VerificationBody(3, 4, 5.5, 6, 7, 1)),
    ("reply", APID_REPLY, ReplyBody(3, 4, 5.5, "infer", 6, 7, "text", 8, "stop", 9, 0.25)),
    ("ping", APID_PING, PingBody(3, 4, 5.5)),
)


@pytest.mark.parametrize(("apid", "body"), [row[1:] for row in MAPS], ids=[row[0] for row in MAPS])
def test_xtce_hands_out_map_bodies_whole(definition, apid, body):
    packet = encode_tm(TmPacket(apid, 5, 5, 1, 6, 0, 2, 2.1e9, pack_body(body)))
    foreign = definition.parse_bytes(packet)
    assert bytes(foreign["BODY"]) == pack_body(body)
    assert decode_telemetry(packet).body == body


def test_xtce_names_every_parameter_and_command():
    document = export_xtce()
    for parameter in PARAMETERS:
        assert f'alias="{parameter.name}"' in document
        assert f"<xtce:Unit>{parameter.unit}</xtce:Unit>" in document or not parameter.unit
    for command in TELECOMMANDS:
        assert f'alias="{command.name}"' in document
