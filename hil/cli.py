"""``hil``: fly the demo or a scenario on the bench, list scenarios, run the executive in virtual time.

Exit status: 0 PASS · 1 FAIL, a requirement is broken · 2 INVALID, the bench failed or a fault did not fire, and
wrong use · 3 INCONCLUSIVE, too little evidence · 130 interrupted.
"""

import fcntl
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, cast, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import cli_calibrate, cli_governor, cli_integrity, cli_preflight, cli_virtual, report, scenario
from .bench import Flight
from .devices import DeviceError
from .display import make_display
from .evidence import Evidence, load, save
from .judge import judge
from .preparation import BenchError, Options
from .scenario import DeviceChoice, Scenario, ScenarioError
from .verdict import Check, Outcome, Verdict
from .wires import LinkKind

EXIT_USAGE: Final = 2
EVIDENCE_FILE: Final = "evidence.msgpack"
EXIT_INTERRUPTED: Final = 130
OUTCOME_STYLE: Final = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.INVALID: "bold yellow",
    Outcome.INCONCLUSIVE: "bold yellow",
    Outcome.NOT_APPLICABLE: "dim",
}

app: Final = typer.Typer(
    name="hil",
    help="The hardware-in-the-loop bench: a satellite's world around the real flight daemon.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of every draw of the bench.")]
Link = Annotated[str | None, typer.Option("--link", help="What both wires are made of: pty or udp.")]
Orbit = Annotated[str | None, typer.Option("--orbit", help="A named orbit or a file with a two-line element set.")]
Device = Annotated[str | None, typer.Option("--device", help="Where the work runs: auto, cpu or cuda.")]
Warp = Annotated[
    float | None, typer.Option("--warp", min=1.0, max=100.0, help="Mission seconds in one second of the machine.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for summary, report and logs; default out/SCENARIO.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No display while it runs.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the summary as JSON and nothing else on standard output.")
]


