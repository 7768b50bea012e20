"""The true plant and the rivals: who breaks a limit is counted, and everybody sees the same."""

import math

import numpy as np
import pytest

from hil.plant import battery, eps
from hil.yardstick import flight, rivals, scenarios
from hil.yardstick.plant import fly, judge, replay, replay_powers
from hil.yardstick.scenarios import TICK_S, errors, make
from hil.yardstick.world import GPU_MAX_K, RADIATOR_MAX_K


class Fixed:
    """The same order at every tick; remembers what it saw."""

    def __init__(self, power_w):
        self.power_w, self.seen = power_w, []

    def decide(self, seen):
        self.seen.append(seen)
        return self.power_w


@pytest.mark.parametrize(
    ("power_w", "drawn_w", "soc_broken", "heat_broken"),
    [
        (700.0, 700.0, True, True),
        (1e9, 700.0, True, True),
        (-5.0, 80.0, False, False),
        (math.nan, 80.0, False, False),
    ],
)
def test_a_governor_that_breaks_a_limit_is_counted(power_w, drawn_w, soc_broken, heat_broken):
    outcome, trace = fly(make(0), Fixed(power_w))
    assert trace.gpu_w.mean() == pytest.approx(drawn_w, rel=0.01)
    assert (outcome.soc_violation_s > 0.0) is soc_broken
    assert (outcome.heat_violation_s > 0.0) is heat_broken


@pytest.mark.parametrize(
    ("field", "ticks", "value", "soc_s", "heat_s"),
    [
        ("soc", 3, 0.69999, 30.0, 0.0),
        ("soc", 3, 0.7 - 1e-9, 0.0, 0.0),  # less than the joule of rounding
        ("gpu_k", 2, GPU_MAX_K + 0.001, 0.0, 20.0),
        ("gpu_k", 2, GPU_MAX_K, 0.0, 0.0),
        ("radiator_k", 5, RADIATOR_MAX_K + 0.1, 0.0, 50.0),
    ],
)
def test_violation_seconds(field, ticks, value, soc_s, heat_s):
    scenario = make(7)
    calm = replay_powers(scenario, np.full(100, 80.0))
    trace = calm._replace(**{field: np.concatenate((np.full(ticks, value), getattr(calm, field)[ticks:]))})
    outcome = judge(scenario, trace)
    assert (outcome.soc_violation_s, outcome.heat_violation_s) == (soc_s, heat_s)


def test_scalar_and_batched_plant_agree():
    scenario = make(19)
    outcome, _ = fly(scenario, rivals.Schedule(520.0, 310.0))
    batch = replay(scenario, np.array([520.0, 700.0]), np.array([310.0, 700.0]))
    assert batch.mean_throughput[0] == pytest.approx(outcome.mean_throughput, abs=1e-12)
    assert batch.sound.tolist() == [not (outcome.soc_violation_s or outcome.heat_violation_s), False]


@pytest.mark.parametrize("maker", [rivals.constant, rivals.two_level])
def test_searched_rivals_keep_the_limits_with_the_run_s_own_noise(maker):
    outcome, _ = fly(make(92), maker(make(92)))
    assert (outcome.soc_violation_s, outcome.heat_violation_s) == (0.0, 0.0)


def test_every_rival_sees_the_same_world():
    first, second = Fixed(300.0), Fixed(300.0)
    fly(make(5), first)
    fly(make(5), second)
    assert first.seen == second.seen


def test_instruments_read_the_world():
    """Means over a run against the truth: gains within 3 %, the current's sign, the voltage on its curve."""
    scenario, governor = make(5), Fixed(300.0)
    _, trace = fly(scenario, governor)
    lit = np.array([seen.lit for seen in governor.seen])
    array_w = np.array([seen.array_w for seen in governor.seen])
    assert array_w[lit].mean() == pytest.approx(scenario.truth.array_w, rel=0.03)
    assert abs(array_w[~lit].mean()) < 2.0
    assert np.mean([seen.rail_w for seen in governor.seen[1:]]) == pytest.approx(300.0, rel=0.03)
    dark = np.flatnonzero(~lit[1:] & ~lit[:-1]) + 1
    power_w = np.array([governor.seen[k].battery_a * governor.seen[k].battery_v for k in dark])
    assert power_w.mean() == pytest.approx(-(300.0 + scenario.truth.bus_w), rel=0.03)
    rest_v = np.array([governor.seen[k].battery_v - 0.046 * governor.seen[k].battery_a for k in dark])
    curve_v = [eps.open_circuit_v(min(1.0, trace.soc[k - 1])) for k in dark]
    assert np.abs(rest_v - curve_v).mean() < 0.3


def test_the_battery_is_the_bench_s():
    assert scenarios.CELL_OCV_V == battery.CELL_OCV_V
    assert scenarios.CELLS == battery.CELLS_IN_SERIES


def test_noise_has_a_row_a_tick_and_its_own_stream():
    scenario = make(11)
    instruments, noise = errors(scenario)
    assert {len(column) for column in noise} == {scenario.ticks}
    assert errors(scenario) == (instruments, noise)
    reference = np.random.default_rng(5011)
    assert (instruments.soc_bias, instruments.gpu_bias_k) == (reference.normal(0, 0.003), reference.normal(0, 0.3))
    assert noise.soc[0] == reference.normal(0.0, 0.001)
    assert noise.gpu_k[0] == reference.normal(0.0, 0.3)
    assert noise.radiator_k[0] == reference.normal(0.0, 0.3)
    assert noise.actuator[0] == reference.normal(0.0, 0.01)
    assert noise.soc[1] == reference.normal(0.0, 0.001)


def test_flight_code_flies_on_what_is_believed():
    scenario = make(7)
    config = flight.power_config(scenario.belief)
    phase_s = (config.eclipse_entry_s + scenario.belief.phase_s) % scenario.belief.orbit_s
    assert phase_s == pytest.approx(scenario.belief.orbit_s - scenario.belief.eclipse_s)
    outcome, _ = fly(scenario, flight.closed_form(scenario))
    assert outcome.mean_throughput > 0.69
    assert (outcome.soc_violation_s, outcome.heat_violation_s) == (0.0, 0.0)
    assert outcome.tick_cpu_s < 1e-3


def test_ticks_are_whole():
    assert make(0).ticks == int(6 * make(0).truth.orbit_s // TICK_S)
