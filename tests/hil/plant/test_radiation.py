"""The belt grid: where the anomaly is, how it grows with altitude, that its origin is known."""

import json
from math import cos, radians

import numpy as np
import pytest

from hil.plant.radiation import GRID_FILE, BeltGrid, belt_grid

ALTITUDES_KM = (325.0, 550.0, 650.0)


def grid_points(altitude_km):
    return [
        (latitude, longitude, belt_grid().flux_cm2_s(latitude, longitude, altitude_km))
        for latitude in range(-90, 91, 5)
        for longitude in range(-180, 180, 5)
    ]


@pytest.mark.parametrize("altitude_km", ALTITUDES_KM)
def test_the_peak_is_in_the_south_atlantic(altitude_km):
    latitude, longitude, flux = max(grid_points(altitude_km), key=lambda point: point[2])
    assert abs(latitude - -35) <= 10
    assert abs(longitude - -40) <= 15
    assert flux > 100.0


def test_the_peak_at_550_km_is_the_published_cell():
    latitude, longitude, flux = max(grid_points(550.0), key=lambda point: point[2])
    assert (latitude, longitude) == (-35, -40)
    assert flux == pytest.approx(1752.0, abs=1.0)


@pytest.mark.parametrize("altitude_km", ALTITUDES_KM)
def test_nearly_all_fluence_is_in_the_anomaly(altitude_km):
    """Weighted by area, at least 99 % within 55°S to 5°N, 95°W to 40°E."""
    total = inside = 0.0
    for latitude, longitude, flux in grid_points(altitude_km):
        weighted = flux * cos(radians(latitude))
        total += weighted
        if -55 <= latitude <= 5 and -95 <= longitude <= 40:
            inside += weighted
    assert inside / total >= 0.99


def test_flux_at_a_published_point():
    # AP8MAX at 45°W 30°S, 500 km: 849 /cm²/s.
    assert belt_grid().flux_cm2_s(-30.0, -45.0, 500.0) == pytest.approx(849.0, abs=1.0)


def test_interpolation_is_exact_on_points_and_linear_between():
    grid = belt_grid()
    a, b = grid.flux_cm2_s(-35.0, -40.0, 550.0), grid.flux_cm2_s(-35.0, -35.0, 550.0)
    assert grid.flux_cm2_s(-35.0, -38.75, 550.0) == pytest.approx(0.75 * a + 0.25 * b)
    low, high = grid.flux_cm2_s(-35.0, -40.0, 500.0), grid.flux_cm2_s(-35.0, -40.0, 550.0)
    assert grid.flux_cm2_s(-35.0, -40.0, 530.0) == pytest.approx(0.4 * low + 0.6 * high)


@pytest.mark.parametrize(
    ("latitude", "longitude", "altitude_km"),
    [
        (90.0, 180.0, 550.0),
        (-90.0, -180.0, 550.0),
        (0.0, 179.999, 100.0),
        (-35.0, -40.0, 5000.0),
        (89.9, 0.0, 1200.0),
    ],
)
def test_corners_have_a_value(latitude, longitude, altitude_km):
    assert 0.0 <= belt_grid().flux_cm2_s(latitude, longitude, altitude_km) < 1e5


def test_the_seam_of_longitude_is_closed():
    grid = belt_grid()
    for latitude in range(-60, 61, 10):
        assert grid.flux_cm2_s(latitude, 180.0, 1200.0) == pytest.approx(grid.flux_cm2_s(latitude, -180.0, 1200.0))


def test_the_file_is_small_and_tells_its_origin():
    assert GRID_FILE.stat().st_size <= 60_000
    provenance = belt_grid().provenance
    assert {"model", "energy_mev", "epoch", "package", "command", "made_utc"} <= set(provenance)
    assert provenance["energy_mev"] == 10.0


def test_a_missing_or_broken_grid_says_how_to_make_it(tmp_path):
    broken = tmp_path / "grid.npz"
    for content in (None, b"no archive at all"):
        if content is not None:
            broken.write_bytes(content)
        with pytest.raises(ValueError, match="make_belt_grid"):
            BeltGrid(broken)


def test_no_value_is_stored_as_no_flux(tmp_path):
    file = tmp_path / "grid.npz"
    flux = np.full((2, 37, 72), 5.0, dtype=np.float32)
    flux[:, 10, 10] = np.nan
    np.savez(
        file,
        altitude_km=np.array([300.0, 600.0]),
        latitude_deg=np.arange(-90.0, 91.0, 5.0),
        longitude_deg=np.arange(-180.0, 180.0, 5.0),
        flux_cm2_s=flux,
        provenance=np.array(json.dumps({"model": "made up"})),
    )
    grid = BeltGrid(file)
    assert grid.flux_cm2_s(-40.0, -130.0, 400.0) == 0.0
    assert grid.flux_cm2_s(-40.0, -120.0, 400.0) == pytest.approx(5.0)
