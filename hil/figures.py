"""The plots of a run as one SVG: power, state of charge, temperatures, throughput and state strips on ONE time
axis.

Colours are written as marker values and become CSS variables in the finished text, so that the same drawing
follows the page into light and dark. Text stays text: it can be read aloud, searched and copied.
"""

import io
import math
from collections.abc import Iterable
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flightsw.link.dictionary import JOB_STATES

from .evidence import Evidence
from .summary import mode_spans
from .svg import style, themed

# Marker colour → CSS variable. The values never appear in print; they only have to be distinct.
INK: Final = {
    "text": "#010101",
    "muted": "#010102",
    "grid": "#010103",
    "eclipse": "#010104",
    "array": "#010105",
    "gpu": "#010106",
    "budget": "#010107",
    "bus": "#010108",
    "soc": "#010109",
    "limit": "#01010a",
    "hot": "#01010b",
    "radiator": "#01010c",
    "tokens": "#01010d",
    "loss": "#01010e",
    "fault": "#01010f",
    "pass": "#010110",
    "mode-boot": "#010111",
    "mode-safe": "#010112",
    "mode-nominal": "#010113",
    "mode-compute": "#010114",
    "mode-downlink": "#010115",
    "event": "#010116",
    "on-strip": "#010117",
}
MODE_INK: Final = {
    "BOOT": "mode-boot",
    "SAFE": "mode-safe",
    "NOMINAL": "mode-nominal",
    "COMPUTE": "mode-compute",
    "DOWNLINK": "mode-downlink",
}
MARKED_EVENTS: Final = {
    "CHECKPOINT_COMMITTED": ("v", "soc"),
    "CHECKPOINT_REJECTED": ("X", "fault"),
    "WORKER_DIED": ("s", "fault"),
    "WORKER_READY": ("^", "tokens"),
    "MODEL_SWAPPED": ("D", "gpu"),
    "SAFE_ENTERED": ("P", "limit"),
}
RUNNING: Final = float(JOB_STATES.index("RUNNING"))
MINUTES_PER_LETTER: Final = 0.0098
"""Width of a letter of a strip's label as a share of the time axis."""


def draw(evidence: Evidence) -> str:
    """The SVG text, with CSS variables for colours; one drawing, 980 units wide."""
    with mpl.rc_context(style(INK)):
        figure = Figure(figsize=(9.8, 10.2))
        FigureCanvasSVG(figure)
        rows = figure.subplots(
            6, 1, sharex=True, gridspec_kw={"height_ratios": [2.5, 1.7, 2.1, 1.5, 1.5, 1.5], "hspace": 0.26}
        )
        power, charge, heat, tokens, loss, strips = rows
        _power(power, evidence)
        _charge(charge, evidence)
        _heat(heat, evidence)
        _tokens(tokens, evidence)
        _loss(loss, evidence)
        _strips(strips, evidence)
        start_s, end_s = evidence.run
        for axes in rows:
            for dark_s, light_s in evidence.eclipses:
                axes.axvspan(
                    _minutes(evidence, dark_s), _minutes(evidence, light_s), color=INK["eclipse"], lw=0, zorder=0
                )
            _fault_lines(axes, evidence)
            axes.tick_params(length=0, pad=4)
        _fault_labels(power, evidence)
        strips.set_xlim(0.0, (end_s - start_s) / 60.0)
        strips.set_xlabel("mission time, minutes since the start of the run")
        figure.subplots_adjust(left=0.085, right=0.985, top=0.945, bottom=0.055)
        figure.align_ylabels(rows)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return themed(buffer.getvalue(), INK, "Plots of the run")


def _minutes(evidence: Evidence, world_s: float) -> float:
    return (world_s - evidence.run[0]) / 60.0


def _truth(evidence: Evidence, name: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
    times = [_minutes(evidence, t) for t in evidence.column("world_s")]
    return times, [value * scale for value in evidence.column(name)]


def _series(evidence: Evidence, name: str) -> tuple[list[float], list[float]]:
    """A housekeeping parameter; NaN stays NaN, so that a line breaks where there was no value."""
    times, values = evidence.onboard.series.get(name, ([], []))
    return [_minutes(evidence, t) for t in times], values


def _while_training(evidence: Evidence, name: str) -> tuple[list[float], list[float]]:
    """The same, only where the training worker was running: a held value of a dead worker is none."""
    states = evidence.onboard.series.get("train.state", ([], []))
    running = {t for t, state in zip(*states, strict=True) if state == RUNNING}
    times, values = evidence.onboard.series.get(name, ([], []))
    shown = [v if t in running else math.nan for t, v in zip(times, values, strict=True)]
    return [_minutes(evidence, t) for t in times], shown


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.985),
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handlelength=1.6,
        columnspacing=1.4,
        borderaxespad=0.0,
    )


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, fontweight="bold", pad=5)


def _power(axes: Axes, evidence: Evidence) -> None:
    _title(axes, "Power, W")
    axes.plot(*_truth(evidence, "array_power_w"), color=INK["array"], lw=1.3, label="solar array")
    axes.plot(
        *_series(evidence, "governor.power_budget_w"), color=INK["budget"], lw=1.2, ls="--", label="GPU budget"
    )
    axes.plot(*_truth(evidence, "gpu_power_w"), color=INK["gpu"], lw=1.5, label="GPU (truth)")
    axes.plot(*_truth(evidence, "bus_power_w"), color=INK["bus"], lw=1.0, label="bus")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _legend(axes)


