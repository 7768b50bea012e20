"""Rivals that need neither solver nor flight code: what others do, and the closed form as the reference has it.

Rules and constants are those of the power-thermal-orbit reference, sections 6.8 and 6.9, unless a docstring says
otherwise. A governor that reacts looks at charge, temperatures and the sun flag only. ``constant`` and
``two_level`` look at nothing: their powers are searched in hindsight, on the true world with the true noise, and
are the best that keep every limit, so they show what *any* fixed setting could reach.
"""

from typing import Final

import numpy as np

from .plant import Governor, replay
from .scenarios import TICK_S, Observation, Scenario
from .world import (
    CHARGE_MAX_W,
    DOD_MAX,
    ETA_CHARGE,
    ETA_DISCHARGE,
    GPU_MAX_K,
    IDLE_W,
    MAX_W,
    World,
)

# Closed form, reference 6.8.
SOC_MARGIN: Final = 0.013
RECHARGED_SOC: Final = 0.998
FULL_SOC: Final = 0.99
REMAINING_MIN_S: Final = 20.0
TEMP_MARGIN_K: Final = 2.0
GAIN_W_K: Final = 15.0
INTEGRAL_GAIN_W_KMIN: Final = 0.5
INTEGRAL_MAX_KMIN: Final = 10.0

# Two-level and constant: grids in W.
SUN_GRID_W: Final = np.arange(200.0, 701.0, 10.0)
DARK_GRID_W: Final = np.arange(80.0, 421.0, 10.0)
CONSTANT_GRID_W: Final = np.arange(80.0, 701.0, 2.0)


class Hysteresis:
    """All or nothing: off under ``off_soc`` or near the heat limit, on above ``on_soc`` and well below it."""

    def __init__(self, off_soc: float, on_soc: float) -> None:
        self._off_soc, self._on_soc, self._on = off_soc, on_soc, True

    def decide(self, seen: Observation) -> float:
        """700 W or 80 W."""
        if self._on:
            self._on = not (seen.soc < self._off_soc or seen.gpu_k > GPU_MAX_K - 2.0)
        else:
            self._on = seen.soc > self._on_soc and seen.gpu_k < GPU_MAX_K - 12.0
        return MAX_W if self._on else IDLE_W


class Derate:
    """Power in proportion to the smaller of two headrooms."""

    def decide(self, seen: Observation) -> float:
        """Between 80 W and 700 W."""
        charge = min(1.0, max(0.0, (seen.soc - 0.80) / 0.12))
        heat = min(1.0, max(0.0, (GPU_MAX_K - 1.0 - seen.gpu_k) / 8.0))
        return IDLE_W + (MAX_W - IDLE_W) * min(charge, heat)


class ThermalPi:
    """Feed-forward of the conductance at a set-point, and a PI term: the heat half of the closed form."""

    def __init__(self, conductance_w_k: float) -> None:
        self._conductance_w_k, self._integral_kmin = conductance_w_k, 0.0

    def power_w(self, seen: Observation) -> float:
        """Watts that keep the GPU node at the set-point."""
        target_k = GPU_MAX_K - TEMP_MARGIN_K
        error_k = target_k - seen.gpu_k
        bound = INTEGRAL_MAX_KMIN
        self._integral_kmin = min(bound, max(-bound, self._integral_kmin + error_k * TICK_S / 60.0))
        forward_w = self._conductance_w_k * (target_k - seen.radiator_k)
        return forward_w + GAIN_W_K * error_k + INTEGRAL_GAIN_W_KMIN * self._integral_kmin


