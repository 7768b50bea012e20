"""A certified upper bound: no plan whatsoever delivers more in this scenario, however it is found.

The programme of ``programme`` is exact but for two curves. The card's curve is concave and the outer pieces lie
above it, so they relax. The radiator's K T⁴ is the hard one: more emission is better, so it needs an upper bound
that is linear, which is the chord over an interval [lo_k, hi_k] that T must not leave. The chord is as good as the
interval is narrow: its error is at most 6 K T² (hi − lo)² / 4. So the work is to prove narrow intervals.

The argument. Let the discretised problem be (1)–(5) of ``programme`` with e_k = K Tmid_k⁴ exactly. Let Π be its
feasible plans, and B ≤ the value of one of them (the clairvoyant's own).

1. *Hot side, without optimality.* Both nodes are monotone: a hotter start, more power, more absorbed heat never
   give a colder trajectory, since αG < 1 and β(G + 4 K T³) < 1 (0.14 and 0.06 at 60 s). The GPU node never passes
   its limit. So in sunlight every plan in Π stays under the trajectory at 700 W with that node held at its limit.
   In the dark the battery gives out: what a plan draws in a dark arc is at most what lies between full (or the
   start) and the floor. The hottest radiator under that, from the hottest entry state, is a small linear programme
   in which emission only has tangents below it (less emission is hotter), hence an upper bound again.
2. *Cold side, at first.* The trajectory at idle power, by the same monotony.
3. *Cold side, by optimality.* A plan in Π that delivers at least B satisfies the relaxed programme (outer pieces,
   chords over intervals already proved) with the row "mean throughput ≥ B". The least Tmid_k over that programme is
   a valid lo_k for all such plans. Plans that deliver less than B need no bound: B bounds them.
4. With the new intervals the relaxed programme still holds every plan of Π that delivers at least B, so its optimum
   UB satisfies: every plan delivers at most max(UB, B) = UB. Repeat 3 and 4 until the gap is small.

Emission is a variable below the chord, never equal to it; so the intervals bound true temperatures, not those of
the relaxation (the trap that section 6.6 of the power-thermal-orbit reference tells of). No optimum is taken from
the solver: UB and every interval are dual bounds, evaluated in ``linear``. Step 3 changes two prices between
neighbouring steps, so a few dozen iterations from the last basis do: about 10 ms for each of up to N steps.

What it is a bound *of*: plans that hold a power for a step of at most 60 s on the midpoint discretisation. Shorter
steps change the optimum by 0.005 % (60, 30 and 10 s steps on sunlit edges agree to that). Averaging within a step
gains nothing: battery and curve are concave in power, the GPU node is linear.
"""

import time
from typing import Final

import msgspec
import numpy as np

from .linear import INFINITY, Ints, Model, NotOptimal, Rows
from .programme import COLDEST_K, Programme, Start
from .world import (
    AREA_M2,
    ETA_DISCHARGE,
    GPU_J_K,
    GPU_MAX_K,
    IDLE_W,
    MAX_W,
    RADIATOR_MAX_K,
    Floats,
    World,
    outer,
)

PIECES: Final = 24
PROBE_PIECES: Final = 8
"""Pieces of the curve while intervals are probed: coarser is still outer, and three times as fast."""
GAP_TARGET: Final = 0.0010
GAP_STOP: Final = 0.0009
"""Work stops when the gap to ``best`` is under this."""
ROUNDS_MAX: Final = 4
EXCESS_LEFT: Final = 0.0002
"""Steps whose chords together cost less than this part of the value are not probed."""
SLACK_K: Final = 1e-3
NARROWEST_K: Final = 0.02
DISCHARGE_FREE_W: Final = 1e4
"""The plant sets no limit of discharge, so the bound has none."""
PERIODIC_ORBITS: Final = 8
"""So many orbits from the hottest or coldest start forget the start."""
TANGENTS_K: Final = (265.0, 275.0, 285.0, 295.0, 303.0, 310.0, 317.0, 324.0)


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """``value`` is the proved upper bound of mean throughput; ``widths_k`` the mean interval after each round."""

    value: float
    values: tuple[float, ...]
    widths_k: tuple[float, ...]
    probes: int
    seconds: float