@app.command()
def demo(
    seed: Seed = None,
    link: Link = None,
    orbit: Orbit = None,
    device: Device = None,
    warp: Warp = None,
    out: Out = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fly one orbit, end to end: training, inference, eclipse, three faults, recovery, passes. About two
    minutes."""
    _fly("demo", seed, link, orbit, device, warp, out, quiet, as_json)


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="SCENARIO", help="Name of a scenario (hil list) or a .toml file.")],
    seed: Seed = None,
    link: Link = None,
    orbit: Orbit = None,
    device: Device = None,
    warp: Warp = None,
    out: Out = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fly one scenario and judge it."""
    _fly(name, seed, link, orbit, device, warp, out, quiet, as_json)


@app.command(name="list")
def list_scenarios() -> None:
    """List the scenarios that come with the bench."""
    table = Table(box=None, pad_edge=False)
    for heading in ("scenario", "orbits", "faults", "what it shows"):
        table.add_column(heading)
    for name in scenario.names():
        item = _loaded(name)
        kinds = ", ".join(fault.kind for fault in item.faults) or "none"
        table.add_row(item.name, f"{item.duration_orbits:g}", kinds, escape(item.title))
    Console().print(table)


@app.command(name="judge")
def judge_again(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder of an earlier run, as out/demo.")],
    as_json: Json = False,
) -> None:
    """Judge the evidence of an earlier run again and write its report anew."""
    try:
        evidence = load(folder / EVIDENCE_FILE)
    except ValueError as error:
        _give_up(str(error))
    _conclude(evidence, folder, Console(stderr=as_json), as_json)


cli_virtual.add_to(app)
cli_governor.add_to(app)
cli_preflight.add_to(app)
app.add_typer(cli_calibrate.calibrate, name="calibrate")
app.add_typer(cli_integrity.campaign, name="campaign")


def main() -> None:
    """Console entry point."""
    app()


def _fly(
    name: str,
    seed: int | None,
    link: str | None,
    orbit: str | None,
    device: str | None,
    warp: float | None,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    console = Console(stderr=as_json)
    chosen = _loaded(name)
    folder = out or Path("out") / chosen.name
    options = Options(
        scenario=chosen,
        out=folder,
        seed=seed,
        link=cast("LinkKind | None", _one_of("--link", link, get_args(LinkKind))),
        orbit=orbit,
        device=cast("DeviceChoice | None", _one_of("--device", device, get_args(DeviceChoice))),
        warp=warp,
    )
    with _alone(folder):
        display = make_display(console, quiet=quiet or as_json)
        try:
            flight = Flight(options, display)
            evidence = flight.fly()
        except (BenchError, DeviceError, ScenarioError) as error:
            display.close()
            _give_up(str(error))
        finally:
            display.close()
        _conclude(evidence, folder, console, as_json)


def _conclude(evidence: Evidence, folder: Path, console: Console, as_json: bool) -> NoReturn:
    """Judge, write, print, and leave with the verdict's status."""
    verdict = judge(evidence)
    try:
        save(evidence, folder / EVIDENCE_FILE)
        summary = report.write(evidence, verdict, folder)
    except OSError as error:
        _give_up(f"{folder}: {error.strerror}")
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        _print_outcome(console, verdict, summary)
        console.print(f"report   {folder / 'report.html'}\nsummary  {folder / 'summary.json'}", highlight=False)
    raise typer.Exit(EXIT_INTERRUPTED if evidence.interrupted else verdict.exit_code)


class _Lock:
    """One run per output folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / ".lock").open("w")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _give_up(f"{self._folder}: another run is writing there; wait for it or take another --out")
        except OSError as error:
            _give_up(f"{self._folder}: {error.strerror}; take another --out")

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _alone(folder: Path) -> _Lock:
    return _Lock(folder)


def _print_outcome(console: Console, verdict: Verdict, summary: dict[str, Any]) -> None:
    heading = f"{summary['title']} · seed {summary['seed']} · {summary['link']} · {summary['device']}"
    figures = Table(title=escape(heading), show_header=False, box=None, pad_edge=False, title_justify="left")
    for name, text in _key_figures(summary):
        figures.add_row(f"[dim]{name}[/dim]", escape(text))
    console.print(figures)
    table = Table(pad_edge=False)
    for column in ("outcome", "requirement", "evidence"):
        table.add_column(column)
    for check in verdict.checks:
        name = check.outcome.value.lower().replace("_", " ")
        evidence = " · ".join(part for part in (_against_limit(check), check.detail) if part)
        table.add_row(f"[{OUTCOME_STYLE[check.outcome]}]{name}[/]", escape(check.requirement), escape(evidence))
    console.print(table)
    console.print(f"verdict  [{OUTCOME_STYLE[verdict.outcome]}]{verdict.outcome.value}[/]", highlight=False)


def _key_figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The summary's main lines in words."""
    modes = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary["mode_time_s"].items() if seconds)
    twin = {True: "equal", False: "DIFFERENT", None: "not compared"}[summary["twin_digest_equal"]]
    soc, gpu = summary["soc_min"], summary["gpu_temp_max_degc"]
    return [
        (
            "flown",
            f"{summary['orbits']:g} orbits of {summary['orbit']}, {summary['eclipse_s']:.0f} s of it in eclipse",
        ),
        ("modes", modes or "no housekeeping"),
        ("battery", "–" if soc is None else f"least state of charge {soc:.1%}, floor {summary['soc_floor']:.0%}"),
        ("heat", "–" if gpu is None else f"GPU at most {gpu:.1f} °C, limit {summary['gpu_temp_limit_degc']:g} °C"),
        ("training", f"{summary['train_steps']} steps, loss {summary['loss_first']} → {summary['loss_last']}"),
        ("inference", f"{summary['inference_replies']} replies to {summary['inference_requests']} requests"),
        (
            "checkpoints",
            f"{summary['checkpoints_committed']} committed, {summary['checkpoints_rejected']} rejected, "
            f"{summary['worker_kills']} worker kills, twin {twin}",
        ),
        (
            "packets",
            f"{summary['packets_sent']} sent, {summary['packets_live']} live, {summary['packets_playback']} "
            f"by playback, {summary['packets_lost_acknowledged']} lost of "
            f"{summary['packets_acknowledged']} acknowledged",
        ),
    ]


def _against_limit(check: Check) -> str:
    """Value and limit, where both say something."""
    if check.value is None or check.limit is None:
        return ""
    unit = f" {check.unit}" if check.unit else ""
    return f"{check.value:.4g}{unit}, limit {check.limit:g}{unit}"


def _loaded(name: str) -> Scenario:
    try:
        return scenario.load(name)
    except ScenarioError as error:
        _give_up(str(error))


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        _give_up(f"{option} {value}: unknown; allowed are {', '.join(allowed)}")
    return value


def _give_up(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"hil: {line}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)
