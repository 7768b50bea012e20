"""What the commands about tables on board share: load an image, fetch one, give an order, with progress on the way.

Progress goes to standard error, so that what is dumped can be piped. Ctrl-C during a load discards what was staged,
as far as the link lets it; what is active on board has not changed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from flightsw.link import limit_tables
from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.errors import TableError
from flightsw.link.limit_tables import WatchTable
from flightsw.link.tables import Table

from . import sending
from .client import LoadProgress, StationClient
from .commanding import validate
from .errors import ExitCode, GroundError
from .locations import socket_path
from .screen import clip, print_json

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; else standard output.", show_default=False)
]
DOING: Final = {
    "table.begin": "opening the load",
    "table.data": "sending",
    "table.validate": "validating",
    "table.activate": "activating",
    "sequence.append": "appending",
}


def order(name: str, arguments: dict[str, Any], socket: Path | None, as_json: bool) -> None:
    """Send one telecommand as ``ground send`` does; ends the program with its exit code."""
    checked = validate(name, arguments)[1]
    code = sending.send(
        TELECOMMAND_BY_NAME[name],
        checked,
        socket=socket,
        wait="completion",
        timeout_s=None,
        yes=False,
        as_json=as_json,
    )
    raise typer.Exit(code)


def load(table: Table, image: bytes, socket: Path | None, activate: str, as_json: bool) -> None:
    """Load an image and say what the satellite says of it; raises ``GroundError`` when it refuses."""
    with StationClient(socket_path(socket)) as client, _bar(table.name) as show:
        try:
            result = client.load_table(table.name, image, activate=activate, progress=show)
        except KeyboardInterrupt:
            with contextlib.suppress(GroundError):
                client.send("table.discard", {"table": table.name}, wait=None)
            raise
    if as_json:
        print_json(msgspec.to_builtins(result) | {"crc32": f"{result.crc32:08x}"})
        return
    again = f", {result.resent} pieces sent again" if result.resent else ""
    print(f"{table.name}: {result.size_bytes} bytes, CRC-32 {result.crc32:08x}{again}")
    print(f"  valid: {clip(result.validated, 200)}")
    if activate:
        print(f"  {clip(result.activated, 200) or f'{activate} completed'}")
    else:
        print(f"  not active: ground send table.activate table={table.name}")


def fetch(client: StationClient, name: str) -> bytes:
    """The image of a table or status as it is on board now."""
    with _bar(name) as show:
        return client.dump_table(
            name,
            progress=lambda received, total: show(
                LoadProgress(confirmed_bytes=received, size_bytes=total, resent=0, silent=False, doing="receiving")
            ),
        )


def fetch_watchpoints(client: StationClient) -> WatchTable:
    """The watchpoints on board; raises ``GroundError`` when this dictionary cannot read them."""
    try:
        return limit_tables.decode_watchpoints(fetch(client, "watchpoints"))
    except TableError as error:
        raise unreadable("watchpoints", error) from None


def unreadable(name: str, error: TableError) -> GroundError:
    """The complaint about an image that came whole and cannot be read."""
    return GroundError(f"{name}: cannot be read with this dictionary: {error}", ExitCode.ERROR)


def write(text: str, output: Path | None) -> None:
    """Text to a file, or to standard output."""
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GroundError(f"{output}: {error.strerror}") from None


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Any]:
    """A function that shows a ``LoadProgress`` on a terminal; elsewhere only that nothing is heard, once."""
    console = Console(stderr=True, highlight=False)
    silent = False
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, note="")

        def show(now: LoadProgress) -> None:
            nonlocal silent
            note = "no contact: waiting" if now.silent else f"{now.resent} sent again" if now.resent else ""
            doing = f"{name}: {DOING.get(now.doing, now.doing)}"
            progress.update(task, description=doing, completed=now.confirmed_bytes, total=now.size_bytes, note=note)
            if now.silent and not silent and not console.is_terminal:
                console.print("ground: no contact: waiting")
            silent = now.silent

        yield show
