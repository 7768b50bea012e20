"""The true world in motion: what happens to battery and temperatures when a governor holds a power for a tick.

Power-thermal-orbit reference, section 6.3. Surplus that the battery cannot take is spilled; the plant sets no limit
of discharge; the two heat nodes are stepped by Euler within the tick, both from the old values. Violations are
counted on the true state at the end of each tick, never on what a sensor says.

``fly`` runs one governor through one scenario; ``replay`` drives many plants at once with given powers, for rivals
that look at nothing.
"""

import time
from collections.abc import Callable
from math import sqrt
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np

from .scenarios import TICK_S, Instruments, Observation, Scenario, errors
from .world import (
    AREA_M2,
    CHARGE_MAX_W,
    ETA_CHARGE,
    ETA_DISCHARGE,
    GPU_J_K,
    GPU_MAX_K,
    IDLE_W,
    MAX_W,
    RADIATOR_MAX_K,
    Floats,
    World,
    throughput,
)

SUBSTEP_S: Final = 5.0
ENERGY_TOLERANCE_J: Final = 1.0
"""Less than this under the floor is rounding, not a violation."""


class Governor(Protocol):
    """A rival: the power it wants for the tick to come, in W. The card clips it to what it can do."""

    def decide(self, seen: Observation, /) -> float:
        """Called once a tick."""


Maker = Callable[[Scenario], Governor]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One rival in one scenario. ``mean_throughput`` is 0 to 1; violations are seconds past a limit, in truth."""

    scenario: int
    mean_throughput: float
    soc_min: float
    gpu_max_k: float
    radiator_max_k: float
    soc_violation_s: float
    heat_violation_s: float
    tick_cpu_s: float
    """Processor time of the governor per tick."""


class Trace(NamedTuple):
    """A run, tick by tick: times, GPU power during the tick, and the state at its end."""

    time_s: Floats
    gpu_w: Floats
    soc: Floats
    gpu_k: Floats
    radiator_k: Floats
    lit: Floats


def fly(scenario: Scenario, governor: Governor) -> tuple[Outcome, Trace]:
    """Six orbits of one governor in one scenario."""
    world, ticks = scenario.truth, scenario.ticks
    instruments, noise = errors(scenario)
    clock, clip_low, clip_high = time.thread_time, IDLE_W, MAX_W
    capacity_j, bus_w, array_full_w = world.capacity_j, world.bus_w, world.array_w
    emission, conductance, radiator_j_k = world.emission_w_k4, world.conductance_w_k, world.radiator_j_k
    lit_s, orbit_s, phase_s = world.orbit_s - world.eclipse_s, world.orbit_s, world.phase_s
    dark_heat_w = bus_w + AREA_M2 * world.infrared_w_m2
    lit_heat_w = dark_heat_w + AREA_M2 * world.sunlight_w_m2
    substeps = max(1, int(TICK_S // SUBSTEP_S))
    h = TICK_S / substeps

    energy, gpu, radiator = scenario.energy_j, scenario.gpu_k, scenario.radiator_k
    battery_w, drawn_w, spent_s = 0.0, IDLE_W, 0.0
    powers: list[float] = []
    energies: list[float] = []
    gpus: list[float] = []
    radiators: list[float] = []
    lits: list[bool] = []
    for tick in range(ticks):
        t = tick * TICK_S
        lit = (t + phase_s) % orbit_s < lit_s
        soc = energy / capacity_j
        current_a, voltage_v = _terminal(instruments, soc, battery_w)
        seen = Observation(
            t,
            soc + instruments.soc_bias + noise.soc[tick],
            gpu + instruments.gpu_bias_k + noise.gpu_k[tick],
            radiator + noise.radiator_k[tick],
            lit,
            current_a * instruments.current_gain + instruments.current_offset_a + noise.current_a[tick],
            voltage_v + noise.voltage_v[tick],
            (array_full_w if lit else 0.0) * instruments.array_gain + noise.array_w[tick],
            drawn_w * instruments.rail_gain + noise.rail_w[tick],
        )
        began_s = clock()
        wanted_w = governor.decide(seen)
        spent_s += clock() - began_s
        # NaN fails the comparison: no order idles the card.
        told_w = min(clip_high, wanted_w) if wanted_w > clip_low else clip_low
        drawn_w = min(clip_high, max(clip_low, told_w * (1.0 + noise.actuator[tick])))

        net_w = (array_full_w if lit else 0.0) - drawn_w - bus_w
        if net_w >= 0.0:
            taken_j = min(min(net_w, CHARGE_MAX_W) * ETA_CHARGE * TICK_S, capacity_j - energy)
            energy += taken_j
            battery_w = taken_j / (ETA_CHARGE * TICK_S)
        else:
            energy += net_w / ETA_DISCHARGE * TICK_S
            battery_w = net_w
        heat_w = lit_heat_w if lit else dark_heat_w
        for _ in range(substeps):
            flow_w = conductance * (gpu - radiator)
            gpu, radiator = (
                gpu + h * (drawn_w - flow_w) / GPU_J_K,
                radiator + h * (flow_w + heat_w - emission * radiator**4) / radiator_j_k,
            )
        powers.append(drawn_w)
        energies.append(energy)
        gpus.append(gpu)
        radiators.append(radiator)
        lits.append(lit)
    trace = Trace(
        TICK_S * np.arange(ticks, dtype=np.float64),
        np.array(powers),
        np.array(energies) / capacity_j,
        np.array(gpus),
        np.array(radiators),
        np.array(lits, dtype=float),
    )
    return judge(scenario, trace, spent_s / ticks), trace


def lit_ticks(world: World, ticks: int) -> np.ndarray:
    """Whether the Sun shines in each tick: what it does at the tick's start holds for the tick."""
    times_s = np.arange(ticks) * TICK_S + world.phase_s
    return times_s % world.orbit_s < world.orbit_s - world.eclipse_s


