"""The report: what one archive holds, in numbers. The same summary as text, JSON and one self-contained HTML page.

contacts     stretches of reception without a silence over ``SILENCE_S``, as the ground heard them
packets      by boot and APID: live, playback, missing; duplicates over all
commands     every command with its outcome
parameters   minimum, mean and maximum of valid values, and how long outside the operator's limits
"""

import html
import math
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from flightsw.link.dictionary import DICTIONARY_HASH, HOUSEKEEPING, IDENTITY, PARAMETER_BY_NAME
from flightsw.link.schema import Parameter

from .monitor import level, stream_name, value_text
from .reader import ArchiveReader, CommandRow
from .screen import arguments_text, clip, severity_name, table, utc_text

SILENCE_S: Final = 5.0
GAPS_SHOWN: Final = 20
EVENTS_SHOWN: Final = 30
PLOT_POINTS: Final = 400
PLOTS: Final = ("eps.soc_fraction", "thermal.gpu_degc", "gpu.power_w", "train.loss")


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


def _sections(summary: Summary) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]], frozenset[int]]]:
    """(title, header, rows, right-aligned columns) of every table; text and HTML show the same."""
    right = frozenset
    return [
        (
            "Contacts as heard",
            ("mission s", "to", "UTC", "lasted s", "live", "playback"),
            [
                (
                    f"{c.start_world_s:.1f}",
                    f"{c.end_world_s:.1f}",
                    utc_text(c.start_utc_s)[:19],
                    f"{c.duration_s:.1f}",
                    str(c.live),
                    str(c.playback),
                )
                for c in summary.contacts
            ],
            right((0, 1, 3, 4, 5)),
        ),
        (
            "Packets",
            ("boot", "stream", "live", "playback", "missing"),
            [(str(s.boot), s.name, str(s.live), str(s.playback), str(s.missing)) for s in summary.streams],
            right((0, 2, 3, 4)),
        ),
        (
            f"Gaps (first {GAPS_SHOWN})",
            ("boot", "stream", "first", "last"),
            [(str(b), stream_name(a), str(f), str(n)) for b, a, f, n in summary.gaps],
            right((0, 2, 3)),
        ),
        (
            "Events",
            ("count", "event"),
            [(str(count), name) for name, count in list(summary.events_by_name.items())[:EVENTS_SHOWN]],
            right((0,)),
        ),
        (
            "Commands",
            ("UTC", "operator", "outcome", "s", "command"),
            [
                (
                    utc_text(c.sent_utc_s)[:19],
                    c.operator,
                    c.outcome,
                    "–" if c.answered_utc_s is None else f"{c.answered_utc_s - c.sent_utc_s:.2f}",
                    clip(command_text(c), 120),
                )
                for c in summary.commands
            ],
            right((3,)),
        ),
        (
            "Parameters",
            ("parameter", "unit", "samples", "minimum", "mean", "maximum", "last", "yellow", "red"),
            [
                (
                    p.name,
                    p.unit,
                    str(p.samples),
                    *map(_number, (p.minimum, p.mean, p.maximum)),
                    p.last,
                    str(p.yellow or ""),
                    str(p.red or ""),
                )
                for p in summary.parameters
            ],
            right((2, 3, 4, 5, 6, 7, 8)),
        ),
    ]


def command_text(command: CommandRow) -> str:
    """A command and its arguments in one line, with the reason when it went wrong."""
    why = f": {command.code}: {command.text}" if command.code else ""
    return f"{command.name} {arguments_text(command.arguments)}".rstrip() + why


def _headline(summary: Summary) -> list[tuple[str, str]]:
    span = (
        f"{summary.start_world_s:.1f} to {summary.end_world_s:.1f} s"
        if summary.start_world_s is not None and summary.end_world_s is not None
        else "no packets"
    )
    return [
        ("archive", summary.archive),
        ("mission time", span),
        ("boots", ", ".join(map(str, summary.boots)) or "none"),
        (
            "packets",
            f"{summary.packets:,}: {summary.live:,} live, {summary.playback:,} playback;"
            f" {summary.duplicates:,} duplicates dropped, {summary.missing:,} missing",
        ),
        ("events", ", ".join(f"{n} {name}" for name, n in summary.events_by_severity.items()) or "none"),
        ("commands", ", ".join(f"{n} {name}" for name, n in summary.outcomes.items()) or "none"),
        ("replies", f"{summary.replies:,} with {summary.reply_tokens:,} tokens"),
        ("limit alarms", f"{summary.alarms:,}"),
        ("dictionary", summary.dictionary),
        *(("notice", notice) for notice in summary.notices),
    ]


