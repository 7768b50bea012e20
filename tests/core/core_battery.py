"""A battery with the faults of real sensors, for the estimators' tests: the plant of ``core_plant`` read wrongly.

Everything that is drawn is drawn once from a seed: bias of the gauge, gain and offset of the current, curve and
resistance as they truly are. Noise is drawn for every frame; readings are quantised as the bench quantises them.
"""

import math
import random
from dataclasses import dataclass, field

from core_flight import sensor_frame
from core_plant import CELL_OCV_V, Plant

from flightsw.core import charge
from flightsw.link.avionics import SensorFrame


@dataclass
class Errors:
    """Constant errors of one satellite's sensors, and of what is believed of its battery."""

    gauge_bias: float = 0.0
    current_gain: float = 0.0
    current_offset_a: float = 0.0
    cell_ocv_v: tuple[float, ...] = (0.0,) * len(CELL_OCV_V)
    resistance: float = 0.0

    @staticmethod
    def drawn(draw: random.Random) -> "Errors":
        """As the sensors' data sheets have it; the curve is off as a whole or point by point."""
        whole = draw.gauss(0.0, 0.005)
        points = tuple(draw.gauss(0.0, 0.005) for _ in CELL_OCV_V)
        return Errors(
            gauge_bias=draw.gauss(0.0, 0.003),
            current_gain=draw.gauss(0.0, 0.005),
            current_offset_a=draw.gauss(0.0, 0.1),
            cell_ocv_v=points if draw.random() < 0.5 else (whole,) * len(points),
            resistance=draw.gauss(0.0, 0.2),
        )


@dataclass
class Satellite:
    """Plant, errors, noise, and the estimator that watches it."""

    plant: Plant
    errors: Errors = field(default_factory=Errors)
    config: charge.Config = field(default_factory=charge.Config)
    seed: int = 0
    tick_s: float = 10.0
    noise: float = 1.0
    sun_w: float = 560.0
    dark_w: float = 260.0
    changes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw, self.sequence, self.events = random.Random(self.seed), 0, []
        self.state, found = charge.step(charge.COLD, self.config, self.frame(), 0.0)
        self.events += [event.name for event in found]

    @property
    def soc(self) -> float:
        return self.plant.energy_j / self.plant.capacity_j

    @property
    def error(self) -> float:
        return self.state.soc_fraction - self.soc

    def tick(self) -> charge.State:
        plant = self.plant
        surplus_w = plant.array_w - plant.bus_w
        gpu_w = min(self.sun_w, surplus_w) if plant.sun else self.dark_w
        plant.step(self.tick_s, gpu_w)
        self.state, found = charge.step(self.state, self.config, self.frame(), self.tick_s)
        self.events += [event.name for event in found]
        return self.state

    def fly(self, seconds: float) -> charge.State:
        for _ in range(round(seconds / self.tick_s)):
            self.tick()
        return self.state

    def until_full(self) -> charge.State:
        for _ in range(round(12_000.0 / self.tick_s)):
            if self.tick().full:
                return self.state
        raise AssertionError("never full")

    def voltage_v(self) -> float:
        place = 10.0 * self.soc
        index = min(9, int(place))
        curve = [v + error for v, error in zip(CELL_OCV_V, self.errors.cell_ocv_v, strict=True)]
        emf_v = 8.0 * (curve[index] + (curve[index + 1] - curve[index]) * (place - index))
        ohm = 0.04 * (1.0 + self.errors.resistance)
        return 0.5 * (emf_v + math.sqrt(max(0.0, emf_v * emf_v + 4.0 * ohm * self.plant.battery_w)))

    def frame(self) -> SensorFrame:
        plant, errors, gauss = self.plant, self.errors, lambda sigma: self.draw.gauss(0.0, sigma * self.noise)
        self.sequence += 1
        true_v = self.voltage_v()
        current_a = plant.battery_w / true_v * (1.0 + errors.current_gain) + errors.current_offset_a
        readings = {
            "bus_voltage_v": round(true_v + gauss(0.02), 2),
            "bus_current_a": round((plant.gpu_w + plant.bus_w) / true_v + gauss(0.02), 2),
            "array_power_w": max(0.0, round(2.0 * (plant.array_w * plant.sun + gauss(2.0))) / 2.0),
            "battery_voltage_v": round(true_v + gauss(0.02), 2),
            "battery_current_a": round(current_a + gauss(0.02), 2),
            "soc_fraction": round(min(1.0, max(0.0, self.soc + errors.gauge_bias + gauss(0.001))), 4),
            "gpu_rail_power_w": round(plant.gpu_w + gauss(2.0), 1),
        }
        return sensor_frame(self.sequence, plant, **{**readings, **self.changes})
