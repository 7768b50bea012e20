"""Array output: learned in full sun, followed down at once and up after a while, with an honest σ."""

import random
from math import nan, sqrt

import pytest
from core_flight import sensor_frame
from core_plant import Plant

from flightsw.core import array_model, eps

CONFIG = eps.Config()


def learned(
    readings: list[float], dt_s: float = 10.0, config: eps.Config = CONFIG, soc: float = 0.8, **changes: object
) -> array_model.State:
    """The model after these readings in full sun."""
    state = array_model.start(config)
    for reading_w in readings:
        frame = sensor_frame(1, Plant(), **{"array_power_w": reading_w, **changes})
        state = array_model.step(state, config, frame, soc, dt_s)
    return state


def noisy(true_w: float, count: int, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [round(2.0 * draw.gauss(true_w, 2.0)) / 2.0 for _ in range(count)]


def test_until_it_is_measured_it_is_as_configured() -> None:
    state = array_model.start(CONFIG)
    assert (state.power_w, state.sigma_w, state.measured) == (1200.0, 60.0, False)


@pytest.mark.parametrize("true_w", [300.0, 700.0, 1020.0, 1400.0])
def test_full_sun_teaches_with_an_honest_sigma(true_w: float) -> None:
    square = 0.0
    for seed in range(100):
        state = learned(noisy(true_w, 60, seed))
        square += (state.power_w - max(0.0, true_w)) ** 2
    assert sqrt(square / 100.0) < state.sigma_w < 3.0 + 0.006 * true_w


@pytest.mark.parametrize("changes", [{"sun_fraction": 0.9}, {"sun_fraction": nan}, {"array_power_w": nan}])
def test_penumbra_and_missing_values_teach_nothing(changes: dict[str, object]) -> None:
    assert learned([900.0] * 3, **changes) == array_model.start(CONFIG)


def test_frame_rates_agree() -> None:
    """The same output over 600 s of mission time, a slow loss of 1 %: within 1 W and 20 % of σ."""
    states = [
        learned([1000.0 * (1.0 - 0.01 * i * dt_s / 600.0) for i in range(round(600.0 / dt_s))], dt_s)
        for dt_s in (0.1, 1.0, 10.0, 60.0)
    ]
    for state in states:
        assert state.power_w == pytest.approx(990.0, abs=3.0)
        assert state.sigma_w == pytest.approx(states[2].sigma_w, rel=0.2)


def test_a_fall_is_believed_at_once_and_a_rise_after_a_while() -> None:
    assert learned([1000.0] * 20 + [600.0]).power_w == 600.0
    assert learned([600.0] * 20 + [1000.0]).power_w == pytest.approx(600.0, abs=0.1)
    assert learned([600.0] * 20 + [1000.0, 600.0, 1000.0]).power_w == pytest.approx(600.0, abs=0.1)
    assert learned([600.0] * 20 + [1000.0] * 2).power_w == 1000.0


def test_scatter_over_an_orbit_is_in_sigma() -> None:
    draw = random.Random(5)
    readings = [1000.0 + draw.choice((-12.0, 12.0)) for _ in range(600)]
    steady, scattered = learned(noisy(1000.0, 600)), learned(readings)
    assert steady.sigma_w < 6.0
    assert scattered.sigma_w > 9.0


def test_a_frame_without_time_teaches_nothing() -> None:
    before = learned(noisy(1000.0, 20))
    after = array_model.step(before, CONFIG, sensor_frame(1, Plant(), array_power_w=1001.0), 0.8, 0.0)
    assert after.power_w == before.power_w


SERIES = eps.Config(array_regulation="series")


@pytest.mark.parametrize(
    ("soc", "current_a", "reading_w", "believed_w"),
    [
        (0.80, 2.0, 900.0, 900.0),
        (0.80, 12.0, 900.0, 1200.0),  # At the charge limit the regulator holds back.
        (0.99, 0.0, 500.0, 1200.0),  # Full: the same.
        (0.99, 0.0, 1300.0, 1300.0),
        (nan, 2.0, 900.0, 1200.0),  # What is not known may be full.
        (0.80, nan, 900.0, 1200.0),
    ],
)
def test_a_series_regulator_hides_what_is_not_taken(
    soc: float, current_a: float, reading_w: float, believed_w: float
) -> None:
    state = learned([reading_w], config=SERIES, soc=soc, battery_current_a=current_a)
    assert state.power_w == believed_w
