"""Text for standard output: tables, JSON and CSV; what came from outside is made harmless."""

import csv
import io
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flightsw.link.render import printable
from flightsw.link.schema import Severity

SEVERITY_NAMES = {int(severity): severity.name for severity in Severity}


def clip(text: str, characters: int) -> str:
    """One printable line of at most this many characters."""
    text = printable(text)
    return text if len(text) <= characters else text[: characters - 1] + "…"


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Arguments as they are typed: ``name=value``, quoted for the shell where that is needed."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in arguments.items())


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return shlex.quote(clip(str(value), 60))


def block(text: str, prefix: str) -> str:
    """Lines of a longer text, each made printable and prefixed."""
    return "\n".join(prefix + printable(line) for line in text.split("\n"))


def utc_text(utc_s: float) -> str:
    """UTC seconds as ISO 8601 with milliseconds; "–" when it is no time."""
    try:
        return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return "–"


def severity_name(severity: int) -> str:
    """Name of a severity code."""
    return SEVERITY_NAMES.get(severity, str(severity))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Aligned columns; those in ``right`` to the right, the last one as long as it is."""
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    widths[-1] = 0 if len(header) - 1 not in right else widths[-1]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode())


def print_csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Rows as comma-separated values under a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    sys.stdout.write(buffer.getvalue())


def quiet_broken_pipe() -> None:
    """After ``| head`` has gone, keep the interpreter from complaining about what it could not flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
