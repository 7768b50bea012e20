"""What binds, when, and what one per cent more of it would buy: the programme's dual prices, read out.

A watt more for the GPU in step k is worth Δt·m, its throughput. At the optimum that is exactly what it costs:

    Δt·m = λ_k  +  2α·μ_k  +  data  +  card       (electricity, heat, downlink, and the end of the card's curve)

so each step has a largest price, and the resource behind it *binds* there. Electricity in a step that lives on the
battery is the battery's fault as far as a stored Wh is dearer than anywhere else within one orbit (a bigger battery
would carry the cheap Wh over), and the array's for the rest.

Sensitivities follow from the envelope theorem: with x, y, z held, the value of a changed programme moves by

    dV = dc·x + y·(db − dA x) + z·dbound

so each row of ``RESOURCES`` builds the programme once more and solves nothing. The tests hold this against
solving again.
"""

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from .horizon import Floats
from .programme import Case, Layout, Programme, Solution, build

PRICE_MIN: Final = 1e-6
"""Share of the value of a watt under which a price is rounding."""

CARD_ALONE: Final = 0.1
"""The card itself binds when all other resources together buy less than this part of what a larger card buys."""

ARRAY, BATTERY, RADIATOR, DOWNLINK, CARD, NOTHING = "array", "battery", "radiator", "downlink", "card", "nothing"


class Resource(msgspec.Struct, frozen=True):
    """One line of the table of sensitivities: what is changed, and which constraint it belongs to."""

    id: str
    label: str
    binding: str
    change: Callable[[Case], Case]


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What a little more of one resource buys."""

    id: str
    label: str
    binding: str
    gpu_hours: float
    share: float
    """Of the work of the plan."""


def _scaled(*names: str) -> Callable[[Case], Case]:
    def change(case: Case) -> Case:
        return msgspec.structs.replace(case, **{name: 1.01 * getattr(case, name) for name in names})

    return change


def _raised(name: str) -> Callable[[Case], Case]:
    return lambda case: msgspec.structs.replace(case, **{name: getattr(case, name) + 1.0})


def _lowered_floor(case: Case) -> Case:
    return msgspec.structs.replace(case, floor_share=case.floor_share - 0.01)


def _larger_card(case: Case) -> Case:
    """A card with 1 % more of everything: power and throughput of each point of the curve."""
    return msgspec.structs.replace(
        case, idle_w=1.01 * case.idle_w, widths_w=tuple(1.01 * width for width in case.widths_w)
    )


RESOURCES: Final = (
    Resource("array", "array power +1 %", ARRAY, _scaled("array")),
    Resource("capacity", "battery capacity +1 %", BATTERY, _scaled("capacity_wh")),
    Resource("dod", "depth of discharge +1 %", BATTERY, _lowered_floor),
    Resource("charger", "charger +1 %", BATTERY, _scaled("charge_max_w", "discharge_max_w")),
    Resource("area", "radiator area +1 %", RADIATOR, _scaled("area")),
    Resource("conductance", "conductance +1 %", RADIATOR, _scaled("conductance_w_k")),
    Resource("gpu_limit", "GPU limit +1 K", RADIATOR, _raised("gpu_max_k")),
    Resource("radiator_limit", "radiator limit +1 K", RADIATOR, _raised("radiator_max_k")),
    Resource("card", "card +1 %", CARD, _larger_card),
    Resource("downlink", "downlink +1 %", DOWNLINK, _scaled("data_mb")),
)


LIMITS: Final = frozenset({"dod", "gpu_limit", "radiator_limit"})
"""Rows that move a limit: they name no resource that there could be more of."""


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Price of a watt of the GPU in each step by resource, as shares of their sum, and who binds."""

    shares: dict[str, Floats]
    binding: list[str]


def derivative(at: Programme, changed: Programme, solution: Solution) -> float:
    """Change of the optimum's value when the programme becomes ``changed``, to first order."""
    x, price, reduced = solution.x, solution.price, solution.reduced
    moved = np.bincount(changed.rows, changed.values * x[changed.columns], minlength=len(price))
    moved -= np.bincount(at.rows, at.values * x[at.columns], minlength=len(price))
    bound = np.where(
        price > 0.0, _difference(changed.row_upper, at.row_upper), _difference(changed.row_lower, at.row_lower)
    )
    column = np.where(reduced > 0.0, _difference(changed.upper, at.upper), _difference(changed.lower, at.lower))
    return float((changed.cost - at.cost) @ x + price @ (bound - moved) + reduced @ column)


