"""The commands of ``hil`` that fly in virtual time, in this process: ``inproc``, ``endure``, ``explore``.

Exit status: 0 every requirement held · 1 one did not · 2 wrong use · 130 interrupted, what was flown is judged all
the same.
"""

import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

EXIT_FAIL: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of every draw of the bench.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else on standard output.")]


def add_to(app: typer.Typer) -> None:
    """Give these commands to the command line."""
    app.command()(inproc)
    app.command()(endure)
    app.command()(explore)


def inproc(
    orbit: Annotated[str, typer.Option("--orbit", help="A named orbit or a TLE file.")] = "leo_550",
    orbits: Annotated[float, typer.Option("--orbits", min=0.01, max=300.0, help="Length of the flight.")] = 1.0,
    rate_hz: Annotated[float, typer.Option("--rate", min=0.1, max=10.0, help="Minor frames per second.")] = 10.0,
    seed: Seed = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for what was flown, to be compared: hil plan --compare.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fly the executive in this process and in virtual time: an orbit in seconds, the same bytes for a seed."""
    from . import inproc as virtual
    from .plant.plant import Plant, PlantConfig

    try:
        plant = Plant(PlantConfig(orbit=orbit), seed=seed)
        duration_s = orbits * plant.geometry.orbit.period_s
        if out is None:
            flown = virtual.run_inproc(virtual.mission(plant), plant, duration_s, 1.0 / rate_hz, seed)
        else:
            from .preflight.flown import record, save

            flown, recorded = record(plant, duration_s, 1.0 / rate_hz, seed)
            save(recorded, out)
    except ValueError as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{out}: {error.strerror}")
    if as_json:
        print(msgspec.json.encode(flown).decode())
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in msgspec.to_builtins(flown).items():
            if name != "events":
                table.add_row(
                    f"[dim]{name}[/dim]", escape(f"{value:.4f}" if isinstance(value, float) else str(value))
                )
        Console().print(table)
    raise typer.Exit(0 if flown.ok else EXIT_FAIL)


def endure(
    hours: Annotated[float, typer.Option("--hours", help="Length of the mission, hours of virtual time.")] = 24.0,
    frame_s: Annotated[float, typer.Option("--frame", help="Length of a minor frame, seconds.")] = 1.0,
    seed: Seed = 1,
    every_s: Annotated[float, typer.Option("--every", help="One fault in this many virtual seconds.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Fly a day in virtual time with a random fault every ten minutes; each must be answered and recovered from."""
    from . import endurance
    from .endurance_verdict import by_name, lines

    bar = _Progress()
    try:
        verdict = endurance.fly(hours, frame_s, seed, every_s, bar.show)
    except ValueError as error:
        _give_up(str(error))
    finally:
        bar.close()
    if as_json:
        counts = {
            "ok": verdict.ok,
            "unanswered": verdict.unanswered,
            "not_recovered": verdict.not_recovered,
            "by_name": by_name(verdict.faults),
        }
        print(msgspec.json.encode(msgspec.to_builtins(verdict) | counts).decode())
    else:
        print("\n".join(lines(verdict)))
    raise typer.Exit(EXIT_INTERRUPTED if verdict.interrupted else 0 if verdict.ok else EXIT_FAIL)


def explore(as_json: Json = False) -> None:
    """Reach every state of mode × FDIR × payload and prove what must hold there."""
    from . import exploration
    from .exploration_report import lines

    bar = _Progress()
    try:
        found = exploration.explore(progress=lambda walk, states: bar.show(0.0, f"{walk}: {states} states"))
    finally:
        bar.close()
    if as_json:
        counts = {"ok": found.ok, "states": found.states, "transitions": found.transitions}
        print(msgspec.json.encode(msgspec.to_builtins(found) | counts).decode())
    else:
        print("\n".join(lines(found)))
    raise typer.Exit(0 if found.ok else EXIT_FAIL)


class _Progress:
    """One line on standard error that is written over; nothing where nobody watches."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._shown = False

    def show(self, share: float, line: str) -> None:
        """Write the line anew."""
        if self._watched:
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{share:4.0%}  {line[:100]}")
            sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _give_up(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"hil: {line}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)
