"""R23: leap seconds and civil dates, against skyfield's own table and Python's calendar."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyfield.api import load

from flightsw.link import cuc, leap
from flightsw.link.leap import Utc

CUC_END_S = 2**32
EPOCH = datetime(1958, 1, 1, tzinfo=UTC)
SPAN_S = st.integers(0, CUC_END_S)


@pytest.fixture(scope="module")
def skyfield():
    return load.timescale(builtin=True)


def test_r23_the_table_is_skyfields(skyfield) -> None:
    rows = [(leap.days_from_civil(year, month, 1), offset) for year, month, offset in leap.LEAP_TABLE]
    oracle = [
        (round(float(julian) - 2_440_587.5), int(offset))
        for julian, offset in zip(skyfield.leap_dates, skyfield.leap_offsets, strict=True)
    ]
    assert len(oracle) == 27
    assert rows == [(730, 10), *oracle], "and the offset with which UTC began"


MOMENTS = {
    # text: TAI seconds since 1958
    "1972-01-01T00:00:00Z": 5_113 * 86_400 + 10,
    "1972-06-30T23:59:59Z": 5_295 * 86_400 - 1 + 10,
    "1972-06-30T23:59:60Z": 5_295 * 86_400 + 10,
    "1972-07-01T00:00:00Z": 5_295 * 86_400 + 11,
    "2016-12-31T23:59:59Z": 21_550 * 86_400 - 1 + 36,
    "2016-12-31T23:59:60Z": 21_550 * 86_400 + 36,
    "2017-01-01T00:00:00Z": 21_550 * 86_400 + 37,
    "2038-01-19T03:14:07Z": 2**31 - 1 + 378_691_200 + 37,
    "2038-01-19T03:14:08Z": 2**31 + 378_691_200 + 37,
    "2094-02-06T06:27:39Z": CUC_END_S,
    "2100-03-01T00:00:00Z": (leap.days_from_civil(2100, 3, 1) + 4_383) * 86_400 + 37,
}


@pytest.mark.parametrize(("text", "tai_s"), MOMENTS.items(), ids=MOMENTS)
def test_r23_known_moments(text: str, tai_s: int) -> None:
    assert leap.tai_of_text(text) == tai_s
    assert leap.utc_text(tai_s, 0) == text


@pytest.mark.parametrize("row", range(1, len(leap.LEAP_TABLE)))
def test_r23_each_leap_second_is_one_second_long_and_forwards_only(row: int) -> None:
    year, month, _ = leap.LEAP_TABLE[row]
    start_s = leap.tai_of_utc(Utc(year, month, 1, 0, 0, 0))
    seconds = [leap.utc_of_tai(start_s + offset).second for offset in (-3, -2, -1, 0, 1)]
    assert seconds == [58, 59, 60, 0, 1]
    texts = [leap.utc_text(start_s + tenth / 10, 1) for tenth in range(-25, 15)]
    assert texts == sorted(texts)
    assert len(set(texts)) == len(texts)
    assert [leap.tai_of_text(text) for text in texts] == pytest.approx([start_s + t / 10 for t in range(-25, 15)])
    assert leap.unix_of_tai(start_s - 0.5) == leap.unix_of_tai(start_s + 0.5), "Unix time repeats a second"


@given(SPAN_S)
def test_r23_round_trip_over_the_whole_of_cuc(tai_s: int) -> None:
    utc = leap.utc_of_tai(tai_s)
    assert leap.tai_of_utc(utc) == tai_s
    assert leap.tai_of_text(leap.utc_text(tai_s, 3)) == tai_s
    assert cuc.decode(cuc.encode(min(tai_s, CUC_END_S - 1))) == min(tai_s, CUC_END_S - 1)
    if utc.second < 60:
        assert leap.tai_of_unix(leap.unix_of_tai(tai_s)) == tai_s
        assert datetime.fromtimestamp(leap.unix_of_tai(tai_s), UTC).timetuple()[:6] == utc


@given(SPAN_S, st.integers(1, 100_000))
def test_r23_later_is_later(tai_s: int, more_s: int) -> None:
    assert leap.utc_of_tai(tai_s) < leap.utc_of_tai(tai_s + more_s)


@given(st.integers(leap.tai_of_utc(Utc(1972, 1, 1, 0, 0, 0)), leap.tai_of_utc(Utc(2090, 1, 1, 0, 0, 0))))
def test_r23_utc_is_skyfields(skyfield, tai_s: int) -> None:
    moment, inserted = skyfield.tai(1958, 1, 1, 0, 0, tai_s + 0.25).utc_datetime_and_leap_second()
    year, month, day, hour, minute, second, *_ = moment.timetuple()
    assert leap.utc_of_tai(tai_s) == Utc(year, month, day, hour, minute, second + int(inserted))


@given(st.integers(-1_000_000, 2_900_000))
def test_civil_dates_are_pythons(days: int) -> None:
    year, month, day = leap.civil_from_days(days)
    assert leap.days_from_civil(year, month, day) == days
    if 1 <= year <= 9999:
        assert datetime(year, month, day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(days=days)


REFUSED = {
    "2017-02-29T00:00:00Z": "no date",
    "2100-02-29T00:00:00Z": "no date",
    "2017-04-31T00:00:00Z": "no date",
    "2017-00-01T00:00:00Z": "no date",
    "2017-13-01T00:00:00Z": "no date",
    "2017-01-00T00:00:00Z": "no date",
    "2017-01-01T24:00:00Z": "no time of day",
    "2017-01-01T00:60:00Z": "no time of day",
    "2017-01-01T00:00:61Z": "no time of day",
    "2016-12-31T22:59:60Z": "22:59 has no second 60",
    "2016-12-31T23:58:60Z": "has no second 60",
    "2016-12-30T23:59:60Z": "has no second 60",
    "2017-12-31T23:59:60Z": "has no second 60",
    "1971-12-31T23:59:60Z": "has no second 60",
    "2026-11-23T04:00:00": "no UTC time",
    "2026-11-23T04:00:00+01:00": "no UTC time",
    "2026-11-23": "no UTC time",
    "٢٠٢٦-11-23T04:00:00Z": "no UTC time",
    "": "no UTC time",
}


@pytest.mark.parametrize(("text", "why"), REFUSED.items(), ids=REFUSED)
def test_r23_what_is_no_utc_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        leap.tai_of_text(text)


@pytest.mark.parametrize("tai_s", [float("nan"), float("inf")])
def test_r23_what_is_no_time_has_no_text(tai_s: float) -> None:
    with pytest.raises(ValueError, match="no time"):
        leap.utc_text(tai_s)


@pytest.mark.parametrize(
    ("tai_s", "decimals", "text"),
    [
        (leap.tai_of_utc(Utc(2016, 12, 31, 23, 59, 59)) + 0.9996, 3, "2016-12-31T23:59:60.000Z"),
        (leap.tai_of_utc(Utc(2016, 12, 31, 23, 59, 60)) + 0.9996, 3, "2017-01-01T00:00:00.000Z"),
        (leap.tai_of_utc(Utc(2026, 2, 28, 23, 59, 59)) + 0.5, 1, "2026-02-28T23:59:59.5Z"),
        (leap.tai_of_utc(Utc(2028, 2, 28, 23, 59, 59)) + 1, 0, "2028-02-29T00:00:00Z"),
        # A clock that was never set shows its uptime since 1958, by the first row.
        (15.0, 0, "1958-01-01T00:00:05Z"),
        (5.0, 0, "1957-12-31T23:59:55Z"),
    ],
)
def test_r23_rounding_never_makes_a_second_that_is_none(tai_s: float, decimals: int, text: str) -> None:
    assert leap.utc_text(tai_s, decimals) == text


def test_unix_time() -> None:
    # 2026-01-01T00:00:00Z is Unix 1,767,225,600; TAI is 37 s ahead of UTC.
    assert leap.tai_of_unix(1_767_225_600.0) == 1_767_225_600.0 + 378_691_200 + 37
    assert leap.unix_of_tai(leap.tai_of_unix(1_767_225_600.25)) == 1_767_225_600.25


def test_r23_the_table_says_how_far_it_is_known() -> None:
    end_s = leap.tai_of_utc(Utc(*leap.VALID_UNTIL, 0, 0, 0))
    assert leap.announced(end_s - 1)
    assert not leap.announced(end_s)
    assert leap.tai_minus_utc_s(CUC_END_S) == 37
    assert leap.tai_of_unix(leap.unix_of_tai(60.0)) == 60.0
