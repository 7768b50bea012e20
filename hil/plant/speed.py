"""How many times faster than real time an engine is, stepped from Python second by second over an orbit.

The baseline of the same run is the smallest plant one could write: an array that is on or off by the clock, a
battery that counts joules and two heat nodes, in bare Python without geometry, voltage, faults or sensors.
Processor time is measured and the best of a few orbits counts, which is what the code costs on a busy machine too.
"""

from collections.abc import Callable
from time import process_time
from typing import Final

from .engine import Engine, Loads
from .plant import Plant, PlantConfig
from .thermal import STEFAN_BOLTZMANN

ORBIT_S: Final = 5700
READ_EVERY_S: Final = 60
REPEATS: Final = 5
GPU_W: Final = 450.0


def times_real(config: PlantConfig | None = None, repeats: int = REPEATS) -> float:
    """World seconds in a processor second: ``step(1.0, loads)``, and ``truth`` with its place once a minute."""

    def orbit() -> None:
        _fly(Plant(config, seed=1))

    return _best(orbit, repeats)


def reference_times_real(repeats: int = REPEATS) -> float:
    """The same for the baseline."""
    return _best(reference_orbit, repeats)


def _fly(plant: Engine) -> None:
    loads, step = Loads(gpu_power_w=GPU_W), plant.step
    for _ in range(ORBIT_S // READ_EVERY_S):
        for _ in range(READ_EVERY_S):
            step(1.0, loads)
        truth = plant.truth()
        assert truth.latitude_deg <= 90.0
        assert len(truth.visible) >= 0


def reference_orbit() -> float:
    """One orbit of the smallest plant; returns the state of charge at its end."""
    energy_j, gpu_k, radiator_k = 2.4e6, 298.15, 293.15
    emission = 0.85 * STEFAN_BOLTZMANN * 1.4
    for second in range(ORBIT_S):
        sun = 1.0 if second < 3600 else 0.0
        net_w = 1200.0 * sun - GPU_W - 60.0
        energy_j += min(net_w, 350.0) * 0.95 if net_w >= 0.0 else net_w / 0.95
        energy_j = min(2.52e6, energy_j)
        through_w = 14.0 * (gpu_k - radiator_k)
        gpu_k += (GPU_W - through_w) / 3000.0
        radiator_k += (through_w + 60.0 + 1.4 * (65.0 + 20.0 * sun) - emission * radiator_k**4) / 12000.0
    return energy_j / 2.52e6


def _best(orbit: Callable[[], object], repeats: int) -> float:
    best_s = float("inf")
    for _ in range(repeats):
        begin_s = process_time()
        orbit()
        best_s = min(best_s, process_time() - begin_s)
    return ORBIT_S / best_s


if __name__ == "__main__":
    print(f"embedded engine {times_real():,.0f} x, smallest plant {reference_times_real():,.0f} x real time")
