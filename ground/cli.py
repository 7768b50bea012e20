"""``ground``: the operator's command line.

    listen    run the station and watch      events    what happened            report    what an archive holds
    watch     watch a running station        query     parameters and records   commands  what can be sent
    status    the station at a glance        send      one telecommand          stop      end the station

Data go to standard output, complaints to standard error as one line; the exit code is one of ``errors.ExitCode``.
"""

import csv
import io
import math
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from flightsw.link.dictionary import PARAMETER_BY_NAME, PARAMETERS, TELECOMMAND_BY_NAME, TELECOMMANDS
from flightsw.link.endpoint import GRAMMAR, parse_endpoint
from flightsw.link.schema import Hazard, Severity

from . import display, report, sending
from .client import ArchiveReader, StationClient
from .errors import ExitCode, GroundError
from .locations import archive_path, socket_path
from .monitor import stream_name, value_text
from .screen import clip, quiet_broken_pipe, table, utc_text
from .station import Station

REFRESH_S: Final = 0.5
LAST_SHOWN: Final = 20
"""Rows that a query shows on a terminal when nothing else is asked."""
RECORDS: Final = ("packets", "events", "verifications", "replies", "commands")

Socket = Annotated[
    Path | None, typer.Option("--socket", help="Control socket of the station.", envvar="GROUND_SOCKET")
]
Archive = Annotated[Path | None, typer.Option("--archive", help="Archive file.", envvar="GROUND_ARCHIVE")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a page, also on a terminal.")]

app: Final = typer.Typer(
    name="ground",
    help="Ground station of gpusat: listen, command, look things up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(sending.app, name="send")


@app.command()
def listen(
    link: Annotated[str, typer.Option("--link", help=f"Radio endpoint: {GRAMMAR}.")],
    archive: Archive = None,
    socket: Socket = None,
    plain: Plain = False,
    as_json: Json = False,
) -> None:
    """Run the station: receive, archive, acknowledge, follow commands. Ctrl-C ends it."""
    try:
        endpoint = parse_endpoint(link)
    except ValueError as error:
        raise GroundError(f"--link: {error}", ExitCode.USAGE) from None
    control = socket_path(socket)
    station = Station(endpoint, archive_path(archive), control)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            station.run()
        except BaseException as error:
            failure.append(error)

    # The station has its own thread, so that a terminal that was stopped with Ctrl-S never stops the archive.
    thread = threading.Thread(target=run, name="station")
    thread.start()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _follow(control, plain, as_json, running=thread.is_alive)
    except KeyboardInterrupt:
        pass
    except GroundError:
        # A station that failed takes its control socket along: its own reason comes first.
        thread.join()
        if not failure:
            raise
    finally:
        station.stop()
        thread.join()
    if failure:
        raise GroundError(f"the station stopped: {type(failure[0]).__name__}: {failure[0]}")


@app.command()
def watch(socket: Socket = None, plain: Plain = False, as_json: Json = False) -> None:
    """Watch a station that runs already. Ctrl-C leaves it running."""
    _follow(socket_path(socket), plain, as_json)


@app.command()
def status(socket: Socket = None, as_json: Json = False) -> None:
    """Show the station at a glance: contact, spacecraft, link, packets, archive, notices."""
    with StationClient(socket_path(socket)) as client:
        snapshot = client.snapshot()
    if as_json:
        values = {name: value for name, value in msgspec.to_builtins(snapshot.latest).items()}
        _print_json({**msgspec.to_builtins(snapshot.status), "latest": values})
    else:
        Console(highlight=False).print(display.status_page(snapshot))


@app.command()
def stop(socket: Socket = None) -> None:
    """Ask the running station to commit and end."""
    with StationClient(socket_path(socket)) as client:
        client.stop()


def _severities(incomplete: str) -> list[str]:
    return [s.name for s in Severity if s.name.startswith(incomplete.upper())]


@app.command()
def events(
    archive: Archive = None,
    socket: Socket = None,
    severity: Annotated[
        str, typer.Option("--severity", help="Least severity shown.", autocompletion=_severities)
    ] = "DIAGNOSTIC",
    since: Annotated[
        float | None, typer.Option("--since", help="Mission time, s; negative: before the end.")
    ] = None,
    until: Annotated[float | None, typer.Option("--until", help="Mission time, s.")] = None,
    last: Annotated[int, typer.Option("--last", min=0, help="Newest events only; 0 is all.")] = LAST_SHOWN,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes; needs a station.")] = False,
    as_json: Json = False,
) -> None:
    """Show event reports from the archive, oldest first; with --follow from the running station."""
    least = _severity(severity)
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


@app.command()
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
    since: Annotated[
        float | None, typer.Option("--since", help="Mission time, s; negative: before the end.")
    ] = None,
    until: Annotated[float | None, typer.Option("--until", help="Mission time, s.")] = None,
    last: Annotated[int | None, typer.Option("--last", min=0, help="Newest rows only; 0 is all.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, with a header.")] = False,
    as_json: Json = False,
) -> None:
    """Look up a parameter over mission time, or records, in the archive."""
    if as_csv and as_json:
        raise GroundError("--csv and --json: choose one", ExitCode.USAGE)
    if what is not None and what not in RECORDS and what not in PARAMETER_BY_NAME:
        raise GroundError(
            f"no parameter {what!r}{_similar(what)}; records are {', '.join(RECORDS)}", ExitCode.USAGE
        )
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


@app.command("report")
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
        summary = report.summarise(reader)
        if as_json:
            text = msgspec.json.format(msgspec.json.encode(summary)).decode() + "\n"
        else:
            text = report.page(summary, reader) if as_html else report.text(summary) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GroundError(f"report {output}: {error.strerror}") from None


@app.command()
def commands(as_json: Json = False) -> None:
    """List the telecommands of the dictionary."""
    if as_json:
        _print_json(msgspec.to_builtins(TELECOMMANDS))
        return
    rows = [
        (c.name, "HAZARDOUS" if c.hazard is Hazard.HAZARDOUS else "", " ".join(a.name for a in c.arguments), c.text)
        for c in TELECOMMANDS
    ]
    print(table(("name", "hazard", "arguments", "what it does"), rows))


def _names(incomplete: str) -> list[tuple[str, str]]:
    return [(c.name, c.text) for c in TELECOMMANDS if c.name.startswith(incomplete)]


@app.command("help")
def help_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Telecommand or parameter.", autocompletion=_names)],
) -> None:
    """Explain a telecommand or a parameter."""
    if name in TELECOMMAND_BY_NAME:
        command = TELECOMMAND_BY_NAME[name]
        print(f"{command.name}: {sending.command_help(command)}")
        for argument in command.arguments:
            print(f"\n  {argument.name}\n    {sending.argument_help(argument)}")
    elif name in PARAMETER_BY_NAME:
        parameter = PARAMETER_BY_NAME[name]
        print(f"{name}: {parameter.text}" + (f" [{parameter.unit}]" if parameter.unit else ""))
        if parameter.states:
            print("  " + ", ".join(f"{code} {state}" for code, state in enumerate(parameter.states)))
        if limits := parameter.limits:
            shown = {field: getattr(limits, field) for field in limits.__struct_fields__}
            print(
                "  limits: " + ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in shown.items() if v is not None)
            )
    else:
        raise GroundError(f"no telecommand or parameter {name!r}{_similar(name)}", ExitCode.USAGE)


