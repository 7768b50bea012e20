"""Pictures of a calibration, SVG: the curves with their settings, the heat of the whole run, steps and stops."""

import io
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from flightsw.link.card import Workload

from . import fits
from .campaign import Measurements
from .outcome import Outcome

SIZE_IN: Final = (7.2, 4.2)
WORK_COLOURS: Final = {"training": "#1f6feb", "decoding": "#d9480f"}


def draw(found: Measurements, outcome: Outcome) -> dict[str, bytes]:
    """File name and SVG of every picture that the measurements allow."""
    pictures = {"power.svg": _power(outcome)}
    if outcome.heat is not None:
        pictures["heat.svg"] = _heat(found, outcome)
    if found.steps:
        pictures["step.svg"] = _steps(found)
    if found.stops:
        pictures["stop.svg"] = _stops(found)
    return pictures


def _power(outcome: Outcome) -> bytes:
    figure, axes = _figure("Power and throughput", "board power, W", "throughput, relative")
    profile = outcome.profile
    curves: dict[str, Workload | None] = {"training": profile.train, "decoding": profile.decode}
    for name, curve in curves.items():
        if curve is None:
            continue
        colour = WORK_COLOURS[name]
        axes.plot(curve.power_w, curve.throughput, color=colour, marker="o", markersize=3, label=f"{name}, hull")
        for settings, marker, what in (
            ([s for s in curve.settings if s.duty < 1.0], "x", "duty"),
            ([s for s in curve.settings if s.duty == 1.0 and not s.sms], "s", "micro-batch"),
            ([s for s in curve.settings if s.sms], "^", "SM partition"),
        ):
            if settings:
                axes.errorbar(
                    [s.power_w for s in settings],
                    [s.throughput for s in settings],
                    xerr=[s.power_sigma_w for s in settings],
                    yerr=[s.throughput_sigma for s in settings],
                    fmt=marker,
                    markersize=5,
                    linewidth=1,
                    color=colour,
                    alpha=0.6,
                    label=f"{name}, {what}",
                )
    axes.legend(fontsize=8)
    return _svg(figure)


def _heat(found: Measurements, outcome: Outcome) -> bytes:
    heat = outcome.heat
    assert heat is not None
    times_s = np.array([reading.taken_s for reading in found.readings])
    power_w = np.array([reading.power_w for reading in found.readings])
    temp_degc = np.array([reading.die_degc for reading in found.readings])
    since_s = times_s - times_s[0]
    tau_s = heat.capacity.value / heat.conductance.value
    lag = fits.lagged(times_s, power_w, tau_s) / heat.conductance.value
    model = heat.ambient.value + lag
    model = model + (temp_degc[0] - model[0]) * np.exp(-since_s / tau_s)
    title = (
        f"Heat: C {heat.capacity.value:.0f} ± {heat.capacity.sigma:.0f} J/K, "
        f"G {heat.conductance.value:.1f} ± {heat.conductance.sigma:.1f} W/K"
    )
    figure, axes = _figure(title, "time, s", "die, °C")
    axes.plot(since_s, temp_degc, color="#444444", linewidth=1, label="measured")
    axes.plot(since_s, model, color=WORK_COLOURS["decoding"], linewidth=1.5, label="one node")
    axes.legend(fontsize=8, loc="upper left")
    right = axes.twinx()
    right.plot(since_s, power_w, color=WORK_COLOURS["training"], linewidth=0.5, alpha=0.5)
    right.set_ylabel("board power, W", color=WORK_COLOURS["training"])
    return _svg(figure)


def _steps(found: Measurements) -> bytes:
    figure, axes = _figure("Steps of the duty, 0 → 100 → 0 %", "time since the order, s", "board power, W")
    for step in found.steps:
        axes.plot(step.times_s, step.power_w, color="#1f6feb" if step.up else "#d9480f", linewidth=1, alpha=0.7)
    axes.axvline(0.0, color="#999999", linewidth=0.8)
    return _svg(figure)


def _stops(found: Measurements) -> bytes:
    figure, axes = _figure("Stop latency", "length of a micro-batch, ms", "order to last kernel done, ms")
    for stop in found.stops:
        kernel_ms = [1e3 * stop.unit_s] * len(stop.latencies_s)
        axes.plot(kernel_ms, [1e3 * s for s in stop.latencies_s], "o", color="#1f6feb", markersize=3, alpha=0.4)
    longest_ms = 1e3 * max(stop.unit_s for stop in found.stops)
    axes.plot([0.0, longest_ms], [0.0, longest_ms], color="#999999", linewidth=1, label="one micro-batch")
    axes.legend(fontsize=8)
    return _svg(figure)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpusat"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