def judge(scenario: Scenario, trace: Trace, tick_cpu_s: float = 0.0) -> Outcome:
    """Score and violations of a run, from the truth alone."""
    floor = (scenario.truth.energy_min_j - ENERGY_TOLERANCE_J) / scenario.truth.capacity_j
    hot = (trace.gpu_k > GPU_MAX_K) | (trace.radiator_k > RADIATOR_MAX_K)
    return Outcome(
        scenario=scenario.id,
        mean_throughput=float(throughput(trace.gpu_w).mean()),
        soc_min=float(trace.soc.min()),
        gpu_max_k=float(trace.gpu_k.max()),
        radiator_max_k=float(trace.radiator_k.max()),
        soc_violation_s=TICK_S * int((trace.soc < floor).sum()),
        heat_violation_s=TICK_S * int(hot.sum()),
        tick_cpu_s=tick_cpu_s,
    )


def _terminal(instruments: Instruments, soc: float, battery_w: float) -> tuple[float, float]:
    """Current and terminal voltage: V = OCV(soc) + I R with V I the power into the battery."""
    curve = instruments.ocv_v
    place = min(max(10.0 * soc, 0.0), 10.0)
    index = min(int(place), 9)
    emf_v = curve[index] + (curve[index + 1] - curve[index]) * (place - index)
    # The root that goes to P/emf for small P; a battery in these scenarios never nears emf²/4R.
    voltage_v = 0.5 * (emf_v + sqrt(max(0.0, emf_v * emf_v + 4.0 * instruments.resistance_ohm * battery_w)))
    return battery_w / voltage_v, voltage_v


class Replayed(NamedTuple):
    """Many plants at once: what each delivered, and whether it kept every limit."""

    mean_throughput: Floats
    sound: np.ndarray