def _charge(axes: Axes, evidence: Evidence) -> None:
    _title(axes, "State of charge, %")
    floor = evidence.scenario.invariants.soc_floor * 100.0
    axes.plot(*_truth(evidence, "soc_reading", 100.0), color=INK["muted"], lw=0.9, ls=":", label="fuel gauge")
    axes.plot(*_truth(evidence, "soc_fraction", 100.0), color=INK["soc"], lw=1.7, label="truth")
    axes.axhline(floor, color=INK["limit"], lw=1.0, ls="--", label=f"floor {floor:g} %")
    low = min([floor, *(v * 100.0 for v in evidence.column("soc_fraction") if math.isfinite(v))])
    axes.set_ylim(max(0.0, low - 3.0), 101.0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _legend(axes)


def _heat(axes: Axes, evidence: Evidence) -> None:
    _title(axes, "Temperatures, °C")
    limits = evidence.scenario.invariants
    axes.plot(*_truth(evidence, "gpu_temp_degc"), color=INK["hot"], lw=1.6, label="GPU")
    axes.axhline(limits.gpu_temp_limit_degc, color=INK["hot"], lw=1.0, ls="--", label="its limit")
    axes.plot(*_truth(evidence, "radiator_temp_degc"), color=INK["radiator"], lw=1.6, label="radiator")
    axes.axhline(limits.radiator_temp_limit_degc, color=INK["radiator"], lw=1.0, ls="--", label="its limit")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _legend(axes)


def _tokens(axes: Axes, evidence: Evidence) -> None:
    _title(axes, "Training throughput, tokens per machine second")
    times, values = _while_training(evidence, "train.tokens_per_s")
    axes.fill_between(times, values, color=INK["tokens"], alpha=0.25, lw=0, step="post")
    axes.step(times, values, where="post", color=INK["tokens"], lw=1.3)
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}".replace(",", " ")))
    _say_if_empty(axes, values)


def _loss(axes: Axes, evidence: Evidence) -> None:
    _title(axes, "Training loss, nats per token")
    times, values = _while_training(evidence, "train.loss")
    axes.plot(times, values, color=INK["loss"], lw=1.3)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    _say_if_empty(axes, values)


def _say_if_empty(axes: Axes, values: Iterable[float]) -> None:
    """A scale without a value on it would look like one of zeros."""
    if not any(map(math.isfinite, values)):
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no training in this run", transform=axes.transAxes, ha="center", va="center",
                  fontsize=8.5, color=INK["muted"])  # fmt: skip


def _strips(axes: Axes, evidence: Evidence) -> None:
    _title(axes, "Mode, passes, events")
    for name, start_s, end_s in mode_spans(evidence):
        _bar(axes, evidence, start_s, end_s, 2.1, name, MODE_INK[name])
    for start_s, end_s, station in evidence.passes:
        _bar(axes, evidence, start_s, end_s, 1.1, station, "pass")
    for name, (marker, ink) in MARKED_EVENTS.items():
        times = [_minutes(evidence, event.world_s) for event in evidence.onboard.events if event.name == name]
        if times:
            axes.plot(
                times,
                [0.5] * len(times),
                marker,
                color=INK[ink],
                ms=5.0,
                mew=0,
                clip_on=False,
                label=name.lower().replace("_", " "),
            )
    axes.set_ylim(0.0, 3.0)
    axes.set_yticks([0.5, 1.5, 2.5], ["event", "pass", "mode"])
    axes.grid(visible=False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1.0, 0.985),
            ncols=6,
            frameon=False,
            fontsize=8,
            handletextpad=0.1,
            columnspacing=0.9,
            borderaxespad=0.0,
        )


def _bar(axes: Axes, evidence: Evidence, start_s: float, end_s: float, base: float, name: str, ink: str) -> None:
    """A labelled interval of a strip, cut at the ends of the run; a label that is too long stands beside it."""
    left, right = _minutes(evidence, max(start_s, evidence.run[0])), _minutes(evidence, min(end_s, evidence.run[1]))
    if right <= left:
        return
    axes.broken_barh([(left, right - left)], (base, 0.8), facecolor=INK[ink], lw=0)
    length_min = (evidence.run[1] - evidence.run[0]) / 60.0
    needed = length_min * MINUTES_PER_LETTER * (len(name) + 1)
    if right - left > needed:
        axes.text(
            (left + right) / 2, base + 0.4, name, ha="center", va="center", fontsize=7.5, color=INK["on-strip"]
        )
    elif ink == "pass":
        left_of = right + needed > length_min
        at, align = (left - 0.4, "right") if left_of else (right + 0.4, "left")
        axes.text(at, base + 0.4, name, ha=align, va="center", fontsize=7.5, color=INK["text"])


def _fault_lines(axes: Axes, evidence: Evidence) -> None:
    for fault in evidence.faults:
        if fault.fired_s is None:
            continue
        start = _minutes(evidence, fault.fired_s)
        axes.axvline(
            start, color=INK["fault"], lw=0.9, ls=(0, (2, 2)), zorder=0.9
        )  # Behind the labels of the strips.
        if fault.ended_s is not None:
            axes.axvspan(start, _minutes(evidence, fault.ended_s), color=INK["fault"], alpha=0.10, lw=0, zorder=0)


def _fault_labels(axes: Axes, evidence: Evidence) -> None:
    """Names of the faults above the first plot, on two levels where they would run into each other."""
    fired = sorted((f.fired_s, f.id) for f in evidence.faults if f.fired_s is not None)
    length_min = (evidence.run[1] - evidence.run[0]) / 60.0
    free_from = [-math.inf, -math.inf, -math.inf]
    for fired_s, name in fired:
        at = _minutes(evidence, fired_s)
        level = next((i for i, free in enumerate(free_from) if at >= free), 0)
        free_from[level] = at + length_min * 0.011 * (len(name) + 2)
        axes.annotate(
            name,
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 18 + 10 * level),
            textcoords="offset points",
            fontsize=8,
            color=INK["fault"],
            annotation_clip=False,
        )
