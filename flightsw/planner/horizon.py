"""The horizon in numbers: what a request says of each step, before any optimisation.

Curve. Throughput is concave in power, so the card's watts above idle are cut into *pieces* of falling yield, and a
plan that fills the pieces in order is on the curve. The battery cuts at two more powers of a step: at ``surplus −
charge limit`` (below it a watt costs no charge, the battery takes no more anyway) and at ``surplus`` (above it a
watt comes out of the battery). Stored energy is concave in power, too, so one order of pieces serves both.

Heat. The two nodes with their emission linearised about a temperature of each step are a linear system, and with
constant power its step is exact:

    x⁺ = Φ x + Γ P + w,   Φ = exp(A Δt),   A = [[−G/C_g, G/C_g], [G/C_r, −(G + 4 K T̄³)/C_r]]

A tangent of T⁴ lies below it: the plan is never cooler than the truth (power-thermal-orbit reference, section 6.4).
Φ and Γ have no negative entry for any Δt, so more power is more heat, which is why an idle card is the best that
can be done for every limit at once (``Horizon.idle``).
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flightsw.core.plan import STEPS_MAX, HeatPath, PlanRequest

KELVIN: Final = 273.15
POINTS_MAX: Final = 64
STEP_MAX_S: Final = 3600.0
TEMPERATURES_DEGC: Final = (-150.0, 250.0)
"""Range of a node at the start; outside it a reading is no reading, and the tangents would mean nothing."""

Row = NDArray[np.float64]


class RequestError(ValueError):
    """A request that describes no horizon; the text says which field, what is allowed, and what it has."""


class Horizon(NamedTuple):
    """A request as arrays: one row per step, pieces across."""

    steps_s: Row
    sunlit: Row
    idle_w: float
    width_w: Row
    """Watts of each piece."""
    yield_per_w: Row
    """Throughput per watt in each piece, prices taken off."""
    drain: Row
    """Stored energy per energy of the card in each piece: 0, η_c or 1/η_d."""
    idle_rate_w: Row
    """Rate of stored energy while the card idles, W."""
    absorbed_w: Row


def horizon(request: PlanRequest) -> Horizon:
    """The request as arrays; ``RequestError`` when it is none that can be planned."""
    check(request)
    steps_s, sunlit = np.array(request.steps_s), np.array(request.sunlit)
    power_w, throughput = np.array(request.power_w), np.array(request.throughput)
    idle_w = request.power_w[0]
    surplus_w = request.array_power_w * sunlit - request.bus_power_w
    ceiling_w = np.minimum(
        min(request.gpu_ceiling_w, request.power_w[-1]), surplus_w + request.discharge_power_max_w
    )
    ceiling_w = np.maximum(ceiling_w, idle_w)
    free_w = surplus_w - request.charge_power_max_w
    count = len(steps_s)
    cuts_w = np.empty((count, len(power_w) + 2))
    cuts_w[:, :-2] = power_w
    cuts_w[:, -2], cuts_w[:, -1] = free_w, surplus_w
    np.clip(cuts_w, idle_w, ceiling_w[:, None], out=cuts_w)
    cuts_w.sort(axis=1)
    width_w = np.diff(cuts_w, axis=1)
    middle_w = 0.5 * (cuts_w[:, :-1] + cuts_w[:, 1:])
    gained = np.diff(np.interp(cuts_w.ravel(), power_w, throughput).reshape(cuts_w.shape), axis=1)
    slope = np.divide(gained, width_w, out=np.zeros_like(width_w), where=width_w > 0.0)
    from_battery = middle_w > surplus_w[:, None]
    drain = np.where(from_battery, 1.0 / request.discharge_efficiency, request.charge_efficiency)
    drain[middle_w <= free_w[:, None]] = 0.0
    heat = request.heat
    return Horizon(
        steps_s=steps_s,
        sunlit=sunlit,
        idle_w=idle_w,
        width_w=width_w,
        yield_per_w=slope - request.energy_cost_per_j - request.discharge_cost_per_j * from_battery,
        drain=drain,
        idle_rate_w=stored_rate_w(request, surplus_w - idle_w),
        absorbed_w=request.bus_power_w + heat.absorbed_w + heat.absorbed_sun_w * sunlit,
    )


def stored_rate_w(request: PlanRequest, net_w: Row) -> Row:
    """Rate of stored energy at a net power of the bus: charge up to the limit, losses both ways."""
    charge_w = np.minimum(net_w, request.charge_power_max_w) * request.charge_efficiency
    return np.where(net_w >= 0.0, charge_w, net_w / request.discharge_efficiency)


def energies(horizon: Horizon, request: PlanRequest, power_w: Row) -> list[float]:
    """Charge at the end of each step in joules, surplus spilled."""
    net_w = request.array_power_w * horizon.sunlit - request.bus_power_w - power_w
    gains_j = stored_rate_w(request, net_w) * horizon.steps_s
    energy_j = min(request.energy_j, request.capacity_j)
    found: list[float] = []
    for gain_j in gains_j.tolist():
        energy_j = min(request.capacity_j, energy_j + gain_j)
        found.append(energy_j)
    return found


class Propagation(NamedTuple):
    """x⁺ = Φ x + Γ P + w for each step; the nodes are g (GPU) and r (radiator), in kelvin."""

    gg: Row
    gr: Row
    rg: Row
    rr: Row
    power_g: Row
    power_r: Row
    offset_g: Row
    offset_r: Row


def propagation(heat: HeatPath, steps_s: Row, absorbed_w: Row, tangent_k: Row) -> Propagation:
    """The exact step of the two nodes, emission linearised about ``tangent_k`` of each step."""
    emission = heat.emission_w_k4
    slope = 4.0 * emission * tangent_k**3
    source_w = absorbed_w + 3.0 * emission * tangent_k**4
    a = -heat.conductance_w_k / heat.gpu_capacity_j_k
    b = -a
    c = heat.conductance_w_k / heat.radiator_capacity_j_k
    d = -c - slope / heat.radiator_capacity_j_k
    # Real, different, negative eigenvalues: b c > 0 and a d − b c = G · 4KT̄³/(C_g C_r) > 0.
    middle = 0.5 * (a + d)
    spread = np.sqrt(0.25 * (a - d) ** 2 + b * c)
    fast, slow = np.exp((middle - spread) * steps_s), np.exp((middle + spread) * steps_s)
    # exp(A t) = u + v A (Cayley-Hamilton).
    v = (slow - fast) / (2.0 * spread)
    u = slow - v * (middle + spread)
    gg, gr, rg, rr = u + v * a, v * b, v * c, u + v * d
    # ∫ exp(A τ) dτ = A⁻¹ (Φ − 1).
    determinant = a * d - b * c
    on_g_g = (d * (gg - 1.0) - b * rg) / determinant
    on_g_r = (d * gr - b * (rr - 1.0)) / determinant
    on_r_g = (a * rg - c * (gg - 1.0)) / determinant
    on_r_r = (a * (rr - 1.0) - c * gr) / determinant
    per_source = 1.0 / heat.radiator_capacity_j_k
    return Propagation(
        gg=gg,
        gr=gr,
        rg=rg,
        rr=rr,
        power_g=on_g_g / heat.gpu_capacity_j_k,
        power_r=on_r_g / heat.gpu_capacity_j_k,
        offset_g=on_g_r * per_source * source_w,
        offset_r=on_r_r * per_source * source_w,
    )


def temperatures(
    step: Propagation, power_w: Row, gpu_k: float, radiator_k: float
) -> tuple[list[float], list[float]]:
    """Both nodes at the end of each step, K."""
    push_g = (step.power_g * power_w + step.offset_g).tolist()
    push_r = (step.power_r * power_w + step.offset_r).tolist()
    found_g: list[float] = []
    found_r: list[float] = []
    for gg, gr, rg, rr, g, r in zip(
        step.gg.tolist(), step.gr.tolist(), step.rg.tolist(), step.rr.tolist(), push_g, push_r, strict=True
    ):
        gpu_k, radiator_k = gg * gpu_k + gr * radiator_k + g, rg * gpu_k + rr * radiator_k + r
        found_g.append(gpu_k)
        found_r.append(radiator_k)
    return found_g, found_r


def midpoints(radiator_k: list[float], start_k: float) -> Row:
    """Mean radiator temperature of each step: about this the emission is linear."""
    ends: Row = np.array([start_k, *radiator_k])
    middle: Row = 0.5 * (ends[1:] + ends[:-1])
    return middle


def first_tangents(request: PlanRequest, horizon: Horizon) -> Row:
    """Radiator temperatures to begin with: from where it is towards the balance of a well used card.

    That card draws what the conductance carries at the limit, and no more than the array gives on average. The
    guess is right to some 5 K, and an error of 5 K in a tangent is one watt of emission.
    """
    heat = request.heat
    lit = float(horizon.steps_s @ horizon.sunlit / horizon.steps_s.sum())
    mean_w = lit * request.array_power_w - request.bus_power_w
    start_k = request.radiator_degc + KELVIN
    limit_w = heat.conductance_w_k * (request.gpu_max_degc + KELVIN - start_k)
    power_w = max(horizon.idle_w, min(mean_w, limit_w, request.gpu_ceiling_w))
    balance_k = ((power_w + float(horizon.absorbed_w.mean())) / heat.emission_w_k4) ** 0.25
    capacity_j_k = heat.gpu_capacity_j_k + heat.radiator_capacity_j_k
    settle_s = capacity_j_k / (4.0 * heat.emission_w_k4 * balance_k**3)
    ends_s = np.cumsum(horizon.steps_s)
    found: Row = balance_k + (start_k - balance_k) * np.exp(-(ends_s - 0.5 * horizon.steps_s) / settle_s)
    return found


def check(request: PlanRequest) -> None:
    """``RequestError`` for anything that no plan can answer."""
    heat = request.heat
    numbers = {
        **{name: getattr(request, name) for name in _FINITE},
        **{f"heat.{name}": getattr(heat, name) for name in HeatPath.__struct_fields__},
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise RequestError(f"{name} = {value}: it must be finite")
    for name, values in (
        ("steps_s", request.steps_s),
        ("sunlit", request.sunlit),
        ("power_w", request.power_w),
        ("throughput", request.throughput),
    ):
        if not all(map(math.isfinite, values)):
            raise RequestError(f"{name} holds a number that is not finite")
    if not 1 <= len(request.steps_s) <= STEPS_MAX:
        raise RequestError(f"steps_s has {len(request.steps_s)} steps, allowed are 1 to {STEPS_MAX}")
    if len(request.sunlit) != len(request.steps_s):
        raise RequestError(
            f"the plan has {len(request.steps_s)} steps and the forecast {len(request.sunlit)}:"
            " sunlit needs one share per step"
        )
    if not all(0.0 < step_s <= STEP_MAX_S for step_s in request.steps_s):
        raise RequestError(f"steps_s must be over 0 and at most {STEP_MAX_S:g} s")
    if not all(0.0 <= share <= 1.0 for share in request.sunlit):
        raise RequestError("sunlit must be 0 to 1")
    _check_curve(request)
    for name in _POSITIVE:
        if not numbers[name] > 0.0:
            raise RequestError(f"{name} = {numbers[name]:g}: it must be over 0")
    for name in _NOT_NEGATIVE:
        if numbers[name] < 0.0:
            raise RequestError(f"{name} = {numbers[name]:g}: it must not be negative")
    for name in ("charge_efficiency", "discharge_efficiency"):
        if numbers[name] > 1.0:
            raise RequestError(f"{name} = {numbers[name]:g}: it must be at most 1")
    low, high = TEMPERATURES_DEGC
    for name in ("gpu_degc", "radiator_degc", "gpu_max_degc", "radiator_max_degc"):
        if not low <= numbers[name] <= high:
            raise RequestError(f"{name} = {numbers[name]:g}: it must be {low:g} to {high:g}")


def _check_curve(request: PlanRequest) -> None:
    power_w, throughput = request.power_w, request.throughput
    if not 2 <= len(power_w) <= POINTS_MAX or len(throughput) != len(power_w):
        raise RequestError(
            f"the curve has {len(power_w)} powers and {len(throughput)} throughputs:"
            f" it needs equally many, 2 to {POINTS_MAX}"
        )
    slope = math.inf
    for index in range(1, len(power_w)):
        width_w, gain = power_w[index] - power_w[index - 1], throughput[index] - throughput[index - 1]
        if not (width_w > 0.0 and gain > 0.0):
            raise RequestError(f"point {index} of the curve: power and throughput must both rise")
        if gain / width_w > slope * (1.0 + 1e-9):
            raise RequestError(f"point {index} of the curve: throughput per watt rises there, it may only fall")
        slope = gain / width_w


_POSITIVE: Final = (
    "capacity_j",
    "charge_efficiency",
    "discharge_efficiency",
    "heat.gpu_capacity_j_k",
    "heat.radiator_capacity_j_k",
    "heat.conductance_w_k",
    "heat.emission_w_k4",
)
_NOT_NEGATIVE: Final = (
    "energy_j",
    "array_power_w",
    "bus_power_w",
    "energy_min_j",
    "charge_power_max_w",
    "discharge_power_max_w",
    "gpu_ceiling_w",
    "discharge_cost_per_j",
    "energy_cost_per_j",
    "heat.absorbed_w",
    "heat.absorbed_sun_w",
)
_FINITE: Final = tuple(
    name
    for name in PlanRequest.__struct_fields__
    if name not in ("id", "heat", "steps_s", "sunlit", "power_w", "throughput")
)
