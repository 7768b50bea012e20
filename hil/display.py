"""What an operator sees while a run flies: a live panel on a terminal, plain lines everywhere else.

The bench hands over a ``View``, a few times a second, and lines to announce. The display draws; it decides nothing.
On a terminal the panel is redrawn in place and announcements scroll above it; in a pipe or a log file there
is one line every ``PLAIN_S`` seconds, so that a build server shows progress too.
"""

import math
from typing import Any, Final, Protocol

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flightsw.link.integrity import LEVEL_NAMES
from flightsw.link.schema import Mode, Severity
from ground.client import StationStatus

from .evidence import EventRecord

PLAIN_S: Final = 10.0
EVENTS_SHOWN: Final = 6
BAR_WIDTH: Final = 8
THREE_BOXES_WIDTH: Final = 112
NOISY_EVENTS: Final = frozenset({"GOVERNOR_LIMIT"})
MODE_STYLE: Final = {
    "BOOT": "white on grey37",
    "SAFE": "bold white on red",
    "NOMINAL": "black on steel_blue1",
    "COMPUTE": "black on green3",
    "DOWNLINK": "black on orange1",
}
SEVERITY_STYLE: Final = {
    Severity.DIAGNOSTIC: "dim",
    Severity.INFO: "",
    Severity.WARNING: "yellow",
    Severity.ERROR: "red",
    Severity.CRITICAL: "bold red",
    Severity.FATAL: "bold white on red",
}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One instant of a run. Truth comes from the plant, ``values`` from the umbilical, ``status`` from the
    ground."""

    phase: str
    title: str
    now_s: float
    world_s: float
    end_s: float
    warp: float
    sun_fraction: float
    array_w: float
    gpu_w: float
    rail_on: bool
    soc: float
    soc_floor: float
    gpu_degc: float
    gpu_limit_degc: float
    radiator_degc: float
    radiator_limit_degc: float
    passing: str
    pass_left_s: float
    next_pass: str
    next_pass_s: float
    outage: bool
    values: dict[str, float]
    events: list[EventRecord]
    event_counts: dict[str, int]
    recorded: int
    acknowledged: int
    replies: int
    status: StationStatus | None
    faults: list[tuple[str, str, bool]]
    twin_step: int | None

    def value(self, name: str) -> float:
        """Newest onboard value; NaN before the first."""
        return self.values.get(name, math.nan)

    @property
    def mode(self) -> str:
        """Name of the vehicle's mode, "–" before it is known."""
        code = self.value("mode")
        return Mode(int(code)).name if math.isfinite(code) and int(code) in list(Mode) else "–"

    @property
    def eta_s(self) -> float:
        """Machine seconds to the end of the run."""
        return max(0.0, (self.end_s - self.world_s) / self.warp)


class Display(Protocol):
    """What the bench needs of a display."""

    def announce(self, text: str) -> None:
        """One line that stays."""
        ...

    def show(self, view: View) -> None:
        """The present instant."""
        ...

    def twin(self, done: int, wanted: int) -> None:
        """Progress of the twin after the flight."""
        ...

    def close(self) -> None:
        """Give the terminal back."""
        ...


class Silent:
    """Shows nothing, for ``--quiet`` and tests."""

    def announce(self, text: str) -> None:
        """Dropped."""

    def show(self, view: View) -> None:
        """Dropped."""

    def twin(self, done: int, wanted: int) -> None:
        """Dropped."""

    def close(self) -> None:
        """Nothing is open."""


