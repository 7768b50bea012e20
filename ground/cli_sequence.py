"""``ground sequence``: stored command sequences, from a file on this machine to a slot on board.

``check`` and ``compile`` need no station. A slot is the name of a table: rts01 to rts64 hold relative sequences,
ats1 and ats2 absolute ones.
"""

import zlib
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from flightsw.link import sequence
from flightsw.link.schema import Telecommand
from flightsw.link.sequence import Sequence, command_of

from .errors import GroundError
from .moments import duration_text, utc_text
from .options import Json
from .screen import arguments_text, print_json, table
from .sequence_source import compile_sequence, written
from .source import Source
from .table_source import sequence_summary

app: Final = typer.Typer(
    no_args_is_help=True, help="Stored command sequences: write, check, load, run, look at what is on board."
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="Source, TOML.", show_default=False)]


@app.command()
def check(
    file: File,
    steps: Annotated[bool, typer.Option("--steps", help="Also list every step with its time.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a sequence and say what it is; nothing is sent."""
    made = compile_sequence(Source(file))
    _show(file, made, steps, as_json)


@app.command("compile")
def compile_command(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write.")],
    as_json: Json = False,
) -> None:
    """Compile a sequence to the image that is loaded."""
    made = compile_sequence(Source(file))
    try:
        output.write_bytes(sequence.encode(made))
    except OSError as error:
        raise GroundError(f"image {output}: {error.strerror}") from None
    _show(file, made, False, as_json)


def step_rows(made: Sequence) -> list[tuple[str, str, str, str]]:
    """Number, time as written, time from the start (where that is known before) and command of every step."""
    rows, elapsed_ds = [], 0
    for number, step in enumerate(made.steps, 1):
        command, arguments = command_of(step)
        elapsed_ds += step.at_ds
        time = utc_text(step.at_ds) if made.kind == "absolute" else f"+{duration_text(step.at_ds)}"
        start = f"T+{duration_text(elapsed_ds)}" if (made.kind, made.reference) == ("relative", "dispatch") else ""
        rows.append((str(number), time, start, _command(command, arguments)))
    return rows


def _command(command: Telecommand, arguments: dict[str, Any]) -> str:
    return f"{command.name} {arguments_text(written(command, arguments))}".rstrip()


def _show(file: Path, made: Sequence, steps: bool, as_json: bool) -> None:
    image = sequence.encode(made)
    rows = step_rows(made)
    if as_json:
        print_json(
            {
                "file": str(file),
                "name": made.name,
                "kind": made.kind,
                "steps": [{"time": time, "command": command} for _, time, _, command in rows],
                "bytes": len(image),
                "crc32": f"{zlib.crc32(image):08x}",
            }
        )
        return
    print(f"{file}: ok: {sequence_summary(made)}; {len(image)} bytes, CRC-32 {zlib.crc32(image):08x}")
    if steps:
        header = ("step", "time", "from start", "command")
        kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
        shown = [[row[i] for i in kept] for row in rows]
        print(table([header[i] for i in kept], shown, frozenset(range(len(kept) - 1))))
