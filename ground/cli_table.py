"""``ground table``: any table between a file on this machine and the satellite."""

import zlib
from pathlib import Path
from typing import Annotated, Final

import typer

from flightsw.link.limit_tables import WatchTable
from flightsw.link.tables import LOADABLE, TABLES, Kind, Table

from .limit_source import compile_watchpoints
from .options import Json
from .screen import print_json
from .source import Source
from .table_source import compile_image, find_table, summary

app: Final = typer.Typer(
    no_args_is_help=True, help="Tables on board: limits, responses, parameters; check, load, dump, compare, reset."
)


def _loadable(incomplete: str) -> list[tuple[str, str]]:
    return [(t.name, t.text) for t in LOADABLE if t.name.startswith(incomplete)]


def _any_table(incomplete: str) -> list[tuple[str, str]]:
    return [(t.name, t.text) for t in TABLES if t.name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="NAME", help="Table.", autocompletion=_loadable, show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Source, TOML.", show_default=False)]
Watchpoints = Annotated[
    Path | None,
    typer.Option("--watchpoints", metavar="FILE", help="Watchpoints that these actionpoints speak of."),
]


@app.command()
def check(name: Name, file: File, watchpoints: Watchpoints = None, as_json: Json = False) -> None:
    """Compile a table and say what it holds; nothing is sent."""
    kind = find_table(name)
    source = Source(file)
    known = known_watchpoints(kind, source, watchpoints)
    image = compile_image(kind, source, known)
    what = summary(kind, image, known)
    if as_json:
        print_json(
            {
                "file": str(file),
                "table": kind.name,
                "summary": what,
                "bytes": len(image),
                "crc32": f"{zlib.crc32(image):08x}",
            }
        )
        return
    print(f"{file}: ok: {what}; {len(image)} bytes, CRC-32 {zlib.crc32(image):08x}")


def known_watchpoints(table: Table, source: Source, other: Path | None) -> WatchTable | None:
    """The watchpoints that actionpoints are checked against: of their own file, else of the named one."""
    if table.kind is not Kind.ACTIONPOINTS:
        return None
    if source.entries("watchpoint"):
        return compile_watchpoints(source)
    return None if other is None else compile_watchpoints(Source(other))
