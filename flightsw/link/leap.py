"""UTC and TAI: the leap seconds, and civil dates without a calendar library.

TAI counts seconds evenly; UTC follows the rotation of the Earth by seconds that are inserted as 23:59:60. Onboard
times are TAI since 1958-01-01. The table is that of the IERS (Bulletin C; leap-seconds.list as updated on
2026-07-06, which says that it holds until 2027-06-28): from then on a leap second may exist that is not in it, and
``announced`` says so. Conversions go on with the last row.

UTC with leap seconds begins in 1972; before it there were fractions of seconds. Earlier times are taken with the
first row's offset, both ways: a clock that was never set still has to be displayed, and read back.

Unix time counts 86,400 s a day whatever the Earth does: during a leap second it repeats the second after it.

Civil dates by the algorithms of H. Hinnant, "chrono-compatible low-level date algorithms" (2014): the year is taken
to begin in March, so that the leap day is its last.
"""

import re
from bisect import bisect_right
from math import isfinite
from typing import Final, NamedTuple

DAY_S: Final = 86_400
DAYS_1958_TO_1970: Final = 4_383

LEAP_TABLE: Final = (
    (1972, 1, 10), (1972, 7, 11), (1973, 1, 12), (1974, 1, 13), (1975, 1, 14), (1976, 1, 15), (1977, 1, 16),
    (1978, 1, 17), (1979, 1, 18), (1980, 1, 19), (1981, 7, 20), (1982, 7, 21), (1983, 7, 22), (1985, 7, 23),
    (1988, 1, 24), (1990, 1, 25), (1991, 1, 26), (1992, 7, 27), (1993, 7, 28), (1994, 7, 29), (1996, 1, 30),
    (1997, 7, 31), (1999, 1, 32), (2006, 1, 33), (2009, 1, 34), (2012, 7, 35), (2015, 7, 36), (2017, 1, 37),
)  # fmt: skip
"""Year and month on whose first day TAI − UTC became so many seconds."""
VALID_UNTIL: Final = (2027, 6, 28)
"""The table is known to be complete up to this date."""

_TEXT: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(\.\d{1,9})?Z", re.IGNORECASE | re.ASCII)
_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Utc(NamedTuple):
    """A second of UTC; ``second`` is 60 in a leap second."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date of the Gregorian calendar; the date must exist."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year, month and day of the date so many days after 1970-01-01."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def _day_s(year: int, month: int, day: int) -> int:
    """Seconds from 1958-01-01 to a date, leap seconds not counted."""
    return (days_from_civil(year, month, day) + DAYS_1958_TO_1970) * DAY_S


_OFFSETS: Final = tuple(offset for _, _, offset in LEAP_TABLE)
_STARTS_S: Final = tuple(_day_s(year, month, 1) + offset for year, month, offset in LEAP_TABLE)
"""TAI from which each offset holds; the second before it is the inserted one."""
_UTC_STARTS_S: Final = tuple(_day_s(year, month, 1) for year, month, _ in LEAP_TABLE)
_VALID_UNTIL_S: Final = _day_s(*VALID_UNTIL) + _OFFSETS[-1]


def announced(tai_s: float) -> bool:
    """Whether all leap seconds up to this TAI are known; past it UTC may turn out to be another."""
    return tai_s < _VALID_UNTIL_S


def tai_minus_utc_s(tai_s: float) -> int:
    """TAI − UTC in seconds at a TAI; an inserted second still has the offset before it."""
    return _OFFSETS[max(0, bisect_right(_STARTS_S, tai_s) - 1)]


def utc_of_tai(tai_s: int) -> Utc:
    """UTC of a whole second of TAI since 1958."""
    inserted = tai_s + 1 in _STARTS_S[1:]
    days, second_of_day = divmod(tai_s - tai_minus_utc_s(tai_s) - inserted, DAY_S)
    hour, rest = divmod(second_of_day, 3600)
    minute, second = divmod(rest, 60)
    return Utc(*civil_from_days(days - DAYS_1958_TO_1970), hour, minute, second + inserted)


def tai_of_utc(utc: Utc) -> int:
    """TAI seconds since 1958 of a second of UTC; raises ``ValueError`` for one that never was or cannot be."""
    year, month, day, hour, minute, second = utc
    if not (1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1]) or (
        (month, day) == (2, 29) and (year % 4 or (year % 100 == 0 and year % 400))
    ):
        raise ValueError(f"{year:04}-{month:02}-{day:02} is no date")
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second <= 60):
        raise ValueError(f"{hour:02}:{minute:02}:{second:02} is no time of day")
    utc_s = _day_s(year, month, day) + hour * 3600 + minute * 60 + second
    if second == 60 and (hour, minute, utc_s in _UTC_STARTS_S[1:]) != (23, 59, True):
        raise ValueError(f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} has no second 60")
    # A leap second is the last with the offset before it.
    return utc_s + _OFFSETS[max(0, bisect_right(_UTC_STARTS_S, utc_s - (second == 60)) - 1)]


def unix_of_tai(tai_s: float) -> float:
    """Unix time of TAI seconds since 1958; a leap second has the Unix time of the second after it."""
    return tai_s - tai_minus_utc_s(tai_s) - DAYS_1958_TO_1970 * DAY_S


def tai_of_unix(unix_s: float) -> float:
    """TAI seconds since 1958 of a Unix time; of two seconds with the same Unix time it is the later one."""
    utc_s = unix_s + DAYS_1958_TO_1970 * DAY_S
    return utc_s + _OFFSETS[max(0, bisect_right(_UTC_STARTS_S, utc_s) - 1)]


def utc_text(tai_s: float, decimals: int = 3) -> str:
    """ISO 8601 text of TAI seconds since 1958, rounded to ``decimals`` (0 to 6); ``ValueError`` if not finite."""
    if not isfinite(tai_s):
        raise ValueError(f"{tai_s} is no time")
    scale = 10**decimals
    seconds, fraction = divmod(round(tai_s * scale), scale)
    utc = utc_of_tai(seconds)
    tail = f".{fraction:0{decimals}}" if decimals else ""
    return f"{utc.year:04}-{utc.month:02}-{utc.day:02}T{utc.hour:02}:{utc.minute:02}:{utc.second:02}{tail}Z"


def tai_of_text(text: str) -> float:
    """TAI seconds since 1958 of a UTC text like "2016-12-31T23:59:60.5Z"; raises ``ValueError``."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'{text!r} is no UTC time like "2026-11-23T04:00:00Z"')
    utc = Utc(*(int(part) for part in found.groups()[:6]))
    return tai_of_utc(utc) + float(f"0{found[7] or ''}")
