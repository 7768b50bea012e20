"""From measurements to the card profile: fits, rounding, and what was not found.

A number that could not be found keeps the reference's value, with a line in ``gaps``; silence never makes it a
measured one. Powers are rounded to 0.1 W and throughputs to 0.0001 before the hull is taken, so that the file holds
exactly what was checked.
"""

import math
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from flightsw.link import card
from flightsw.link.card import Profile, Setting, Stop, Workload

from ..instruments.nvml_sim import NAME as SIMULATED_NAME
from . import campaign, fits
from .campaign import Measurements, Point
from .fits import FitError, Heat, Mean

QUANTILE: Final = 0.999
SETTLE_MAX_S: Final = 60.0


class Outcome(NamedTuple):
    """The profile, the heat fit behind it, and what could not be found."""

    profile: Profile
    heat: Heat | None
    linearity_w: float | None
    """Largest distance of a measured duty from the straight line idle to full, W."""
    gaps: tuple[str, ...]


class Facts(NamedTuple):
    """What is known of a run besides its measurements."""

    card: str
    provenance: Literal["simulated", "measured"]
    measured_on: str
    how: str


def conclude(found: Measurements, facts: Facts) -> Outcome:
    """The profile of these measurements. Raises ``FitError`` when there is no training curve in them."""
    gaps = list(found.skipped)
    train = workload(found.idle, found.train)
    decode: Workload | None = None
    try:
        decode = workload(found.idle, found.decode)
    except FitError as error:
        gaps.append(f"decoding: {error}")
    heat = _heat(found, gaps)
    settle = campaign.settle(found.steps)
    if settle is None:
        gaps.append("settle time: no step could be read")
    stops = tuple(
        Stop(
            kernel_s=round(s.unit_s, 5),
            p50_s=round(float(np.quantile(s.latencies_s, 0.5)), 5),
            worst_s=round(max(s.latencies_s), 5),
            count=len(s.latencies_s),
        )
        for s in found.stops
        if s.latencies_s
    )
    if not stops:
        gaps.append("stop latency: not measured")
    # The last one is the training micro-batch; fewer than 1,000 stops have their worst for a 99.9th percentile.
    stop_s = float(np.quantile(found.stops[-1].latencies_s, QUANTILE, method="higher")) if stops else None
    values: dict[str, float] = {}
    if settle is not None:
        values["settle_s"] = round(min(settle.value, SETTLE_MAX_S), 3)
    if stop_s is not None:
        values["stop_latency_s"] = round(stop_s, 5)
    if found.counter_period_s is not None:
        values["energy_counter_period_s"] = round(found.counter_period_s, 4)
    if heat is not None:
        values |= {
            "heat_capacity_j_k": _digits(heat.capacity.value),
            "heat_capacity_sigma_j_k": _digits(heat.capacity.sigma),
            "conductance_w_k": _digits(heat.conductance.value),
            "conductance_sigma_w_k": _digits(heat.conductance.sigma),
            "coolant_degc": round(heat.ambient.value, 1),
        }
    profile = Profile(
        card=facts.card,
        # The bench's simulated card follows whatever profile it is given.
        also=() if facts.card == SIMULATED_NAME else (SIMULATED_NAME,),
        provenance=facts.provenance,
        measured_on=facts.measured_on,
        how=facts.how,
        train=train,
        decode=decode,
        stops=stops,
        aliases=tuple(
            card.Alias(period_s=a.period_s, bias_w=round(a.seen_w - a.true_w, 1), scatter_w=round(a.scatter_w, 1))
            for a in found.aliases
        ),
    )
    profile = replace(profile, **values)
    return Outcome(profile, heat, linearity_w(found.idle, found.train), tuple(gaps))


def workload(idle: Mean, points: tuple[Point, ...]) -> Workload:
    """The curve of one kind of work with its settings. Raises ``FitError`` when no point is above the idle card."""
    best = max((point.rate.value for point in points), default=0.0)
    if best <= 0.0:
        raise FitError("no setting did any work")
    idle_w = round(idle.value, 1)
    settings = tuple(
        Setting(
            duty=point.duty,
            batch=point.batch,
            sms=point.sms,
            power_w=round(point.power.value, 1),
            throughput=round(min(point.rate.value / best, 1.0), 4),
            power_sigma_w=round(point.power.sigma, 2),
            throughput_sigma=round(min(point.rate.sigma / best, 1.0), 5),
            micro_batch_s=round(point.unit_s, 5),
        )
        for point in points
    )
    curve = fits.hull(idle_w, [(setting.power_w, setting.throughput) for setting in settings])
    on_curve = [s for s in settings if (s.power_w, s.throughput) in curve]
    return Workload(
        power_w=tuple(power for power, _ in curve),
        throughput=tuple(work for _, work in curve),
        power_sigma_w=round(max(idle.sigma, *(s.power_sigma_w for s in on_curve)), 2),
        throughput_sigma=round(max(s.throughput_sigma for s in on_curve), 5),
        settings=settings,
    )


def linearity_w(idle: Mean, points: tuple[Point, ...]) -> float | None:
    """How far paced power lies from the line between idle and full duty, W; None without a full and a paced point.

    By the share of time that was worked, which the length of a unit moves a little off the duty ordered.
    """
    plain = [point for point in points if point.batch == 0 and point.sms == 0]
    full = next((point for point in plain if point.duty == 1.0), None)
    paced = [point for point in plain if point.duty < 1.0]
    if full is None or not paced or full.worked <= 0.0:
        return None
    per_share_w = (full.power.value - idle.value) / full.worked
    return max(abs(p.power.value - idle.value - p.worked * per_share_w) for p in paced)


def _heat(found: Measurements, gaps: list[str]) -> Heat | None:
    readings = [r for r in found.readings if math.isfinite(r.power_w) and math.isfinite(r.die_degc)]
    try:
        return fits.heat(
            np.array([reading.taken_s for reading in readings]),
            np.array([reading.power_w for reading in readings]),
            np.array([reading.die_degc for reading in readings]),
        )
    except FitError as error:
        gaps.append(f"heat: {error}")
        return None


def _digits(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
