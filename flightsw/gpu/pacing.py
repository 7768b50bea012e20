"""Duty-cycle pacing: power control without privileges.

GPU power is close to linear in the share of time that kernels run, so a worker that rests between
micro-batches draws what the governor wants: after a micro-batch of b seconds at duty d it rests b·(1 − d)/d.
Rest is kept as a debt in *busy* seconds. Time that passes at duty d pays back d/(1 − d) of it, so a new
set-point acts on the rest of a rest, a rest that came out too long shortens the next one, and the long-run duty
does not drift. The debt is bounded on both sides: a compile pause of a minute does not buy an hour of rest, nor an
idle hour a burst.

*Dither.* The card's own power sensor looks for 25 ms in each 100 ms (power-thermal-orbit reference, section 3), so
work with a period of 100 ms, or of a simple fraction or multiple of it, is seen at one phase only: the sensor, and
every loop closed on it, is then wrong by tens of percent for as long as the period holds. So a rest does not end
when the debt is 0. It ends with an excess of rest that sweeps from 0 to ``SPREAD_S`` and back, one step a rest. The
steps are golden-ratio fractions, so the phases lie more evenly than by chance and never repeat, and they are small
enough that no rest is swallowed whole, which would favour a phase. The excess is ordinary credit in the ledger: the
way back pays for the way up, and the long-run duty stays exact. A sweep over exactly one sensor period makes every
phase equally frequent.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Final

DUTY_MIN: Final = 0.001
"""Below this a worker is parked: it rests until the set-point rises."""
DEBT_MAX_S: Final = 1.0
"""Most busy time that is ever paid back with rest; with ``DUTY_MIN`` it bounds one rest to 999 s."""
CREDIT_MAX_S: Final = 1.0
"""Most busy time that earlier, too long rests excuse: one late wake-up at a duty of 0.97 is worth half a second."""
SPREAD_S: Final = 0.1
"""Spread of the dither: one period of the card's power sensor."""
STEP_MAX: Final = (3.0 - math.sqrt(5.0)) / 2.0
"""Largest step of the sweep, as a part of the spread: the golden ratio's, whose multiples lie most evenly. Smaller
steps are halves, quarters … of it."""
STEP_REST: Final = 0.5
"""Largest step as a part of the rest that it lengthens or shortens."""
HALVINGS_MAX: Final = 24
SLACK_S: Final = 1e-6
"""A rest shorter than this is not worth a wait; it stays in the debt."""


class DutyLedger:
    """Arithmetic of pacing; knows no clock. ``owed_s`` is busy time not yet balanced by rest (credit below 0).

    ``spread_s`` is the largest excess of a rest that is aimed at; 0 is no dither.
    """

    def __init__(self, spread_s: float = 0.0) -> None:
        self.owed_s = 0.0
        self._spread_s = spread_s
        self._sweep = 0.0
        self._busy_s = 0.0

    def spend(self, busy_s: float) -> None:
        """A micro-batch of ``busy_s`` seconds has run."""
        self.owed_s = min(self.owed_s + busy_s, DEBT_MAX_S)
        self._busy_s += busy_s

    def rest(self, rest_s: float, duty: float) -> None:
        """``rest_s`` seconds have passed without work at this set-point; none of it counts while parked."""
        if duty >= 1.0:
            self.owed_s = min(self.owed_s, 0.0)
        elif duty >= DUTY_MIN:
            worth = duty / (1.0 - duty)
            self.owed_s = max(self.owed_s - rest_s * worth, -CREDIT_MAX_S - self._spread_s * worth)

    def lower(self, old: float, new: float) -> None:
        """The set-point fell. Credit is rest that came out too long, so it excuses as much *rest* as before: the
        busy time it is worth is less, or a throttled card would stay at full power until it is used up."""
        if self.owed_s < 0.0:
            keeps = DUTY_MIN <= new < old < 1.0
            self.owed_s *= (1.0 - old) / old * new / (1.0 - new) if keeps else 0.0

    def due_s(self, duty: float) -> float:
        """Rest still due before the next micro-batch: infinite when parked."""
        if duty < DUTY_MIN:
            return math.inf
        if duty >= 1.0:
            return 0.0
        return max(self.owed_s * (1.0 - duty) / duty + self._excess_s, 0.0)

    def rested(self, duty: float) -> None:
        """A rest at this set-point has come to its end: the next one aims at another excess."""
        busy_s, self._busy_s = self._busy_s, 0.0
        if not (self._spread_s and DUTY_MIN <= duty < 1.0 and busy_s > 0.0):
            return
        step_max = STEP_REST * busy_s * (1.0 - duty) / duty / self._spread_s
        halvings = max(0, math.ceil(math.log2(STEP_MAX / step_max)))
        self._sweep = (self._sweep + STEP_MAX * 0.5 ** min(halvings, HALVINGS_MAX)) % 2.0

    @property
    def _excess_s(self) -> float:
        return min(self._sweep, 2.0 - self._sweep) * self._spread_s


class Pacer:
    """Holds a worker's main thread back. ``wait_turn`` and ``spent`` are its; the rest is for any thread."""

    def __init__(
        self,
        duty: float = 0.0,
        *,
        spread_s: float = SPREAD_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        self._condition = threading.Condition()
        self._clock = clock
        self._wait = wait
        self._ledger = DutyLedger(spread_s)
        self._duty = _limited(duty)
        self._rested_at_s = clock()
        self._working = False
        self._woken = False

    @property
    def duty(self) -> float:
        """The set-point, 0 to 1."""
        return self._duty

    def set_duty(self, duty: float) -> None:
        """New set-point, effective at once; values outside 0 to 1 are limited, NaN is 0."""
        with self._condition:
            self._settle()
            before, self._duty = self._duty, _limited(duty)
            if self._duty < before:
                self._ledger.lower(before, self._duty)
            self._condition.notify_all()

    def wake(self) -> None:
        """Make the present or next ``wait_turn`` return False at once: there is something else to do."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def wait_turn(self) -> bool:
        """Rest as long as the set-point demands. True: run a micro-batch. False: ``wake`` was called."""
        with self._condition:
            self._working = False
            waited = False
            while True:
                self._settle()
                if self._woken:
                    self._woken = False
                    return False
                due_s = self._ledger.due_s(self._duty)
                if due_s <= SLACK_S:
                    self._working = True
                    if waited:
                        self._ledger.rested(self._duty)
                    return True
                waited = True
                self._wait(self._condition, None if math.isinf(due_s) else due_s)

    def spent(self, busy_s: float) -> None:
        """The micro-batch allowed by the last ``wait_turn`` ended just now and took ``busy_s`` seconds."""
        with self._condition:
            self._ledger.spend(busy_s)
            self._working = False
            self._rested_at_s = self._clock()

    def _settle(self) -> None:
        """Count the time since the last account as rest at the set-point that held.

        Not within a micro-batch: the set-point changes many times a second, and work is no rest.
        """
        if self._working:
            return
        now_s = self._clock()
        self._ledger.rest(max(now_s - self._rested_at_s, 0.0), self._duty)
        self._rested_at_s = now_s


def _limited(duty: float) -> float:
    return min(max(duty, 0.0), 1.0) if duty == duty else 0.0
