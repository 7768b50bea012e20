"""Map bodies: round trips, what is refused, what is tolerated, and bodies that are too large for a packet."""

import contextlib
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.bodies import (
    CommandBody,
    EventBody,
    PingBody,
    ReplyBody,
    TableBody,
    VerificationBody,
    cut_text,
    pack_body,
    split_text,
    unpack_arguments,
    unpack_command,
    unpack_event,
    unpack_ping,
    unpack_reply,
    unpack_table,
    unpack_verification,
)
from flightsw.link.errors import BodyError, LinkError, PacketError
from flightsw.link.packet import PACKET_BYTES_MAX, TM_BODY_BYTES_MAX, TcPacket, encode_tc
from flightsw.link.schema import FailureCode, Stage

UNPACK = {
    CommandBody: unpack_command,
    EventBody: unpack_event,
    VerificationBody: unpack_verification,
    ReplyBody: unpack_reply,
    PingBody: unpack_ping,
    TableBody: unpack_table,
}

uint64 = st.integers(0, 2**64 - 1)
finite = st.floats(allow_nan=False)
scalars = st.booleans() | st.integers(-(2**63), 2**64 - 1) | finite | st.text(max_size=20) | st.none()
fields = st.dictionaries(st.text(max_size=10), scalars, max_size=6)
arguments = st.dictionaries(st.text(max_size=10), scalars | st.binary(max_size=40), max_size=6)
small_bodies = st.one_of(
    st.builds(CommandBody, uint64, uint64, arguments),
    st.builds(EventBody, uint64, uint64, finite, uint64, uint64, fields),
    st.builds(VerificationBody, uint64, uint64, finite, uint64, uint64, uint64, uint64, st.text(max_size=50)),
    st.builds(PingBody, uint64, uint64, finite),
    st.builds(TableBody, uint64, uint64, finite, uint64, uint64, uint64, uint64, st.binary(max_size=100)),
    st.builds(
        ReplyBody,
        uint64,
        uint64,
        finite,
        st.text(max_size=32),
        uint64,
        uint64,
        st.text(max_size=200),
        uint64,
        st.sampled_from(["length", "stop", "failed"]),
        st.integers(-1, 2**40),
        finite,
        uint64,
        uint64,
    ),
)


@given(small_bodies)
def test_round_trip(body):
    assert UNPACK[type(body)](pack_body(body)) == body


@given(small_bodies)
def test_msgpack_reads_what_we_pack(body):
    foreign = msgpack.unpackb(pack_body(body), strict_map_key=True)
    assert foreign == {name: getattr(body, name) for name in body.__struct_fields__}


@given(small_bodies)
def test_we_read_what_msgpack_packs(body):
    foreign = msgpack.packb({name: getattr(body, name) for name in body.__struct_fields__})
    assert UNPACK[type(body)](foreign) == body


def test_enumerations_travel_as_codes():
    body = VerificationBody(1, 2, 3.0, 4, 5, Stage.START, FailureCode.BUSY, "no")
    assert msgpack.unpackb(pack_body(body))["stage"] == 3
    assert unpack_verification(pack_body(body)).code == FailureCode.BUSY


HEAD = {"boot": 1, "seq": 2, "t": 3.0}
EVENT = HEAD | {"id": 4, "sev": 1}

# (what, unpack, octets)
REFUSED = (
    ("nothing", unpack_ping, b""),
    ("an array", unpack_ping, msgpack.packb([1, 2, 3.0])),
    ("cut short", unpack_ping, msgpack.packb(HEAD)[:-1]),
    ("more after the map", unpack_ping, msgpack.packb(HEAD) + b"\xc0"),
    ("a key missing", unpack_ping, msgpack.packb({"boot": 1, "seq": 2})),
    ("a negative count", unpack_ping, msgpack.packb(HEAD | {"seq": -1})),
    ("a float for a count", unpack_ping, msgpack.packb(HEAD | {"seq": 1.5})),
    ("a bool for a count", unpack_ping, msgpack.packb(HEAD | {"boot": True})),
    ("text for a time", unpack_ping, msgpack.packb(HEAD | {"t": "now"})),
    ("a map in a field", unpack_event, msgpack.packb(EVENT | {"fields": {"a": {}}})),
    ("an array in a field", unpack_event, msgpack.packb(EVENT | {"fields": {"a": [1]}})),
    ("bytes in a field", unpack_event, msgpack.packb(EVENT | {"fields": {"a": b"1"}})),
    ("an extension in a field", unpack_event, msgpack.packb(EVENT | {"fields": {"a": msgpack.ExtType(5, b"x")}})),
    ("a timestamp in a field", unpack_event, msgpack.packb(EVENT | {"fields": {"a": msgpack.Timestamp(1)}})),
    ("a number as field name", unpack_event, msgpack.packb(EVENT | {"fields": {1: 1}})),
    (
        "text that is no UTF-8",
        unpack_event,
        msgpack.packb(EVENT | {"fields": {"a": "XY"}}).replace(b"XY", b"\xff\xfe"),
    ),
    ("an array that announces 4 G", unpack_command, b"\x83\xa2op\x01\xa2id\x01\xa4args\xdd\xff\xff\xff\xff"),
    ("a map that announces 4 G", unpack_command, b"\x83\xa2op\x01\xa2id\x01\xa4args\xdf\xff\xff\xff\xff"),
    ("text that announces 4 G", unpack_command, b"\x83\xa2op\x01\xa2id\x01\xa4args\x81\xdb\xff\xff\xff\xff"),
    ("too large", unpack_ping, msgpack.packb(HEAD | {"x": "y" * PACKET_BYTES_MAX})),
)


