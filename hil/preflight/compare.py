"""A run against the plan that it could have had: the same start, the same charge at the end, nothing going wrong.

*Periodic*, for a run of whole orbits that has settled, the plan chooses its start too and ends as it began: what a
clairvoyant would fly orbit after orbit, without the charge that the run's margins keep.

The plan is the clairvoyant one (``plan``): it knows the orbit, keeps the limits to the last tenth of a kelvin and
needs no margin. So a run does less, and the question is where. Two answers, each as far as the evidence tells:

- *When*: the work that is missing, by what stood in the way at that time. It adds up to the whole difference.
- *Margins*: how far from its limits the run stayed, at the plan's own price for each limit. These are part of the
  above, not on top of it, and first-order: a wide margin is priced as if each further kelvin were worth the same.

Work is measured with the card's curve on both sides, from the true power.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from . import plan
from .document import Card, Document, Horizon, Mission, PlanError, card_profile
from .flown import Flown, covered
from .horizon import Floats, Progress, look_ahead, make_plant
from .plan import Planned, Trajectory

DARK: Final = 0.5


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what was planned, what was measured. ``relative`` is null where a share of it means nothing."""

    id: str
    label: str
    unit: str
    planned: float
    measured: float
    difference: float
    relative: float | None


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Work that is missing, in hours at full throughput, and the time that it is missing in."""

    cause: str
    hours: float
    time_s: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What ``compare.json`` holds."""

    name: str
    orbit: str
    length_s: float
    quantities: list[Quantity]
    when: list[Cause]
    margins: list[Cause]
    notes: list[str]
    plan: Trajectory
    flown: Flown
    throughput: list[float]
    """Of the run, at its samples."""


def compare(
    run: Flown, mission: Mission | None = None, progress: Progress | None = None, *, periodic: bool = False
) -> Comparison:
    """Plan what a run could have done and hold it against what it did. Raises ``PlanError``.

    ``mission`` gives the card and its curve; without it the card is the assumed one.
    """
    card = mission.document.card if mission is not None else Card()
    profile = mission.profile if mission is not None else None
    planned_for = Mission(
        document=Document(
            plant=run.plant,
            card=card,
            limits=run.limits,
            horizon=Horizon(start="periodic" if periodic else "given", orbits=_orbits(run)),
        ),
        profile=profile or card_profile(card),
    )
    steps = look_ahead(planned_for.document.plant, planned_for.document.horizon, progress)
    planned = plan.plan_steps(planned_for, steps, progress, end_soc=None if periodic else run.soc[-1])
    if planned.elastic:
        raise PlanError(
            f"run {run.name!r}: no plan keeps its limits from where it began ({run.soc[0]:.1%} charge, GPU "
            f"{run.gpu_degc[0]:.1f} °C) to where it ended ({run.soc[-1]:.1%}); there is nothing to compare with"
        )
    workload = planned_for.workload
    throughput = [workload.throughput_at(w) if on else 0.0 for w, on in zip(run.gpu_w, run.rail_on, strict=True)]
    notes = []
    assert planned_for.profile is not None
    if planned_for.profile.provenance != "measured":
        notes.append(f"work is by the card's curve on both sides, and that is {planned_for.profile.provenance}")
    return Comparison(
        name=run.name,
        orbit=run.plant.orbit,
        length_s=run.length_s,
        quantities=_quantities(run, planned, throughput),
        when=_when(run, planned, throughput),
        margins=_margins(run, planned),
        notes=notes,
        plan=planned.flown,
        flown=run,
        throughput=throughput,
    )


def _orbits(run: Flown) -> float:
    return run.length_s / make_plant(run.plant).geometry.orbit.period_s