class Plain:
    """One line at a time, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due_s = -math.inf
        self._twin_shown = -1

    def announce(self, text: str) -> None:
        self._console.print(escape(text), highlight=False)

    def show(self, view: View) -> None:
        if view.now_s < self._due_s:
            return
        self._due_s = view.now_s + PLAIN_S
        light = "sun" if view.sun_fraction >= 0.5 else "eclipse"
        radio = f"pass over {view.passing}" if view.passing else "no pass"
        self._console.print(
            f"{view.world_s / view.end_s:4.0%}  {clock(view.world_s)}  {light:<7}  {view.mode:<8}  "
            f"SoC {view.soc:.1%}  GPU {view.gpu_w:.0f} W {view.gpu_degc:.1f} °C  "
            f"step {number(view.value('train.step'))}  loss {number(view.value('train.loss'), 3)}  "
            f"{radio}  ETA {clock(view.eta_s)}",
            highlight=False,
            soft_wrap=True,
        )

    def twin(self, done: int, wanted: int) -> None:
        tenth = 10 * min(done, wanted) // max(wanted, 1)
        if tenth != self._twin_shown:
            self._twin_shown = tenth
            self._console.print(f"twin at step {done} of {wanted}", highlight=False)

    def close(self) -> None:
        """Nothing is open."""


class Panelled:
    """The live panel on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()
        self._view: View | None = None

    def announce(self, text: str) -> None:
        at = f"{clock(self._view.world_s)}  " if self._view is not None else ""
        self._console.print(Text(f"{at}{text}", style="cyan"), highlight=False)

    def show(self, view: View) -> None:
        self._view = view
        self._live.update(panel(view, self._console.width), refresh=True)

    def twin(self, done: int, wanted: int) -> None:
        line = Table.grid(padding=(0, 1))
        line.add_row(
            "twin",
            ProgressBar(total=max(wanted, 1), completed=min(done, wanted), width=40),
            f"step {done} of {wanted}",
        )
        self._live.update(Panel(line, title="undisturbed twin", border_style="blue"), refresh=True)

    def close(self) -> None:
        self._live.stop()


def make_display(console: Console, *, quiet: bool) -> Display:
    """The display that suits the console."""
    if quiet:
        return Silent()
    return Panelled(console) if console.is_terminal and not console.is_dumb_terminal else Plain(console)


def panel(view: View, width: int) -> RenderableType:
    """The whole live panel, for a terminal of ``width`` columns."""
    boxes = [_world(view), _onboard(view), _ground(view)]
    across = 3 if width >= THREE_BOXES_WIDTH else 1
    grid = Table.grid(expand=True)
    for _ in range(across):
        grid.add_column(ratio=1)
    for first in range(0, len(boxes), across):
        grid.add_row(*boxes[first : first + across])
    return Panel(
        Group(_progress(view), grid, _events(view)),
        title=f"[bold]{escape(view.title)}[/bold]",
        subtitle=f"{view.phase} · warp {view.warp:g} · Ctrl-C lands early",
        border_style="blue",
        padding=(0, 1),
    )


def _progress(view: View) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    light = Text(" SUN ", "black on gold1") if view.sun_fraction >= 0.5 else Text(" ECLIPSE ", "white on grey23")
    if view.passing:
        radio = Text(f" PASS {view.passing} {clock(view.pass_left_s)} left ", "black on orange1")
    elif view.next_pass:
        radio = Text(f"next pass {view.next_pass} in {clock(view.next_pass_s)}", "dim")
    else:
        radio = Text("no more passes", "dim")
    if view.outage:
        radio = Text(" RADIO OUTAGE ", "bold white on magenta")
    line.add_row(
        ProgressBar(total=view.end_s, completed=min(view.world_s, view.end_s), width=30),
        f"{view.world_s / view.end_s:4.0%}",
        f"{clock(view.world_s)} of {clock(view.end_s)}",
        f"ETA {clock(view.eta_s)}",
        light,
    )
    state = Table.grid(padding=(0, 1))
    state.add_row(Text(f" {view.mode} ", MODE_STYLE.get(view.mode, "dim")), radio)
    return Group(line, state)


def _box(title: str, rows: list[tuple[str, RenderableType]]) -> Panel:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    for name, content in rows:
        grid.add_row(name, content)
    return Panel(grid, title=title, border_style="grey42", padding=(0, 1))


