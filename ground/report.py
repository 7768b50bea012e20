"""The report in words: a headline and tables of one summary, as text for the terminal.

The tables are made once, here; the HTML page shows the same.
"""

from typing import Final

from .monitor import stream_name
from .record_reader import CommandRow
from .screen import arguments_text, clip, table, utc_text
from .summary import GAPS_SHOWN, Summary

EVENTS_SHOWN: Final = 30


def sections(summary: Summary) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]], frozenset[int]]]:
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


def headline(summary: Summary) -> list[tuple[str, str]]:
    """(name, value) of every fact that stands above the tables."""
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
    parts = ["\n".join(f"{name:<14}{value}" for name, value in headline(summary))]
    parts += [f"{title}\n{table(header, rows, right)}" for title, header, rows, right in sections(summary) if rows]
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
