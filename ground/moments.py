"""Durations and moments as operators write them, and as sequences hold them: tenths of a second.

A duration is a number of seconds or a text such as "90 s", "1 h 30 min", "500 ms". A moment is UTC, ISO 8601 with a
"Z" (leap seconds as :60), or TAI: ISO 8601 without zone, or seconds since 1958-01-01. Everything is exact: what
is no whole tenth of a second is refused, never rounded.
"""

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from flightsw.link import leap
from flightsw.link.sequence import DS_PER_S, TAI_MAX_DS

UNIT_S: Final = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
DURATION_HELP: Final = '"10 s", "1 h 30 min" or a number of seconds'
_DURATION: Final = re.compile(r"\s*(?:\d{1,12}(?:\.\d{1,6})?\s*(?:ms|s|min|h|d)\s*)+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)")
_MOMENT: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(Z)?", re.IGNORECASE)
_EPOCH: Final = datetime(1958, 1, 1, tzinfo=UTC)


def duration_s(value: Any) -> Fraction:
    """Seconds of a duration; raises ``ValueError`` that says what is allowed."""
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum((Fraction(number) * UNIT_S[unit] for number, unit in _PART.findall(value)), Fraction(0))
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
        return Fraction(repr(value))
    raise ValueError(f"{value!r} is no duration: {DURATION_HELP}")


def duration_ds(value: Any) -> int:
    """Tenths of a second of a duration; raises ``ValueError``."""
    return _tenths(duration_s(value), value)


def duration_text(ds: int) -> str:
    """The shortest text that reads back as this many tenths of a second."""
    seconds, tenths = divmod(ds, DS_PER_S)
    if tenths:
        return f"{seconds}.{tenths} s"
    parts = []
    for unit in ("d", "h", "min"):
        count, seconds = divmod(seconds, int(UNIT_S[unit]))
        if count:
            parts.append(f"{count} {unit}")
    return " ".join((*parts, f"{seconds} s") if seconds or not parts else parts)


def utc_ds(value: Any) -> int:
    """TAI tenths of a second since 1958 of a UTC moment, text or TOML date-time; raises ``ValueError``."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    parts = _moment(value, "Z")
    if parts is None:
        raise ValueError(f'{_shown(value)} is no UTC moment: "2026-11-23T04:00:00Z"')
    try:
        seconds = _utc_to_tai_s(*parts)
    except ValueError as error:
        raise ValueError(f"{_shown(value)} is no UTC moment: {error}") from None
    return _in_span(_tenths(seconds, value), value)


def tai_ds(value: Any) -> int:
    """TAI tenths of a second since 1958 of a TAI moment or number of seconds; raises ``ValueError``."""
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
        return _in_span(_tenths(Fraction(repr(value)), value), value)
    parts = _moment(value, None)
    if parts is None:
        raise ValueError(f'{_shown(value)} is no TAI moment: "2026-11-23T04:00:37", or seconds since 1958-01-01')
    moment, second = parts
    return _in_span(_tenths((moment - _EPOCH) // timedelta(seconds=1) + second, value), value)


def utc_text(ds: int) -> str:
    """UTC of TAI tenths of a second since 1958; ``utc_ds`` reads it back."""
    seconds, tenths = divmod(ds, DS_PER_S)
    text = leap.utc_text(seconds, 0)
    return f"{text[:-1]}.{tenths}Z" if tenths else text


def _utc_to_tai_s(minute: datetime, second: Fraction) -> Fraction:
    """TAI seconds since 1958 of a UTC minute and the second in it."""
    whole = int(second)
    return leap.tai_of_utc(leap.Utc(*minute.timetuple()[:5], whole)) + (second - whole)


def _moment(value: Any, zone: str | None) -> tuple[datetime, Fraction] | None:
    """The minute of a moment and its second with fraction; None when it is none, or of another zone."""
    found = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or (found[8] or "").upper() != (zone or ""):
        return None
    try:
        minute = datetime.fromisoformat(f"{found[1]}-{found[2]}-{found[3]}T{found[4]}:{found[5]}+00:00")
    except ValueError:
        return None
    second = int(found[6]) + Fraction(f"0{found[7] or ''}")
    # A UTC minute may have a second 60: whether this one has, the table of leap seconds says.
    return (minute, second) if second < (61 if zone else 60) else None


def _tenths(seconds: Fraction, value: Any) -> int:
    tenths = seconds * DS_PER_S
    if tenths.denominator != 1:
        raise ValueError(f"{_shown(value)}: times are whole tenths of a second")
    return int(tenths)


def _in_span(ds: int, value: Any) -> int:
    if not 0 <= ds <= TAI_MAX_DS:
        raise ValueError(f"{_shown(value)}: onboard time spans 1958 to {utc_text(TAI_MAX_DS)[:4]}")
    return ds


def _shown(value: Any) -> str:
    return repr(value.isoformat() if isinstance(value, datetime) else value)