def certify(world: World, steps_s: Floats, sunlit: Floats, start: Start | None, best: float) -> Certificate:
    """Prove an upper bound for a problem in which ``best`` can be delivered. Raises ``NotOptimal``."""
    began_s = time.process_time()
    low_k, high_k = coldest(world, steps_s, sunlit, start), hottest(world, steps_s, sunlit, start)
    relaxed = Programme(
        world, steps_s, sunlit, outer(PIECES), start, discharge_max_w=DISCHARGE_FREE_W, tie_break=0.0
    )
    probe: Programme | None = None
    values: list[float] = []
    widths_k: list[float] = []
    probes = 0
    for round_ in range(ROUNDS_MAX + 1):
        relaxed.chords(low_k, high_k)
        middle_k = relaxed.solve().middle_k
        values.append(relaxed.model.dual_bound())
        widths_k.append(float((high_k - low_k).mean()))
        if min(values) <= best * (1.0 + GAP_STOP) or round_ == ROUNDS_MAX:
            break
        if probe is None:
            probe = Programme(
                world, steps_s, sunlit, outer(PROBE_PIECES), start, discharge_max_w=DISCHARGE_FREE_W, tie_break=0.0
            )
            probe.demand(best)
        probe.chords(low_k, high_k)
        wanted = _worth_probing(relaxed, low_k, high_k, middle_k, best)
        low_k = low_k.copy()
        for step in wanted:
            try:
                found_k = probe.coldest(step)
            except NotOptimal:
                continue
            low_k[step] = min(max(low_k[step], found_k - SLACK_K), high_k[step] - NARROWEST_K)
        probes += len(wanted)
    return Certificate(
        value=min(values),
        values=tuple(values),
        widths_k=tuple(widths_k),
        probes=probes,
        seconds=time.process_time() - began_s,
    )


def _worth_probing(relaxed: Programme, low_k: Floats, high_k: Floats, middle_k: Floats, best: float) -> list[int]:
    """Steps, in order of time, whose chords cost the most: all but ``EXCESS_LEFT`` of what chords cost."""
    k4 = relaxed.world.emission_w_k4
    chord = k4 * (high_k**2 + low_k**2) * (high_k + low_k) * (middle_k - low_k) + k4 * low_k**4
    cost = np.maximum(0.0, relaxed.emission_prices()) * (chord - k4 * middle_k**4)
    order = np.argsort(cost)
    spared = int(np.searchsorted(np.cumsum(cost[order]), EXCESS_LEFT * best))
    return sorted(order[spared:].tolist())


def coldest(world: World, steps_s: Floats, sunlit: Floats, start: Start | None) -> Floats:
    """Tmid of the trajectory at idle power: no plan is colder."""
    if start is None:
        gpu_k = radiator_k = COLDEST_K
        for _ in range(PERIODIC_ORBITS):
            gpu_k, radiator_k, middle_k = flown(world, steps_s, sunlit, gpu_k, radiator_k, IDLE_W)
    else:
        _, _, middle_k = flown(world, steps_s, sunlit, start.gpu_k, start.radiator_k, IDLE_W)
    return middle_k - SLACK_K


def hottest(world: World, steps_s: Floats, sunlit: Floats, start: Start | None) -> Floats:
    """Tmid that no plan exceeds: full power in sunlight, the whole battery in the dark."""
    gpu_k, radiator_k = (GPU_MAX_K, RADIATOR_MAX_K) if start is None else (start.gpu_k, start.radiator_k)
    energy_j = world.capacity_j if start is None else start.energy_j
    edges = np.flatnonzero(np.diff(sunlit > 0.0)) + 1
    arcs = np.split(np.arange(len(steps_s)), edges)
    middle_k = np.empty(len(steps_s))
    for _ in range(PERIODIC_ORBITS if start is None else 1):
        for arc in arcs:
            if sunlit[arc[0]] > 0.0:
                gpu_k, radiator_k, middle_k[arc] = flown(world, steps_s[arc], sunlit[arc], gpu_k, radiator_k, MAX_W)
            else:
                gpu_k, radiator_k, middle_k[arc] = _hottest_dark(
                    world, steps_s[arc], Start(energy_j, min(gpu_k, GPU_MAX_K), radiator_k)
                )
            # Whatever is left of it: a battery that has seen the Sun may be full.
            energy_j = world.capacity_j
    return np.minimum(middle_k + SLACK_K, RADIATOR_MAX_K)


