"""The operator's screen: one snapshot of the station in, one page or a few lines out.

The page shows what an operator asks first: is there contact, in which mode is she, are values inside their
limits, what happened, what became of my commands, is anything missing. It is laid out for 80 × 24 and uses what
is larger. Level and severity are words or marks as well as colours. Without a terminal the same facts come as
lines, each once.
"""

import math
import time
from collections.abc import Iterator
from typing import Final

import msgspec
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flightsw.link.schema import Severity

from .protocol import CommandLine, EventLine, Snapshot, StationStatus, Value
from .screen import arguments_text, clip, severity_name, utc_text

STALE_S: Final = 15.0
"""A value older than this is shown dim: the slow group comes every 10 s."""

PANELS: Final = (
    (
        "eps",
        (
            "eps.soc_fraction",
            "eps.bus_voltage_v",
            "eps.battery_current_a",
            "eps.array_power_w",
            "eps.eclipse",
            "eps.arc_remaining_s",
            "eps.gpu_rail",
        ),
    ),
    (
        "heat and GPU",
        (
            "thermal.gpu_degc",
            "thermal.radiator_degc",
            "gpu.power_w",
            "governor.power_budget_w",
            "governor.duty",
            "governor.limit",
            "integrity.level",
        ),
    ),
    (
        "work",
        (
            "train.state",
            "train.step",
            "train.loss",
            "train.tokens_per_s",
            "checkpoint.generation",
            "infer.state",
            "infer.replies",
        ),
    ),
)
_LEVEL: Final = {"": "", "yellow": "bold black on yellow", "red": "bold white on red"}
_MARK: Final = {"": " ", "yellow": "!", "red": "‼"}
_SEVERITY: Final = {
    Severity.DIAGNOSTIC: "dim",
    Severity.INFO: "",
    Severity.WARNING: "yellow",
    Severity.ERROR: "bold red",
    Severity.CRITICAL: "bold white on red",
    Severity.FATAL: "bold white on red",
}
_PROGRESS: Final = {"completed": "green", "refused": "bold red", "failed": "bold red"}


def page(snapshot: Snapshot, now_utc_s: float, height: int) -> RenderableType:
    """The whole screen."""
    layout = Layout()
    notices = snapshot.status.notices
    link_rows = 7
    layout.split_column(
        Layout(_header(snapshot.status), size=1),
        *([Layout(_notices(notices), size=len(notices))] if notices else []),
        Layout(name="values", size=max(len(names) for _, names in PANELS) + 2),
        Layout(name="middle", size=link_rows + 2),
        Layout(_events(snapshot, height), name="events"),
    )
    layout["values"].split_row(
        *(
            Layout(_values(title, names, snapshot.latest, now_utc_s), ratio=ratio)
            for ratio, (title, names) in zip((6, 7, 6), PANELS, strict=True)
        )
    )
    layout["middle"].split_row(
        Layout(_link(snapshot.status), ratio=2), Layout(_commands(snapshot.commands, link_rows), ratio=3)
    )
    return layout


def contact_text(status: StationStatus) -> str:
    """Contact in words."""
    if status.contact:
        return "CONTACT"
    return "NOTHING HEARD" if status.silence_s is None else f"SILENT {status.silence_s:.0f} s"


def _header(status: StationStatus) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f" {contact_text(status)} ", "bold black on green" if status.contact else "bold white on red")
    text.append(f"  {status.mode or 'mode unknown'}", "bold")
    if status.boot is not None and status.world_s is not None:
        text.append(f"  boot {status.boot}  mission {status.world_s:,.1f} s")
        text.append(f"  {utc_text(status.onboard_utc_s or math.nan)[:19]} UTC on board", "dim")
    return text


def _notices(notices: tuple[str, ...]) -> Text:
    return Text(
        "\n".join(clip(notice, 200) for notice in notices), "bold yellow", no_wrap=True, overflow="ellipsis"
    )


