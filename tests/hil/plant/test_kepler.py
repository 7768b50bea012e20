"""Eccentric orbits and the state behind mean elements: SGP4 and an integrator of J2 as witnesses."""

from math import acos, asin, degrees, dist, pi, radians, sqrt

import numpy as np
import pytest
from sgp4.api import WGS72, Satrec

from hil.plant.geometry import EARTH_J2, EARTH_MU_KM3_S2, EARTH_RADIUS_KM
from hil.plant.kepler import KeplerOrbit, eccentric_anomaly, mean_anomaly, osculating
from hil.plant.orbit import CircularOrbit, Elements, orbit_from, orbit_of, state_of
from hil.plant.plant import Plant, PlantConfig
from hil.plant.tle import TleOrbit

ISS = (
    "1 25544U 98067A   19343.69339541  .00001764  00000-0  38792-4 0  9991",
    "2 25544  51.6439 211.2001 0007417  17.6667  85.6398 15.50103472202482",
)
ELLIPSE = Elements(altitude_km=700.0, eccentricity=0.05, argument_of_perigee_deg=40.0, inclination_deg=53.0)


@pytest.mark.parametrize("eccentricity", [0.0, 0.01, 0.3, 0.9])
def test_keplers_equation_and_back(eccentricity):
    for k in range(-20, 21):
        mean = 0.31 * k
        found = eccentric_anomaly(mean, eccentricity)
        assert found - eccentricity * np.sin(found) == pytest.approx(mean, abs=1e-12)
    for k in range(-9, 10):
        true = 0.3 * k
        found = eccentric_anomaly(mean_anomaly(true, eccentricity), eccentricity)
        ratio = sqrt((1 + eccentricity) / (1 - eccentricity))
        assert ratio * np.tan(found / 2) == pytest.approx(np.tan(true / 2), abs=1e-9)


def test_perigee_and_apogee_are_where_the_elements_say():
    orbit = orbit_from("ellipse", ELLIPSE)
    axis_km = EARTH_RADIUS_KM + 700.0
    heights = [dist(orbit.position_km(float(t)), (0, 0, 0)) for t in range(0, 6200, 5)]
    assert min(heights) == pytest.approx(axis_km * 0.95, abs=0.5)
    assert max(heights) == pytest.approx(axis_km * 1.05, abs=0.5)
    # It starts 0° after the node, which is 40° before perigee.
    x, y, z = orbit.position_km(0.0)
    assert z == pytest.approx(0.0, abs=1e-6)
    radius_km = axis_km * (1 - 0.05**2) / (1 + 0.05 * np.cos(radians(40.0)))
    assert dist((x, y, z), (0, 0, 0)) == pytest.approx(radius_km, abs=1e-6)


def test_a_vanishing_eccentricity_is_the_circle():
    circle = CircularOrbit("circle", Elements())
    ellipse = orbit_from("nearly", Elements(eccentricity=1e-9))
    assert isinstance(ellipse, KeplerOrbit)
    assert ellipse.period_s == pytest.approx(circle.period_s)
    assert ellipse.node_rate_deg_day == pytest.approx(circle.node_rate_deg_day)
    for elapsed_s in (0.0, 1234.5, 86400.0):
        assert dist(ellipse.position_km(elapsed_s), circle.position_km(elapsed_s)) < 0.01


def test_perigee_turns_and_stands_at_the_critical_inclination():
    def drift_deg_day(inclination_deg):
        elements = orbit_from("x", Elements(eccentricity=0.02, inclination_deg=inclination_deg)).elements
        return degrees(elements.rates_rad_s()[1]) * 86400.0

    assert drift_deg_day(63.4349) == pytest.approx(0.0, abs=1e-4)
    # Molniya's textbook neighbours: forward below, backward above.
    assert drift_deg_day(28.5) > 5.0
    assert drift_deg_day(90.0) < -3.0


def test_secular_motion_of_an_ellipse_agrees_with_sgp4():
    axis = EARTH_RADIUS_KM + 700.0
    kozai = 60.0 * 398600.8**0.5 / axis**1.5
    for _ in range(6):
        satellite = Satrec()
        satellite.sgp4init(
            WGS72, "i", 1, 28000.0, 0.0, 0.0, 0.0, 0.05, radians(40.0), radians(53.0), 0.3, kozai, radians(20.0)
        )
        kozai *= (satellite.am * 6378.135 / axis) ** 1.5
    mean = orbit_from("e", ELLIPSE).elements
    orbit = KeplerOrbit("e", orbit_of("leo_550").epoch, _changed(mean, anomaly=0.3, node=radians(20.0)))
    for minutes, apart_km in ((0.0, 30.0), (1440.0, 120.0)):
        error, position, _ = satellite.sgp4_tsince(minutes)
        assert error == 0
        assert dist(orbit.position_km(60.0 * minutes), position) < apart_km


