"""The simulated power sensor: what it shows of known loads, and that pacing does not alias on it."""

import math

import pytest

from flightsw.gpu.pacing import SLACK_S, SPREAD_S, DutyLedger
from hil.instruments.power_sensor import PowerSensor, SensorModel

IDLE_W, ACTIVE_W = 80.0, 700.0
WATCHED_S = 60.0
DUTIES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


def pulses(sensor: PowerSensor, on_s: float, off_s: float, count: int) -> None:
    for _ in range(count):
        sensor.advance(on_s, 500.0)
        sensor.advance(off_s, 100.0)


def test_the_three_readings_are_three_quantities() -> None:
    sensor = PowerSensor(power_w=80.0)
    assert (sensor.instant_w, sensor.average_w, sensor.energy_j) == (80.0, 80.0, 0.0)
    sensor.advance(0.024, 300.0)
    assert sensor.instant_w == 80.0, "the first boxcar is not over"
    sensor.advance(0.976, 300.0)
    assert (sensor.instant_w, sensor.average_w) == (300.0, 300.0)
    sensor.advance(0.2, 600.0)
    assert sensor.instant_w == 600.0
    assert sensor.average_w == pytest.approx(360.0), "two of the ten boxcars of a second"
    assert sensor.seen_s == pytest.approx(1.125)
    # Twelve boxcars, each taken for the whole of its 0.1 s.
    assert sensor.energy_j == pytest.approx(30.0 * 10 + 60.0 * 2)


@pytest.mark.parametrize(
    ("phase_s", "shown_w"), [(0.0, 500.0), (0.05, 100.0), (0.0125, 300.0)], ids=["on", "off", "edge"]
)
def test_a_load_of_its_own_period_is_seen_at_one_phase(phase_s: float, shown_w: float) -> None:
    sensor = PowerSensor(SensorModel(phase_s=phase_s))
    pulses(sensor, 0.025, 0.075, 100)
    assert sensor.average_w == pytest.approx(shown_w)
    assert sensor.energy_j / sensor.now_s == pytest.approx(shown_w, rel=0.03)
    assert sensor.true_j / sensor.now_s == pytest.approx(200.0)


def test_how_the_pieces_are_cut_does_not_matter() -> None:
    whole, pieces = PowerSensor(), PowerSensor()
    whole.advance(2.0, 250.0)
    for _ in range(1999):
        pieces.advance(0.001, 250.0)
    pieces.advance(0.001, 250.0)
    assert pieces.instant_w == whole.instant_w == 250.0
    assert pieces.energy_j == pytest.approx(whole.energy_j, abs=25.0)


def test_the_counter_moves_in_its_own_period_and_step() -> None:
    sensor = PowerSensor(SensorModel(counter_period_s=0.5, counter_step_j=10.0))
    seen = set()
    for _ in range(200):
        sensor.advance(0.01, 333.0)
        seen.add(sensor.energy_j)
    assert len(seen) == 4, "zero, and three steps in two seconds"
    assert all(math.isclose(value % 10.0, 0.0, abs_tol=1e-6) for value in seen)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"boxcar_s": 0.0}, "boxcar_s"),
        ({"boxcar_s": 0.2}, "boxcar_s"),
        ({"average_s": 0.05}, "average_s"),
        ({"counter_period_s": 0.01}, "counter_period_s"),
        ({"counter_step_j": 0.0}, "counter_step_j"),
        ({"power_step_w": -1.0}, "power_step_w"),
    ],
)
def test_impossible_sensors_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SensorModel(**wrong)


def aliasing(duty: float, micro_batch_s: float, spread_s: float, phase_s: float) -> tuple[float, float]:
    """Relative error of the energy counter on the power over idle, and of the paced duty itself."""
    ledger, sensor = DutyLedger(spread_s), PowerSensor(SensorModel(phase_s=phase_s))
    busy_s = 0.0
    while sensor.now_s < WATCHED_S:
        due_s = ledger.due_s(duty)
        if due_s > SLACK_S:
            sensor.advance(due_s, IDLE_W)
            ledger.rest(due_s, duty)
        sensor.advance(micro_batch_s, ACTIVE_W)
        ledger.spend(micro_batch_s)
        busy_s += micro_batch_s
    dynamic_j = sensor.true_j - IDLE_W * sensor.now_s
    counted_j = sensor.energy_j - IDLE_W * sensor.now_s
    return counted_j / dynamic_j - 1.0, busy_s / sensor.now_s / duty - 1.0


def worst(duty: float, micro_batch_s: float, spread_s: float) -> tuple[float, float]:
    found = [aliasing(duty, micro_batch_s, spread_s, phase_s) for phase_s in (0.0, 0.0125, 0.03, 0.05, 0.07, 0.09)]
    return max(abs(error) for error, _ in found), max(abs(drift) for _, drift in found)


@pytest.mark.parametrize("duty", DUTIES)
def test_a_period_of_100_ms_aliases_without_the_dither_and_not_with_it(duty: float) -> None:
    plain, _ = worst(duty, duty * 0.1, 0.0)
    dithered, drift = worst(duty, duty * 0.1, SPREAD_S)
    assert plain > 0.10
    assert dithered < 0.02
    assert drift < 0.01, "the long-run duty is the set-point"


@pytest.mark.parametrize("period_s", [0.1 / 3, 0.05, 0.2, 0.3])
def test_fractions_and_multiples_of_the_period_do_not_alias_either(period_s: float) -> None:
    duty = 0.4
    assert worst(duty, duty * period_s, 0.0)[0] > 0.10
    assert worst(duty, duty * period_s, SPREAD_S)[0] < 0.03
