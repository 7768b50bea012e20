"""State of charge: honest σ over many satellites, full and what looks like it, liars, frame rates."""

import random
from math import nan, sqrt

import pytest
from core_battery import Errors, Satellite
from core_plant import Plant

from flightsw.core import battery, charge

ORBIT_S = 5700.0
CAPACITY_J = 2.52e6


def satellite(seed: int, **how: object) -> Satellite:
    """A satellite with drawn errors somewhere in its orbit, its battery between 85 % and full."""
    draw = random.Random(seed)
    plant = Plant(
        orbit_s=draw.uniform(5520.0, 5760.0),
        eclipse_s=draw.choice((draw.uniform(1700.0, 2160.0), draw.uniform(0.0, 2160.0))),
        array_w=1200.0 * draw.uniform(0.85, 1.0),
        bus_w=60.0 * draw.uniform(0.8, 1.3),
        phase_s=draw.uniform(0.0, 5500.0),
        energy_j=CAPACITY_J * draw.uniform(0.85, 1.0),
    )
    return Satellite(plant, Errors.drawn(draw), seed=seed, **how)


def test_sigma_is_honest_over_a_thousand_satellites() -> None:
    """|error| <= 3.5 σ in 99.9 % of all samples, and not by a σ that is too large."""
    samples = outside = 0
    square = 0.0
    for seed in range(1000):
        sat = satellite(seed, tick_s=60.0)
        for _ in range(40):
            state = sat.tick()
            samples += 1
            z = sat.error / state.soc_sigma
            outside += abs(z) > 3.5
            square += z * z
            assert not state.full or sat.soc > 0.995
    assert outside <= 0.001 * samples
    assert 0.3 < sqrt(square / samples) < 1.0


@pytest.mark.parametrize("seed", range(2000, 2020))
def test_sigma_is_small_once_the_battery_has_been_full(seed: int) -> None:
    sat = satellite(seed)
    sat.until_full()
    for _ in range(600):
        state = sat.tick()
        assert abs(sat.error) < 3.5 * state.soc_sigma < 3.5 * 0.0015


def test_before_the_first_full_charge_the_gauge_is_as_good_as_its_prior() -> None:
    sat = satellite(3)
    assert sat.state.soc_sigma == pytest.approx(sqrt(0.003**2 + 0.001**2))
    assert sat.tick().soc_sigma < 0.0032


@pytest.mark.parametrize("bias", [-0.006, -0.003, 0.003, 0.006])
def test_full_calibrates_the_gauge_for_the_rest_of_the_mission(bias: float) -> None:
    """A gauge that reads too much clips at 1 when the battery is full; its bias is learned all the same."""
    sat = Satellite(Plant(energy_j=0.9 * CAPACITY_J), Errors(gauge_bias=bias, current_offset_a=0.1))
    sat.until_full()
    state = sat.fly(2 * ORBIT_S)
    assert state.gauge_bias == pytest.approx(bias, abs=0.001)
    assert state.gauge_bias_sigma < 0.001
    assert abs(sat.error) < 0.001


NOT_FULL = {
    # Power is left over, but the battery takes its limit.
    "charge limit": (Plant(energy_j=0.98 * CAPACITY_J), {"sun_w": 400.0}, {}),
    # The battery takes nothing because the load takes all.
    "spent to the last watt": (Plant(energy_j=0.98 * CAPACITY_J), {"sun_w": 2000.0}, {}),
    "array deficit": (Plant(energy_j=0.98 * CAPACITY_J, array_w=500.0), {"sun_w": 440.0}, {}),
    "dark and at rest": (Plant(energy_j=0.99 * CAPACITY_J, phase_s=3700.0), {"dark_w": -60.0}, {}),
    # Sensors that lie: no current, a bus current of nothing, an array that reads too much.
    "current missing": (Plant(energy_j=0.98 * CAPACITY_J), {"sun_w": 2000.0}, {"battery_current_a": nan}),
    "load not seen": (Plant(energy_j=0.98 * CAPACITY_J), {"sun_w": 2000.0}, {"bus_current_a": 0.0}),
    "array reads 3 % too much": (Plant(energy_j=0.98 * CAPACITY_J), {"sun_w": 2000.0}, {"array_power_w": 1236.0}),
    "disconnected far from full": (Plant(energy_j=0.80 * CAPACITY_J), {"sun_w": 300.0}, {"battery_current_a": 0.0}),
    "disconnected, no voltage": (
        Plant(energy_j=0.80 * CAPACITY_J),
        {"sun_w": 300.0},
        {"battery_current_a": 0.0, "battery_voltage_v": nan},
    ),
}