def _values(title: str, names: tuple[str, ...], latest: dict[str, Value], now_utc_s: float) -> Panel:
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, width=1)
    for name in names:
        value = latest.get(name)
        label = Text(name.removeprefix(f"{title}."))
        if value is None:
            table.add_row(label, Text("·", "dim"), "")
            continue
        stale = now_utc_s - value.received_utc_s > STALE_S
        style = _LEVEL[value.level] or ("dim" if stale else "" if value.live else "italic")
        table.add_row(label, Text(value.text, style), Text(_MARK[value.level], "bold red"))
    return Panel(table, title=title, border_style="blue", padding=(0, 0, 0, 1))


def _link(status: StationStatus) -> Panel:
    bad = sum(status.units_bad.values()) + sum(n for name, n in status.link.dropped.items() if name != "unsent")
    reasons = ", ".join(f"{name} {count}" for name, count in {**status.units_bad, **status.link.dropped}.items())
    rows = (
        ("live", f"{status.packets_live:,}", ""),
        ("playback", f"{status.packets_playback:,}", ""),
        ("duplicates", f"{status.duplicates:,}", ""),
        ("missing", f"{status.missing:,}", "yellow" if status.missing else ""),
        ("acknowledged", f"{status.acknowledged:,}", ""),
        ("bad units", f"{bad:,}" + (f" ({reasons})" if reasons else ""), "yellow" if bad else ""),
        ("in / out", f"{_bytes(status.link.bytes_in)} / {_bytes(status.link.bytes_out)}", ""),
    )
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, value, style in rows:
        table.add_row(name, Text(value, style))
    return Panel(table, title="link", border_style="blue", padding=(0, 0, 0, 1))


def _commands(commands: tuple[CommandLine, ...], rows: int) -> Panel:
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for line in reversed(commands[-rows:]):
        progress = "timeout" if line.overdue else line.progress
        what = f"{line.name} {arguments_text(line.arguments)}" + (f": {line.text}" if line.text else "")
        style = "bold yellow" if line.overdue else _PROGRESS.get(line.progress, "cyan")
        repeats = f" ×{line.transmissions}" if line.transmissions > 1 else ""
        table.add_row(utc_text(line.sent_utc_s)[11:19], Text(progress + repeats, style), Text(clip(what, 200)))
    empty = Text("none yet: ground send NAME …", "dim")
    return Panel(table if commands else empty, title="commands", border_style="blue", padding=(0, 0, 0, 1))


def _events(snapshot: Snapshot, height: int) -> Panel:
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    lines: list[tuple[float, str, str, str]] = [
        (event.world_s, severity_name(event.severity), f"{event.name}: {event.text}", _severity(event.severity))
        for event in snapshot.events
    ]
    lines += [(alarm.world_s, "LIMIT", alarm.text, _LEVEL[alarm.level] or "green") for alarm in snapshot.alarms]
    lines.sort(key=lambda line: line[0])
    for world_s, severity, what, style in reversed(lines[-height:]):
        table.add_row(f"{world_s:,.1f}", Text(severity, style), Text(clip(what, 300)))
    title = "events and limits, newest first"
    return Panel(
        table if lines else Text("none yet", "dim"), title=title, border_style="blue", padding=(0, 0, 0, 1)
    )


def _severity(severity: int) -> str:
    return _SEVERITY.get(Severity(severity), "") if severity in _SEVERITY else ""


def _bytes(count: int) -> str:
    return f"{count} B" if count < 10_000 else f"{count / 1e3:.0f} kB" if count < 1e7 else f"{count / 1e6:.1f} MB"


def status_page(snapshot: Snapshot) -> RenderableType:
    """What ``ground status`` prints."""
    status = snapshot.status
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in status_rows(status):
        table.add_row(name, value)
    streams = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("boot", "stream", "received", "missing", "first", "last"):
        streams.add_column(column, justify="left" if column == "stream" else "right")
    for s in status.streams:
        streams.add_row(*map(str, (s.boot, s.name, s.received, s.missing, s.first, s.last)))
    return Group(table, Text(), streams) if status.streams else table