# Following a station.


def _follow(control: Path, plain: bool, as_json: bool, running: Any = lambda: True) -> None:
    """Show a station until it ends; ``running`` is false once a station of our own has ended in good order."""
    console = Console(highlight=False)
    follower = display.Follower(as_json)
    with StationClient(control) as client:
        try:
            if plain or as_json or not console.is_terminal:
                while True:
                    for line in follower.lines(client.snapshot()):
                        print(line, flush=True)
                    time.sleep(REFRESH_S)
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    snapshot = client.snapshot()
                    live.update(display.page(snapshot, time.time(), console.height), refresh=True)
                    time.sleep(REFRESH_S)
        except GroundError:
            if running():
                raise


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Looking things up.


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
        _print_json({"parameter": name, "unit": parameter.unit, "world_s": series.world_s, "value": values})
    elif as_csv:
        _print_csv(("world_s", name), zip(map(repr, series.world_s), map(repr, series.value), strict=True))
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
        _print_csv(header, ([_cell(row[name]) for name in header] for row in builtins))
    else:
        print(_record_table(what, rows))


def _record_table(what: str, rows: list[Any]) -> str:
    match what:
        case "packets":
            return table(
                ("mission s", "received UTC", "boot", "stream", "sequence", "type", "bytes", "how"),
                [
                    (
                        f"{r.world_s:.3f}",
                        utc_text(r.received_utc_s),
                        str(r.boot),
                        stream_name(r.apid),
                        str(r.sequence),
                        f"{r.service},{r.subtype}",
                        str(r.bytes),
                        "playback" if r.playback else "live",
                    )
                    for r in rows
                ],
                frozenset((0, 2, 4, 6)),
            )
        case "events":
            return "\n".join(map(display.event_line, rows))
        case "verifications":
            return table(
                ("mission s", "command", "id", "stage", "result"),
                [
                    (
                        f"{r.world_s:.3f}",
                        r.name,
                        str(r.command),
                        r.stage,
                        f"{r.code}: {clip(r.text, 200)}" if r.code else "ok",
                    )
                    for r in rows
                ],
                frozenset((0,)),
            )
        case "replies":
            return table(
                ("mission s", "job", "generation", "tokens", "s", "finish", "text"),
                [
                    (
                        f"{r.world_s:.3f}",
                        clip(r.job, 32),
                        str(r.generation),
                        str(r.tokens),
                        f"{r.duration_s:.2f}",
                        clip(r.finish, 16),
                        clip(r.text, 400) + ("" if r.complete else " [parts missing]"),
                    )
                    for r in rows
                ],
                frozenset((0, 2, 3, 4)),
            )
        case _:
            return table(
                ("sent UTC", "operator", "outcome", "s", "sent", "command"),
                [
                    (
                        utc_text(r.sent_utc_s),
                        r.operator,
                        r.outcome,
                        "–" if r.answered_utc_s is None else f"{r.answered_utc_s - r.sent_utc_s:.3f}",
                        f"{r.transmissions}×",
                        clip(report.command_text(r), 200),
                    )
                    for r in rows
                ],
                frozenset((3, 4)),
            )


def _list_parameters(reader: ArchiveReader, as_json: bool) -> None:
    names = reader.parameters()
    if as_json:
        _print_json({"records": RECORDS, "parameters": names})
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


def _similar(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [*PARAMETER_BY_NAME, *TELECOMMAND_BY_NAME, *RECORDS], n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return "" if value is None else str(value)


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def _print_csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    sys.stdout.write(buffer.getvalue())


def main() -> None:
    """Entry point: every mistake becomes one line on standard error and an exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        outcome = app(arguments, prog_name="ground", standalone_mode=False)
        sys.stdout.flush()
        return int(outcome or 0)
    except GroundError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        quiet_broken_pipe()
        return ExitCode.OK
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:
        # Typer's own complaints about a command line; their class is not public, their method is.
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), ExitCode.USAGE)


def _complain(message: str, code: ExitCode) -> int:
    print(f"ground: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
