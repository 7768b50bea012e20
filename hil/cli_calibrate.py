"""``hil calibrate gpu``: measure the card and write its profile.

Exit status: 0 a profile was written · 2 there is none, with one line that says why · 130 interrupted, nothing was
written.
"""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, cast, get_args

import msgspec
import typer

from .devices import DeviceError
from .scenario import DeviceChoice

if TYPE_CHECKING:
    from .calibration.outcome import Outcome
    from .calibration.plan import Line

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

calibrate: Final = typer.Typer(
    help="Measure instruments and devices of the bench.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@calibrate.callback()
def _group() -> None:
    """Measure instruments and devices of the bench."""


@calibrate.command()
def gpu(
    device: Annotated[str, typer.Option("--device", help="What to measure: auto, cpu or cuda.")] = "auto",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer settings and shorter windows: a rough profile.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of profile, pictures and account.")] = Path(
        "out/calibration"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the account as JSON and nothing else on standard output.")
    ] = False,
) -> None:
    """Measure power and throughput of the card, how fast it reacts, and its heat; write its profile (TOML).

    In under ten minutes, with the card's settings untouched. Without a card, the bench's simulated one is measured
    and the profile says "simulated"; --device cuda refuses instead.
    """
    from .calibration import run
    from .calibration.fits import FitError
    from .calibration.load import LoadError

    if device not in get_args(DeviceChoice):
        _give_up(f"--device {device}: unknown; allowed are {', '.join(get_args(DeviceChoice))}")
    progress = _Progress()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        session = run.Session(
            cast('Literal["auto", "cpu", "cuda"]', device),
            quick=quick,
            planned=progress.planned,
            tell=progress.tell,
        )
        found, outcome, account = session.run()
        files = run.write(out, found, outcome, account)
    except (DeviceError, LoadError, FitError) as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{error.filename or out}: {error.strerror}")
    except KeyboardInterrupt:
        print("hil: interrupted: nothing was written", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        print(msgspec.json.encode(account).decode())
    else:
        print("\n".join(_lines(outcome, account)))
        print(f'profile  {files[-1]}\nname it  [card] profile = "{files[-1]}"')


class _Progress:
    """One line a phase on standard error, with the clock."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._total_s = 0.0

    def planned(self, card: str, lines: "tuple[Line, ...]") -> None:
        """The plan of the minutes, before they pass."""
        self._total_s = sum(line.seconds for line in lines)
        self._say(f"{card}: about {self._total_s / 60.0:.1f} min")
        for line in lines:
            self._say(f"  {line.seconds:5.0f} s  {line.what}")

    def tell(self, phase: str) -> None:
        """A phase begins."""
        self._say(f"[{time.monotonic() - self._start_s:4.0f} of {self._total_s:.0f} s] {phase}")

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _lines(outcome: "Outcome", account: dict[str, Any]) -> list[str]:
    """The result for people."""
    profile, train = outcome.profile, outcome.profile.train
    lines = [
        f"card     {profile.card} ({profile.provenance}, {profile.measured_on})",
        f"power    idle {train.idle_w:.1f} W, most {train.maximum_w:.1f} W (σ {train.power_sigma_w:.1f} W)",
        f"curve    {len(train.power_w)} points of {len(train.settings)} settings",
    ]
    if profile.decode is not None:
        lines.append(f"decode   up to {profile.decode.maximum_w:.1f} W, {len(profile.decode.settings)} settings")
    if outcome.linearity_w is not None:
        lines.append(f"pacing   within {outcome.linearity_w:.1f} W of the straight line")
    lines.append(
        f"settles  {profile.settle_s:.2f} s; energy counter every {profile.energy_counter_period_s * 1e3:.0f} ms"
    )
    lines += [
        f"stops    {stop.kernel_s * 1e3:.1f} ms kernels: half within {stop.p50_s * 1e3:.1f} ms,"
        f" worst of {stop.count} {stop.worst_s * 1e3:.1f} ms"
        for stop in profile.stops
    ]
    lines += [
        f"aliases  cycle of {alias.period_s * 1e3:.0f} ms: the power sensor is {alias.bias_w:+.1f} W off,"
        f" scatter {alias.scatter_w:.1f} W"
        for alias in profile.aliases
    ]
    if outcome.heat is not None:
        heat = outcome.heat
        lines.append(
            f"heat     C {heat.capacity.value:.0f} ± {heat.capacity.sigma:.0f} J/K, G {heat.conductance.value:.2f}"
            f" ± {heat.conductance.sigma:.2f} W/K, coolant {heat.ambient.value:.1f} °C"
        )
    lines += [f"missing  {gap}" for gap in outcome.gaps]
    return lines


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _give_up(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"hil: {line}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)