@pytest.mark.parametrize("name", NOT_FULL)
def test_what_looks_like_full_and_is_not(name: str) -> None:
    plant, how, changes = NOT_FULL[name]
    sat = Satellite(Plant(**vars(plant)), **how, changes=changes)
    for _ in range(30):
        assert not sat.tick().full or sat.soc > 0.9999


@pytest.mark.parametrize("changes", [{}, {"bus_current_a": nan}, {"battery_voltage_v": nan}])
def test_full_is_seen_without_one_of_the_sensors(changes: dict[str, object]) -> None:
    sat = Satellite(Plant(energy_j=0.98 * CAPACITY_J), changes=changes)
    assert sat.until_full().soc_fraction == pytest.approx(1.0, abs=0.002)
    assert sat.soc > 0.999


def test_full_takes_its_time_and_two_frames() -> None:
    sat = Satellite(Plant(energy_j=CAPACITY_J))
    assert [sat.tick().full for _ in range(4)] == [False, False, False, True]
    sat = Satellite(Plant(energy_j=CAPACITY_J), tick_s=60.0)
    assert [sat.tick().full for _ in range(2)] == [False, True]


def test_full_overrules_a_wrong_estimate() -> None:
    """The gauge lies by 5 % from the start and the voltage cannot tell so near to it; the full battery can."""
    sat = Satellite(Plant(energy_j=0.97 * CAPACITY_J), Errors(gauge_bias=-0.03))
    sat.until_full()
    assert abs(sat.error) < 0.002
    sat.fly(ORBIT_S)
    assert abs(sat.error) < 0.002


@pytest.mark.parametrize(
    ("tick_s", "wider", "apart"),
    [(0.1, 1.1, 0.0006), (1.0, 1.1, 0.0006), (30.0, 3.0, 0.001), (60.0, 6.0, 0.0015)],
)
def test_frame_rates_agree(tick_s: float, wider: float, apart: float) -> None:
    """Against 10 s ticks, noise aside: the estimate within ``apart``, σ at most ``wider`` times.

    A longer tick hides when in it the current jumped, and says so.
    """
    slow, other = (
        Satellite(
            Plant(energy_j=0.97 * CAPACITY_J, phase_s=3000.0),
            Errors(gauge_bias=0.002, current_offset_a=0.1, current_gain=0.005),
            tick_s=tick,
            noise=0.0,
        )
        for tick in (10.0, tick_s)
    )
    for _ in range(6 if tick_s < 1.0 else 20):
        slow.fly(300.0)
        other.fly(300.0)
        assert other.error == pytest.approx(slow.error, abs=apart)
        assert slow.state.soc_sigma / 1.1 < other.state.soc_sigma < wider * slow.state.soc_sigma


