"""``ground sequence``: stored command sequences, from a file on this machine to a slot on board.

``check`` and ``compile`` need no station. A slot is the name of a table: rts01 to rts64 hold relative sequences,
ats1 and ats2 absolute ones.
"""

import zlib
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from flightsw.link import sequence
from flightsw.link.errors import TableError
from flightsw.link.tables import SEQUENCES, Kind, Table

from .cli_onboard import Output, fetch, load, order, unreadable, write
from .client import StationClient
from .errors import ExitCode, GroundError
from .locations import socket_path
from .options import Json, Socket
from .screen import clip, print_json, table
from .sequence_screen import show_sequence, status_rows
from .sequence_source import compile_sequence, sequence_text
from .source import Source
from .table_source import compile_image, find_table

app: Final = typer.Typer(
    no_args_is_help=True, help="Stored command sequences: write, check, load, run, look at what is on board."
)


def _slots(incomplete: str) -> list[tuple[str, str]]:
    return [(t.name, t.text) for t in SEQUENCES if t.name.startswith(incomplete)]


File = Annotated[Path, typer.Argument(metavar="FILE", help="Source, TOML.", show_default=False)]
Slot = Annotated[
    str,
    typer.Argument(metavar="SLOT", help="rts01 to rts64, ats1 or ats2.", autocompletion=_slots, show_default=False),
]
Steps = Annotated[bool, typer.Option("--steps", help="Also list every step with its time.")]


@app.command()
def check(file: File, steps: Steps = False, as_json: Json = False) -> None:
    """Compile a sequence and say what it is; nothing is sent."""
    show_sequence(str(file), compile_sequence(Source(file)), steps, as_json)


@app.command("compile")
def compile_command(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Compile a sequence to the image that is loaded."""
    made = compile_sequence(Source(file))
    try:
        output.write_bytes(sequence.encode(made))
    except OSError as error:
        raise GroundError(f"image {output}: {error.strerror}") from None
    show_sequence(str(file), made, False, as_json)


@app.command("load")
def load_command(
    slot: Slot,
    file: File,
    activate: Annotated[bool, typer.Option("--activate/--no-activate", help="Use it when it is valid.")] = True,
    append: Annotated[bool, typer.Option("--append", help="Merge into the absolute sequence on board.")] = False,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Load a sequence into its slot: send, validate, activate. It does not start by that."""
    target = _slot(slot)
    if append and target.kind is not Kind.ABSOLUTE:
        raise GroundError(
            f"--append: {target.name} is relative, only ats1 and ats2 can be appended", ExitCode.USAGE
        )
    if append and not activate:
        raise GroundError("--append and --no-activate: choose one", ExitCode.USAGE)
    image = compile_image(target, Source(file))
    final = "sequence.append" if append else "table.activate" if activate else ""
    load(target, image, socket, final, as_json)


@app.command()
def start(slot: Slot, socket: Socket = None, as_json: Json = False) -> None:
    """Start a loaded sequence."""
    _order("sequence.start", slot, socket, as_json)


@app.command()
def suspend(slot: Slot, socket: Socket = None, as_json: Json = False) -> None:
    """Let the time of a sequence stand still."""
    _order("sequence.suspend", slot, socket, as_json)


@app.command()
def resume(slot: Slot, socket: Socket = None, as_json: Json = False) -> None:
    """Let the time of a suspended sequence run on."""
    _order("sequence.resume", slot, socket, as_json)


@app.command()
def step(slot: Slot, socket: Socket = None, as_json: Json = False) -> None:
    """Dispatch the next step of a suspended sequence now."""
    _order("sequence.step", slot, socket, as_json)


@app.command()
def abort(slot: Slot, socket: Socket = None, as_json: Json = False) -> None:
    """End a sequence before its time."""
    _order("sequence.abort", slot, socket, as_json)


@app.command("list")
def list_command(socket: Socket = None, as_json: Json = False) -> None:
    """Show every sequence on board with its state and counts."""
    with StationClient(socket_path(socket)) as client:
        image = fetch(client, "sequence_status")
    try:
        rows = sequence.decode_status(image)
    except TableError as error:
        raise unreadable("sequence_status", error) from None
    if as_json:
        print_json([msgspec.structs.asdict(row) for row in rows])
    elif not rows:
        print("no sequence is loaded")
    else:
        header = ("slot", "name", "state", "next step", "dispatched", "failed", "skipped", "pending")
        print(table(header, status_rows(rows), frozenset(range(3, 8))))


@app.command()
def show(
    slot: Slot, output: Output = None, steps: Steps = False, socket: Socket = None, as_json: Json = False
) -> None:
    """Dump a sequence from on board, as the source that compiles to it."""
    target = _slot(slot)
    with StationClient(socket_path(socket)) as client:
        image = fetch(client, target.name)
    if not image:
        raise GroundError(f"{target.name} is empty", ExitCode.ERROR)
    try:
        made = sequence.decode(image)
        text = sequence_text(
            made, f"{target.name} as it was on board: {len(image)} bytes, CRC-32 {zlib.crc32(image):08x}"
        )
    except TableError as error:
        raise unreadable(target.name, error) from None
    if steps or as_json:
        show_sequence(target.name, made, steps, as_json)
    else:
        write(text, output)


def _slot(name: str) -> Table:
    target = find_table(name)
    if target not in SEQUENCES:
        raise GroundError(f"{clip(name, 40)} is no slot of a sequence: rts01 to rts64, ats1, ats2", ExitCode.USAGE)
    return target


def _order(name: str, slot: str, socket: Path | None, as_json: bool) -> None:
    order(name, {"sequence": _slot(slot).name}, socket, as_json)