def status_rows(status: StationStatus) -> Iterator[tuple[str, str]]:
    """Name and text of each fact of a status."""
    link = status.link
    heard = "nothing heard yet" if status.silence_s is None else f"last packet {status.silence_s:.1f} s ago"
    yield "contact", f"{'yes' if status.contact else 'no'}, {heard}"
    yield "spacecraft", _spacecraft(status)
    yield (
        "link",
        f"{link.endpoint}, {'up' if link.up else 'down'}"
        + (f", opened again {link.reopened} times" if link.reopened else ""),
    )
    yield (
        "received",
        f"{link.bytes_in:,} B in {link.units_in:,} units; sent {link.bytes_out:,} B in {link.units_out:,}",
    )
    dropped = {**status.units_bad, **link.dropped}
    yield "dropped", ", ".join(f"{name} {count:,}" for name, count in dropped.items()) or "nothing"
    yield (
        "packets",
        f"{status.packets_live:,} live, {status.packets_playback:,} playback, {status.duplicates:,} duplicates,"
        f" {status.missing:,} missing",
    )
    yield "acknowledged", f"{status.acknowledged:,} packets, {status.acknowledge_pending:,} to come"
    yield "archive", f"{status.archive}, {status.archive_pending:,} waiting, {status.unarchived:,} dropped"
    yield "commands", f"{status.commands_open} open"
    flown = status.dictionary_onboard or "not told yet"
    yield "dictionary", f"{status.dictionary} here, on board {flown}"
    yield "station", f"pid {status.pid}, up {status.uptime_s:.0f} s"
    for notice in status.notices:
        yield "notice", clip(notice, 400)


def _spacecraft(status: StationStatus) -> str:
    if status.boot is None or status.world_s is None:
        return "nothing known"
    return f"{status.mode or 'mode unknown'}, boot {status.boot}, mission time {status.world_s:,.1f} s"


class Follower:
    """Turns successive snapshots into lines, each event, alarm and command step once."""

    def __init__(self, as_json: bool, severity: int = 0) -> None:
        self._as_json = as_json
        self._severity = severity
        self._events: set[tuple[int, int]] = set()
        self._alarms: set[tuple[float, str]] = set()
        self._commands: dict[int, str] = {}
        self._contact: bool | None = None
        self._notices: tuple[str, ...] = ()

    def lines(self, snapshot: Snapshot, everything: bool = True) -> Iterator[str]:
        """News since the last snapshot; only events unless ``everything``."""
        for event in snapshot.events:
            if (key := (event.boot, event.sequence)) not in self._events and event.severity >= self._severity:
                self._events.add(key)
                yield self._line("event", event, event_line(event))
        # What the ring has dropped cannot come again.
        self._events &= {(event.boot, event.sequence) for event in snapshot.events}
        if not everything:
            return
        status = snapshot.status
        if status.contact != self._contact:
            self._contact = status.contact
            yield self._line(
                "status", status, f"{_now()}  link: {contact_text(status).lower()}; {_spacecraft(status)}"
            )
        for notice in status.notices:
            if notice not in self._notices:
                yield self._line("notice", {"text": notice}, f"{_now()}  notice: {clip(notice, 300)}")
        self._notices = status.notices
        for alarm in snapshot.alarms:
            if (mark := (alarm.received_utc_s, alarm.parameter)) not in self._alarms:
                self._alarms.add(mark)
                word = f"LIMIT {alarm.level}" if alarm.level else "limit"
                yield self._line("alarm", alarm, f"{alarm.world_s:>12,.1f}  {word}: {alarm.text}")
        self._alarms &= {(alarm.received_utc_s, alarm.parameter) for alarm in snapshot.alarms}
        for command in snapshot.commands:
            progress = "timeout" if command.overdue else command.progress
            if self._commands.get(command.id) != progress:
                self._commands[command.id] = progress
                why = f": {clip(command.text, 200)}" if command.text else ""
                yield self._line("command", command, f"{_now()}  command {command.name} {progress}{why}")
        self._commands = {c.id: self._commands[c.id] for c in snapshot.commands}

    def _line(self, kind: str, record: object, text: str) -> str:
        if not self._as_json:
            return text
        return msgspec.json.encode({"type": kind, **msgspec.to_builtins(record)}).decode()


def event_line(event: EventLine) -> str:
    """One event as a line: mission time, severity, name, text."""
    late = " (playback)" if event.playback else ""
    return (
        f"{event.world_s:>12,.1f}  {severity_name(event.severity):<10}  {event.name}: {clip(event.text, 300)}{late}"
    )


def _now() -> str:
    return utc_text(time.time())[11:19].rjust(12)
