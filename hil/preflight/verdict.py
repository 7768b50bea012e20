"""The plan in words and numbers: does it fit, what binds, what is predicted. All of it as one document.

``judge`` turns a ``Planned`` into a ``Prediction``: what ``plan.json`` holds and what the tables show. A plan fits
when every check holds: the limits in the plant's flight of it, what the mission wants, and the downlink.
"""

from typing import Any, Final

import msgspec

from ..plant.eps import ZERO_CELSIUS_K
from . import prices
from .document import Mission, Wanted
from .plan import SOC_TOLERANCE, TEMPERATURE_TOLERANCE_K, YEAR_S, Planned, Trajectory, downlink_mb

DAY_S: Final = 86400.0
WANTED_TOLERANCE: Final = 1e-6
NEAR_LIMIT_K: Final = 0.25
"""A step that ends this close to a temperature limit is at it."""
LIT: Final = 0.5


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One requirement of the plan."""

    id: str
    requirement: str
    ok: bool
    value: float
    limit: float
    unit: str = ""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What ``plan.json`` holds. Energies are Wh, powers W, temperatures °C; an orbit is a mean one."""

    name: str
    fits: bool
    verdict: str
    binding: str
    """The constraint that holds the work back most: array, battery, radiator, downlink, card or nothing."""
    binding_min: dict[str, float]
    """Minutes of an orbit in which each constraint binds."""
    checks: list[Check]
    orbit: dict[str, Any]
    card: dict[str, Any]
    compute: dict[str, float | None]
    energy: dict[str, float]
    temperature: dict[str, float]
    downlink: dict[str, float | None]
    gains: list[prices.Gain]
    notes: list[str]
    solver: dict[str, float]
    trajectory: Trajectory


def judge(planned: Planned) -> Prediction:
    """The prediction and its verdict."""
    mission, steps = planned.mission, planned.steps
    checks = [*_limits(planned), *_downlink_checks(mission, planned), *_wants(mission, planned.flown)]
    minutes = {name: 0.0 for name in (prices.ARRAY, prices.BATTERY, prices.RADIATOR, prices.DOWNLINK, prices.CARD)}
    for name, dt_s in zip(planned.binding, steps.dt_s, strict=True):
        if name in minutes:
            minutes[name] += float(dt_s) / 60.0 / steps.orbits
    binding = prices.binding_of(planned.gains)
    if not next(c.ok for c in checks if c.id == "downlink"):
        binding = prices.DOWNLINK
    assert mission.profile is not None
    return Prediction(
        name=mission.document.name,
        fits=all(check.ok for check in checks),
        verdict=_sentence(planned, checks, binding, minutes),
        binding=binding,
        binding_min={name: round(value, 2) for name, value in minutes.items()},
        checks=checks,
        orbit={
            "name": mission.document.plant.orbit,
            "period_s": steps.period_s,
            "orbits": steps.orbits,
            "start_s": steps.start_s,
            "eclipse_s": sum(w.duration_s for w in steps.eclipses) / steps.orbits,
            "contact_s": steps.contact_s / steps.orbits,
        },
        card={
            "name": mission.profile.card,
            "provenance": mission.profile.provenance,
            "workload": mission.document.card.workload,
            "idle_w": mission.workload.idle_w,
            "maximum_w": mission.workload.maximum_w,
        },
        compute=_compute(mission, planned),
        energy=_energy(planned),
        temperature=_temperature(planned),
        downlink=_downlink(mission, planned),
        gains=sorted(planned.gains, key=lambda gain: -gain.gpu_hours),
        notes=list(_notes(mission, planned)),
        solver={
            "steps": len(steps.dt_s),
            "programmes": planned.rounds,
            "solve_s": planned.solve_s,
            "programme_share": planned.programme_share,
        },
        trajectory=planned.flown,
    )


