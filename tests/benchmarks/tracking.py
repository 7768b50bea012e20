"""Power tracking: how well a paced card draws its budget, in virtual time and with the flight code in the loop.

Real are the tracking loop of the core (``core.tracking``), its split into set-points (``core.duty``), the pacing
of a worker (``gpu.pacing``, dither and all) and the sensor model (``hil.instruments.power_sensor``). Simulated are
a clock, a card that draws one of two powers, and a worker that is busy for one micro-batch after the other. The
card is not the one of the profile: idle and active power are off by up to 20 %.

The figure is the worst relative error of the true mean power over *any* 10 s of a set-point, sliding by 0.1 s and
beginning ``SETTLE_S`` after the step to it, over set-points from idle to the card's maximum, micro-batches from 5
to 250 ms and four wrong profiles. What is left out is the time in which the loop first meets the card: ``LEARN_S``.
"""

import math
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from flightsw.core import duty, tracking
from flightsw.core.effects import SetPace
from flightsw.core.inputs import GpuSample
from flightsw.core.job import Config as PayloadConfig
from flightsw.core.job import Job, JobConfig
from flightsw.core.lifecycle import Life
from flightsw.gpu.actuators.pieces import pieces_for
from flightsw.gpu.pacing import Pacer
from hil.instruments.power_sensor import PowerSensor, SensorModel

FRAME_S: Final = 0.1
PROBE_S: Final = 0.2
WINDOW_S: Final = 10.0
HOLD_S: Final = 60.0
SETTLE_S: Final = 1.0
"""After a step: the frame that notices it, and the micro-batch in flight."""
STARTING_S: Final = 25.0
"""The card idles for as long as a worker takes to start."""
LEARN_S: Final = 25.0
"""Then it works at half of its range: two windows of measurement."""
SET_POINTS: Final = (0.0, 1.0, 0.02, 0.75, 0.05, 0.5, 0.1, 0.9, 0.25, 0.0, 0.03)
"""Parts of the real card's range, in an order of large steps."""
PROFILE: Final = tracking.Card(80.0, 700.0)
CARDS: Final = ((1.2, 1.2), (0.8, 0.8), (1.2, 0.8), (0.8, 1.2))
"""Idle and active power of the real card over the profile's."""
MICRO_BATCHES_S: Final = (0.005, 0.02, 0.08, 0.25)
SEQUENCES: Final = 16
"""Sequences of a micro-batch: into so many pieces it can be cut."""
JOBS: Final = (JobConfig(id="train", kind="train"),)


