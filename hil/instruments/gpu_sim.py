"""A simulated card: the workers' real busy time, read from their activity meters, becomes watts.

    duty    = clip(Σ over meters of Δbusy / Δt, 0, 1)                        machine time
    target  = idle + duty · (maximum − idle)                                 W, linear below the knee
    P      += (target − P) · (1 − exp(−Δt / SMOOTHING_S))

A meter moves only when a micro-batch ends, so the raw duty of one bench tick is 0 or far over 1. Busy seconds that
are not yet accounted for are therefore carried over, at most what came in one tick of the last seconds
(``MEMORY_S``): no energy is lost to the clip and none is spent later than one micro-batch. A larger carry would
keep a card hot after it was throttled; that is the bench's error, not the governor's. ``SMOOTHING_S`` stands
for the card's power supply and the sensor's averaging; its window is stated because the governor sees power
through it.

What the card shows of its power goes through ``sensor`` (``power_sensor``); ``power_w`` and ``energy_j`` are the
truth.

A worker that starts again begins its meter at zero. A count that runs backwards is such a restart: its new
value is the busy time since, never a negative difference.
"""

import math
from pathlib import Path
from typing import Final

import msgspec

from flightsw.link.meter import METER_LAYOUT

from .power_sensor import PowerSensor, SensorModel

SMOOTHING_S: Final = 0.25
MEMORY_S: Final = 5.0


class GpuModel(msgspec.Struct, frozen=True, kw_only=True):
    """The card's power curve, watts; the linear part below the knee of P(s)."""

    idle_w: float = 80.0
    maximum_w: float = 700.0


class Meter:
    """Reads one worker's activity meter; a meter that does not exist yet has done nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._busy_s: float | None = None
        self.resets = 0

    def busy_since_last_s(self) -> float:
        """Busy seconds since the previous call; 0 at the first sight of a meter."""
        try:
            raw = self._path.read_bytes()[: METER_LAYOUT.size]
        except OSError:
            return 0.0
        if len(raw) < METER_LAYOUT.size:
            return 0.0
        busy_s, _ = METER_LAYOUT.unpack(raw)
        if not math.isfinite(busy_s) or busy_s < 0.0:
            return 0.0
        last_s, self._busy_s = self._busy_s, busy_s
        if last_s is None:
            return 0.0
        if busy_s < last_s:
            self.resets += 1
            return float(busy_s)
        return float(busy_s - last_s)


class SimulatedGpu:
    """Watts of a card from the meters of every worker on it."""

    def __init__(self, meters: list[Path], model: GpuModel, sensor: SensorModel | None = None) -> None:
        self._meters = [Meter(path) for path in meters]
        self._model = model
        self._debt_s = 0.0
        self._longest_s = 0.0
        self.power_w = model.idle_w
        self.duty = 0.0
        self.sensor = PowerSensor(sensor, power_w=model.idle_w)

    @property
    def energy_j(self) -> float:
        """What the card really drew since the start, J."""
        return self.sensor.true_j

    @property
    def meter_resets(self) -> int:
        """Restarts of workers as their meters show them."""
        return sum(meter.resets for meter in self._meters)

    def step(self, dt_s: float, *, rail_on: bool) -> float:
        """Advance by ``dt_s`` machine seconds (> 0); the power now in W, 0 with the rail off."""
        busy_s = sum(meter.busy_since_last_s() for meter in self._meters)
        if not rail_on:
            self._debt_s, self.power_w, self.duty = 0.0, 0.0, 0.0
            self.sensor.advance(dt_s, 0.0)
            return 0.0
        self._longest_s = max(busy_s, self._longest_s * math.exp(-dt_s / MEMORY_S), dt_s)
        self._debt_s = min(self._debt_s + busy_s, self._longest_s)
        spent_s = min(self._debt_s, dt_s)
        self._debt_s -= spent_s
        duty = spent_s / dt_s
        weight = 1.0 - math.exp(-dt_s / SMOOTHING_S)
        self.duty += (duty - self.duty) * weight
        target_w = self._model.idle_w + duty * (self._model.maximum_w - self._model.idle_w)
        self.power_w += (target_w - self.power_w) * weight
        self.sensor.advance(dt_s, self.power_w)
        return self.power_w
