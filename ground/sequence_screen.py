"""How sequences look on a terminal: a line for the whole, a row for each step, a row for each slot."""

import zlib
from typing import Any

from flightsw.link import sequence
from flightsw.link.schema import Telecommand
from flightsw.link.sequence import Sequence, Status, command_of

from .moments import duration_text, utc_text
from .screen import arguments_text, clip, print_json, table
from .sequence_source import written
from .table_source import sequence_summary


def show_sequence(what: str, made: Sequence, steps: bool, as_json: bool) -> None:
    """Print what a checked sequence is; ``what`` is where it came from."""
    image = sequence.encode(made)
    rows = step_rows(made)
    if as_json:
        print_json(
            {
                "from": what,
                "name": made.name,
                "kind": made.kind,
                "reference": made.reference,
                "on_failure": made.on_failure,
                "wait_for_time": made.wait_for_time,
                "steps": [{"time": time, "command": command} for _, time, _, command in rows],
                "bytes": len(image),
                "crc32": f"{zlib.crc32(image):08x}",
            }
        )
        return
    print(f"{what}: ok: {sequence_summary(made)}; {len(image)} bytes, CRC-32 {zlib.crc32(image):08x}")
    if steps:
        header = ("step", "time", "from start", "command")
        kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
        shown = [[row[i] for i in kept] for row in rows]
        print(table([header[i] for i in kept], shown, frozenset(range(len(kept) - 1))))


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


def status_rows(rows: tuple[Status, ...]) -> list[tuple[str, ...]]:
    """Slot, name, state, next step and counts of every loaded sequence."""
    return [
        (
            clip(row.sequence, 8),
            clip(row.name, 40),
            clip(row.state, 12),
            f"{row.index + 1} of {row.steps}" if row.index < row.steps else f"end of {row.steps}",
            *map(str, (row.dispatched, row.failed, row.skipped, row.pending)),
        )
        for row in rows
    ]


def _command(command: Telecommand, arguments: dict[str, Any]) -> str:
    return f"{command.name} {arguments_text(written(command, arguments))}".rstrip()