class World:
    """One vehicle's power loop around one card; ``run`` holds a budget."""

    def __init__(
        self, card: tracking.Card, micro_batch_s: float, config: tracking.Config, sensor: SensorModel | None = None
    ) -> None:
        self.now_s = 0.0
        self.card = card
        self.true_j: list[float] = [0.0]
        self.budget_w = PROFILE.idle_w
        self.working = True
        self.tracked = tracking.start(0.0)
        self._config, self._payload = config, PayloadConfig()
        self._micro_batch_s = micro_batch_s
        self._bound_s = 0.0
        self._jobs = [Job(wanted=True, life=Life.RUNNING)]
        self._sensor = PowerSensor(sensor, power_w=card.idle_w)
        self._pacer = Pacer(0.0, clock=lambda: self.now_s, wait=self._wait)
        self._frames = self._probes = 0
        self._busy_s = 0.0
        self._power_w = card.idle_w
        self._stop_s = 0.0
        self._jitter = 0.0

    def run(self, budget_w: float, duration_s: float) -> None:
        """Hold a budget for a while."""
        self.budget_w = budget_w
        self._stop_s = self.now_s + duration_s
        while self.now_s < self._stop_s - 1e-9:
            if self._pacer.wait_turn():
                self._work()

    def _work(self) -> None:
        pieces = pieces_for(self._micro_batch_s, self._bound_s, SEQUENCES)
        # No two micro-batches take the same time: a spread of 10 % that fills evenly.
        self._jitter = (self._jitter + 0.38196601) % 1.0
        busy_s = self._micro_batch_s / pieces * (0.95 + 0.1 * self._jitter)
        self._advance(self.now_s + busy_s, self.card.active_w)
        self._busy_s += busy_s
        self._pacer.spent(busy_s)

    def _wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Rest until the timeout, a new set-point or the end, as a condition would."""
        end_s = math.inf if timeout_s is None else self.now_s + timeout_s
        duty_before = self._pacer.duty
        while self.now_s < end_s and self._pacer.duty == duty_before:
            self._advance(min(end_s, (self._frames + 1) * FRAME_S), self.card.idle_w)
            if self.now_s >= self._stop_s - 1e-9:
                self._pacer.wake()
                return

    def _advance(self, to_s: float, power_w: float) -> None:
        """Time passes at one power; frames come when they are due."""
        while (frame_s := (self._frames + 1) * FRAME_S) <= to_s:
            self._sensor.advance(max(0.0, frame_s - self.now_s), power_w)
            self.now_s = frame_s
            self._frames += 1
            self.true_j.append(self._sensor.true_j)
            self._frame()
        self._sensor.advance(max(0.0, to_s - self.now_s), power_w)
        self.now_s = max(self.now_s, to_s)

    def _frame(self) -> None:
        sample = None
        if self.now_s >= self._probes * PROBE_S:
            self._probes += 1
            sample = GpuSample(
                sequence=self._probes, source="sim", energy_j=self._sensor.energy_j, throttle_reasons=0
            )
        self._jobs[0] = msgspec.structs.replace(self._jobs[0], busy_s=self._busy_s)
        duty_given, busy_s, steady = tracking.given(tuple(self._jobs))
        seen = tracking.Seen(sample, True, math.nan, True, duty_given, busy_s, steady)
        self.tracked, _ = tracking.step(
            self.tracked, self._config, PROFILE, self.budget_w, self.working, seen, self.now_s
        )
        out: list[object] = []
        duty.split(self._jobs, self._payload, JOBS, self.tracked.duty, self.now_s, out, self.tracked.micro_batch_s)  # type: ignore[arg-type]
        for effect in out:
            if isinstance(effect, SetPace):
                self._bound_s = effect.micro_batch_s
                self._pacer.set_duty(effect.duty)


def worst_error(true_j: list[float], budget_w: float) -> float:
    """Largest relative error of the mean power over any ``WINDOW_S`` of frames with a budget."""
    length = round(WINDOW_S / FRAME_S)
    means = [(b - a) / WINDOW_S for a, b in zip(true_j, true_j[length:], strict=False)]
    return max(abs(mean / budget_w - 1.0) for mean in means)


def errors(
    scale: tuple[float, float], micro_batch_s: float, config: tracking.Config, hold_s: float = HOLD_S
) -> dict[float, float]:
    """Worst relative error by set-point (part of the range) of one card and one kind of work."""
    card = tracking.Card(PROFILE.idle_w * scale[0], PROFILE.active_w * scale[1])
    span_w = card.active_w - card.idle_w
    world = World(card, micro_batch_s, config)
    world.working = False
    world.run(card.idle_w, STARTING_S)
    world.working = True
    world.run(card.idle_w + 0.5 * span_w, LEARN_S)
    found: dict[float, float] = {}
    for part in SET_POINTS:
        budget_w = card.idle_w + part * span_w
        first = len(world.true_j) - 1 + round(SETTLE_S / FRAME_S)
        world.run(budget_w, hold_s)
        error = worst_error(world.true_j[first:], budget_w)
        found[part] = max(error, found.get(part, 0.0))
    return found


def power_tracking_error(tell: Callable[[str], object] | None = None) -> float:
    """Worst error in percent over all cards, micro-batches and set-points; ``tell`` gets a line for each run."""
    worst = 0.0
    for scale in CARDS:
        for micro_batch_s in MICRO_BATCHES_S:
            found = errors(scale, micro_batch_s, tracking.Config())
            worst = max(worst, *found.values())
            if tell:
                tell(
                    f"{scale} {micro_batch_s:5.3f} s " + " ".join(f"{p:g}:{100 * e:.1f}" for p, e in found.items())
                )
    return 100.0 * worst


if __name__ == "__main__":
    print(f"{power_tracking_error(print):.2f} %")
