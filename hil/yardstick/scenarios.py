"""The random scenarios that every governor is scored on: true world, believed world, errors of the instruments.

Everything follows from the number i of a scenario, by three streams that never mix:

    default_rng(1000 + i)   the true world, then what the governor believes of it
    default_rng(5000 + i)   biases and noise of charge and temperatures, and of the actuator
    default_rng(9000 + i)   the other instruments of the avionics frame

The first two and the order of their draws are those of the power-thermal-orbit reference, section 6.7, so its
scores can be compared digit by digit. The third is ours: a battery current, a battery voltage, an array sensor and
a rail sensor, which the flight code reads and the reference's governors did not have. Every governor is offered
the same observation.

The two *sets* are the discipline: constants are tuned on ``tune`` and reported on ``report``, whose seeds nobody
has tuned on.
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np

from .world import Floats, World

ORBITS: Final = 6
TICK_S: Final = 10.0

SETS: Final = {"tune": range(0, 1000), "report": range(100_000, 101_000)}
"""Scenario numbers of each set."""

CELLS: Final = 8
CELL_OCV_V: Final = (3.00, 3.45, 3.55, 3.60, 3.65, 3.71, 3.79, 3.88, 3.97, 4.07, 4.18)
"""Open-circuit voltage of one cell at 0, 10 … 100 % charge: the bench's battery (``hil.plant.eps``)."""
RESISTANCE_OHM: Final = 0.040


class Observation(NamedTuple):
    """What a governor sees at a tick. Current and rail power are means over the tick that has just ended.

    ``lit`` is exact; ``array_w`` is the full output at this moment, since the array is shunt-regulated;
    the current is positive when charging.
    """

    time_s: float
    soc: float
    gpu_k: float
    radiator_k: float
    lit: bool
    battery_a: float
    battery_v: float
    array_w: float
    rail_w: float


class Instruments(msgspec.Struct, frozen=True, kw_only=True):
    """Constant errors of the instruments of one run; ``ocv_v`` is the true pack curve at 0, 10 … 100 % charge."""

    soc_bias: float
    gpu_bias_k: float
    current_gain: float
    current_offset_a: float
    ocv_v: tuple[float, ...]
    resistance_ohm: float
    array_gain: float
    rail_gain: float


class Noise(NamedTuple):
    """Noise of one run, a row a tick."""

    soc: list[float]
    gpu_k: list[float]
    radiator_k: list[float]
    actuator: list[float]
    """Relative."""
    current_a: list[float]
    voltage_v: list[float]
    array_w: list[float]
    rail_w: list[float]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: ``truth`` flies, ``belief`` is what the governor is told; initial state in J and K.

    The governor knows capacity, orbital period, GPU node, curve and efficiencies exactly.
    """

    id: int
    truth: World
    belief: World
    energy_j: float
    gpu_k: float
    radiator_k: float

    @property
    def ticks(self) -> int:
        """Whole ticks of the run."""
        return int(ORBITS * self.truth.orbit_s // TICK_S)

    @property
    def eclipse_min(self) -> float:
        """True length of the dark arc."""
        return self.truth.eclipse_s / 60.0


def make(number: int) -> Scenario:
    """Scenario ``number`` (0 or more)."""
    rng = np.random.default_rng(1000 + number)
    orbit_s = rng.uniform(5520.0, 5760.0)
    long_s, any_s = rng.uniform(1700.0, 2160.0), rng.uniform(0.0, 2160.0)
    truth = World(
        orbit_s=orbit_s,
        eclipse_s=float(rng.choice([long_s, any_s], p=[0.8, 0.2])),
        array_w=1200.0 * rng.uniform(0.85, 1.0),
        capacity_j=2.52e6 * rng.uniform(0.85, 1.0),
        infrared_w_m2=65.0 * rng.uniform(0.8, 1.25),
        sunlight_w_m2=20.0 * rng.uniform(0.5, 3.0),
        emissivity=rng.uniform(0.80, 0.88),
        conductance_w_k=14.0 * rng.uniform(0.9, 1.1),
        radiator_j_k=12_000.0 * rng.uniform(0.85, 1.15),
        bus_w=60.0 * rng.uniform(0.8, 1.3),
    )
    energy_j = truth.capacity_j * rng.uniform(0.85, 1.0)
    radiator_k = rng.uniform(283.0, 303.0)
    truth = msgspec.structs.replace(truth, phase_s=rng.uniform(0.0, orbit_s))
    belief = World(
        orbit_s=orbit_s,
        capacity_j=truth.capacity_j,
        array_w=truth.array_w * (1.0 + rng.normal(0.0, 0.015)),
        eclipse_s=max(0.0, truth.eclipse_s + rng.normal(0.0, 10.0)),
        phase_s=truth.phase_s + rng.normal(0.0, 5.0),
        infrared_w_m2=truth.infrared_w_m2 * (1.0 + rng.normal(0.0, 0.08)),
        sunlight_w_m2=truth.sunlight_w_m2 * (1.0 + rng.normal(0.0, 0.2)),
        emissivity=truth.emissivity * (1.0 + rng.normal(0.0, 0.01)),
        conductance_w_k=truth.conductance_w_k * (1.0 + rng.normal(0.0, 0.03)),
        radiator_j_k=truth.radiator_j_k * (1.0 + rng.normal(0.0, 0.05)),
        bus_w=truth.bus_w * (1.0 + rng.normal(0.0, 0.03)),
    )
    return Scenario(
        id=number, truth=truth, belief=belief, energy_j=energy_j, gpu_k=radiator_k + 5.0, radiator_k=radiator_k
    )


def errors(scenario: Scenario) -> tuple[Instruments, Noise]:
    """Instruments and noise of the run of a scenario."""
    run = np.random.default_rng(5000 + scenario.id)
    soc_bias, gpu_bias_k = run.normal(0.0, 0.003), run.normal(0.0, 0.3)
    ticks = scenario.ticks
    # Row by row this is the order of the reference: charge, GPU, radiator, then the actuator.
    soc, gpu, radiator, actuator = _columns(run.standard_normal((ticks, 4)) * (0.001, 0.3, 0.3, 0.01))

    own = np.random.default_rng(9000 + scenario.id)
    current_gain, current_offset_a = 1.0 + own.normal(0.0, 0.005), own.normal(0.0, 0.1)
    ocv_v = CELLS * (np.array(CELL_OCV_V) + own.normal(0.0, 0.005, len(CELL_OCV_V)))
    instruments = Instruments(
        soc_bias=soc_bias,
        gpu_bias_k=gpu_bias_k,
        current_gain=current_gain,
        current_offset_a=current_offset_a,
        ocv_v=tuple(ocv_v.tolist()),
        resistance_ohm=RESISTANCE_OHM * own.uniform(0.8, 1.5),
        array_gain=1.0 + own.normal(0.0, 0.005),
        rail_gain=1.0 + own.normal(0.0, 0.005),
    )
    current, voltage, array, rail = _columns(own.standard_normal((ticks, 4)) * (0.02, 0.02, 2.0, 2.0))
    return instruments, Noise(soc, gpu, radiator, actuator, current, voltage, array, rail)


def _columns(rows: Floats) -> tuple[list[float], ...]:
    return tuple(column.tolist() for column in rows.T)
