"""What one archive holds, in numbers; ``report`` words it and ``report_page`` draws it.

contacts     stretches of reception without a silence over ``SILENCE_S``, as the ground heard them
packets      by boot and APID: live, playback, missing; duplicates over all
commands     every command with its outcome
parameters   minimum, mean and maximum of valid values, and how long outside the operator's limits
"""

import math
from collections import Counter
from typing import Final

import msgspec

from flightsw.link.dictionary import DICTIONARY_HASH, HOUSEKEEPING, IDENTITY, PARAMETER_BY_NAME
from flightsw.link.schema import Parameter

from .monitor import level, stream_name, value_text
from .reader import ArchiveReader
from .record_reader import CommandRow
from .screen import severity_name

SILENCE_S: Final = 5.0
GAPS_SHOWN: Final = 20


class Contact(msgspec.Struct, frozen=True):
    """One stretch of reception; mission times in seconds, counts of packets."""

    start_world_s: float
    end_world_s: float
    start_utc_s: float
    duration_s: float
    live: int
    playback: int


class StreamSummary(msgspec.Struct, frozen=True):
    """One boot and APID."""

    boot: int
    apid: int
    name: str
    live: int
    playback: int
    missing: int


class ParameterSummary(msgspec.Struct, frozen=True):
    """One parameter over the whole archive; states have no mean. ``last`` is of its last group. ``yellow`` and
    ``red`` count samples outside those limits."""

    name: str
    unit: str
    samples: int
    minimum: float | None
    mean: float | None
    maximum: float | None
    last: str
    yellow: int
    red: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the report says."""

    archive: str
    dictionary: str
    notices: tuple[str, ...]
    packets: int
    live: int
    playback: int
    duplicates: int
    missing: int
    start_world_s: float | None
    end_world_s: float | None
    boots: tuple[int, ...]
    contacts: tuple[Contact, ...]
    streams: tuple[StreamSummary, ...]
    gaps: tuple[tuple[int, int, int, int], ...]
    events_by_severity: dict[str, int]
    events_by_name: dict[str, int]
    outcomes: dict[str, int]
    commands: tuple[CommandRow, ...]
    replies: int
    reply_tokens: int
    alarms: int
    parameters: tuple[ParameterSummary, ...]


def summarise(reader: ArchiveReader) -> Summary:
    """Read the whole archive once."""
    streams = tuple(
        StreamSummary(
            boot,
            apid,
            stream_name(apid),
            live,
            playback,
            last - first + 1 - live - playback,
        )
        for boot, apid, live, playback, first, last in reader.streams()
    )
    events, commands, replies = reader.events(), reader.commands(), reader.replies()
    start_world_s, end_world_s = reader.world_span()
    return Summary(
        archive=str(reader.path),
        dictionary=DICTIONARY_HASH,
        notices=tuple(reader.notices()),
        packets=sum(s.live + s.playback for s in streams),
        live=sum(s.live for s in streams),
        playback=sum(s.playback for s in streams),
        duplicates=reader.counter("duplicates"),
        missing=sum(s.missing for s in streams),
        start_world_s=start_world_s,
        end_world_s=end_world_s,
        boots=tuple(sorted({s.boot for s in streams})),
        contacts=_contacts(reader),
        streams=streams,
        gaps=tuple(reader.gaps(GAPS_SHOWN)),
        events_by_severity=dict(
            Counter(severity_name(e.severity) for e in sorted(events, key=lambda e: e.severity))
        ),
        events_by_name=dict(Counter(e.name for e in events).most_common()),
        outcomes=dict(Counter(c.outcome for c in commands)),
        commands=tuple(commands),
        replies=len(replies),
        reply_tokens=sum(r.tokens for r in replies),
        alarms=sum(1 for _, _, alarm_level, _ in reader.alarms() if alarm_level),
        parameters=_parameters(reader),
    )


def _contacts(reader: ArchiveReader) -> tuple[Contact, ...]:
    contacts: list[list[tuple[float, float, bool]]] = []
    for row in reader.receptions():
        if not contacts or row[0] - contacts[-1][-1][0] > SILENCE_S:
            contacts.append([])
        contacts[-1].append(row)
    summaries = []
    for rows in contacts:
        live = [world_s for _, world_s, playback in rows if not playback and math.isfinite(world_s)]
        times = live or [world_s for _, world_s, _ in rows]
        count = sum(1 for _, _, playback in rows if not playback)
        summaries.append(
            Contact(min(times), max(times), rows[0][0], rows[-1][0] - rows[0][0], count, len(rows) - count)
        )
    return tuple(summaries)


def _parameters(reader: ArchiveReader) -> tuple[ParameterSummary, ...]:
    """Every parameter that has a valid value, from all groups that carry it; identities say nothing here."""
    columns: dict[str, list[float]] = {}
    for group in HOUSEKEEPING:
        for name, column in reader.columns(group).items():
            columns.setdefault(name, []).extend(value for value in column if math.isfinite(value))
    return tuple(
        _parameter(PARAMETER_BY_NAME[name], values)
        for name, values in columns.items()
        if values and name not in IDENTITY
    )


def _parameter(parameter: Parameter, values: list[float]) -> ParameterSummary:
    numeric = not parameter.states
    levels = Counter(level(parameter, value) for value in values) if parameter.limits else Counter[str]()
    return ParameterSummary(
        name=parameter.name,
        unit=parameter.unit,
        samples=len(values),
        minimum=min(values) if numeric else None,
        mean=math.fsum(values) / len(values) if numeric else None,
        maximum=max(values) if numeric else None,
        last=value_text(parameter, values[-1]),
        yellow=levels["yellow"],
        red=levels["red"],
    )
