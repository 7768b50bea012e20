"""Duty-cycle pacing: power control without privileges.

GPU power is close to linear in the share of time that kernels run, so a worker that rests between
micro-batches draws what the governor wants: after a micro-batch of b seconds at duty d it rests b·(1 − d)/d.
Rest is kept as a debt in *busy* seconds. Time that passes at duty d pays back d/(1 − d) of it, so a new
set-point acts on the rest of a rest, a rest that came out too long shortens the next one, and the long-run duty
does not drift. The debt is bounded on both sides: a compile pause of a minute does not buy an hour of rest, nor an
idle hour a burst.

A rest may be longer than its debt by an excess that ``dither`` chooses, up to ``SPREAD_S``. It is ordinary credit
in the ledger, the next rests pay for it, and the long-run duty stays exact.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from flightsw.gpu.dither import PERIOD_S, REST_MIN_S, Dither

DUTY_MIN: Final = 0.001
"""Below this a worker is parked: it rests until the set-point rises."""
DEBT_MAX_S: Final = 1.0
"""Most busy time that is ever paid back with rest; with ``DUTY_MIN`` it bounds one rest to 999 s."""
CREDIT_MAX_S: Final = 1.0
"""Most busy time that earlier, too long rests excuse: one late wake-up at a duty of 0.97 is worth half a second."""
SPREAD_S: Final = PERIOD_S
"""Largest excess of a rest: one period of the card's power sensor, so that every phase can be reached."""
REST_DEBT_MAX_S: Final = 0.5
"""Most busy time whose rest is put off because it is too short."""
SLACK_S: Final = 1e-6
"""A rest shorter than this is not worth a wait; it stays in the debt."""


class DutyLedger:
    """Arithmetic of pacing; knows no clock. ``owed_s`` is busy time not yet balanced by rest (credit below 0).

    ``spread_s`` is the largest excess of a rest that is aimed at; 0 is no dither.
    """

    def __init__(self, spread_s: float = 0.0) -> None:
        self.owed_s = 0.0
        self._spread_s = spread_s
        self._dither = Dither(spread_s)
        self._excess_s = 0.0
        self._chosen = True

    def spend(self, busy_s: float) -> None:
        """A micro-batch of ``busy_s`` seconds has run."""
        self.owed_s = min(self.owed_s + busy_s, DEBT_MAX_S)
        self._chosen = not self._spread_s
        if not self._chosen:
            self._dither.spend(busy_s)

    def rest(self, rest_s: float, duty: float) -> None:
        """``rest_s`` seconds have passed without work at this set-point; none of it counts while parked."""
        self._dither.rest(rest_s)
        if duty >= 1.0:
            self.owed_s = min(self.owed_s, 0.0)
        elif duty >= DUTY_MIN:
            worth = duty / (1.0 - duty)
            self.owed_s = max(self.owed_s - rest_s * worth, -CREDIT_MAX_S - self._spread_s * worth)

    def lower(self, old: float, new: float) -> None:
        """The set-point fell. What is owed was run up at the old one, so it is worth as much *rest* as before:
        credit is rest that came out too long, and at its old worth a throttled card would stay at full power until
        it is used up; a debt at its old worth would idle the card for seconds after a single micro-batch. A parked
        worker keeps its debt: parking in turns must not make work cheap.
        """
        if new < DUTY_MIN:
            self.owed_s = max(self.owed_s, 0.0)
        else:
            self.owed_s *= (1.0 - old) / old * new / (1.0 - new) if DUTY_MIN <= old < 1.0 else 0.0

    def due_s(self, duty: float) -> float:
        """Rest still due before the next micro-batch: infinite when parked."""
        if duty < DUTY_MIN:
            return math.inf
        if duty >= 1.0:
            return 0.0
        worth = (1.0 - duty) / duty
        due_s = self.owed_s * worth
        if not self._chosen:
            # Once after each micro-batch, at the set-point of that moment.
            if 0.0 < due_s + self._excess_s < min(REST_MIN_S, REST_DEBT_MAX_S * worth):
                return 0.0
            self._excess_s = self._dither.excess_s(due_s)
            self._chosen = True
        return max(due_s + self._excess_s, 0.0)


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
        self._turn_duty = self._duty
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
            if self._duty < before and not self._working:
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
            while True:
                self._settle()
                if self._woken:
                    self._woken = False
                    return False
                due_s = self._ledger.due_s(self._duty)
                if due_s <= SLACK_S:
                    self._working = True
                    self._turn_duty = self._duty
                    return True
                self._wait(self._condition, None if math.isinf(due_s) else due_s)

    def spent(self, busy_s: float) -> None:
        """The micro-batch allowed by the last ``wait_turn`` ended just now and took ``busy_s`` seconds."""
        with self._condition:
            self._ledger.spend(busy_s)
            if self._duty < self._turn_duty:
                # It was begun at a higher set-point.
                self._ledger.lower(self._turn_duty, self._duty)
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
