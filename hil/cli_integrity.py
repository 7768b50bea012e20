"""``hil campaign integrity``: faults into numbers, and what the integrity layer makes of them.

The campaign computes with torch and the flight's own integrity layer, in a child process of its own: the bench does
not load them. Ctrl-C reaches that process, which ends its ledger and reports what was done; then the same command
goes on from there.

Exit status: 0 every goal that could be judged is met · 1 one was missed · 2 invalid (a fault never fired), wrong
use · 130 interrupted.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

NAME: Final = "integrity"
PROCESS: Final = (sys.executable, "-m", "hil.integrity")
KILL_WAIT_S: Final = 30.0
"""After an interruption the child writes its report; then it is ended."""

campaign: Final = typer.Typer(
    help="Fault campaigns.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@campaign.callback()
def _group() -> None:
    """Fault campaigns."""


@campaign.command(name=NAME)
def integrity(
    n: Annotated[
        int, typer.Option("--n", min=0, help="Harmful faults of resident state; 0 is the full plan (3,990).")
    ] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the plan: minutes.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of every draw.")] = 1,
    part: Annotated[
        list[str] | None, typer.Option("--part", help="Only this part; may be given several times.")
    ] = None,
    only: Annotated[str, typer.Option("--only", metavar="ID", help="Replay one injection and print it.")] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder of ledger, report and page.")] = Path("out")
    / "integrity",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Inject faults into models at work, count what was caught, and write ledger, report and a page of plots."""
    arguments = ["--n", str(n), "--seed", str(seed), "--only", only, "--out", str(out)]
    for name in part or []:
        arguments += ["--part", name]
    for flag, given in (("--quick", quick), ("--json", as_json), ("--quiet", quiet)):
        arguments += [flag] if given else []
    raise typer.Exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run the child with these arguments and pass on its exit status; an interruption is passed on, too."""
    child = subprocess.Popen([*PROCESS, *arguments])
    try:
        return child.wait()
    except KeyboardInterrupt:
        # On a terminal the child has had it, too; a second one does no harm.
        child.send_signal(signal.SIGINT)
        try:
            return child.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return 130
