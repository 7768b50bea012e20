"""``hil plan``: whether a mission fits its orbit, before it flies; after a run, how it did against the plan.

Exit status: 0 it fits · 1 it does not · 2 bad input, or the solver had no answer · 130 interrupted.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn

import msgspec
import typer
from rich.console import Console

Progress = Callable[[str, float], None]

EXIT_FAIL: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130


def add_to(app: typer.Typer) -> None:
    """Give this command to the command line."""
    app.command()(plan)


def plan(
    mission: Annotated[
        Path | None,
        typer.Argument(metavar="MISSION", help="A plan document or a flight configuration (.toml)."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare", metavar="FOLDER", help="Output folder of a finished run: plan against measurement."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for plan.json and plan.png (compare.json, compare.png).")
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a plan document with every section.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON and nothing else on standard output.")
    ] = False,
) -> None:
    """Say whether a mission fits: compute, energy and temperature over its orbits, and what binds."""
    from .preflight import document

    if example:
        print(document.EXAMPLE.read_text(encoding="utf-8"), end="")
        return
    if mission is None and compare is None:
        _give_up("plan: name a MISSION file, or --compare FOLDER; --example prints a document to begin with")
    console = Console(stderr=as_json)
    try:
        with _progress() as progress:
            if compare is not None:
                fits = _compared(compare, mission, out, progress, console, as_json)
            else:
                assert mission is not None
                fits = _planned(mission, out, progress, console, as_json)
    except document.PlanError as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{error.filename or out}: {error.strerror}")
    except KeyboardInterrupt:
        print("hil: interrupted, nothing was written", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(0 if fits else EXIT_FAIL)


def _planned(mission: Path, out: Path | None, progress: Progress, console: Console, as_json: bool) -> bool:
    from .preflight import document, figure, plan, show, verdict

    found = verdict.judge(plan.make(document.load(mission), progress))
    text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / "plan.json", text + "\n")
        figure.draw(found, out / "plan.png")
    if as_json:
        print(text)
    else:
        show.show(console, found)
        if out is not None:
            console.print(f"plan     {out / 'plan.json'}\nplot     {out / 'plan.png'}", highlight=False)
    return found.fits


def _compared(
    folder: Path, mission: Path | None, out: Path | None, progress: Progress, console: Console, as_json: bool
) -> bool:
    from .preflight import compare, document, figure, flown, show

    run = flown.read(folder)
    found = compare.compare(run, document.load(mission) if mission is not None else None, progress)
    text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / "compare.json", text + "\n")
        figure.draw_comparison(found, out / "compare.png", f"{found.name}: the run and its plan")
    if as_json:
        print(text)
    else:
        show.show_comparison(console, found)
        if out is not None:
            console.print(f"compared {out / 'compare.json'}\nplot     {out / 'compare.png'}", highlight=False)
    return True


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line on a terminal's standard error that says what is being done; nothing where nobody watches."""
    with Console(stderr=True).status("") as status:
        yield lambda text, share: status.update(f"{text} {share:4.0%}" if share else text)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _give_up(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"hil: {line}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)
