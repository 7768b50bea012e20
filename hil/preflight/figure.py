"""The plot of a plan: sun and binding constraint, power, charge, temperatures, on one time axis.

Limits are dashed. Of a long horizon the first ``ORBITS_SHOWN`` orbits are drawn: a week of orbits is a grey block.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .compare import Comparison
from .plan import Trajectory
from .verdict import Prediction

ORBITS_SHOWN: Final = 3.0
DPI: Final = 110
INK: Final = {
    "array": "#d79a00",
    "gpu": "#1f6feb",
    "soc": "#2e8b57",
    "limit": "#b3261e",
    "hot": "#c2410c",
    "radiator": "#0e7490",
    "shade": "#e6e8ee",
    "plan": "#6b7280",
    "work": "#7c3aed",
}
STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#9aa1ad",
    "grid.color": "#e3e5ea",
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "gpusat",
    "figure.facecolor": "white",
}


def draw(prediction: Prediction, path: Path) -> None:
    """Write the plot; the format is the name's, PNG or SVG. Raises ``OSError``."""
    flown = prediction.trajectory
    with mpl.rc_context(STYLE):
        figure = canvas(path, (9.6, 7.2))
        rows = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": [2.0, 1.4, 1.8], "hspace": 0.24})
        power, charge, heat = rows
        _power(power, prediction)
        soc_plot(charge, flown, prediction.checks[0].limit)
        heat_plot(
            heat, flown, prediction.temperature["gpu_limit_degc"], prediction.temperature["radiator_limit_degc"]
        )
        shade(rows, flown)
        end_min = min(sum(flown.dt_s), ORBITS_SHOWN * prediction.orbit["period_s"]) / 60.0
        rows[-1].set_xlim(0.0, end_min)
        rows[-1].set_xlabel("minutes from the start of the plan")
        word = "fits" if prediction.fits else "does not fit"
        figure.suptitle(f"{prediction.name}: {word}", x=0.07, ha="left", fontsize=12, weight="bold", y=0.985)
        figure.text(0.07, 0.938, prediction.verdict.partition(": ")[2], fontsize=9, color="#4b5563")
        save(figure, path)


def draw_comparison(found: Comparison, path: Path, heading: str) -> None:
    """Write the plot of a run and its plan: power, throughput, charge, temperatures. Raises ``OSError``."""
    run, plan = found.flown, found.plan
    at_min = [(world_s - plan.start_s) / 60.0 for world_s in run.world_s]
    with mpl.rc_context(STYLE):
        figure = canvas(path, (9.6, 8.6))
        rows = figure.subplots(
            4, 1, sharex=True, gridspec_kw={"height_ratios": [2.0, 1.2, 1.4, 1.8], "hspace": 0.25}
        )
        power, work, charge, heat = rows
        title(power, "Power, W")
        power.plot(at_min, run.array_w, color=INK["array"], lw=1.4, label="array (sun)")
        stairs(power, plan, plan.gpu_power_w, color=INK["plan"], lw=1.1, label="GPU, plan")
        power.plot(at_min, run.gpu_w, color=INK["gpu"], lw=1.5, label="GPU, flown")
        title(work, "Throughput, share of the card")
        stairs(work, plan, plan.throughput, color=INK["plan"], lw=1.1, label="plan")
        work.plot(at_min, found.throughput, color=INK["work"], lw=1.5, label="flown")
        title(charge, "State of charge, %")
        floor = 100.0 * (1.0 - run.limits.dod_max)
        soc = [100.0 * value for value in (plan.soc_start, *plan.soc)]
        charge.plot(edges_min(plan), soc, color=INK["plan"], lw=1.1, label="plan")
        charge.plot(at_min, [100.0 * value for value in run.soc], color=INK["soc"], lw=1.5, label="flown")
        charge.axhline(floor, color=INK["limit"], lw=1.0, ls="--", label=f"floor {floor:g} %")
        charge.set_ylim(max(0.0, min(floor, *soc, 100.0 * min(run.soc)) - 4.0), 102.0)
        title(heat, "Temperatures, °C")
        for name, limit_degc, planned, start_degc, flown in (
            ("hot", run.limits.gpu_degc, plan.gpu_degc, plan.gpu_start_degc, run.gpu_degc),
            (
                "radiator",
                run.limits.radiator_degc,
                plan.radiator_degc,
                plan.radiator_start_degc,
                run.radiator_degc,
            ),
        ):
            what = "GPU" if name == "hot" else "radiator"
            heat.plot(edges_min(plan), [start_degc, *planned], color=INK["plan"], lw=1.1)
            heat.plot(at_min, flown, color=INK[name], lw=1.5, label=f"{what}, flown")
            heat.axhline(limit_degc, color=INK[name], lw=1.0, ls="--", label="its limit")
        heat.plot([], [], color=INK["plan"], lw=1.1, label="plan")
        for axes in rows:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            legend(axes)
        power.set_ylim(bottom=0.0)
        work.set_ylim(0.0, 1.08)
        shade(rows, plan)
        rows[-1].set_xlim(0.0, found.length_s / 60.0)
        rows[-1].set_xlabel("minutes")
        figure.suptitle(heading, x=0.07, ha="left", fontsize=12, weight="bold", y=0.987)
        share = {q.id: q for q in found.quantities}["compute_share"]
        text = (
            f"Work: {share.measured:.3f} of the card flown, {share.planned:.3f} planned by one who knows sun and "
            f"satellite exactly and needs no margin: {share.measured / share.planned:.1%}"
        )
        figure.text(0.07, 0.948, text, fontsize=9, color="#4b5563")
        save(figure, path)