def _quantities(run: Flown, planned: Planned, throughput: list[float]) -> list[Quantity]:
    flown = planned.flown
    dt_s = np.diff(np.array(run.world_s))
    # A power is the mean since the sample before, so it belongs to the interval that ends there.
    gpu, array, work = (np.array(column)[1:] for column in (run.gpu_w, run.array_w, throughput))
    dark = np.array(run.sunlit)[1:] < DARK
    plan_dt = np.array(flown.dt_s)
    plan_gpu, plan_dark = np.array(flown.gpu_power_w), np.array(flown.sunlit) < DARK
    hours = float((work * dt_s).sum()) / 3600.0
    rows = [
        (
            "compute_share",
            "mean throughput of the card",
            "",
            flown.compute_share,
            hours * 3600.0 / run.length_s,
            True,
        ),
        ("gpu_hours", "work", "h", flown.work_h, hours, True),
        ("gpu_wh", "energy of the GPU", "Wh", flown.gpu_wh, float((gpu * dt_s).sum()) / 3600.0, True),
        ("array_wh", "energy of the array", "Wh", flown.array_wh, float((array * dt_s).sum()) / 3600.0, True),
        ("gpu_sun_w", "GPU power in sun", "W", _mean(plan_gpu, plan_dt, ~plan_dark), _mean(gpu, dt_s, ~dark), True),
        (
            "gpu_eclipse_w",
            "GPU power in eclipse",
            "W",
            _mean(plan_gpu, plan_dt, plan_dark),
            _mean(gpu, dt_s, dark),
            True,
        ),
        ("soc_min", "least state of charge", "%", 100.0 * flown.soc_min, 100.0 * min(run.soc), False),
        ("soc_end", "state of charge at the end", "%", 100.0 * flown.soc[-1], 100.0 * run.soc[-1], False),
        ("gpu_max", "hottest GPU", "°C", flown.gpu_max_degc, max(run.gpu_degc), False),
        ("radiator_max", "hottest radiator", "°C", flown.radiator_max_degc, max(run.radiator_degc), False),
    ]
    return [
        Quantity(
            id=id,
            label=label,
            unit=unit,
            planned=planned_value,
            measured=measured,
            difference=measured - planned_value,
            relative=(measured - planned_value) / planned_value if share and planned_value else None,
        )
        for id, label, unit, planned_value, measured, share in rows
    ]


def _when(run: Flown, planned: Planned, throughput: list[float]) -> list[Cause]:
    """Missing work by what stood in the way; every second has one cause, so the sum is the difference."""
    flown = planned.flown
    edges_s = flown.start_s + np.concatenate([[0.0], np.cumsum(flown.dt_s)])
    done_s = np.concatenate([[0.0], np.cumsum(np.array(flown.throughput) * np.array(flown.dt_s))])
    could_s = np.interp(np.array(run.world_s), edges_s, done_s)
    hours: dict[str, float] = {}
    times: dict[str, float] = {}
    for index in range(1, len(run.world_s)):
        dt_s = run.world_s[index] - run.world_s[index - 1]
        cause = covered(run.spans, run.world_s[index])
        if not run.rail_on[index]:
            cause = "GPU rail off"
        elif not cause:
            cause = "eclipse" if run.sunlit[index] < DARK else "sunlight"
        missing_s = float(could_s[index] - could_s[index - 1]) - throughput[index] * dt_s
        hours[cause] = hours.get(cause, 0.0) + missing_s / 3600.0
        times[cause] = times.get(cause, 0.0) + dt_s
    found = [Cause(cause=name, hours=value, time_s=times[name]) for name, value in hours.items()]
    return sorted(found, key=lambda cause: -cause.hours)


def _margins(run: Flown, planned: Planned) -> list[Cause]:
    """What the distances from the limits cost, at the plan's prices."""
    gain = {g.id: g.gpu_hours for g in planned.gains}
    limits = run.limits
    unused = min(run.soc) - (1.0 - limits.dod_max)
    cool_k = limits.gpu_degc - max(run.gpu_degc)
    rows = (
        (f"charge kept over the floor, {100.0 * unused:+.2f} %", 100.0 * unused * gain.get("dod", 0.0)),
        (f"GPU kept under its limit, {cool_k:+.1f} K", cool_k * gain.get("gpu_limit", 0.0)),
    )
    return [Cause(cause=text, hours=value, time_s=0.0) for text, value in rows]


def _mean(values: Floats, weights: Floats, chosen: npt.NDArray[np.bool_]) -> float:
    total = float(weights[chosen].sum())
    return float((values[chosen] * weights[chosen]).sum()) / total if total > 0.0 else 0.0