def _world(view: View) -> Panel:
    return _box(
        "world (truth)",
        [
            ("battery", _bar(view.soc, 0.5, 1.0, view.soc < view.soc_floor + 0.01, f"{view.soc:.1%}")),
            ("floor", f"{view.soc_floor:.0%}, margin {view.soc - view.soc_floor:+.1%}"),
            ("GPU", _degrees(view.gpu_degc, view.gpu_limit_degc)),
            ("radiator", _degrees(view.radiator_degc, view.radiator_limit_degc)),
            ("array", f"{view.array_w:5.0f} W"),
            ("GPU draws", f"{view.gpu_w:5.0f} W" + ("" if view.rail_on else "  rail off")),
        ],
    )


def _onboard(view: View) -> Panel:
    counts = view.event_counts
    kills = counts.get("WORKER_DIED", 0)
    return _box(
        "on board (umbilical)",
        [
            (
                "GPU budget",
                f"{number(view.value('governor.power_budget_w'))} W, duty {percent(view.value('governor.duty'))}",
            ),
            ("training", f"step {number(view.value('train.step'))}, loss {number(view.value('train.loss'), 3)}"),
            ("throughput", f"{number(view.value('train.tokens_per_s'))} tokens/s"),
            (
                "checkpoints",
                f"{counts.get('CHECKPOINT_COMMITTED', 0)} committed, "
                f"{counts.get('CHECKPOINT_REJECTED', 0)} rejected",
            ),
            ("inference", f"{view.replies} replies"),
            ("integrity", _integrity(view)),
            ("workers", Text(f"{kills} died", "red" if kills else "dim")),
        ],
    )


def _integrity(view: View) -> Text:
    """Level at work, and what the workers found; red is damage that nobody mended."""
    level, found, unmended = (view.value(f"integrity.{name}") for name in ("level", "detected", "open"))
    name = LEVEL_NAMES[int(level)] if level == level else "no level"
    if unmended > 0.0:
        return Text(f"{name}, {number(unmended)} of {number(found)} open", "red")
    return Text(f"{name}, {number(found)} found", "yellow" if found > 0.0 else "dim")


def _ground(view: View) -> Panel:
    status = view.status
    fired = [name for name, _, hit in view.faults if hit]
    return _box(
        "on the ground",
        [
            ("live", f"{status.packets_live if status else 0} packets"),
            ("playback", f"{status.packets_playback if status else 0} packets"),
            ("on board", f"{view.recorded - view.acknowledged} wait of {view.recorded}"),
            ("commands", f"{status.commands_open if status else 0} open"),
            ("faults", Text(f"{len(fired)} of {len(view.faults)} fired", "magenta" if fired else "dim")),
            ("twin", f"step {view.twin_step}" if view.twin_step is not None else "does not fly along"),
        ],
    )


def _events(view: View) -> Panel:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True, width=7)
    grid.add_column(no_wrap=True, width=20)
    grid.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    shown = [event for event in view.events if event.name not in NOISY_EVENTS][-EVENTS_SHOWN:]
    for event in shown:
        style = SEVERITY_STYLE.get(Severity(event.severity), "") if event.severity in list(Severity) else ""
        grid.add_row(clock(event.world_s), Text(event.name, style), Text(event.text, style))
    for _ in range(EVENTS_SHOWN - len(shown)):
        grid.add_row("", "", "")
    return Panel(grid, title="events on board", border_style="grey42", padding=(0, 1))


def _bar(value: float, low: float, high: float, alarm: bool, text: str) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    style = "red" if alarm else "green3"
    line.add_row(
        ProgressBar(total=1.0, completed=share, width=BAR_WIDTH, complete_style=style, finished_style=style),
        text,
    )
    return line


def _degrees(value: float, limit: float) -> RenderableType:
    return _bar(value, 0.0, limit, value > limit - 1.0, f"{value:5.1f} °C of {limit:g}")


def clock(seconds: float) -> str:
    """Mission time as people read it: minutes and seconds, hours when there are any."""
    whole = int(max(0.0, seconds)) if math.isfinite(seconds) else 0
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"


def number(value: Any, digits: int = 0) -> str:
    """A number, or "–" when there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else "–"


def percent(value: float) -> str:
    """A fraction as percent, or "–"."""
    return f"{value:.0%}" if math.isfinite(value) else "–"
