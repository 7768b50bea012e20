"""Housekeeping arrays and ``decode_telemetry``: golden octets, dictionaries of another age, and garbage."""

import math
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.codec import (
    EventBody,
    HousekeepingBody,
    PingBody,
    ReplyBody,
    UnknownBody,
    VerificationBody,
    decode_telemetry,
    pack_body,
    pack_housekeeping,
    unpack_housekeeping,
)
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_VERIFICATION,
    DESTINATION_LIVE,
    DESTINATION_PLAYBACK,
    GROUP_BY_NAME,
    HOUSEKEEPING,
)
from flightsw.link.errors import BodyError, LinkError, PacketError
from flightsw.link.packet import PACKET_BYTES_MAX, TM_BODY_BYTES_MAX, TmPacket, encode_tm, redirect
from flightsw.link.schema import HousekeepingGroup

FAST = GROUP_BY_NAME["fast"]
APID_OF_TOMORROW = 0x7A


def group_of(count: int) -> HousekeepingGroup:
    names = tuple(f"parameter_{i}" for i in range(count))
    return HousekeepingGroup(
        sid=9,
        name="nine",
        apid=9,
        interval_s=1,
        interval_min_s=1,
        interval_max_s=1,
        priority=1,
        parameters=names,
        text="",
    )


def telemetry(apid: int, body: bytes, destination: int = DESTINATION_LIVE) -> bytes:
    return encode_tm(TmPacket(apid, 2, 3, 25, 7, destination, 2, 2.1e9, body))


def test_golden():
    # 1.0 and −0.0 and NaN as IEEE 754 says, worked out by hand.
    octets = bytes.fromhex("dc0003 cb3ff0000000000000 cb8000000000000000 cb7ff8000000000000")
    assert pack_housekeeping(group_of(3), (1.0, -0.0, math.nan)) == octets
    values = unpack_housekeeping(group_of(3), octets)
    assert values["parameter_0"] == 1.0
    assert math.copysign(1.0, values["parameter_1"]) == -1.0
    assert math.isnan(values["parameter_2"])


@given(st.sampled_from(HOUSEKEEPING), st.data())
def test_round_trip(group, data):
    count = len(group.parameters)
    values = data.draw(st.lists(st.floats(allow_nan=False), min_size=count, max_size=count))
    body = pack_housekeeping(group, values)
    assert list(unpack_housekeeping(group, body).values()) == values
    assert msgpack.unpackb(body) == values


def test_whole_numbers_travel_as_float64():
    body = pack_housekeeping(group_of(2), (2**53, True))
    assert len(body) == 3 + 2 * 9
    assert msgpack.unpackb(body) == [float(2**53), 1.0]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 130])
def test_the_head_is_always_array_16(count):
    body = pack_housekeeping(group_of(count), [0.5] * count)
    assert body[:3] == struct.pack(">BH", 0xDC, count)
    assert len(body) <= TM_BODY_BYTES_MAX


@pytest.mark.parametrize(("group", "count"), [(FAST, 14), (FAST, 16), (FAST, 0), (group_of(131), 131)])
def test_a_wrong_count_is_our_mistake(group, count):
    with pytest.raises(ValueError, match=f"{count} values were given"):
        pack_housekeeping(group, [0.0] * count)


def test_a_shorter_array_of_an_older_dictionary():
    body = pack_housekeeping(group_of(4), (3.0, 4.0, 5.0, 6.0))
    assert unpack_housekeeping(FAST, body) == dict(zip(FAST.parameters[:4], (3.0, 4.0, 5.0, 6.0), strict=True))


def test_a_longer_array_of_a_newer_dictionary():
    body = pack_housekeeping(group_of(40), [float(i) for i in range(40)])
    assert list(unpack_housekeeping(FAST, body).values()) == [float(i) for i in range(15)]


GOOD = pack_housekeeping(group_of(3), (1.0, 2.0, 3.0))

