"""Options that several commands of ``ground`` share: the same name, help and environment variable everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Socket = Annotated[
    Path | None, typer.Option("--socket", help="Control socket of the station.", envvar="GROUND_SOCKET")
]
Archive = Annotated[Path | None, typer.Option("--archive", help="Archive file.", envvar="GROUND_ARCHIVE")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a page, also on a terminal.")]
Since = Annotated[float | None, typer.Option("--since", help="Mission time, s; negative: before the end.")]
Until = Annotated[float | None, typer.Option("--until", help="Mission time, s.")]
