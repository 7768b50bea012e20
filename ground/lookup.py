"""The commands that look into an archive: events, a parameter or records, and the report of the whole.

A look-up shows the newest rows on a terminal; a span of mission time or a machine-readable form gets them all.
"""

import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from flightsw.link.dictionary import PARAMETER_BY_NAME, PARAMETERS
from flightsw.link.schema import Severity
from flightsw.link.telecommands import EVENT_RING_MAX

from . import cli_history, display, report, report_page
from .client import ArchiveReader, StationClient
from .errors import ExitCode, GroundError
from .following import REFRESH_S
from .locations import archive_path, socket_path
from .monitor import value_text
from .options import Archive, Json, Since, Socket, Until
from .record_table import record_cell, record_table
from .reference import RECORDS, similar
from .screen import print_csv, print_json, table
from .summary import summarise

LAST_SHOWN: Final = 20
"""Rows that a query shows on a terminal when nothing else is asked."""


def _severities(incomplete: str) -> list[str]:
    return [s.name for s in Severity if s.name.startswith(incomplete.upper())]


def events(
    archive: Archive = None,
    socket: Socket = None,
    severity: Annotated[
        str, typer.Option("--severity", help="Least severity shown.", autocompletion=_severities)
    ] = "DIAGNOSTIC",
    since: Since = None,
    until: Until = None,
    last: Annotated[int, typer.Option("--last", min=0, help="Newest events only; 0 is all.")] = LAST_SHOWN,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; needs a station.")] = False,
    replay: Annotated[
        int | None,
        typer.Option(
            "--replay", metavar="N", min=1, max=EVENT_RING_MAX, help="First have the newest N sent again."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show event reports from the archive, oldest first; with --follow from the running station."""
    least = _severity(severity)
    if replay is not None:
        said = cli_history.replay(socket, replay, Severity(least).name)
        print(f"ground: replayed: {said}", file=sys.stderr)
        last = replay
    if follow:
        with StationClient(socket_path(socket)) as client:
            follower = display.Follower(as_json, least)
            while True:
                for line in follower.lines(client.snapshot(), everything=False):
                    print(line, flush=True)
                time.sleep(REFRESH_S)
    with ArchiveReader(archive_path(archive)) as reader:
        since, until = _times(reader, since, until)
        rows = reader.events(since, until, last or None, least)
        _notices(reader)
    for event in rows:
        print(msgspec.json.encode(event).decode() if as_json else display.event_line(event))


def _queries(incomplete: str) -> list[tuple[str, str]]:
    found = [(name, "records") for name in RECORDS if name.startswith(incomplete)]
    return found + [(p.name, p.text) for p in PARAMETERS if p.name.startswith(incomplete)]


def query(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            help=f"A parameter, or one of {', '.join(RECORDS)}; nothing lists what there is.",
            autocompletion=_queries,
        ),
    ] = None,
    archive: Archive = None,
    since: Since = None,
    until: Until = None,
    last: Annotated[int | None, typer.Option("--last", min=0, help="Newest rows only; 0 is all.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header.")] = False,
    as_json: Json = False,
) -> None:
    """Look up a parameter over mission time, or records, in the archive."""
    if as_csv and as_json:
        raise GroundError("--csv and --json: choose one", ExitCode.USAGE)
    if what is not None and what not in RECORDS and what not in PARAMETER_BY_NAME:
        raise GroundError(f"no parameter {what!r}{similar(what)}; records are {', '.join(RECORDS)}", ExitCode.USAGE)
    with ArchiveReader(archive_path(archive)) as reader:
        _notices(reader)
        if what is None:
            _list_parameters(reader, as_json)
            return
        since, until = _times(reader, since, until)
        whole = as_csv or as_json or since is not None or until is not None
        limit = (None if whole else LAST_SHOWN) if last is None else last or None
        if what in PARAMETER_BY_NAME:
            _query_parameter(reader, what, since, until, limit, as_csv, as_json)
        else:
            _query_records(reader, what, since, until, limit, as_csv, as_json)


def report_command(
    archive: Archive = None,
    as_json: Json = False,
    as_html: Annotated[bool, typer.Option("--html", help="One self-contained page.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; else standard output.")] = None,
) -> None:
    """Summarise an archive: contacts, packets, gaps, events, commands, parameters with limits."""
    if as_html and as_json:
        raise GroundError("--html and --json: choose one", ExitCode.USAGE)
    with ArchiveReader(archive_path(archive)) as reader:
        summary = summarise(reader)
        if as_json:
            text = msgspec.json.format(msgspec.json.encode(summary)).decode() + "\n"
        else:
            text = report_page.page(summary, reader) if as_html else report.text(summary) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GroundError(f"report {output}: {error.strerror}") from None


def _query_parameter(
    reader: ArchiveReader,
    name: str,
    since: float | None,
    until: float | None,
    last: int | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    parameter = PARAMETER_BY_NAME[name]
    series = reader.series(name, since, until, last)
    if as_json:
        values = [value if math.isfinite(value) else None for value in series.value]
        print_json({"parameter": name, "unit": parameter.unit, "world_s": series.world_s, "value": values})
    elif as_csv:
        print_csv(("world_s", name), zip(map(repr, series.world_s), map(repr, series.value), strict=True))
    else:
        rows = [(f"{t:.3f}", value_text(parameter, v)) for t, v in zip(*series, strict=True)]
        print(table(("mission s", f"{name} {parameter.unit}".rstrip()), rows, frozenset((0, 1))))
        valid = [value for value in series.value if math.isfinite(value)]
        if valid and not parameter.states:
            mean = math.fsum(valid) / len(valid)
            print(f"{len(valid)} valid: minimum {min(valid):.6g}, mean {mean:.6g}, maximum {max(valid):.6g}")


def _query_records(
    reader: ArchiveReader,
    what: str,
    since: float | None,
    until: float | None,
    last: int | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    rows: list[Any] = getattr(reader, what)(since, until, last)
    if as_json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
    elif as_csv:
        builtins = [msgspec.to_builtins(row) for row in rows]
        header = tuple(builtins[0]) if builtins else ()
        print_csv(header, ([record_cell(row[name]) for name in header] for row in builtins))
    else:
        print(record_table(what, rows))


def _list_parameters(reader: ArchiveReader, as_json: bool) -> None:
    names = reader.parameters()
    if as_json:
        print_json({"records": RECORDS, "parameters": names})
        return
    rows = [(name, PARAMETER_BY_NAME[name].unit, PARAMETER_BY_NAME[name].text) for name in names]
    print(table(("parameter", "unit", "what it is"), rows))
    print(f"\nrecords: {', '.join(RECORDS)}")


def _times(reader: ArchiveReader, since: float | None, until: float | None) -> tuple[float | None, float | None]:
    """Mission times; a negative one counts back from the newest packet."""
    for time_s in (since, until):
        if time_s is not None and not math.isfinite(time_s):
            raise GroundError("--since and --until take seconds of mission time", ExitCode.USAGE)
    _, end = reader.world_span()
    return tuple(t + end if t is not None and t < 0.0 and end is not None else t for t in (since, until))  # type: ignore[return-value]


def _notices(reader: ArchiveReader) -> None:
    for notice in reader.notices():
        print(f"ground: {notice}: what both know is shown", file=sys.stderr)


def _severity(name: str) -> int:
    try:
        return Severity[name.upper()]
    except KeyError:
        allowed = ", ".join(s.name for s in Severity)
        raise GroundError(f"--severity {name}: allowed are {allowed}", ExitCode.USAGE) from None
