"""A card's power sensor as NVML shows it: a boxcar in a part of the time, an average, an energy counter.

Data centre cards look at their power for only a part of it (power-thermal-orbit reference, section 3; arXiv
2312.02741: 25 % of the run time on A100 and H100, taken here as 25 ms in each 100 ms). One look gives three
readings, which are different quantities:

    instant   mean power over the last boxcar                       NVML_FI_DEV_POWER_INSTANT
    average   mean of the boxcars of the last second                NVML_FI_DEV_POWER_AVERAGE,
    nvmlDeviceGetPowerUsage energy    sum of boxcar power · sampling period, in steps
    nvmlDeviceGetTotalEnergyConsumption

The counter integrates what the sensor saw, not what the card drew: a load with a period of 100 ms is counted
wrongly for as long as it keeps its phase. This is the pessimistic reading of the literature, and the one that a
governor must stand. ``SensorModel`` is the table of all of it.

Power comes in as pieces of constant power in the order of time; the sensor keeps a clock of its own that they
advance.
"""

import math
from collections import deque
from typing import Final

import msgspec

ROUNDING: Final = 1e-6
"""Part of a step by which a sum of pieces may fall short of it."""


class SensorModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the sensor does, in seconds, watts and joules."""

    period_s: float = 0.1
    """From one boxcar to the next."""
    boxcar_s: float = 0.025
    """Part of each period in which it looks; it is the first part."""
    average_s: float = 1.0
    """Window of the average."""
    counter_period_s: float = 0.1
    """How often the energy counter moves."""
    counter_step_j: float = 0.001
    """Step of the energy counter."""
    power_step_w: float = 0.001
    """Step of both powers."""
    phase_s: float = 0.0
    """Time from the sensor's start to its first boxcar."""

    def __post_init__(self) -> None:
        if not 0.0 < self.boxcar_s <= self.period_s:
            raise ValueError(f"boxcar_s = {self.boxcar_s:g} must be over 0 and up to period_s = {self.period_s:g}")
        if min(self.average_s, self.counter_period_s) < self.period_s:
            raise ValueError(f"average_s and counter_period_s must be at least period_s = {self.period_s:g}")
        if not (self.counter_step_j > 0.0 and self.power_step_w > 0.0):
            raise ValueError("counter_step_j and power_step_w must be over 0")


class PowerSensor:
    """One sensor. ``instant_w``, ``average_w`` and ``energy_j`` are what it shows; ``seen_s`` when it last looked.

    ``now_s`` is time since its start; ``true_j`` what the card really drew, which no sensor shows.
    """

    def __init__(self, model: SensorModel | None = None, *, power_w: float = 0.0) -> None:
        """``power_w`` is what it shows until its first boxcar is over."""
        self.model = model = model or SensorModel()
        self.now_s = 0.0
        self.true_j = 0.0
        self.instant_w = self.average_w = power_w
        self.energy_j = 0.0
        self.seen_s = 0.0
        self._boxcars: deque[float] = deque(maxlen=max(1, round(model.average_s / model.period_s)))
        self._opens_s = model.phase_s
        self._boxcar_j = 0.0
        self._counted_j = 0.0
        self._counter_due_s = model.phase_s + model.counter_period_s

    def advance(self, dt_s: float, power_w: float) -> None:
        """The card draws ``power_w`` for the next ``dt_s`` seconds (0 or more)."""
        end_s = self.now_s + dt_s
        self.true_j += power_w * dt_s
        while True:
            closes_s = self._opens_s + self.model.boxcar_s
            overlap_s = min(end_s, closes_s) - max(self.now_s, self._opens_s)
            if overlap_s > 0.0:
                self._boxcar_j += power_w * overlap_s
            if end_s < closes_s:
                break
            self.now_s = closes_s
            self._look(closes_s)
        self.now_s = end_s

    def _look(self, closed_s: float) -> None:
        """A boxcar is over: show what it saw."""
        model = self.model
        seen_w, self._boxcar_j = self._boxcar_j / model.boxcar_s, 0.0
        self._opens_s += model.period_s
        self.seen_s = closed_s
        self._boxcars.append(seen_w)
        self.instant_w = _stepped(seen_w, model.power_step_w)
        self.average_w = _stepped(sum(self._boxcars) / len(self._boxcars), model.power_step_w)
        self._counted_j += seen_w * model.period_s
        if closed_s >= self._counter_due_s - 1e-9:
            self._counter_due_s += model.counter_period_s
            self.energy_j = math.floor(self._counted_j / model.counter_step_j + ROUNDING) * model.counter_step_j


def _stepped(value: float, step: float) -> float:
    return round(value / step) * step
