"""From truth to what the bus sensors say: noise, quantisation and bias, one row per sensor.

A reading is round((truth + bias + N(σ)) / step) · step, kept within the sensor's range. Every sensor draws from a
random stream of its own, so one more reading of one of them shifts nobody else's noise. Normal numbers come in
blocks from numpy's ``RandomState``, the one generator whose streams numpy promises never to change.

What is wrong with a sensor comes after its noise, so that no other draw moves: a frozen one tells what it told
last, an absurd one a number of the fault's own, beyond any range, a missing one NaN.

σ and step are assumptions in the range of ordinary CubeSat-class boards; state of charge (σ 0.001) and temperatures
(σ 0.3 K) have the values the governor's published scores were computed with.
"""

from collections.abc import Iterator
from math import inf, nan
from typing import Final

import msgspec
import numpy as np

from flightsw.link.avionics import SensorFrame
from hil.randomness import stream

from .disturbances import BIASED_SENSOR, FaultTable
from .truth import Truth


class Sensor(msgspec.Struct, frozen=True):
    """One row: noise σ, quantisation step and range, in the unit of the field."""

    field: str
    sigma: float
    step: float
    low: float
    high: float


SENSORS: Final = (
    Sensor("bus_voltage_v", 0.02, 0.01, 0.0, 60.0),
    Sensor("bus_current_a", 0.02, 0.01, -200.0, 200.0),
    Sensor("array_power_w", 2.0, 0.5, 0.0, inf),
    Sensor("battery_voltage_v", 0.02, 0.01, 0.0, 60.0),
    Sensor("battery_current_a", 0.02, 0.01, -200.0, 200.0),
    Sensor("battery_temp_degc", 0.2, 0.1, -60.0, 125.0),
    Sensor("soc_fraction", 0.001, 0.0001, 0.0, 1.0),
    Sensor("sun_fraction", 0.005, 0.001, 0.0, 1.0),
    Sensor("gpu_temp_degc", 0.3, 0.1, -60.0, 150.0),
    Sensor("radiator_temp_degc", 0.3, 0.1, -100.0, 150.0),
    Sensor("gpu_rail_power_w", 2.0, 0.1, 0.0, inf),
    Sensor("latitude_deg", 0.0001, 0.0001, -90.0, 90.0),
    Sensor("longitude_deg", 0.0001, 0.0001, -180.0, 180.0),
    Sensor("altitude_km", 0.01, 0.001, 0.0, inf),
    Sensor("proton_flux_cm2_s", 0.0, 0.1, 0.0, inf),
)


SENSOR_NAMES: Final = tuple(sensor.field for sensor in SENSORS)

BLOCK: Final = 256
SEED_WORDS: Final = 8


def _normals(seed: int, field: str) -> Iterator[float]:
    """Standard normal numbers without end, the same for the same seed and field."""
    words = stream(seed, f"sensor.{field}")
    generator = np.random.RandomState([words.getrandbits(32) for _ in range(SEED_WORDS)])
    while True:
        yield from generator.standard_normal(BLOCK).tolist()


class SensorSuite:
    """All sensors of one satellite. ``noise`` scales every σ: 0 gives bare quantisation."""

    def __init__(self, seed: int, noise: float = 1.0) -> None:
        self._rows = [
            (s.field, s.sigma * noise, 1.0 / s.step, s.low, s.high, _normals(seed, s.field)) for s in SENSORS
        ]
        self._sequence = 0
        self._told: dict[str, float] = {}
        self._bias: dict[str, float] = {}
        self._instead: dict[str, float] = {}
        self._frozen: dict[str, float | None] = {}
        self._silent = False

    def apply(self, faults: FaultTable) -> None:
        """Take the faults that are on now."""
        self._bias = {field: faults.active[name] for name, field in BIASED_SENSOR.items() if name in faults.active}
        self._instead = faults.of("sensor_absurd") | dict.fromkeys(faults.of("sensor_missing"), nan)
        # A sensor that was never read freezes at its first reading.
        self._frozen = {
            field: self._frozen.get(field, self._told.get(field)) for field in faults.of("sensor_frozen")
        }
        self._silent = "sensors_silent" in faults.active

    def frame(self, truth: Truth, *, warp: float, radio_lock: bool) -> SensorFrame | None:
        """The next sensor frame; none while the sensors are silent, but its number is used up."""
        readings: dict[str, float] = {}
        bias = self._bias
        for field, sigma, per_step, low, high, normals in self._rows:
            value: float = getattr(truth, field)
            if sigma > 0.0:
                value += sigma * next(normals)
            if bias and field in bias:
                value += bias[field]
            # Division by the reciprocal keeps decimal steps exact: 28.37, never 28.370000000000005.
            value = round(value * per_step) / per_step if value == value else nan
            readings[field] = low if value < low else high if value > high else value
        for field, held in self._frozen.items():
            readings[field] = readings[field] if held is None else held
            self._frozen[field] = readings[field]
        self._told = readings
        if self._instead:
            readings = readings | self._instead
        self._sequence += 1
        if self._silent:
            return None
        return SensorFrame(
            sequence=self._sequence,
            world_s=truth.world_s,
            tai_s=truth.tai_s,
            warp=warp,
            gpu_rail_on=truth.gpu_rail_on,
            radio_lock=radio_lock,
            **readings,
        )
