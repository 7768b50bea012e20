"""The certified bound: it holds what it must hold, it is tight, and a wrong one is caught."""

import numpy as np
import pytest

from hil.yardstick import bound
from hil.yardstick.certificates import Contradiction, agreed
from hil.yardstick.clairvoyant import STEP_S, grid, reference_value, settle, start_of
from hil.yardstick.linear import INFINITY, Model, NotOptimal, Rows
from hil.yardstick.programme import Programme
from hil.yardstick.scenarios import make
from hil.yardstick.world import World, inner, outer

STEPS = 150
"""Two eclipses of scenario 3, whose energy and heat both bind."""


@pytest.fixture(scope="module")
def short():
    scenario = make(3)
    steps_s, sunlit = (row[:STEPS] for row in grid(scenario))
    programme = Programme(scenario.truth, steps_s, sunlit, inner(24), start_of(scenario))
    plan, _ = settle(programme, np.full(STEPS, 308.0), 0.01, 8)
    return scenario.truth, steps_s, sunlit, start_of(scenario), plan


def box_model(cost):
    """x + y ≤ 1, x − y = 0.2, both in 0 … 1."""
    rows = Rows()
    rows.add(-INFINITY, 1.0, np.array([[0, 1]]), np.array([1.0, 1.0]))
    rows.add(0.2, 0.2, np.array([[0, 1]]), np.array([1.0, -1.0]))
    return Model(rows, np.array(cost), np.zeros(2), np.ones(2))


@pytest.mark.parametrize(
    ("cost", "optimum"), [((1.0, 0.0), 0.6), ((0.0, 1.0), 0.4), ((1.0, 2.0), 1.4), ((-1.0, 0.0), -0.2)]
)
def test_dual_bound_is_the_optimum_at_the_solver_s_prices_and_above_it_at_any_others(cost, optimum):
    model = box_model(cost)
    x = model.solve()
    assert np.dot(cost, x) == pytest.approx(optimum)
    assert model.dual_bound() == pytest.approx(optimum)
    rng = np.random.default_rng(0)
    for prices in rng.normal(0.0, 2.0, (200, 2)):
        assert model.dual_bound(prices) >= optimum - 1e-12


def test_no_optimum_says_so():
    model = box_model((1.0, 0.0))
    model.column(0, 0.9, 1.0)
    with pytest.raises(NotOptimal, match="nfeasible"):
        model.solve()


def test_periodic_orbit_is_certified():
    world = World()
    plan, _ = reference_value(world, 95, None)
    proved = bound.certify(world, np.full(95, STEP_S), world.sunlit(95, STEP_S), None, plan.value)
    assert plan.value <= proved.value <= plan.value * 1.0009
    assert proved.values[0] > proved.value, "tightening did something"
    assert proved.value == pytest.approx(0.7419, abs=1e-4)


def test_scenario_is_certified(short):
    world, steps_s, sunlit, start, plan = short
    proved = bound.certify(world, steps_s, sunlit, start, plan.value)
    assert plan.value <= proved.value <= plan.value * 1.001
    assert proved.probes > 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_envelopes_hold_every_plan(short, share):
    """Plans between idle and the clairvoyant's, flown exactly, never leave the first intervals."""
    world, steps_s, sunlit, start, plan = short
    low_k, high_k = bound.coldest(world, steps_s, sunlit, start), bound.hottest(world, steps_s, sunlit, start)
    gpu_k, radiator_k = start.gpu_k, start.radiator_k
    for k in range(STEPS):
        power_w = 80.0 + share * (plan.gpu_w[k] - 80.0)
        gpu_k, radiator_k, middle_k = bound.flown(
            world, steps_s[k : k + 1], sunlit[k : k + 1], gpu_k, radiator_k, power_w
        )
        assert low_k[k] <= middle_k[0] <= high_k[k]


@pytest.mark.parametrize("wrong_k", [8.0, 20.0])
def test_planted_bug_in_an_interval_is_caught(short, wrong_k):
    """Intervals that cut off the optimum make the 'bound' too low; what was flown then contradicts it."""
    world, steps_s, sunlit, start, plan = short
    low_k = bound.coldest(world, steps_s, sunlit, start)
    relaxed = Programme(world, steps_s, sunlit, outer(24), start, tie_break=0.0)
    relaxed.chords(low_k - wrong_k - 30.0, plan.middle_k.min() - wrong_k + np.zeros(STEPS))
    relaxed.solve()
    with pytest.raises(Contradiction, match="scenario 3: flown 0"):
        agreed(3, plan.value, relaxed.model.dual_bound())


@pytest.mark.parametrize(
    ("flown", "proved", "good"),
    [(0.7, 0.7003, True), (0.7, 0.69995, True), (0.7, 0.6998, False), (0.7, float("nan"), False)],
)
def test_agreement(flown, proved, good):
    if good:
        assert agreed(1, flown, proved) == proved
    else:
        with pytest.raises(Contradiction):
            agreed(1, flown, proved)
