"""COBS framing: any cut of the stream, noise, floods, and a measured line with 5 % of its frames damaged."""

import random
import tracemalloc

import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.errors import FrameError, PacketError
from flightsw.link.frame import (
    UNIT_BYTES_MAX,
    Deframer,
    DeframerStatistics,
    encode_frame,
    encoded_bytes_max,
)
from flightsw.link.packet import TmPacket, decode_tm, encode_tm

units = st.binary(min_size=1, max_size=600)
WORST = b"\x01" * UNIT_BYTES_MAX

# Vectors of Cheshire and Baker's definition; the last is the first length that needs a second block.
VECTORS = (
    (b"\x00", b"\x00\x01\x01\x00"),
    (b"\x11\x22\x00\x33", b"\x00\x03\x11\x22\x02\x33\x00"),
    (b"\x11\x00\x00\x00", b"\x00\x02\x11\x01\x01\x01\x00"),
    (bytes(range(1, 255)), b"\x00\xff" + bytes(range(1, 255)) + b"\x00"),
    (bytes(range(1, 256)), b"\x00\xff" + bytes(range(1, 255)) + b"\x02\xff\x00"),
)


@pytest.mark.parametrize(("unit", "frame"), VECTORS)
def test_vectors(unit, frame):
    assert encode_frame(unit) == frame
    assert Deframer().receive(frame) == [unit]


@given(st.lists(units, max_size=8), st.data())
def test_units_survive_any_cut_of_the_stream(sent, data):
    stream = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    deframer = Deframer()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [unit for piece in pieces for unit in deframer.receive(piece)] == sent
    assert deframer.statistics() == DeframerStatistics(good=len(sent))


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["byte by byte", "in sevens", "whole"])
def test_feeding(size):
    sent = [b"first", b"\0\0", WORST, b"last"]
    stream = b"".join(map(encode_frame, sent)) + b"\x05trailing"[:4]
    deframer = Deframer()
    received = [u for i in range(0, len(stream), size) for u in deframer.receive(stream[i : i + size])]
    assert received == sent
    assert deframer.statistics() == DeframerStatistics(good=4, buffered_bytes=4)


@given(st.binary(max_size=100), units)
def test_noise_before_a_frame_costs_nothing_but_itself(noise, unit):
    assert Deframer().receive(noise + encode_frame(unit))[-1] == unit


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_garbage_never_raises_and_is_accounted_for(pieces):
    deframer = Deframer(unit_bytes_max=50)
    accepted = [unit for piece in pieces for unit in deframer.receive(piece)]
    counts = deframer.statistics()
    assert counts.good == len(accepted)
    assert all(0 < len(unit) <= 50 for unit in accepted)
    assert counts.buffered_bytes <= encoded_bytes_max(50)
    everything = b"".join(pieces)
    framed = sum(len(cobs.encode(unit)) for unit in accepted)
    # COBS has one spelling only for units up to 253 bytes, so the books must balance.
    assert framed + counts.discarded_bytes + counts.buffered_bytes == len(everything) - everything.count(0)


def test_a_flood_without_delimiters_stays_bounded():
    deframer = Deframer()
    flood = b"\x55" * 65_536
    tracemalloc.start()
    for _ in range(200):
        assert deframer.receive(flood) == []
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16_384
    assert deframer.statistics() == DeframerStatistics(oversize=1, discarded_bytes=200 * 65_536)
    assert deframer.receive(b"\0" + encode_frame(b"after")) == [b"after"]


# (what, stream, statistics)
DAMAGE = (
    ("idle line", b"\0" * 50, DeframerStatistics()),
    ("cut block", b"\x05ab\0", DeframerStatistics(bad=1, discarded_bytes=3)),
    ("empty unit", b"\x01\0", DeframerStatistics(bad=1, discarded_bytes=1)),
    (
        "oversize",
        cobs.encode(bytes(UNIT_BYTES_MAX + 9)) + b"\0",
        DeframerStatistics(oversize=1, discarded_bytes=1210),
    ),
    (
        "one byte too many, within the slack of COBS",
        cobs.encode(bytes(UNIT_BYTES_MAX + 1)) + b"\0",
        DeframerStatistics(oversize=1, discarded_bytes=UNIT_BYTES_MAX + 2),
    ),
)


@pytest.mark.parametrize(("stream", "counts"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_damage_is_counted_and_costs_one_frame(stream, counts):
    deframer = Deframer()
    assert deframer.receive(stream) == []
    assert deframer.statistics() == counts
    assert deframer.receive(encode_frame(b"next")) == [b"next"]


@pytest.mark.parametrize("unit", [b"", bytes(UNIT_BYTES_MAX + 1)])
def test_units_that_no_frame_carries(unit):
    with pytest.raises(FrameError, match=f"unit of {len(unit)} bytes, allowed are 1 to 1200"):
        encode_frame(unit)


@given(st.integers(1, UNIT_BYTES_MAX))
def test_the_bound_on_the_encoding_is_tight(size):
    assert len(cobs.encode(b"\x01" * size)) in (encoded_bytes_max(size), encoded_bytes_max(size) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_five_percent_damaged_frames(seed):
    """A seeded 5 % of 4,000 frames get a bit flipped, a byte deleted or a byte inserted.

    No wrong packet gets through, and none is lost but those that were hit.
    """
    rng = random.Random(seed)
    sent, stream, hit = [], bytearray(), 0
    for count in range(4000):
        unit = encode_tm(
            TmPacket(0x21, count, 3, 25, count, 0, 2, 2.1e9 + count, rng.randbytes(rng.randrange(20, 400)))
        )
        frame = bytearray(encode_frame(unit))
        sent.append(unit)
        if rng.random() < 0.05:
            hit += 1
            position = rng.randrange(len(frame))
            match rng.randrange(3):
                case 0:
                    frame[position] ^= 1 << rng.randrange(8)
                case 1:
                    del frame[position]
                case _:
                    frame.insert(position, rng.randrange(256))
        stream += frame
    deframer = Deframer()
    accepted = []
    for start in range(0, len(stream), 997):
        for unit in deframer.receive(bytes(stream[start : start + 997])):
            try:
                decode_tm(unit)
            except PacketError:
                continue
            accepted.append(unit)
    wrong = set(accepted) - set(sent)
    assert not wrong
    assert len(accepted) == len(set(accepted))
    # Each hit costs its own frame at most: the neighbour has a delimiter of its own.
    assert len(sent) - hit <= len(accepted) <= len(sent)
    assert hit > 150
