"""``ground table``: any table between a file on this machine and the satellite.

A file that is loaded, compared or written is always a source; images exist only on the link and on board.
"""

import difflib
import zlib
from pathlib import Path
from typing import Annotated, Final

import typer

from flightsw.link.errors import TableError
from flightsw.link.limit_tables import WatchTable
from flightsw.link.tables import LOADABLE, TABLES, Kind, Table

from .cli_onboard import Output, fetch, fetch_watchpoints, load, order, unreadable, write
from .client import StationClient
from .errors import ExitCode, GroundError
from .limit_source import compile_watchpoints
from .locations import socket_path
from .options import Json, Socket
from .screen import print_json, table
from .source import Source
from .table_source import REPORTS, compile_image, find_table, image_text, summary

app: Final = typer.Typer(
    no_args_is_help=True, help="Tables on board: limits, responses, parameters; check, load, dump, compare, reset."
)


def _loadable(incomplete: str) -> list[tuple[str, str]]:
    return [(t.name, t.text) for t in LOADABLE if t.name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="watchpoints, actionpoints, parameters, or the slot of a sequence.",
        autocompletion=_loadable,
        show_default=False,
    ),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Source, TOML.", show_default=False)]
Watchpoints = Annotated[
    Path | None,
    typer.Option(
        "--watchpoints",
        metavar="FILE",
        help="Watchpoints that these actionpoints speak of.",
        show_default=False,
    ),
]


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the tables that there are."""
    if as_json:
        print_json([{"name": t.name, "code": t.code, "kind": str(t.kind), "text": t.text} for t in TABLES])
        return
    rows = [
        (t.name, REPORTS.get(t.name, ""), t.text) for t in TABLES if t.kind not in (Kind.ABSOLUTE, Kind.RELATIVE)
    ]
    rows += [("ats1, ats2", "", "Absolute time sequences"), ("rts01 to rts64", "", "Relative time sequences")]
    print(table(("name", "shown by", "what it holds"), rows))


@app.command()
def check(name: Name, file: File, watchpoints: Watchpoints = None, as_json: Json = False) -> None:
    """Compile a table and say what it holds; nothing is sent."""
    target = find_table(name)
    source = Source(file)
    known = _named_watchpoints(target, source, watchpoints)
    image = compile_image(target, source, known)
    what = summary(target, image, known)
    if as_json:
        told = {"file": str(file), "table": target.name, "summary": what}
        print_json(told | {"bytes": len(image), "crc32": f"{zlib.crc32(image):08x}"})
        return
    print(f"{file}: ok: {what}; {len(image)} bytes, CRC-32 {zlib.crc32(image):08x}")


@app.command("load")
def load_command(
    name: Name,
    file: File,
    watchpoints: Watchpoints = None,
    activate: Annotated[bool, typer.Option("--activate/--no-activate", help="Use it when it is valid.")] = True,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Load a table: send, validate, activate. Actionpoints are checked for the watchpoints on board."""
    target = find_table(name)
    source = Source(file)
    known = _named_watchpoints(target, source, watchpoints)
    if known is None and target.kind is Kind.ACTIONPOINTS:
        with StationClient(socket_path(socket)) as client:
            known = fetch_watchpoints(client)
    load(target, compile_image(target, source, known), socket, "table.activate" if activate else "", as_json)


@app.command()
def dump(name: Name, output: Output = None, socket: Socket = None) -> None:
    """Dump a table from on board, as the source that compiles to it."""
    target = find_table(name)
    write(_onboard_text(target, socket), output)


@app.command()
def diff(name: Name, file: File, watchpoints: Watchpoints = None, socket: Socket = None) -> None:
    """Compare a file with what is on board; exit code 1 when they differ."""
    target = find_table(name)
    source = Source(file)
    known = _named_watchpoints(target, source, watchpoints)
    with StationClient(socket_path(socket)) as client:
        if target.kind is Kind.ACTIONPOINTS and known is None:
            known = fetch_watchpoints(client)
        ours, theirs = compile_image(target, source, known), fetch(client, target.name)
        onboard = fetch_watchpoints(client) if target.kind is Kind.ACTIONPOINTS else None
    if ours == theirs:
        print(f"{target.name}: the same as {file}")
        return
    before, after = _text(target, theirs, onboard), _text(target, ours, known)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"{target.name} on board", str(file)
    )
    print("".join(lines), end="")
    raise typer.Exit(ExitCode.ERROR)


@app.command()
def reset(name: Name, socket: Socket = None, as_json: Json = False) -> None:
    """Go back to the shipped default of a table, or to an empty one."""
    order("table.reset", {"table": find_table(name).name}, socket, as_json)


def _onboard_text(target: Table, socket: Path | None) -> str:
    with StationClient(socket_path(socket)) as client:
        image = fetch(client, target.name)
        known = fetch_watchpoints(client) if target.kind is Kind.ACTIONPOINTS else None
    if not image:
        raise GroundError(f"{target.name} is empty", ExitCode.ERROR)
    comment = f"{target.name} as it was on board: {len(image)} bytes, CRC-32 {zlib.crc32(image):08x}"
    return _text(target, image, known, comment)


def _text(target: Table, image: bytes, known: WatchTable | None, comment: str = "") -> str:
    try:
        return image_text(target, image, known, comment) if image else ""
    except TableError as error:
        raise unreadable(target.name, error) from None


def _named_watchpoints(target: Table, source: Source, other: Path | None) -> WatchTable | None:
    """The watchpoints that actionpoints are checked against: of their own file, else of the named one."""
    if target.kind is not Kind.ACTIONPOINTS:
        return None
    if source.entries("watchpoint"):
        return compile_watchpoints(source)
    return None if other is None else compile_watchpoints(Source(other))
