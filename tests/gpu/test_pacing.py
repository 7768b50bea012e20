"""Pacing: long-run duty, live set-points, bounds; on an injected clock that can oversleep."""

import math
import random

import pytest

from flightsw.gpu.pacing import CREDIT_MAX_S, DEBT_MAX_S, SPREAD_S, DutyLedger, Pacer
from tests.background import Background


class World:
    """A clock that only moves when somebody waits or works; every wait is ``late_s`` too long at most."""

    def __init__(self, late_s=0.0, seed=1):
        self.now_s = 100.0
        self.late_s = late_s
        self.random = random.Random(seed)
        self.events = []

    def clock(self):
        return self.now_s

    def wait(self, condition, timeout_s):
        """Stands in for ``Condition.wait``: time passes, planned events happen at their time."""
        until_s = math.inf if timeout_s is None else self.now_s + timeout_s + self.random.uniform(0, self.late_s)
        if self.events and self.events[0][0] <= until_s:
            at_s, act = self.events.pop(0)
            self.now_s = max(at_s, self.now_s)
            act()
            return
        assert until_s < math.inf, "parked with nothing to come"
        self.now_s = until_s

    def pacer(self, duty, spread_s=0.0):
        return Pacer(duty, spread_s=spread_s, clock=self.clock, wait=self.wait)

    def work(self, pacer, busy_s):
        assert pacer.wait_turn()
        self.now_s += busy_s
        pacer.spent(busy_s)


@pytest.mark.parametrize("spread_s", [0.0, SPREAD_S], ids=["plain", "dithered"])
@pytest.mark.parametrize("late_s", [0.0, 0.02], ids=["punctual", "oversleeping"])
@pytest.mark.parametrize("duty", [0.01, 0.1, 0.35, 0.5, 0.8, 0.97, 1.0])
def test_long_run_duty_is_the_set_point(duty, late_s, spread_s):
    world = World(late_s)
    pacer = world.pacer(duty, spread_s)
    start_s, busy_s = world.now_s, 0.0
    for _ in range(2000):
        micro_batch_s = world.random.uniform(0.02, 0.12)
        world.work(pacer, micro_batch_s)
        busy_s += micro_batch_s
    assert busy_s / (world.now_s - start_s) == pytest.approx(duty, rel=0.02)


@pytest.mark.parametrize("duty", [0.1, 0.5, 0.85])
def test_set_points_that_come_within_micro_batches_do_not_make_work_rest(duty):
    world = World()
    pacer = world.pacer(duty)
    start_s, busy_s = world.now_s, 0.0
    for number in range(1000):
        assert pacer.wait_turn()
        for step in range(4):
            world.now_s += 0.02
            pacer.set_duty(duty + (0.005 if (number + step) % 2 else -0.005))
        pacer.spent(0.08)
        busy_s += 0.08
    assert busy_s / (world.now_s - start_s) == pytest.approx(duty, abs=0.02)


def test_time_lost_between_micro_batches_counts_as_rest():
    world = World()
    pacer = world.pacer(0.5)
    world.work(pacer, 0.1)
    world.now_s += 0.06  # A journal line, a snapshot.
    world.work(pacer, 0.1)
    assert world.now_s == pytest.approx(100.0 + 0.1 + 0.1 + 0.1)


def test_a_new_set_point_acts_on_the_present_rest():
    world = World()
    pacer = world.pacer(0.1)
    world.work(pacer, 0.1)  # 0.9 s of rest are due.
    world.events.append((world.now_s + 0.45, lambda: pacer.set_duty(0.5)))
    assert pacer.wait_turn()
    assert world.now_s == pytest.approx(100.0 + 0.1 + 0.45 + 0.05)  # Half the debt is left: 0.05 s at one half.


def test_duty_zero_parks_until_the_set_point_rises():
    world = World()
    pacer = world.pacer(0.0)
    world.events.append((world.now_s + 5000.0, lambda: pacer.set_duty(0.25)))
    assert pacer.wait_turn()
    assert world.now_s == 5100.0


def test_wake_ends_a_rest_once():
    world = World()
    pacer = world.pacer(0.0)
    world.events += [(world.now_s + 1.0, pacer.wake), (world.now_s + 2.0, lambda: pacer.set_duty(1.0))]
    assert not pacer.wait_turn()
    assert pacer.wait_turn()
    pacer.wake()
    assert not pacer.wait_turn()
    assert pacer.wait_turn()


def test_a_pause_of_an_hour_buys_no_burst_and_a_long_micro_batch_no_hour_of_rest():
    ledger = DutyLedger()
    ledger.rest(3600.0, 0.5)
    assert ledger.owed_s == -CREDIT_MAX_S
    ledger.spend(60.0)
    assert ledger.owed_s == DEBT_MAX_S
    assert ledger.due_s(0.5) == DEBT_MAX_S


@pytest.mark.parametrize(
    ("given", "kept"), [(-0.5, 0.0), (0.0, 0.0), (0.4, 0.4), (1.0, 1.0), (7.0, 1.0), (math.nan, 0.0), (math.inf, 1)]
)
def test_set_points_are_limited(given, kept):
    pacer = Pacer(0.7)
    pacer.set_duty(given)
    assert pacer.duty == kept
    assert Pacer(given).duty == kept


def test_a_real_thread_is_released_by_a_set_point_and_by_wake():
    pacer = Pacer(0.0)
    results = []
    with Background(lambda: results.append(pacer.wait_turn()), lambda: pacer.set_duty(1.0)):
        pass
    pacer.set_duty(0.0)
    with Background(lambda: results.append(pacer.wait_turn()), pacer.wake):
        pass
    assert results == [True, False]


def test_credit_excuses_rest_not_power_when_the_set_point_falls() -> None:
    ledger = DutyLedger()
    ledger.rest(0.05, 0.95)  # 50 ms too long at 0.95 are worth 0.95 s of busy time there,
    ledger.lower(0.95, 0.5)
    assert ledger.owed_s == pytest.approx(-0.05)  # and 50 ms of it at one half.
    ledger.rest(0.05, 0.95)
    ledger.lower(1.0, 0.5)
    assert ledger.owed_s == 0.0