def canvas(path: Path, size: tuple[float, float]) -> Figure:
    """An empty figure with the canvas of its file's format."""
    figure = Figure(figsize=size)
    (FigureCanvasSVG if path.suffix == ".svg" else FigureCanvasAgg)(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write beside, then rename; the same bytes for the same drawing."""
    kind = "svg" if path.suffix == ".svg" else "png"
    temporary = path.with_name(path.name + ".tmp")
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.subplots_adjust(left=0.07, right=0.985, top=0.9, bottom=0.07)
    figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)
    temporary.replace(path)


def edges_min(flown: Trajectory) -> list[float]:
    """Edges of the steps, minutes from the start."""
    at, found = 0.0, [0.0]
    for dt_s in flown.dt_s:
        at += dt_s / 60.0
        found.append(at)
    return found


def stairs(axes: Axes, flown: Trajectory, values: Sequence[float], **style: Any) -> None:
    """A value held over each step."""
    axes.stairs(list(values), edges_min(flown), baseline=None, **style)


def title(axes: Axes, text: str) -> None:
    """Heading of one row."""
    axes.set_title(text, loc="left", fontsize=9, pad=4, color="#374151")


def legend(axes: Axes) -> None:
    """Legend beside the heading."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=6, frameon=False, fontsize=8, borderaxespad=0.0
    )


def shade(rows: Sequence[Axes], flown: Trajectory) -> None:
    """Shadow behind every row where less than half of the Sun is seen."""
    edges = edges_min(flown)
    for index, sunlit in enumerate(flown.sunlit):
        if sunlit < 0.5:
            for axes in rows:
                axes.axvspan(edges[index], edges[index + 1], color=INK["shade"], lw=0, zorder=0)


def soc_plot(axes: Axes, flown: Trajectory, floor: float) -> None:
    """State of charge with its floor."""
    title(axes, "State of charge, %")
    soc = [100.0 * value for value in (flown.soc_start, *flown.soc)]
    axes.plot(edges_min(flown), soc, color=INK["soc"], lw=1.6, label="plan")
    axes.axhline(100.0 * floor, color=INK["limit"], lw=1.0, ls="--", label=f"floor {100.0 * floor:g} %")
    axes.set_ylim(max(0.0, min(100.0 * floor, *soc) - 4.0), 102.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    legend(axes)


def heat_plot(axes: Axes, flown: Trajectory, gpu_limit_degc: float, radiator_limit_degc: float) -> None:
    """Temperatures of both nodes with their limits."""
    title(axes, "Temperatures, °C")
    edges = edges_min(flown)
    axes.plot(edges, [flown.gpu_start_degc, *flown.gpu_degc], color=INK["hot"], lw=1.6, label="GPU")
    axes.axhline(gpu_limit_degc, color=INK["hot"], lw=1.0, ls="--", label="its limit")
    axes.plot(
        edges, [flown.radiator_start_degc, *flown.radiator_degc], color=INK["radiator"], lw=1.6, label="radiator"
    )
    axes.axhline(radiator_limit_degc, color=INK["radiator"], lw=1.0, ls="--", label="its limit")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    legend(axes)


def _power(axes: Axes, prediction: Prediction) -> None:
    flown = prediction.trajectory
    title(axes, "Power, W")
    stairs(axes, flown, flown.array_power_w, color=INK["array"], lw=1.4, label="array (sun)")
    stairs(axes, flown, flown.gpu_power_w, color=INK["gpu"], lw=1.6, label="GPU")
    axes.axhline(prediction.card["maximum_w"], color=INK["gpu"], lw=0.9, ls="--", label="card's maximum")
    axes.axhline(prediction.card["idle_w"], color=INK["plan"], lw=0.9, ls=":", label="idle")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    legend(axes)
