"""Orbits against SGP4, the analytic eclipse and published rates; bad orbits refused with one line."""

from math import cos, dist, radians

import pytest
from sgp4.api import WGS72, Satrec
from sgp4.exporter import export_tle

from hil.plant.geometry import EARTH_RADIUS_KM, days_since_j2000, sun
from hil.plant.orbit import (
    ORBITS,
    CircularOrbit,
    Elements,
    beta_deg,
    eclipse_length_s,
    orbit_of,
)
from hil.plant.tle import TleOrbit, read_tle

# The ISS in 2019, from the documentation of the sgp4 package.
ISS = (
    "1 25544U 98067A   19343.69339541  .00001764  00000-0  38792-4 0  9991",
    "2 25544  51.6439 211.2001 0007417  17.6667  85.6398 15.50103472202482",
)
ISS_AT_EPOCH_KM = (-5938.81485, -2331.73163, -2381.68180)


@pytest.mark.parametrize(("beta", "minutes"), [(0.0, 35.6), (40.0, 31.5), (60.0, 20.5), (67.1, 0.0)])
def test_eclipse_length_at_550_km(beta, minutes):
    assert eclipse_length_s(550.0, beta) / 60.0 == pytest.approx(minutes, abs=0.05)


def test_period_and_sun_synchronism():
    orbit = orbit_of("leo_550")
    assert orbit.period_s / 60.0 == pytest.approx(95.6, abs=0.15)
    for name in ("sso_550", "dawn_dusk_650"):
        # One turn of the node in a tropical year.
        assert orbit_of(name).node_rate_deg_day == pytest.approx(360.0 / 365.2422, rel=1e-6)
    assert abs(beta_deg(orbit_of("dawn_dusk_650"), 0.0)) > 65.0
    assert ORBITS["starcloud1"].altitude_km == 325.0


def test_dawn_dusk_has_no_eclipse_and_keeps_its_beta():
    orbit = orbit_of("dawn_dusk_650")
    betas = [beta_deg(orbit, 86400.0 * day) for day in range(0, 30, 5)]
    assert min(abs(b) for b in betas) > 65.0
    assert eclipse_length_s(650.0, betas[0]) == 0.0


@pytest.mark.parametrize("name", sorted(ORBITS))
def test_a_circle_stays_on_its_circle(name):
    orbit, radius_km = orbit_of(name), EARTH_RADIUS_KM + ORBITS[name].altitude_km
    for elapsed_s in (0.0, 1234.5, 86400.0):
        assert dist(orbit.position_km(elapsed_s), (0.0, 0.0, 0.0)) == pytest.approx(radius_km, rel=1e-12)


@pytest.mark.parametrize("inclination_deg", [10.0, 53.0, 70.0, 97.6])
def test_secular_rates_agree_with_sgp4(inclination_deg):
    """A day of the circular model against SGP4 from the same mean elements, without drag."""
    kozai = 60.0 * 398600.8**0.5 / 6928.137**1.5
    for _ in range(5):  # SGP4 takes Kozai's mean motion; find the one whose semi-major axis is ours.
        satellite = Satrec()
        satellite.sgp4init(
            WGS72, "i", 1, 28000.0, 0.0, 0.0, 0.0, 1e-6, 0.0, radians(inclination_deg), 0.0, kozai, radians(20.0)
        )
        kozai *= (satellite.am * 6378.135 / 6928.137) ** 1.5
    orbit = CircularOrbit("mean", Elements(inclination_deg=inclination_deg))
    error, position, _ = satellite.sgp4_tsince(0.0)
    start = dist(orbit.position_km(0.0), position)
    error_day, position_day, _ = satellite.sgp4_tsince(1440.0)
    assert (error, error_day) == (0, 0)
    # Periodic terms left out: some 10 km. Second order of J2: up to 80 km after a day's 650,000 km. The rate of the
    # argument of latitude without its J2 term would be off by 400 km at 70°, the node without drift by 540 km.
    assert start < 25.0
    assert dist(orbit.position_km(86400.0), position_day) < 110.0


def test_a_tle_is_sgp4_to_the_last_digit():
    orbit = TleOrbit("iss", *ISS)
    satellite = Satrec.twoline2rv(*ISS)
    for minutes in (0.0, 45.5, 1440.0):
        assert orbit.position_km(60.0 * minutes) == pytest.approx(satellite.sgp4_tsince(minutes)[1], abs=1e-9)
    assert orbit.position_km(0.0) == pytest.approx(satellite.sgp4(satellite.jdsatepoch, satellite.jdsatepochF)[1])
    assert orbit.epoch.isoformat().startswith("2019-12-09T16:38:29")
    assert orbit.period_s / 60.0 == pytest.approx(92.8, abs=0.1)


def test_a_tle_file_with_and_without_names(tmp_path):
    file = tmp_path / "two.tle"
    file.write_text("ISS (ZARYA)\n" + "\n".join(ISS) + "\nOTHER\n1 bad\n")
    assert read_tle(file).name == "ISS (ZARYA)"
    file.write_text("\r\n".join(ISS) + "\r\n")
    assert orbit_of(str(file)).name == "25544"


def _tle(**changes):
    satellite = Satrec.twoline2rv(*ISS)
    fields = {"ecco": satellite.ecco, "no_kozai": satellite.no_kozai} | changes
    made = Satrec()
    made.sgp4init(
        WGS72, "i", 25544, 25544.0, satellite.bstar, 0.0, 0.0, fields["ecco"], 0.3, satellite.inclo, 1.0,
        fields["no_kozai"], 2.0,
    )  # fmt: skip
    return "\n".join(export_tle(made))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no two lines"),
        ("garbage\nmore garbage\n", "no two lines"),
        (ISS[0] + "\n", "no two lines"),
        (ISS[0][:-1] + "7\n" + ISS[1], "line 1 ends in checksum '7', its digits give 1"),
        (ISS[0] + "\n" + ISS[1][:-1] + "0", "line 2 ends in checksum '0', its digits give 2"),
        (ISS[0][:60] + "\n" + ISS[1], "line 1 has 60 characters"),
        (_tle(no_kozai=0.0044), "apogee 35"),
        (_tle(ecco=0.3), "decayed"),
        (_tle(ecco=0.03), "perigee"),
        (b"\xff\xfe\x00binary", "no two lines"),
    ],
    ids=[
        "empty",
        "garbage",
        "one line",
        "checksum 1",
        "checksum 2",
        "cut",
        "geostationary",
        "decayed",
        "low",
        "binary",
    ],
)
def test_broken_tle_files_say_what_is_wrong(tmp_path, content, complaint):
    file = tmp_path / "broken.tle"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="TLE") as caught:
        orbit_of(str(file))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_orbit_names_the_known_ones():
    with pytest.raises(ValueError, match="leo_550, sso_550, dawn_dusk_650, starcloud1"):
        orbit_of("leo_551")


def test_beta_is_the_height_of_the_sun_over_the_plane():
    orbit = orbit_of("leo_550")
    (sx, sy, sz), _ = sun(days_since_j2000(orbit.epoch))
    highest = max(
        (x * sx + y * sy + z * sz) / 6928.137
        for x, y, z in (orbit.position_km(orbit.period_s * k / 3600.0) for k in range(3600))
    )
    # Along the orbit the Sun's zenith distance gets down to beta.
    assert highest == pytest.approx(cos(radians(beta_deg(orbit, 0.0))), abs=1e-3)
