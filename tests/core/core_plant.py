"""The satellite's world in thirty lines: the non-linear plant of the power-thermal-orbit reference, section 6.3.

It is the truth of the tests in this folder: rectangular eclipse, battery with efficiencies and a charge limit, two
thermal nodes. Symbols and nominal values are those of section 6.1, the throughput curve that of 6.2. SI units.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

SIGMA = 5.670374419e-8
KELVIN = 273.15
CELL_OCV_V = (3.00, 3.45, 3.55, 3.60, 3.65, 3.71, 3.79, 3.88, 3.97, 4.07, 4.18)
CELL_SOC = tuple(np.linspace(0.0, 1.0, len(CELL_OCV_V)).tolist())


@dataclass
class Plant:
    """Parameters and state; ``energy_j`` in joules, temperatures in kelvin, ``phase_s`` into the sunlit arc."""

    orbit_s: float = 5700.0
    eclipse_s: float = 2100.0
    array_w: float = 1200.0
    capacity_j: float = 2.52e6
    dod: float = 0.30
    absorbed_w_m2: float = 65.0
    sun_w_m2: float = 20.0
    emissivity: float = 0.85
    conductance_w_k: float = 14.0
    radiator_j_k: float = 12_000.0
    bus_w: float = 60.0
    charge_efficiency: float = 0.95
    discharge_efficiency: float = 0.95
    charge_max_w: float = 350.0
    idle_w: float = 80.0
    max_w: float = 700.0
    gpu_j_k: float = 3000.0
    area_m2: float = 1.4
    gpu_limit_k: float = 353.15
    radiator_limit_k: float = 333.15
    phase_s: float = 0.0
    energy_j: float = 2.52e6
    gpu_k: float = 298.15
    radiator_k: float = 293.15
    time_s: float = 0.0
    battery_w: float = 0.0
    gpu_w: float = 100.0

    @property
    def sun(self) -> float:
        return float((self.time_s + self.phase_s) % self.orbit_s < self.orbit_s - self.eclipse_s)

    def step(self, dt_s: float, gpu_w: float) -> float:
        """One tick with the GPU's power held; returns the battery charging power in watts."""
        sun = self.sun
        net_w = self.array_w * sun - gpu_w - self.bus_w
        if net_w >= 0.0:
            charge_w = min(net_w, self.charge_max_w) * self.charge_efficiency
        else:
            charge_w = net_w / self.discharge_efficiency
        before_j = self.energy_j
        self.energy_j = min(self.capacity_j, self.energy_j + charge_w * dt_s)
        count = max(1, int(dt_s // 5))
        h = dt_s / count
        for _ in range(count):
            gpu_k, radiator_k = self.gpu_k, self.radiator_k
            flow_w = self.conductance_w_k * (gpu_k - radiator_k)
            absorbed_w = self.area_m2 * (self.absorbed_w_m2 + self.sun_w_m2 * sun)
            emitted_w = self.emissivity * SIGMA * self.area_m2 * radiator_k**4
            self.gpu_k = gpu_k + h * (gpu_w - flow_w) / self.gpu_j_k
            self.radiator_k = radiator_k + h * (flow_w + self.bus_w + absorbed_w - emitted_w) / self.radiator_j_k
        self.time_s += dt_s
        stored_w = (self.energy_j - before_j) / dt_s
        self.battery_w = (
            stored_w / self.charge_efficiency if stored_w > 0.0 else stored_w * self.discharge_efficiency
        )
        self.gpu_w = gpu_w
        return stored_w

    @property
    def battery_voltage_v(self) -> float:
        """Terminal voltage of eight cells and 40 mΩ, V I = battery power; an unregulated bus has it too."""
        emf_v = 8.0 * _cell_ocv_v(self.energy_j / self.capacity_j)
        return 0.5 * (emf_v + math.sqrt(max(0.0, emf_v * emf_v + 4.0 * 0.04 * self.battery_w)))


def _cell_ocv_v(soc: float) -> float:
    """``np.interp`` of one value, bit for bit, without the array: each frame of each flight asks for it."""
    if not 0.0 < soc < 1.0:
        return CELL_OCV_V[0] if soc <= 0.0 else CELL_OCV_V[-1]
    low = bisect_right(CELL_SOC, soc) - 1
    slope_v = (CELL_OCV_V[low + 1] - CELL_OCV_V[low]) / (CELL_SOC[low + 1] - CELL_SOC[low])
    return slope_v * (soc - CELL_SOC[low]) + CELL_OCV_V[low]


def throughput_curve(idle_w: float = 80.0, max_w: float = 700.0) -> tuple[np.ndarray, np.ndarray]:
    """Power and throughput on 2001 equally spaced throughputs (section 6.2), for interpolation."""
    a0 = a1 = 100.0
    a3 = max_w - idle_w - a0 - a1
    knee = (a0 / (2.0 * a3)) ** (1.0 / 3.0)
    knee_w = idle_w + a0 + a1 * knee + a3 * knee**3
    s = np.linspace(0.0, 1.0, 2001)
    power_w = np.where(s < knee, idle_w + (knee_w - idle_w) * s / knee, idle_w + a0 + a1 * s + a3 * s**3)
    return power_w, s