def _limits(planned: Planned) -> list[Check]:
    flown, limits = planned.flown, planned.mission.document.limits
    floor = 1.0 - limits.dod_max
    found = [
        Check(
            id="soc",
            requirement="the state of charge stays over its floor",
            ok=flown.soc_min >= floor - 2.0 * SOC_TOLERANCE,
            value=flown.soc_min,
            limit=floor,
        ),
        Check(
            id="gpu_temp",
            requirement="the GPU stays under its limit",
            ok=flown.gpu_max_degc <= limits.gpu_degc + 2.0 * TEMPERATURE_TOLERANCE_K,
            value=flown.gpu_max_degc,
            limit=limits.gpu_degc,
            unit="°C",
        ),
        Check(
            id="radiator_temp",
            requirement="the radiator stays under its limit",
            ok=flown.radiator_max_degc <= limits.radiator_degc + 2.0 * TEMPERATURE_TOLERANCE_K,
            value=flown.radiator_max_degc,
            limit=limits.radiator_degc,
            unit="°C",
        ),
        Check(
            id="rail",
            requirement="the power board never drops the GPU rail",
            ok=flown.rail_lost_s == 0.0,
            value=flown.rail_lost_s,
            limit=0.0,
            unit="s",
        ),
    ]
    if planned.case.start is None:
        recharge = Check(
            id="recharge",
            requirement="the battery ends no emptier than it began",
            ok=flown.soc[-1] >= flown.soc_start - 2.0 * SOC_TOLERANCE,
            value=flown.soc[-1],
            limit=flown.soc_start,
        )
        found.insert(1, recharge)
    return found


def _downlink_checks(mission: Mission, planned: Planned) -> list[Check]:
    downlink, steps = mission.document.downlink, planned.steps
    if downlink is None or mission.made_up_orbit:
        return [Check(id="downlink", requirement="no data is planned to come down", ok=True, value=0.0, limit=0.0)]
    days = steps.length_s / DAY_S
    made_mb = planned.flown.work_h * downlink.mb_per_gpu_hour
    planned_mb = downlink.volume_mb_per_day * days
    capacity_mb = downlink_mb(mission, steps)
    return [
        Check(
            id="downlink",
            requirement="the contacts carry the planned data",
            ok=planned_mb + made_mb <= capacity_mb * (1.0 + WANTED_TOLERANCE),
            value=(planned_mb + made_mb) / days,
            limit=capacity_mb / days,
            unit="MB/day",
        )
    ]


def _wants(mission: Mission, flown: Trajectory) -> list[Check]:
    """What the mission wants over the horizon against what is predicted."""
    wanted: Wanted = mission.document.wanted
    has = _delivered(mission, flown)
    names = {
        "compute_share": ("mean throughput of the card", ""),
        "gpu_hours": ("hours at full throughput", "h"),
        "train_steps": ("training steps", ""),
        "tokens": ("tokens", ""),
    }
    found: list[Check] = []
    for key, (label, unit) in names.items():
        wish, value = getattr(wanted, key), has[key]
        if wish is not None and value is not None:
            found.append(
                Check(
                    id=key,
                    requirement=label,
                    ok=value >= wish * (1.0 - WANTED_TOLERANCE),
                    value=value,
                    limit=wish,
                    unit=unit,
                )
            )
    return found


def _delivered(mission: Mission, flown: Trajectory) -> dict[str, float | None]:
    throughput, work_h = mission.document.throughput, flown.work_h
    return {
        "compute_share": flown.compute_share,
        "gpu_hours": work_h,
        "train_steps": None if throughput.steps_per_s is None else throughput.steps_per_s * 3600.0 * work_h,
        "tokens": None if throughput.tokens_per_s is None else throughput.tokens_per_s * 3600.0 * work_h,
    }


def _compute(mission: Mission, planned: Planned) -> dict[str, float | None]:
    work_h, steps = planned.flown.work_h, planned.steps
    return {
        **_delivered(mission, planned.flown),
        "gpu_hours_per_orbit": work_h / steps.orbits,
        "gpu_hours_per_day": work_h * DAY_S / steps.length_s,
    }


def _energy(planned: Planned) -> dict[str, float]:
    """Per mean orbit."""
    flown, steps, case = planned.flown, planned.steps, planned.case
    lit = [s >= LIT for s in flown.sunlit]
    cycles = YEAR_S * len(steps.eclipses) / steps.length_s if len(steps.eclipses) else 0.0
    return {
        "array_wh": flown.array_wh / steps.orbits,
        "gpu_wh": flown.gpu_wh / steps.orbits,
        "bus_wh": flown.bus_wh / steps.orbits,
        "spilled_wh": flown.spilled_wh / steps.orbits,
        "unserved_wh": flown.unserved_wh / steps.orbits,
        "gpu_sun_w": _mean(flown.gpu_power_w, flown.dt_s, lit),
        "gpu_eclipse_w": _mean(flown.gpu_power_w, flown.dt_s, [not one for one in lit]),
        "soc_min": flown.soc_min,
        "dod": max(max(flown.soc), flown.soc_start) - flown.soc_min,
        "discharged_wh": flown.discharged_wh / steps.orbits,
        "cycles_per_year": cycles,
        "full_cycles_per_year": YEAR_S * flown.discharged_wh / case.capacity_wh / steps.length_s,
    }