# (what, body)
REFUSED = (
    ("nothing", b""),
    ("a short head", b"\xdc\x00"),
    ("a short element", GOOD[:-1]),
    ("more than announced", GOOD + b"\xcb" + bytes(8)),
    ("another tag", GOOD[:12] + b"\xca" + GOOD[13:]),
    ("a fixarray", b"\x93" + GOOD[3:]),
    ("an array 32", b"\xdd\x00\x00" + GOOD[1:]),
    ("a map", pack_body(PingBody(1, 2, 3.0))),
    ("too many", struct.pack(">BH", 0xDC, 200) + (b"\xcb" + bytes(8)) * 200),
)


@pytest.mark.parametrize("body", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_layouts(body):
    with pytest.raises(BodyError, match="housekeeping body"):
        unpack_housekeeping(FAST, body)


MAPS = (
    (APID_EVENT, EventBody(3, 4, 5.5, 0x02, 1, {"reason": "asked"})),
    (APID_VERIFICATION, VerificationBody(3, 4, 5.5, 6, 7, 1)),
    (APID_REPLY, ReplyBody(3, 4, 5.5, "infer", 6, 7, "text", 8, "stop", 9, 0.25)),
    (APID_PING, PingBody(3, 4, 5.5)),
)


@pytest.mark.parametrize(("apid", "body"), MAPS, ids=[type(body).__name__ for _, body in MAPS])
def test_decoded_maps(apid, body):
    decoded = decode_telemetry(telemetry(apid, pack_body(body)))
    assert decoded.body == body
    assert decoded.identity == (decoded.boot, decoded.apid, decoded.seq) == (3, apid, 4)
    assert decoded.world_s == 5.5
    assert not decoded.playback


@pytest.mark.parametrize("group", HOUSEKEEPING, ids=lambda group: group.name)
def test_decoded_housekeeping(group):
    values = [2.0, 70_000.0, 123.5, *(i + 0.5 for i in range(3, len(group.parameters)))]
    packet = telemetry(group.apid, pack_housekeeping(group, values))
    decoded = decode_telemetry(packet)
    assert isinstance(decoded.body, HousekeepingBody)
    assert decoded.body.group == group.name
    assert decoded.body.values == dict(zip(group.parameters, values, strict=True))
    assert decoded.identity == (2, group.apid, 70_000)
    assert decoded.world_s == 123.5
    played_back = decode_telemetry(redirect(packet, DESTINATION_PLAYBACK))
    assert played_back.playback
    assert played_back.identity == decoded.identity


@pytest.mark.parametrize(
    "body",
    [pack_body(EventBody(3, 4, 5.5, 1, 1, {"a": 1})), pack_housekeeping(group_of(5), (3.0, 4.0, 5.5, 0.0, 1.0))],
)
def test_an_unknown_apid_keeps_its_identity(body):
    decoded = decode_telemetry(telemetry(APID_OF_TOMORROW, body))
    assert decoded.body == UnknownBody(3, 4, 5.5)
    assert decoded.identity == (3, APID_OF_TOMORROW, 4)


@pytest.mark.parametrize(
    "identity",
    [
        (math.nan, 1.0, 1.0),
        (1.0, math.nan, 1.0),
        (1.0, 1.0, math.nan),
        (math.inf, 1.0, 1.0),
        (-1.0, 1.0, 1.0),
        (1.0,),
    ],
)
@pytest.mark.parametrize("apid", [FAST.apid, APID_OF_TOMORROW])
def test_housekeeping_without_an_identity(apid, identity):
    with pytest.raises(BodyError, match="identity"):
        decode_telemetry(telemetry(apid, pack_housekeeping(group_of(len(identity)), identity)))


@given(st.binary(max_size=PACKET_BYTES_MAX + 10))
def test_garbage_is_a_packet_error(octets):
    with pytest.raises(PacketError):
        decode_telemetry(octets)


@given(
    st.sampled_from([APID_EVENT, APID_VERIFICATION, APID_REPLY, APID_PING, FAST.apid, APID_OF_TOMORROW]),
    st.binary(max_size=60) | st.binary(max_size=60).map(lambda octets: GOOD + octets),
)
def test_garbage_in_a_whole_packet_raises_nothing_but_a_link_error(apid, body):
    sentence = ""
    try:
        decode_telemetry(telemetry(apid, body))
    except LinkError as refusal:
        sentence = str(refusal)
    assert "\n" not in sentence