def gains(case: Case, tangent_k: Floats, solution: Solution, work_h: float, *, elastic: bool = False) -> list[Gain]:
    """The table of sensitivities; ``work_h`` is the work of the plan in hours at full throughput.

    For an elastic solution the gain is in units of the passed limits, and ``share`` is 0.
    """
    at = build(case, tangent_k, elastic=elastic)
    found: list[Gain] = []
    for resource in RESOURCES:
        if resource.id == "downlink" and case.data_mb_per_h <= 0.0:
            continue
        changed = build(resource.change(case), tangent_k, elastic=elastic)
        gain_h = derivative(at, changed, solution)
        found.append(
            Gain(
                id=resource.id,
                label=resource.label,
                binding=resource.binding,
                gpu_hours=gain_h,
                share=gain_h / work_h if work_h > 0.0 and not elastic else 0.0,
            )
        )
    return found


def binding_of(found: list[Gain]) -> str:
    """The constraint whose resources together buy the most; "nothing" when none buys anything.

    ``LIMITS`` are left out: a limit is not a resource. A larger card nearly always buys something; it is named when
    the rest of the satellite buys next to nothing beside it.
    """
    totals: dict[str, float] = {}
    for gain in found:
        if gain.id not in LIMITS:
            totals[gain.binding] = totals.get(gain.binding, 0.0) + max(0.0, gain.gpu_hours)
    larger_card = totals.pop(CARD, 0.0)
    if larger_card > max(PRICE_MIN, sum(totals.values()) / CARD_ALONE):
        return CARD
    name = max(totals, key=lambda key: totals[key], default=NOTHING)
    return name if totals.get(name, 0.0) > PRICE_MIN else NOTHING


def prices(case: Case, solution: Solution) -> Prices:
    """Who binds in each step."""
    steps = case.steps
    n = len(steps.dt_s)
    at = Layout(n, len(case.widths_w))
    hours = steps.dt_s / 3600.0
    electric = np.maximum(0.0, solution.price[at.row_power])
    heat = np.maximum(0.0, -steps.dt_s / case.gpu_capacity_j_k * solution.price[at.row_gpu])
    card = np.maximum(0.0, solution.reduced[at.power[:, -1]])
    data = np.full(n, max(0.0, float(solution.price[at.row_data]))) * hours * case.slopes[-1] * case.data_mb_per_h
    battery = electric * _dearness(case, solution, at)
    parts = {ARRAY: electric - battery, BATTERY: battery, RADIATOR: heat, DOWNLINK: data, CARD: card}
    total = sum(parts.values(), np.zeros(n))
    worth = total > PRICE_MIN * hours * case.slopes[-1]
    names = list(parts)
    table = np.array([parts[name] for name in names])
    largest = np.argmax(table, axis=0)
    return Prices(
        shares={name: np.where(worth, parts[name] / np.maximum(total, 1e-300), 0.0) for name in names},
        binding=[names[largest[k]] if worth[k] else NOTHING for k in range(n)],
    )


def _dearness(case: Case, solution: Solution, at: Layout) -> Floats:
    """Part of a stored Wh's price that a bigger battery would save, where the step draws on the battery; else 0."""
    stored = np.maximum(0.0, solution.price[at.row_energy])
    middle_s = np.cumsum(case.steps.dt_s) - 0.5 * case.steps.dt_s
    half_s = 0.5 * case.steps.period_s
    first = np.searchsorted(middle_s, middle_s - half_s)
    last = np.searchsorted(middle_s, middle_s + half_s)
    cheapest = np.array([stored[a:b].min() for a, b in zip(first, last, strict=True)])
    draws = solution.x[at.discharge] > 1e-6
    return np.where(draws & (stored > 0.0), 1.0 - cheapest / np.maximum(stored, 1e-300), 0.0)


def _difference(new: Floats, old: Floats) -> Floats:
    """new − old where both are finite, else 0: no price stands on a bound that is not there."""
    finite = np.isfinite(new) & np.isfinite(old)
    return np.where(finite, np.where(finite, new, 0.0) - np.where(finite, old, 0.0), 0.0)