def text(summary: Summary) -> str:
    """For the terminal."""
    parts = ["\n".join(f"{name:<14}{value}" for name, value in _headline(summary))]
    parts += [f"{title}\n{table(header, rows, right)}" for title, header, rows, right in _sections(summary) if rows]
    return "\n\n".join(parts)


def page(summary: Summary, reader: ArchiveReader) -> str:
    """One HTML file that needs nothing else."""
    escape = html.escape
    body = ["<h1>Ground report</h1><table class=head>"]
    body += [f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _headline(summary)]
    body.append("</table>")
    body += [_plot(reader, name) for name in PLOTS]
    for title, header, rows, right in _sections(summary):
        if not rows:
            continue
        align = [" class=r" if i in right else "" for i in range(len(header))]
        body.append(f"<h2>{escape(title)}</h2><table><tr>")
        body += [f"<th{a}>{escape(cell)}</th>" for a, cell in zip(align, header, strict=True)]
        for row in rows:
            body.append("</tr><tr>")
            body += [f"<td{a}>{escape(cell)}</td>" for a, cell in zip(align, row, strict=True)]
        body.append("</tr></table>")
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>Ground report</title>"
    return f"{head}{_STYLE}{''.join(body)}</html>\n"


def _plot(reader: ArchiveReader, name: str) -> str:
    """An inline SVG of one parameter over mission time; limits dashed."""
    parameter = PARAMETER_BY_NAME[name]
    series = reader.series(name)
    points = [(t, v) for t, v in zip(*series, strict=True) if math.isfinite(v)]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return ""
    points = _decimate(points)
    width, height = 860, 120
    low, high = min(v for _, v in points), max(v for _, v in points)
    high = high if high > low else low + 1.0
    start, end = points[0][0], points[-1][0]
    x: Callable[[float], float] = lambda t: 60 + (t - start) / (end - start) * (width - 70)  # noqa: E731
    y: Callable[[float], float] = lambda v: 10 + (high - v) / (high - low) * (height - 30)  # noqa: E731
    line = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)
    limits = parameter.limits
    dashes = "".join(
        f"<line x1=60 x2={width - 10} y1={y(v):.1f} y2={y(v):.1f} class={css} />"
        for css, bounds in (
            ("yellow", (limits.yellow_low, limits.yellow_high) if limits else ()),
            ("red", (limits.red_low, limits.red_high) if limits else ()),
        )
        for v in bounds
        if v is not None and low <= v <= high
    )
    return (
        f"<h2>{html.escape(name)} {html.escape(parameter.unit)}</h2>"
        f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{html.escape(name)}'>"
        f"{dashes}<polyline points='{line}'/>"
        f"<text x=4 y=16>{high:.4g}</text><text x=4 y={height - 20}>{low:.4g}</text>"
        f"<text x=60 y={height - 4}>{start:.0f} s</text>"
        f"<text x={width - 10} y={height - 4} text-anchor=end>{end:.0f} s mission time</text></svg>"
    )


def _decimate(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Smallest and largest of each bucket, so that no peak is lost."""
    size = -(-2 * len(points) // PLOT_POINTS)
    if size <= 2:
        return points
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


_STYLE: Final = (
    "<style>body{font:14px/1.4 system-ui,sans-serif;margin:2em auto;max-width:1000px;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:2px 10px;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}th{background:#f4f6f8}.r{text-align:right}"
    "h2{margin-top:1.5em;font-size:1.1em}svg{width:100%;height:auto;background:#fafbfc}"
    "polyline{fill:none;stroke:#1565c0;stroke-width:1.2}line{stroke-dasharray:4 3}.yellow{stroke:#e6a100}"
    ".red{stroke:#c62828}text{font-size:11px;fill:#555}</style>"
)