@pytest.mark.parametrize(("unpack", "octets"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(unpack, octets):
    with pytest.raises(BodyError) as refusal:
        unpack(octets)
    assert "\n" not in str(refusal.value)


def test_a_deep_unknown_key_is_skipped_or_refused():
    octets = b"\x84\xa4boot\x01\xa3seq\x01\xa1t\xcb" + bytes(8) + b"\xa1x" + b"\x91" * 1150 + b"\xc0"
    # From Python 3.12 on the depth fits the interpreter's own limit, and skipping builds nothing.
    with contextlib.suppress(BodyError):
        assert unpack_ping(octets).seq == 1


@given(st.binary(max_size=80))
def test_garbage_raises_nothing_but_a_link_error(octets):
    for unpack in UNPACK.values():
        try:
            unpack(octets)
        except LinkError:
            continue


@given(small_bodies, st.data())
def test_damaged_bodies_raise_nothing_but_a_link_error(body, data):
    octets = bytearray(pack_body(body))
    octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        UNPACK[type(body)](bytes(octets))
    except LinkError:
        return


def test_keys_of_a_newer_dictionary_are_skipped():
    octets = msgpack.packb(HEAD | {"colour": "red", "shape": [1, {"deep": [2]}]})
    assert unpack_ping(octets) == PingBody(1, 2, 3.0)


def test_keys_of_an_older_dictionary_have_defaults():
    assert unpack_command(msgpack.packb({"op": 1, "id": 2})) == CommandBody(1, 2, {})


reply = ReplyBody(1, 2, 3.0, "infer", 4, 5, "", 6, "stop", 7, 8.0)

# (what, body): each far too large for a packet.
OVERSIZE = (
    ("reply", ReplyBody(1, 2, 3.0, "infer", 4, 5, "grün " * 900, 6, "length", 7, 8.0)),
    ("verification", VerificationBody(1, 2, 3.0, 4, 5, 7, 10, "é" * 2000)),
    ("event, one long field", EventBody(1, 2, 3.0, 0x02, 1, {"reason": "…" * 1500})),
    ("event, many fields", EventBody(1, 2, 3.0, 0x02, 1, {f"name{i}": "x" * 90 for i in range(40)})),
    ("event, many numbers", EventBody(1, 2, 3.0, 0x02, 1, {f"name{i}": math.pi for i in range(200)})),
)


@pytest.mark.parametrize("body", [row[1] for row in OVERSIZE], ids=[row[0] for row in OVERSIZE])
def test_telemetry_that_is_too_large_loses_text_not_the_packet(body):
    octets = pack_body(body)
    assert len(octets) <= TM_BODY_BYTES_MAX
    # Most of the room is used: cutting is no excuse for an empty report.
    assert len(octets) > 100
    read = UNPACK[type(body)](octets)
    assert (read.boot, read.seq, read.t) == (1, 2, 3.0)


def test_cut_text_is_marked():
    read = unpack_reply(pack_body(OVERSIZE[0][1]))
    assert read.text.startswith("grün grün")
    assert read.text.endswith("…")


def test_a_command_that_is_too_large_is_refused_by_its_packet():
    body = pack_body(CommandBody(0x23, 1, {"prompt": "é" * 800}))
    with pytest.raises(PacketError, match="at most 1187 bytes"):
        encode_tc(TcPacket(1, 0, 8, 1, 0, 15, body))


@given(st.text(), st.integers(0, 60))
def test_cut_text_fits(text, bytes_max):
    cut = cut_text(text, bytes_max)
    assert len(cut.encode()) <= max(bytes_max, 3)
    assert cut == text or (cut.endswith("…") and text.startswith(cut[:-1]))


@given(st.text(), st.integers(4, 40))
def test_split_text_loses_nothing(text, bytes_max):
    pieces = split_text(text, bytes_max)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= bytes_max for piece in pieces)
    assert all(pieces[:-1])


@pytest.mark.parametrize(
    "body",
    [
        ReplyBody(1, 2, 3.0, "in\udc80fer", 4, 5, "a\ud800b", 6, "stop", 7, 8.0),
        EventBody(1, 2, 3.0, 4, 1, {"na\ud800me": "a\udfffb", "count": 1}),
        CommandBody(1, 2, {"name": "a\ud800b"}),
    ],
    ids=lambda body: type(body).__name__,
)
def test_lone_surrogates_do_not_stop_a_report(body):
    assert b"a?b" in pack_body(body)
    UNPACK[type(body)](pack_body(body))


@pytest.mark.parametrize("function", [cut_text, split_text])
def test_text_without_utf8_is_replaced(function):
    assert "".join(function("a\ud800b", 10)) == "a?b"


@given(arguments)
def test_arguments_of_a_stored_command(values):
    assert unpack_arguments(msgpack.packb(values)) == values


@pytest.mark.parametrize("value", [[1], {"a": 1}, msgpack.ExtType(5, b"x")])
@pytest.mark.parametrize("pack", [lambda v: v, lambda v: {"op": 1, "id": 2, "args": v}], ids=["stored", "sent"])
def test_nothing_nested_is_an_argument(value, pack):
    octets = msgpack.packb(pack({"name": value}))
    with pytest.raises(BodyError, match="argument body"):
        (unpack_command if b"args" in octets else unpack_arguments)(octets)
