"""CUC time code: vectors by hand, round trips, and a clock that is out of range."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link import cuc
from flightsw.link.errors import PacketError

# (TAI seconds, octets): origin is the definition in CCSDS 301.0-B-4, 3.2, worked out by hand.
VECTORS = (
    (0.0, "1e 00000000 0000"),
    (1.5, "1e 00000001 8000"),
    (378_691_237.0, "1e 16925ea5 0000"),  # 1970-01-01T00:00:00 UTC, with today's leap seconds.
    (2_147_483_648.25, "1e 80000000 4000"),
    (4_294_967_295.0 + 65_535 / 65_536, "1e ffffffff ffff"),
)

OUT_OF_RANGE = ((-1.0, 0.0), (-math.inf, 0.0), (math.nan, 0.0), (2.0**32, 2.0**32), (math.inf, 2.0**32))


@pytest.mark.parametrize(("tai_s", "octets"), VECTORS)
def test_vectors(tai_s, octets):
    assert cuc.encode(tai_s) == bytes.fromhex(octets)
    assert cuc.decode(bytes.fromhex(octets)) == tai_s


@given(st.floats(0.0, 2.0**32 - 1.0))
def test_round_trip_is_within_half_a_tick(tai_s):
    assert abs(cuc.decode(cuc.encode(tai_s)) - tai_s) <= 0.5 / cuc.TICKS_PER_S


@given(st.integers(0, cuc.TICKS_MAX))
def test_every_tick_is_exact(ticks):
    tai_s = ticks / cuc.TICKS_PER_S
    assert cuc.ticks(tai_s) == ticks


@pytest.mark.parametrize(("tai_s", "nearest"), OUT_OF_RANGE)
def test_a_clock_out_of_range_saturates(tai_s, nearest):
    assert abs(cuc.decode(cuc.encode(tai_s)) - nearest) <= 1 / cuc.TICKS_PER_S


@pytest.mark.parametrize(
    ("octets", "reason"), [("1e000000000000ff", "8 bytes"), ("2e000000000000", "P-field 0x2E")]
)
def test_other_codes_are_refused(octets, reason):
    with pytest.raises(PacketError, match=reason):
        cuc.decode(bytes.fromhex(octets))
