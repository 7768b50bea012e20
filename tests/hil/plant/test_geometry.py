"""Sun, sidereal time, geodetic coordinates and shadow against Skyfield (JPL DE421) and closed forms."""

from datetime import UTC, datetime
from math import acos, asin, cos, degrees, hypot, pi, sin, sqrt

import pytest
from skyfield.api import wgs84
from skyfield.framelib import true_equator_and_equinox_of_date

from hil.plant import geometry as g

INSTANTS = [
    datetime(year, month, day, hour, tzinfo=UTC)
    for year, month, day, hour in [
        (2025, 1, 4, 0),
        (2025, 6, 21, 3),
        (2026, 3, 20, 15),
        (2026, 7, 4, 12),
        (2026, 11, 22, 9),
        (2030, 9, 23, 6),
        (2035, 12, 21, 18),
    ]
]


@pytest.mark.parametrize("utc", INSTANTS, ids=str)
def test_sun_agrees_with_de421(sky, utc):
    planets, time = sky.planets, sky.time.from_datetime(utc)
    apparent = planets["earth"].at(time).observe(planets["sun"]).apparent()
    right_ascension, declination, distance = apparent.radec("date")
    (x, y, z), distance_au = g.sun(g.days_since_j2000(utc))

    assert hypot(x, y, z) == pytest.approx(1.0, abs=1e-12)
    assert degrees(asin(z)) == pytest.approx(declination.degrees, abs=0.02)
    theirs = apparent.frame_xyz(true_equator_and_equinox_of_date).au / distance.au
    apart_deg = degrees(acos(min(1.0, x * theirs[0] + y * theirs[1] + z * theirs[2])))
    assert apart_deg <= 0.02, f"right ascension {right_ascension}"
    assert distance_au == pytest.approx(distance.au, abs=3e-4)


@pytest.mark.parametrize("utc", INSTANTS, ids=str)
def test_sidereal_time_agrees(sky, utc):
    time = sky.time.from_datetime(utc)
    ours_deg = degrees(g.gmst_rad(g.days_since_j2000(utc))) % 360.0
    difference_deg = (ours_deg - time.gmst * 15.0 + 180.0) % 360.0 - 180.0
    # UT1 is taken as UTC: 0.9 s at most, 0.004°.
    assert abs(difference_deg) < 0.005


@pytest.mark.parametrize("latitude", [-90.0, -89.999, -51.6, -1e-9, 0.0, 33.3, 78.2, 89.9999, 90.0])
@pytest.mark.parametrize("height_km", [0.0, 325.0, 550.0, 1200.0])
def test_geodetic_inverts_and_agrees_with_wgs84(latitude, height_km):
    position, up = g.from_geodetic(latitude, 123.4, height_km)
    theirs = wgs84.latlon(latitude, 123.4, elevation_m=height_km * 1000.0).itrs_xyz.km

    assert position == pytest.approx(tuple(theirs), abs=1e-6)
    assert hypot(*up) == pytest.approx(1.0)
    back_latitude, back_longitude, back_height = g.geodetic(position)
    assert back_latitude == pytest.approx(latitude, abs=1e-7)
    assert back_height == pytest.approx(height_km, abs=1e-6)
    if abs(latitude) < 90.0:
        assert back_longitude == pytest.approx(123.4)


def test_shadow_is_full_sun_umbra_and_half_on_the_terminator():
    sun = ((1.0, 0.0, 0.0), 1.0)
    radius_km = g.EARTH_RADIUS_KM + 550.0
    edge = asin(
        g.EARTH_RADIUS_KM / radius_km
    )  # angle off the anti-sun line at which the limb cuts the Sun's centre

    def at(angle):
        return g.sunlit_fraction((-radius_km * sqrt(1.0 - sin(angle) ** 2), radius_km * sin(angle), 0.0), *sun)

    assert g.sunlit_fraction((radius_km, 0.0, 0.0), *sun) == 1.0
    assert at(0.0) == 0.0
    # The Sun's radius is 0.267° here; its disc is fully visible or hidden just beyond it.
    assert at(edge - 0.0048) == 0.0
    assert at(edge + 0.0048) == 1.0
    assert at(edge) == pytest.approx(0.5, abs=0.003)
    steps = [at(edge + 0.0047 * k / 20.0) for k in range(-20, 21)]
    assert steps == sorted(steps)
    assert len(set(steps)) > 35


def test_sunlit_fraction_is_the_visible_area():
    """The overlap formula against a count of points on the Sun's disc."""
    radius_km = g.EARTH_RADIUS_KM + 550.0
    earth, sun_radius = asin(g.EARTH_RADIUS_KM / radius_km), asin(g.SUN_RADIUS_KM / g.AU_KM)
    for offset in (-0.6, -0.2, 0.3, 0.8):
        apart = earth + offset * sun_radius
        position = (-radius_km * (1.0 - sin(apart) ** 2) ** 0.5, radius_km * sin(apart), 0.0)
        visible = total = 0.0
        for ring in ((k + 0.5) / 200.0 for k in range(200)):
            for turn in range(200):
                angle = 2.0 * pi * (turn + 0.5) / 200.0
                x, y = apart + ring * sun_radius * cos(angle), ring * sun_radius * sin(angle)
                total += ring
                visible += ring if hypot(x, y) > earth else 0.0
        assert g.sunlit_fraction(position, (1.0, 0.0, 0.0), 1.0) == pytest.approx(visible / total, abs=0.005)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("yesterday", "ISO 8601"),
        ("2026-13-01", "ISO 8601"),
        ("1949-12-31T00:00:00Z", "1950 and 2050"),
        ("2050-01-01", "1950 and 2050"),
    ],
)
def test_epochs_that_are_none(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        g.parse_utc(text)


def test_tai_counts_from_the_cuc_epoch():
    assert g.tai_s(datetime(1958, 1, 1, tzinfo=UTC)) == g.TAI_MINUS_UTC_S
    # CUC seconds of 2026-01-01: 24,837 days and 37 leap seconds.
    assert g.tai_s(datetime(2026, 1, 1, tzinfo=UTC)) == 24837 * 86400 + 37
