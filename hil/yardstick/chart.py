"""The yardstick's picture: who reaches what, where it is lost, and one orbit of the best beside the clairvoyant.

Left, the distribution of scores of each rival, with the worst marked; right, scores against the length of the
eclipse; below, one orbit on a common time axis: power, charge, temperatures. Limits are drawn where they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .campaign import Order, Report, Results
from .clairvoyant import achievable
from .plant import Trace, fly
from .scenarios import TICK_S, Scenario, make
from .score import RIVALS
from .world import DOD_MAX, GPU_MAX_K, ZERO_CELSIUS_K

COLOURS: Final = {
    "planner": "#0b6e4f",
    "closed_form": "#2f6fde",
    "energy_neutral": "#7aa2e3",
    "two_level": "#b07aa1",
    "derate": "#c98b2b",
    "pi": "#8c8c8c",
}
OTHER_COLOUR: Final = "#b0b0b0"
CLAIRVOYANT_COLOUR: Final = "#222222"
DRAWN_IN_ORBIT: Final = ("planner", "closed_form", "energy_neutral")
"""At most two of these, the first that took part, stand beside the clairvoyant."""
EXAMPLE_ECLIPSE_MIN: Final = 32.0
EXAMPLE_ORBIT: Final = 2
"""Counted from 0: late enough to have forgotten the start."""
STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "grid.color": "#e6e6e6",
    "svg.fonttype": "none",
    "svg.hashsalt": "gpusat",
}


def write(order: Order, report: Report, results: Results, paths: Sequence[Path | None]) -> list[Path]:
    """Draw the picture and write it to each path, by its suffix; returns the paths written."""
    wanted = [path for path in paths if path is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 10.0), layout="constrained")
        FigureCanvasAgg(figure)
        parts = figure.add_gridspec(4, 2, height_ratios=[3.4, 1.9, 1.5, 1.9])
        _distribution(figure.add_subplot(parts[0, 0]), report, results)
        _against_eclipse(figure.add_subplot(parts[0, 1]), report, results)
        power = figure.add_subplot(parts[1, :])
        charge = figure.add_subplot(parts[2, :], sharex=power)
        heat = figure.add_subplot(parts[3, :], sharex=power)
        _orbit(power, charge, heat, order, results)
        for path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return wanted


def _distribution(axes: Axes, report: Report, results: Results) -> None:
    for place, row in enumerate(report.scores):
        scores = np.sort(results.shares(row.rival))
        colour = COLOURS.get(row.rival, OTHER_COLOUR)
        low, high = np.percentile(scores, [5.0, 95.0])
        axes.plot([scores[0], scores[-1]], [place, place], color=colour, lw=1.2)
        axes.plot([low, high], [place, place], color=colour, lw=7.0, solid_capstyle="butt")
        axes.plot([row.mean], [place], "o", color="white", ms=4.5, mec=colour)
        broken = row.soc_violations + row.heat_violations
        note = f"{row.mean:.1f}" + (f"   ✗ {broken} of {row.scenarios} broke a limit" if broken else "")
        axes.annotate(
            note,
            (scores[0], place),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=7.5,
            color="#b3261e" if broken else "#444444",
        )
    axes.set_yticks(range(len(report.scores)), [row.label for row in report.scores])
    axes.set_ylim(-0.6, len(report.scores) - 0.3)
    axes.set_xlabel("% of what a clairvoyant delivers")
    axes.set_title(
        f"{report.scenarios} scenarios of 6 orbits (set {report.set_name})\n"
        "line: worst to best, bar: 5 to 95 %, ring: mean",
        fontsize=9.0,
        loc="left",
    )


def _against_eclipse(axes: Axes, report: Report, results: Results) -> None:
    for row in report.scores:
        if row.rival not in COLOURS:
            continue
        dark_min = [results.best[run.scenario].eclipse_min for run in results.flown[row.rival]]
        axes.plot(
            dark_min,
            results.shares(row.rival),
            ".",
            ms=3.0,
            alpha=0.6,
            color=COLOURS[row.rival],
            label=row.label,
        )
    axes.axhline(100.0, color=CLAIRVOYANT_COLOUR, lw=1.0)
    axes.set_xlabel("length of the eclipse, min")
    axes.set_ylabel("% of the clairvoyant")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, markerscale=3.0, loc="lower left", frameon=False)
    gap = report.gap
    if gap is not None:
        title = f"nobody can be above {100.0 + gap.worst:.2f} % (proved for {gap.scenarios} scenarios)"
        axes.set_title(title, fontsize=9.0, loc="left")


def _orbit(power: Axes, charge: Axes, heat: Axes, order: Order, results: Results) -> None:
    scenario = _example(order, results)
    drawn: list[tuple[str, str, Trace]] = [
        (RIVALS[name].label, COLOURS[name], fly(scenario, RIVALS[name].maker(scenario))[1])
        for name in [name for name in DRAWN_IN_ORBIT if name in order.rivals][:2]
    ]
    drawn.append(("clairvoyant", CLAIRVOYANT_COLOUR, achievable(scenario).trace))
    first = int(EXAMPLE_ORBIT * scenario.truth.orbit_s // TICK_S)
    shown = slice(first, first + int(scenario.truth.orbit_s // TICK_S))
    minutes = (drawn[0][2].time_s[shown] - drawn[0][2].time_s[first]) / 60.0
    dark = drawn[0][2].lit[shown] < 0.5
    for axes in (power, charge, heat):
        axes.fill_between(
            minutes, 0.0, 1.0, where=dark, color="#eceef3", lw=0.0, transform=axes.get_xaxis_transform()
        )
        axes.set_xlim(0.0, minutes[-1])
    for label, colour, trace in drawn:
        best = label == "clairvoyant"
        line: dict[str, Any] = {"color": colour, "lw": 1.6 if best else 1.0, "zorder": 3 if best else 2}
        power.plot(minutes, trace.gpu_w[shown], label=label, **line)
        charge.plot(minutes, 100.0 * trace.soc[shown], **line)
        heat.plot(minutes, trace.gpu_k[shown] - ZERO_CELSIUS_K, **line)
        heat.plot(minutes, trace.radiator_k[shown] - ZERO_CELSIUS_K, ls=(0, (4, 2)), **line)
    limit: dict[str, Any] = {"color": "#b3261e", "lw": 0.9, "ls": ":"}
    charge.axhline(100.0 * (1.0 - DOD_MAX), **limit)
    heat.axhline(GPU_MAX_K - ZERO_CELSIUS_K, **limit)
    power.set_ylabel("GPU power, W")
    charge.set_ylabel("charge, %")
    heat.set_ylabel("GPU (line), radiator\n(dashes), °C")
    heat.set_xlabel(f"minutes of one orbit of scenario {scenario.id}; eclipse grey, limits dotted")
    power.legend(fontsize=8.0, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)


def _example(order: Order, results: Results) -> Scenario:
    """The scenario whose eclipse is nearest to a usual one."""
    return make(min(order.numbers, key=lambda n: abs(results.best[n].eclipse_min - EXAMPLE_ECLIPSE_MIN)))
