"""Rates along the orbit: their mean is the scenario's whatever the belt's share; upsets come where the belt is."""

import pytest

from hil.integrity.rates import (
    AVERAGED_DAYS,
    ENVIRONMENT,
    LADDER,
    NOMINAL_PER_DAY,
    SAMPLE_S,
    Exposure,
    rung,
)
from hil.plant.geometry import DAY_S
from hil.plant.orbit import ORBITS, Elements, orbit_from
from hil.plant.radiation import SAA_FLUX_CM2_S

STEPS = int(AVERAGED_DAYS * DAY_S / SAMPLE_S)


def exposure(name: str = "leo_550", **fields: float) -> Exposure:
    return Exposure(orbit_from(name, ORBITS[name]), **fields)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_the_daily_mean_does_not_depend_on_the_share_of_the_belt(share: float) -> None:
    orbit = exposure(belt_share=share)
    mean = sum(orbit.rate_per_day(step * SAMPLE_S, 100.0) for step in range(STEPS)) / STEPS
    assert mean == pytest.approx(100.0, rel=1e-9)


def test_the_rate_follows_the_flux() -> None:
    orbit = exposure()
    rates = [(orbit.flux_cm2_s(step * SAMPLE_S), orbit.rate_per_day(step * SAMPLE_S, 1.0)) for step in range(1440)]
    assert min(rate for _, rate in rates) == pytest.approx(0.1)
    assert max(rates)[1] == max(rate for _, rate in rates) > 10.0


def test_the_weather_is_that_of_the_reference() -> None:
    """Radiation reference, section 2: 10 % of the time, 90 % of the events; 0.45 a day inside, 0.0055 outside."""
    weather = exposure("dawn_dusk_650").weather(0.05)
    assert weather.time_in_anomaly == pytest.approx(0.10, abs=0.03)
    assert weather.events_in_anomaly == pytest.approx(0.90, abs=0.02)
    assert weather.inside_per_day == pytest.approx(0.45, rel=0.3)
    assert weather.outside_per_day == pytest.approx(0.0055, rel=0.2)


def test_an_orbit_that_never_meets_the_belt_has_its_events_evenly() -> None:
    orbit = Exposure(orbit_from("low", Elements(altitude_km=300.0, inclination_deg=0.0)))
    assert orbit.mean_flux_cm2_s == 0.0
    assert {orbit.rate_per_day(step * 600.0, 7.0) for step in range(144)} == {7.0}
    even = exposure(belt_share=0.0)
    assert {even.rate_per_day(step * 600.0, 7.0) for step in range(144)} == {7.0}
    assert even.weather(7.0).inside_per_day == even.weather(7.0).outside_per_day == 7.0


def test_upsets_come_at_their_rate_where_the_belt_is() -> None:
    orbit = exposure()
    days = 10
    instants = orbit.instants_s(1000.0, 0.0, days * DAY_S, seed=3, name="a")
    assert instants == sorted(instants)
    assert 0.0 <= instants[0] <= instants[-1] <= days * DAY_S
    assert len(instants) == pytest.approx(1000 * days, rel=0.06)
    inside = sum(orbit.flux_cm2_s(at_s) > SAA_FLUX_CM2_S for at_s in instants)
    assert inside / len(instants) == pytest.approx(orbit.weather(1.0).events_in_anomaly, abs=0.03)


def test_instants_are_replayed_by_seed_and_name() -> None:
    orbit = exposure()
    first = orbit.instants_s(100.0, 0.0, DAY_S, seed=3, name="a")
    assert first == orbit.instants_s(100.0, 0.0, DAY_S, seed=3, name="a")
    assert first != orbit.instants_s(100.0, 0.0, DAY_S, seed=3, name="b")
    assert first != orbit.instants_s(100.0, 0.0, DAY_S, seed=4, name="a")
    assert orbit.instants_s(0.0, 0.0, DAY_S, seed=3, name="a") == []


def test_the_number_of_upsets_is_poisson() -> None:
    orbit = exposure()
    steps = range(int(DAY_S / 60.0 / SAMPLE_S))
    expected = sum(orbit.rate_per_day((step + 0.5) * SAMPLE_S, 240.0) for step in steps) * SAMPLE_S / DAY_S
    counts = [len(orbit.instants_s(240.0, 0.0, DAY_S / 60.0, seed=1, name=f"{run}")) for run in range(400)]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
    assert mean == pytest.approx(expected, rel=0.15)
    assert variance == pytest.approx(expected, rel=0.35)


def test_the_environment_adds_up_to_the_nominal_rung() -> None:
    assert pytest.approx(LADDER["nominal"], rel=0.02) == NOMINAL_PER_DAY
    assert list(LADDER.values()) == [0.05, 1.0, 10.0, 100.0, 1000.0]
    assert all(cause.source for cause in ENVIRONMENT)
    assert rung("storm") == 1.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rung("gale"), "there are nominal, storm"),
        (lambda: exposure(belt_share=1.5), "0 to 1 is allowed"),
        (lambda: exposure().instants_s(-1.0, 0.0, 1.0, 1, "a"), "neither may be negative"),
    ],
)
def test_bad_input_is_one_line(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