def _changed(elements, **values):
    import msgspec

    return msgspec.structs.replace(elements, **values)


def j2_flight(position, velocity, seconds, step_s=10.0):
    """Runge-Kutta of the fourth order on point mass and J2: what an independent integrator flies."""

    def pull(state):
        r = state[:3]
        d = np.linalg.norm(r)
        z2 = (r[2] / d) ** 2
        k = 1.5 * EARTH_J2 * (EARTH_RADIUS_KM / d) ** 2
        factor = np.array([1 + k * (1 - 5 * z2), 1 + k * (1 - 5 * z2), 1 + k * (3 - 5 * z2)])
        return np.concatenate([state[3:], -EARTH_MU_KM3_S2 / d**3 * r * factor])

    state = np.array([*position, *velocity])
    for _ in range(round(seconds / step_s)):
        a = pull(state)
        b = pull(state + 0.5 * step_s * a)
        c = pull(state + 0.5 * step_s * b)
        d = pull(state + step_s * c)
        state = state + step_s / 6.0 * (a + 2 * b + 2 * c + d)
    return state


@pytest.mark.parametrize(
    "elements",
    [
        Elements(argument_of_latitude_deg=25.0),
        Elements(inclination_deg=97.6, argument_of_latitude_deg=25.0),
        ELLIPSE,
    ],
    ids=["mid", "polar", "ellipse"],
)
def test_osculating_state_flies_the_mean_orbit(elements):
    """An integrator started from it stays with the mean orbit for a day; from the mean position it would not."""
    orbit = orbit_from("mean", elements)
    position, velocity = state_of(orbit, 0.0)
    end = j2_flight(position, velocity, 86400.0)
    # 2 s of an eclipse edge are 15 km of the orbit.
    assert dist(end[:3], orbit.position_km(86400.0)) < 8.0
    x, y, z = orbit.position_km(0.0)
    later = orbit.position_km(0.5)
    before = orbit.position_km(-0.5)
    naive = j2_flight((x, y, z), [b - a for a, b in zip(before, later, strict=True)], 86400.0)
    assert dist(naive[:3], orbit.position_km(86400.0)) > 100.0


def test_a_tle_brings_its_velocity():
    orbit = TleOrbit("iss", *ISS)
    position, velocity = state_of(orbit, 60.0)
    before, after = orbit.position_km(59.5), orbit.position_km(60.5)
    assert position == orbit.position_km(60.0)
    assert velocity == pytest.approx([b - a for a, b in zip(before, after, strict=True)], abs=1e-4)


def test_osculating_plane_is_the_mean_plane_but_for_its_short_period_terms():
    mean = orbit_from("e", ELLIPSE).elements
    (x, y, z), (u, v, w) = osculating(mean)
    normal = np.cross((x, y, z), (u, v, w))
    assert degrees(acos(normal[2] / np.linalg.norm(normal))) == pytest.approx(53.0, abs=0.05)
    assert degrees(asin(z / dist((x, y, z), (0, 0, 0)))) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("elements", "complaint"),
    [
        (Elements(eccentricity=0.2), "puts perigee under the ground"),
        (Elements(eccentricity=0.05), "puts perigee at 204 km"),
        (Elements(altitude_km=1150.0, eccentricity=0.02), "apogee at 1301 km"),
        (Elements(eccentricity=-0.1), "elements.eccentricity = -0.1"),
        (Elements(eccentricity=1.0), "elements.eccentricity = 1.0"),
        (Elements(eccentricity=float("nan")), "elements.eccentricity is nan"),
        (Elements(argument_of_perigee_deg=400.0), "elements.argument_of_perigee_deg = 400.0"),
    ],
)
def test_impossible_ellipses_are_refused_in_one_line(elements, complaint):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        Plant(PlantConfig(elements=elements))
    assert complaint in str(caught.value)


def test_a_plant_flies_an_ellipse_and_forecasts_it():
    plant = Plant(PlantConfig(elements=ELLIPSE))
    period_s = plant.geometry.orbit.period_s
    assert period_s == pytest.approx(2 * pi * sqrt((EARTH_RADIUS_KM + 700.0) ** 3 / EARTH_MU_KM3_S2), rel=2e-3)
    (eclipse, *_) = plant.forecast(2.0 * period_s).eclipses
    assert 1000.0 < eclipse.duration_s < 2400.0
