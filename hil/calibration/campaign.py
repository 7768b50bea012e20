"""The measurements of one calibration, phase by phase. It drives the load and reads the card; it fits nothing.

Every phase leaves what it measured in ``Measurements``; a setting that the card or this torch does not offer leaves
a line in ``skipped`` instead. Nothing of the card is set: no clock, no limit, no mode.

Power of a window is the difference of the energy counter over it, where the card has one (the power sensor samples
a quarter of the time), else the mean of the readings. Throughput is what the activity meter moved.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from flightsw.link.load import Order

from ..instruments.nvml_meter import CardReading
from . import fits
from .cards import Card
from .fits import FitError, Mean
from .load import Load
from .plan import Plan

POLL_S: Final = 0.0005
QUIET_S: Final = 0.1
"""A load that was told to rest and whose meter stands still for this long has stopped."""
COUNTER_POLL_S: Final = 0.001
UNIT_SIGMA: Final = 6.0**-0.5
"""A window cuts a unit at both ends: σ of the difference of two uniform errors, in units."""
BEFORE_STEP_S: Final = 0.5


class Point(NamedTuple):
    """One setting, measured: share of time at work, W and tokens/s with their σ, length of one unit in s."""

    duty: float
    batch: int
    sms: int
    power: Mean
    rate: Mean
    unit_s: float
    worked: float


class Step(NamedTuple):
    """One step of the duty: times from the order and power, and whether it went up."""

    up: bool
    times_s: tuple[float, ...]
    power_w: tuple[float, ...]


class Stops(NamedTuple):
    """Stop latencies of one kernel length, s."""

    unit_s: float
    latencies_s: tuple[float, ...]


class Alias(NamedTuple):
    """Strict cycles of one period: mean of the power readings and its scatter, and what the energy counter says."""

    period_s: float
    seen_w: float
    scatter_w: float
    true_w: float


class Measurements(NamedTuple):
    """Everything that was measured, and the whole run's readings for the heat."""

    idle: Mean
    train: tuple[Point, ...]
    decode: tuple[Point, ...]
    counter_period_s: float | None
    aliases: tuple[Alias, ...]
    steps: tuple[Step, ...]
    stops: tuple[Stops, ...]
    readings: tuple[CardReading, ...]
    skipped: tuple[str, ...]