def flown(
    world: World, steps_s: Floats, sunlit: Floats, gpu_k: float, radiator_k: float, power_w: float
) -> tuple[float, float, Floats]:
    """The exact midpoint discretisation at one power, the GPU node held at its limit: end states, Tmid."""
    k4, g = world.emission_w_k4, world.conductance_w_k
    middle = np.empty(len(steps_s))
    for k, (step_s, share) in enumerate(zip(steps_s.tolist(), sunlit.tolist(), strict=True)):
        absorbed_w = world.bus_w + AREA_M2 * (world.infrared_w_m2 + world.sunlight_w_m2 * share)
        a, c, tm = 2.0 * GPU_J_K / step_s, 2.0 * world.radiator_j_k / step_s, radiator_k
        for _ in range(50):
            gm, slope = (a * gpu_k + power_w + g * tm) / (a + g), g / (a + g)
            if 2.0 * gm - gpu_k > GPU_MAX_K:
                gm, slope = 0.5 * (gpu_k + GPU_MAX_K), 0.0
            residual = c * (tm - radiator_k) - g * (gm - tm) - absorbed_w + k4 * tm**4
            move = residual / (c + g - g * slope + 4.0 * k4 * tm**3)
            tm -= move
            if abs(move) < 1e-10:
                break
        gpu_k, radiator_k, middle[k] = 2.0 * gm - gpu_k, 2.0 * tm - radiator_k, tm
    return gpu_k, radiator_k, middle


def _hottest_dark(world: World, steps_s: Floats, entry: Start) -> tuple[float, float, Floats]:
    """Highest GPU and radiator temperature at the end of a dark arc, and highest Tmid of each of its steps."""
    n, k4, g = len(steps_s), world.emission_w_k4, world.conductance_w_k
    power, gpu, radiator, emitted = (
        np.arange(n),
        n + np.arange(n + 1),
        2 * n + 1 + np.arange(n + 1),
        3 * n + 2 + np.arange(n),
    )
    size = 4 * n + 2
    low, high = np.zeros(size), np.zeros(size)
    low[power], high[power] = IDLE_W, MAX_W
    low[gpu], high[gpu] = COLDEST_K, GPU_MAX_K
    low[radiator], high[radiator] = COLDEST_K, RADIATOR_MAX_K
    high[emitted] = k4 * RADIATOR_MAX_K**4
    for column, value in ((gpu[0], entry.gpu_k), (radiator[0], entry.radiator_k)):
        low[column] = high[column] = value
    al, be = steps_s / (2.0 * GPU_J_K), steps_s / (2.0 * world.radiator_j_k)
    heat = 2.0 * be * (world.bus_w + AREA_M2 * world.infrared_w_m2)
    rows = Rows()
    rows.add(
        0.0,
        0.0,
        np.stack((gpu[1:], gpu[:-1], radiator[1:], radiator[:-1], power), axis=1),
        np.stack((1.0 + al * g, al * g - 1.0, -al * g, -al * g, -2.0 * al), axis=1),
    )
    rows.add(
        heat,
        heat,
        np.stack((radiator[1:], radiator[:-1], gpu[1:], gpu[:-1], emitted), axis=1),
        np.stack((1.0 + be * g, be * g - 1.0, -be * g, -be * g, 2.0 * be), axis=1),
    )
    for at_k in TANGENTS_K:
        rows.add(
            -3.0 * k4 * at_k**4,
            INFINITY,
            np.stack((emitted, radiator[1:], radiator[:-1]), axis=1),
            np.array([1.0, -2.0 * k4 * at_k**3, -2.0 * k4 * at_k**3]),
        )
    spent_j = max(0.0, entry.energy_j - world.energy_min_j) * ETA_DISCHARGE - world.bus_w * float(steps_s.sum())
    # A battery too small for idle breaks its limit whatever is planned; then this arc bounds nothing.
    spent_j = max(spent_j, IDLE_W * float(steps_s.sum()))
    rows.add(-INFINITY, spent_j, power[None, :], steps_s)
    model = Model(rows, np.zeros(size), low, high)
    middle_k = np.array([_highest(model, radiator[k : k + 2], np.array([0.5, 0.5])) for k in range(n)])
    one = np.ones(1)
    return _highest(model, gpu[-1:], one), _highest(model, radiator[-1:], one), middle_k


def _highest(model: Model, columns: Ints, weights: Floats) -> float:
    model.aim(columns, weights)
    model.solve()
    bound = model.dual_bound()
    model.aim(columns, np.zeros(len(columns)))
    return bound