class Pi:
    """Two PI loops, the lower one wins: the heat loop of the closed form, and one that holds the charge.

    No forecast. The charge loop was tuned on the set ``tune``: the best of 150 random choices on scenarios 0 to 39,
    then the lowest target that kept the charge in scenarios 0 to 99. The steep gain keeps it near its target.
    """

    TARGET_SOC: Final = 0.84
    BASE_W: Final = 380.0
    GAIN_W: Final = 15_000.0
    """Per unit of charge."""
    INTEGRAL_GAIN_W_S: Final = 0.12
    """Per unit of charge and second."""
    INTEGRAL_MAX_W: Final = 250.0

    def __init__(self, conductance_w_k: float) -> None:
        self._heat, self._integral_w = ThermalPi(conductance_w_k), 0.0

    def decide(self, seen: Observation) -> float:
        """Watts."""
        error = seen.soc - self.TARGET_SOC
        bound = self.INTEGRAL_MAX_W
        self._integral_w = min(bound, max(-bound, self._integral_w + self.INTEGRAL_GAIN_W_S * error * TICK_S))
        charge_w = self.BASE_W + self.GAIN_W * error + self._integral_w
        return min(charge_w, self._heat.power_w(seen))


class EnergyNeutral:
    """The reference's closed form on believed parameters: energy-neutral rule and thermal PI."""

    def __init__(self, belief: World) -> None:
        self._belief, self._heat = belief, ThermalPi(belief.conductance_w_k)

    def decide(self, seen: Observation) -> float:
        """Watts."""
        return min(self._energy_w(seen), self._heat.power_w(seen))

    def _energy_w(self, seen: Observation) -> float:
        b = self._belief
        phase_s = (seen.time_s + b.phase_s) % b.orbit_s
        lit_s = b.orbit_s - b.eclipse_s
        energy_j = seen.soc * b.capacity_j
        if not seen.lit or phase_s >= lit_s:
            remaining_s = max(b.orbit_s - phase_s, REMAINING_MIN_S)
            spare_j = max(0.0, energy_j - (1.0 - DOD_MAX + SOC_MARGIN) * b.capacity_j)
            return spare_j * ETA_DISCHARGE / remaining_s - b.bus_w
        if seen.soc > FULL_SOC:
            return b.array_w - b.bus_w
        remaining_s = max(lit_s - phase_s, REMAINING_MIN_S)
        missing_j = max(0.0, RECHARGED_SOC * b.capacity_j - energy_j)
        return b.array_w - b.bus_w - min(missing_j / (ETA_CHARGE * remaining_s), CHARGE_MAX_W)


class Schedule:
    """One power in sunlight, one in the dark."""

    def __init__(self, lit_w: float, dark_w: float) -> None:
        self._lit_w, self._dark_w = lit_w, dark_w

    def decide(self, seen: Observation) -> float:
        """Watts."""
        return self._lit_w if seen.lit else self._dark_w


def hysteresis(scenario: Scenario) -> Governor:
    """On/off, as first written."""
    return Hysteresis(0.72, 0.80)


def hysteresis_safe(scenario: Scenario) -> Governor:
    """On/off with thresholds that keep the battery's limit."""
    return Hysteresis(0.845, 0.91)


def derate(scenario: Scenario) -> Governor:
    """Proportional derate."""
    return Derate()


def pi(scenario: Scenario) -> Governor:
    """Two PI loops."""
    return Pi(scenario.belief.conductance_w_k)


def energy_neutral(scenario: Scenario) -> Governor:
    """The reference's closed form."""
    return EnergyNeutral(scenario.belief)


def constant(scenario: Scenario) -> Governor:
    """The best single power, in hindsight."""
    return _best(scenario, CONSTANT_GRID_W, CONSTANT_GRID_W)


def two_level(scenario: Scenario) -> Governor:
    """The best pair of powers for sun and dark, in hindsight."""
    lit_w, dark_w = (grid.ravel() for grid in np.meshgrid(SUN_GRID_W, DARK_GRID_W))
    return _best(scenario, lit_w, dark_w)


def _best(scenario: Scenario, lit_w: np.ndarray, dark_w: np.ndarray) -> Governor:
    tried = replay(scenario, lit_w, dark_w)
    index = int(np.argmax(np.where(tried.sound, tried.mean_throughput, -1.0)))
    return Schedule(float(lit_w[index]), float(dark_w[index]))