@pytest.mark.parametrize(
    ("reading", "refusals"),
    # A gauge frozen at 0.97 is refused, agrees while the charge passes by, and is refused again.
    [(0.6, 1), (0.97, 2), (nan, 0)],
)
def test_a_gauge_that_lies_or_freezes_does_not_pull(reading: float, refusals: int) -> None:
    sat = Satellite(Plant(energy_j=0.9 * CAPACITY_J), Errors(gauge_bias=0.002))
    sat.until_full()
    sat.fly(2600.0)  # To the eclipse.
    sat.changes["soc_fraction"] = reading
    sat.fly(1500.0)
    assert abs(sat.error) < min(0.003, 3.5 * sat.state.soc_sigma)
    assert (sat.state.refused_s > 0.0) is (refusals > 0)
    sat.changes.clear()
    sat.fly(600.0)
    assert sat.state.refused_s == 0.0
    assert sat.events.count("GAUGE_REFUSED") == sat.events.count("GAUGE_HEARD") == refusals


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"soc_fraction": 0.40}, 0.39, 0.41),  # The lower one is believed, whoever says it.
        ({"soc_fraction": 0.99, "battery_voltage_v": 29.6, "battery_current_a": 0.0}, 0.47, 0.50),
        ({"soc_fraction": nan}, 0.87, 0.93),
    ],
)
def test_first_estimate_when_gauge_and_voltage_contradict(
    changes: dict[str, object], low: float, high: float
) -> None:
    sat = Satellite(Plant(energy_j=0.9 * CAPACITY_J), changes=changes)
    assert low < sat.state.soc_fraction < high
    assert low - 0.1 < sat.fly(100.0).soc_fraction < high + 0.1
    assert ("CHARGE_CONTRADICTED" in sat.events) is (changes["soc_fraction"] == changes["soc_fraction"])


def test_nothing_is_known_without_gauge_and_voltage() -> None:
    sat = Satellite(Plant(energy_j=0.9 * CAPACITY_J), changes={"soc_fraction": nan, "battery_voltage_v": nan})
    assert not sat.fly(100.0).known
    assert str(sat.state.soc_fraction) == str(sat.state.gauge_bias) == str(sat.state.gauge_bias_sigma) == "nan"
    sat.changes.clear()
    assert sat.tick().known


def test_a_count_that_is_wrong_is_given_up() -> None:
    """The current reads nothing through an eclipse: gauge and voltage outvote the count."""
    sat = Satellite(Plant(energy_j=0.95 * CAPACITY_J))
    sat.until_full()
    while sat.plant.sun:
        sat.tick()
    sat.changes["battery_current_a"] = 0.0
    sat.dark_w = 500.0
    sat.fly(1900.0)
    assert "CHARGE_RESET" in sat.events
    # The voltage is explained without its current, so the new estimate is low, and never high.
    assert -0.15 < sat.error < 0.01


def test_silence_widens_sigma() -> None:
    sat = Satellite(Plant(energy_j=0.9 * CAPACITY_J))
    sat.until_full()
    before = sat.fly(3000.0).soc_sigma
    after, _ = charge.step(sat.state, sat.config, sat.frame(), 600.0)
    assert before < 0.001 < after.soc_sigma
    unseen, _ = charge.step(sat.state, sat.config, sat.frame(), 1.0)
    sat.changes["battery_current_a"] = nan
    blind, _ = charge.step(sat.state, sat.config, sat.frame(), 1.0)
    assert blind.soc_sigma > unseen.soc_sigma


def test_charge_stays_between_empty_and_full() -> None:
    sat = Satellite(Plant(energy_j=0.01 * CAPACITY_J, phase_s=3700.0), Errors(gauge_bias=-0.003), dark_w=700.0)
    for _ in range(60):
        assert 0.0 <= sat.tick().soc_fraction <= 1.0


@pytest.mark.parametrize(
    ("soc", "cell_v", "slope"),
    [
        (0.0, 3.0, 4.5),
        (0.05, 3.225, 4.5),
        (0.75, 3.925, 0.9),
        (1.0, 4.18, 1.1),
        (1.1, 4.29, 1.1),
        (-0.1, 2.55, 4.5),
    ],
)
def test_open_circuit_curve(soc: float, cell_v: float, slope: float) -> None:
    config = battery.Config()
    assert battery.open_circuit(config, soc) == pytest.approx((8.0 * cell_v, 8.0 * slope))
    assert battery.charge_at(config, 8.0 * cell_v) == pytest.approx(min(1.0, max(0.0, soc)))


def test_a_curve_must_rise() -> None:
    with pytest.raises(ValueError, match="cell_ocv_v must rise from point to point"):
        battery.Config(cell_ocv_v=(3.0, 3.5, 3.5, 4.1))
