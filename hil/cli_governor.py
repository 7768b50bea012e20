"""``hil governor-bench``: how much of what the sun gives each governor turns into work, and at what price.

Exit status: 0 the table is complete · 1 a flight governor broke a true limit, or a gap is over what the yardstick
promises · 2 wrong use · 130 interrupted, what was finished is kept and the next call goes on.
"""

import csv
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from .cli_virtual import EXIT_FAIL, EXIT_INTERRUPTED, EXIT_USAGE

if TYPE_CHECKING:
    from .yardstick.campaign import Report

NAME: Final = "governor-bench"


def add_to(app: typer.Typer) -> None:
    """Give the command to the command line."""
    app.command(name=NAME)(governor_bench)


def governor_bench(
    set_name: Annotated[str, typer.Option("--set", help="Scenarios: tune, or report (never tuned on).")] = "report",
    scenarios: Annotated[int, typer.Option("--scenarios", help="The first so many of the set.")] = 1000,
    rivals: Annotated[str, typer.Option("--rivals", help="Names with commas between, or all.")] = "all",
    bounds: Annotated[int, typer.Option("--bounds", help="Prove the bound for a sample of so many.")] = 100,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=64, help="Processes.")] = 2,
    out: Annotated[Path, typer.Option("--out", help="Folder for results, table and plots.")] = Path("out") / NAME,
    picture: Annotated[Path | None, typer.Option("--picture", help="Write the picture (PNG) there too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Score every governor against a clairvoyant on the same random scenarios, with a proved bound."""
    console = Console(stderr=as_json)
    try:
        from .yardstick import campaign, chart
        from .yardstick.certificates import Contradiction
        from .yardstick.clairvoyant import NotFlyable
        from .yardstick.linear import NotOptimal
        from .yardstick.score import RIVALS
    except ImportError as error:
        _give_up(str(error))
    try:
        order = campaign.Order(
            set_name=set_name,
            scenarios=scenarios,
            rivals=tuple(RIVALS) if rivals == "all" else tuple(name for name in rivals.split(",") if name),
            bounds=bounds,
            jobs=jobs,
            folder=out,
        )
    except ValueError as error:
        _give_up(str(error))
    bars = _Bars(console)
    try:
        with alone(out), bars:
            report, results = campaign.carry_out(order, bars.show)
            bars.show("plots", 0, 1)
            pictures = chart.write(order, report, results, [out / f"{NAME}.svg", out / f"{NAME}.png", picture])
            bars.show("plots", 1, 1)
            _write(report, out)
    except KeyboardInterrupt:
        print(
            f"hil: interrupted; what was finished is in {out}, the same command goes on from there", file=sys.stderr
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (Contradiction, NotFlyable, NotOptimal) as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{error.filename or out}: {error.strerror}")
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        _print(console, report)
        console.print(f"table    {out / 'table.csv'}\nreport   {out / 'report.json'}", highlight=False)
        console.print(*(f"picture  {path}" for path in pictures), sep="\n", highlight=False)
    raise typer.Exit(0 if report.held else EXIT_FAIL)


class _Bars:
    """One bar for each kind of work, on a terminal; nothing where nobody watches."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def show(self, label: str, done: int, of: int) -> None:
        """How far this kind of work is."""
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=of)
        self._bars.update(self._tasks[label], completed=done)

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One run per folder: its files have one writer."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _give_up(f"{folder}: another run is writing there; wait for it or take another --out")
        yield


def _print(console: Console, report: "Report") -> None:
    table = Table(
        title=f"{report.scenarios} scenarios of the set {report.set_name}, 6 orbits each; % of a clairvoyant",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("governor", no_wrap=True)
    for heading in ("mean", "5 %", "worst", "SoC ✗", "heat ✗", "min SoC", "max °C", "µs/tick"):
        table.add_column(heading, justify="right")
    for row in report.scores:
        broken = "bold red" if row.broken else "default"
        table.add_row(
            escape(row.label),
            f"{row.mean:.2f}",
            f"{row.percentile_5:.2f}",
            f"{row.worst:.2f}",
            f"[{broken}]{row.soc_violations}[/]",
            f"[{broken}]{row.heat_violations}[/]",
            f"{row.soc_min:.4f}",
            f"{row.gpu_max_degc:.2f}",
            f"{row.tick_cpu_us:.0f}",
        )
    console.print(table)
    by_eclipse = Table(title="mean by length of the eclipse", title_justify="left", box=None, pad_edge=False)
    by_eclipse.add_column("governor")
    for name in report.eclipse_classes:
        by_eclipse.add_column(name, justify="right")
    for row in report.scores:
        by_eclipse.add_row(escape(row.label), *(f"{row.by_eclipse[name]:.2f}" for name in report.eclipse_classes))
    console.print(by_eclipse)
    console.print(*report.lines(), sep="\n", highlight=False, soft_wrap=True)


def _write(report: "Report", folder: Path) -> None:
    """The report as JSON and its rows as CSV."""
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    with (folder / "table.csv").open("w", newline="") as file:
        rows = [msgspec.structs.asdict(row) for row in report.scores]
        for row in rows:
            row.update({f"mean_{name}": value for name, value in row.pop("by_eclipse").items()})
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _give_up(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"hil: {line}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)