class Campaign:
    """Runs a plan; ``tell`` is called with each phase's name and ends the run by raising."""

    def __init__(self, plan: Plan, load: Load, card: Card, tell: Callable[[str], None]) -> None:
        self._plan, self._load, self._card, self._tell = plan, load, card, tell
        self._skipped: list[str] = []

    def run(self) -> Measurements:
        """Measure everything. Raises ``FitError`` when the instrument gives nothing, ``LoadError`` of the load."""
        plan = self._plan
        self._tell("idle")
        idle = self._idle()
        train: list[Point] = []
        decode: list[Point] = []
        self._tell("training, full duty")
        self._load.order(Order(id=0, work="train"))
        time.sleep(plan.warm_s)
        self._point("train", train)
        self._tell(f"training, {len(plan.duties)} duties")
        for duty in plan.duties:
            self._point("train", train, duty=duty)
        self._tell(f"training, {len(plan.batches)} micro-batches")
        for batch in plan.batches:
            self._point("train", train, batch=batch)
        if plan.sms:
            self._tell(f"training, {len(plan.sms)} SM partitions")
        else:
            self._skipped.append("SM partitions: there are no multiprocessors here")
        for sms in plan.sms:
            self._point("train", train, sms=sms)
        self._tell("decoding")
        for batch in plan.decode_batches:
            self._point("decode", decode, batch=batch)
        best = max(decode, key=lambda point: point.rate.value, default=None)
        for duty in plan.decode_duties if best is not None else ():
            assert best is not None
            self._point("decode", decode, batch=best.batch, duty=duty)
        self._tell("energy counter")
        counter_period_s = self._counter()
        self._tell("aliasing")
        aliases = tuple(self._alias(period_s) for period_s in plan.alias_periods_s)
        self._tell("steps")
        steps = self._steps()
        self._tell("stop latency")
        stops = self._stops()
        self._tell("cooling")
        self._load.tell(Order(id=0))
        time.sleep(plan.cool_s)
        return Measurements(
            idle,
            tuple(train),
            tuple(decode),
            counter_period_s,
            aliases,
            steps,
            stops,
            tuple(self._card.meter.history),
            tuple(self._skipped),
        )

    def _idle(self) -> Mean:
        self._load.order(Order(id=0))
        start_s = time.monotonic()
        time.sleep(self._plan.idle_s)
        return self._power(start_s, time.monotonic())

    def _point(self, work: str, points: list[Point], *, duty: float = 1.0, batch: int = 0, sms: int = 0) -> None:
        order = Order(id=0, work="train" if work == "train" else "decode", batch=batch, sms=sms, duty=duty)
        answer = self._load.order(order)
        if not answer.ok:
            self._skipped.append(f"{work}, duty {duty:g}, batch {batch}, {sms} SMs: {answer.reason}")
            return
        time.sleep(self._plan.settle_s)
        start_s, before = time.monotonic(), self._load.done()
        time.sleep(self._plan.window_s)
        end_s, after = time.monotonic(), self._load.done()
        units, seconds = after.units - before.units, end_s - start_s
        rate = Mean(
            units * answer.units_tokens / seconds,
            UNIT_SIGMA * answer.units_tokens / seconds,
        )
        busy_s = after.busy_s - before.busy_s
        unit_s = busy_s / units if units else answer.unit_s
        points.append(Point(duty, batch, sms, self._power(start_s, end_s), rate, unit_s, busy_s / seconds))

    def _window(self, start_s: float, end_s: float) -> list[CardReading]:
        return [reading for reading in list(self._card.meter.history) if start_s <= reading.taken_s <= end_s]

    def _power(self, start_s: float, end_s: float) -> Mean:
        readings = self._window(start_s, end_s)
        if not readings:
            raise FitError(f"the power meter gave no reading in {end_s - start_s:.1f} s: {self._card.meter.fault}")
        seen = fits.mean([reading.power_w for reading in readings])
        counted = _counted_w(readings)
        return seen if counted is None else Mean(counted, seen.sigma)

    def _counter(self) -> float | None:
        self._load.order(Order(id=0, work="train"))
        times_s: list[float] = []
        values: list[float] = []
        end_s = time.monotonic() + self._plan.counter_s
        while time.monotonic() < end_s:
            value = self._card.meter.energy_j()
            if value is None:
                self._skipped.append("energy counter: this card has none")
                return None
            times_s.append(time.monotonic())
            values.append(value)
            time.sleep(COUNTER_POLL_S)
        try:
            return fits.period_s(times_s, values)
        except FitError as error:
            self._skipped.append(f"energy counter: {error}")
            return None

    def _alias(self, period_s: float) -> Alias:
        self._load.order(Order(id=0, work="kernel", kernel_s=0.005, duty=0.5, period_s=period_s))
        time.sleep(min(self._plan.settle_s, 1.0))
        start_s = time.monotonic()
        time.sleep(self._plan.alias_window_s)
        readings = self._window(start_s, time.monotonic())
        if not readings:
            raise FitError("the power meter gave no reading")
        power_w = np.array([reading.power_w for reading in readings])
        counted = _counted_w(readings)
        mean_w = float(power_w.mean())
        return Alias(period_s, mean_w, float(power_w.std()), mean_w if counted is None else counted)

    def _steps(self) -> tuple[Step, ...]:
        plan = self._plan
        full = Order(id=0, work="train")
        self._load.order(full)
        self._load.order(Order(id=0))
        time.sleep(plan.step_s)
        steps: list[Step] = []
        for number in range(2 * plan.steps):
            up = number % 2 == 0
            at_s = time.monotonic()
            self._load.tell(full if up else Order(id=0))
            time.sleep(plan.step_s)
            readings = self._window(at_s - BEFORE_STEP_S, time.monotonic())
            steps.append(
                Step(up, tuple(r.taken_s - at_s for r in readings), tuple(reading.power_w for reading in readings))
            )
        return tuple(steps)

    def _stops(self) -> tuple[Stops, ...]:
        orders = [Order(id=0, work="kernel", kernel_s=kernel_s) for kernel_s in self._plan.kernels_s]
        found: list[Stops] = []
        for order in (*orders, Order(id=0, work="train")):
            latencies_s: list[float] = []
            unit_s = 0.0
            for number in range(self._plan.stops):
                answer = self._load.order(order)
                unit_s = answer.unit_s
                # Stops fall everywhere within a unit, without a generator: a low-discrepancy row.
                time.sleep(unit_s * (1.0 + (number * 0.618034) % 1.0) + 0.002)
                latencies_s.append(self._stop_latency_s(unit_s))
            found.append(Stops(unit_s, tuple(latencies_s)))
        return tuple(found)

    def _stop_latency_s(self, unit_s: float) -> float:
        """From the order to rest until the meter stands still; the unit in flight is seen only at its end."""
        quiet_s = QUIET_S + 1.5 * unit_s
        told_s = moved_s = time.monotonic()
        self._load.tell(Order(id=0))
        units = self._load.done().units
        while (now_s := time.monotonic()) - max(moved_s, told_s) < quiet_s:
            if (seen := self._load.done().units) != units:
                units, moved_s = seen, now_s
            time.sleep(POLL_S)
        return moved_s - told_s


def _counted_w(readings: list[CardReading]) -> float | None:
    """Mean power by the energy counter between its first and its last move among these readings."""
    moves = [
        (after.taken_s, after.energy_j)
        for before, after in pairwise(readings)
        if after.energy_j is not None and before.energy_j is not None and after.energy_j != before.energy_j
    ]
    if len(moves) < 2:
        return None
    (start_s, first_j), (end_s, last_j) = moves[0], moves[-1]
    assert first_j is not None
    assert last_j is not None
    return (last_j - first_j) / (end_s - start_s)


def settle(steps: tuple[Step, ...]) -> Mean | None:
    """Median settle time of the steps and its scatter, s; None when none could be read."""
    found: list[float] = []
    for step in steps:
        try:
            found.append(fits.settle_s(np.array(step.times_s), np.array(step.power_w)))
        except FitError:
            continue
    if not found:
        return None
    return Mean(statistics.median(found), statistics.stdev(found) if len(found) > 1 else 0.0)