def replay(scenario: Scenario, lit_w: Floats, dark_w: Floats) -> Replayed:
    """Fly schedules of one power in sunlight and one in the dark, one for each pair, with the run's own noise."""
    world = scenario.truth
    factors = 1.0 + np.array(errors(scenario)[1].actuator)
    lit = lit_ticks(world, scenario.ticks)
    substeps = max(1, int(TICK_S // SUBSTEP_S))
    h, g = TICK_S / substeps, world.conductance_w_k
    size = len(lit_w)
    energy, gpu = np.full(size, scenario.energy_j), np.full(size, scenario.gpu_k)
    radiator, work = np.full(size, scenario.radiator_k), np.zeros(size)
    lowest, hottest, hottest_radiator = energy.copy(), gpu.copy(), radiator.copy()
    for sun, factor in zip(lit, factors, strict=True):
        drawn_w = np.clip((lit_w if sun else dark_w) * factor, IDLE_W, MAX_W)
        work += throughput(drawn_w)
        net_w = (world.array_w if sun else 0.0) - drawn_w - world.bus_w
        gain_w = np.where(net_w >= 0.0, np.minimum(net_w, CHARGE_MAX_W) * ETA_CHARGE, net_w / ETA_DISCHARGE)
        energy = np.minimum(energy + gain_w * TICK_S, world.capacity_j)
        heat_w = world.bus_w + AREA_M2 * (world.infrared_w_m2 + (world.sunlight_w_m2 if sun else 0.0))
        for _ in range(substeps):
            flow_w = g * (gpu - radiator)
            gpu, radiator = (
                gpu + h * (drawn_w - flow_w) / GPU_J_K,
                radiator + h * (flow_w + heat_w - world.emission_w_k4 * radiator**4) / world.radiator_j_k,
            )
        np.minimum(lowest, energy, out=lowest)
        np.maximum(hottest, gpu, out=hottest)
        np.maximum(hottest_radiator, radiator, out=hottest_radiator)
    sound = (
        (lowest >= world.energy_min_j - ENERGY_TOLERANCE_J)
        & (hottest <= GPU_MAX_K)
        & (hottest_radiator <= RADIATOR_MAX_K)
    )
    return Replayed(work / len(factors), sound)


def replay_powers(scenario: Scenario, gpu_w: Floats) -> Trace:
    """Fly given powers, one a tick, without noise."""
    world = scenario.truth
    ticks = len(gpu_w)
    lit = lit_ticks(world, ticks)
    substeps = max(1, int(TICK_S // SUBSTEP_S))
    h, g, emission = TICK_S / substeps, world.conductance_w_k, world.emission_w_k4
    energy, gpu, radiator = scenario.energy_j, scenario.gpu_k, scenario.radiator_k
    states = np.empty((ticks, 3))
    for tick, (sun, drawn_w) in enumerate(zip(lit.tolist(), gpu_w.tolist(), strict=True)):
        net_w = (world.array_w if sun else 0.0) - drawn_w - world.bus_w
        gain_w = min(net_w, CHARGE_MAX_W) * ETA_CHARGE if net_w >= 0.0 else net_w / ETA_DISCHARGE
        energy = min(energy + gain_w * TICK_S, world.capacity_j)
        heat_w = world.bus_w + AREA_M2 * (world.infrared_w_m2 + (world.sunlight_w_m2 if sun else 0.0))
        for _ in range(substeps):
            flow_w = g * (gpu - radiator)
            gpu, radiator = (
                gpu + h * (drawn_w - flow_w) / GPU_J_K,
                radiator + h * (flow_w + heat_w - emission * radiator**4) / world.radiator_j_k,
            )
        states[tick] = energy, gpu, radiator
    return Trace(
        TICK_S * np.arange(ticks, dtype=np.float64),
        gpu_w,
        states[:, 0] / world.capacity_j,
        states[:, 1],
        states[:, 2],
        lit.astype(float),
    )