def _temperature(planned: Planned) -> dict[str, float]:
    flown, case, steps = planned.flown, planned.case, planned.steps
    gpu_max, radiator_max = case.gpu_max_k - ZERO_CELSIUS_K, case.radiator_max_k - ZERO_CELSIUS_K
    at_limit_s = sum(
        dt_s for t, dt_s in zip(flown.gpu_degc, flown.dt_s, strict=True) if t >= gpu_max - NEAR_LIMIT_K
    )
    return {
        "gpu_max_degc": flown.gpu_max_degc,
        "gpu_min_degc": min(flown.gpu_degc),
        "gpu_limit_degc": gpu_max,
        "gpu_at_limit_min": at_limit_s / 60.0 / steps.orbits,
        "radiator_max_degc": flown.radiator_max_degc,
        "radiator_min_degc": min(flown.radiator_degc),
        "radiator_limit_degc": radiator_max,
    }


def _downlink(mission: Mission, planned: Planned) -> dict[str, float | None]:
    downlink = mission.document.downlink
    days = planned.steps.length_s / DAY_S
    if downlink is None or mission.made_up_orbit:
        return {"contact_min_per_day": planned.steps.contact_s / 60.0 / days, "capacity_mb_per_day": None}
    made_mb = planned.flown.work_h * downlink.mb_per_gpu_hour / days
    return {
        "contact_min_per_day": planned.steps.contact_s / 60.0 / days,
        "capacity_mb_per_day": downlink_mb(mission, planned.steps) / days,
        "planned_mb_per_day": downlink.volume_mb_per_day,
        "made_mb_per_day": made_mb,
    }


def _notes(mission: Mission, planned: Planned) -> list[str]:
    notes = list(mission.notes)
    assert mission.profile is not None
    if mission.profile.provenance != "measured":
        notes.append(f"the card's curve is {mission.profile.provenance}, nobody has measured it")
    if mission.made_up_orbit:
        notes.append("the orbit's plane is made up: eclipses are right, passes mean nothing and are not judged")
    if planned.case.start is not None:
        notes.append(
            "nothing is asked of the end of the horizon: the last orbit may empty the battery to its floor"
        )
    return notes


def _sentence(planned: Planned, checks: list[Check], binding: str, minutes: dict[str, float]) -> str:
    period_min = planned.steps.period_s / 60.0
    bound = f"{binding} binds for {minutes.get(binding, 0.0):.0f} of {period_min:.0f} min"
    if binding == prices.NOTHING:
        bound = "nothing binds"
    flown = planned.flown
    broken = [check for check in checks if not check.ok]
    if planned.elastic:
        what = []
        for check in broken:
            if check.id in ("soc", "recharge"):
                what.append(f"takes the battery to {check.value:.1%} of charge, its floor is {checks[0].limit:.0%}")
            elif check.id in ("gpu_temp", "radiator_temp"):
                what.append(f"is {check.value - check.limit:.1f} K too hot ({check.id.removesuffix('_temp')})")
        seen = " and ".join(what[:2]) or "keeps no limit"
        return f"does not fit: even the idle card {seen}; {binding} binds throughout"
    share = f"{flown.compute_share:.3f} of the card"
    if not broken:
        return f"fits: {share}, {flown.work_h * DAY_S / planned.steps.length_s:.1f} GPU-hours a day; {bound}"
    first = broken[0]
    unit = f" {first.unit}" if first.unit else ""
    if first.id == "downlink":
        return (
            f"does not fit: downlink binds: {first.value:.4g} MB a day are planned, "
            f"the passes carry {first.limit:.4g} MB"
        )
    return (
        f"does not fit: {bound}; {first.requirement}: {first.limit:.4g}{unit} needed, "
        f"{first.value:.4g}{unit} is what there is"
    )


def _mean(values: list[float], weights: list[float], chosen: list[bool]) -> float:
    total = sum(w for w, one in zip(weights, chosen, strict=True) if one)
    if total <= 0.0:
        return 0.0
    return sum(v * w for v, w, one in zip(values, weights, chosen, strict=True) if one) / total
