"""The default scenario's table, and eclipses and passes against Skyfield with its own ephemeris and frames."""

import numpy as np
import pytest
from skyfield.api import EarthSatellite, wgs84
from skyfield.framelib import true_equator_and_equinox_of_date

from hil.plant.geometry import geodetic
from hil.plant.orbit import CircularOrbit, Elements, orbit_of
from hil.plant.plant import Loads, Plant, PlantConfig
from hil.plant.radiation import belt_grid
from hil.plant.stations import Network, stations_of
from hil.plant.tle import TleOrbit
from hil.plant.windows import (
    PASS_LEAD_S,
    Geometry,
    Window,
    before_first_pass,
    choose_start,
    intervals,
    is_demonstrative,
)

SPAN_S = 5700.0

ISS = (
    "1 25544U 98067A   19343.69339541  .00001764  00000-0  38792-4 0  9991",
    "2 25544  51.6439 211.2001 0007417  17.6667  85.6398 15.50103472202482",
)


def test_the_default_orbit_shows_everything():
    """The table in ``orbit.ORBITS``, minutes from the start."""
    forecast = Plant().forecast(SPAN_S)
    rows = [(p.station, p.start_s / 60.0, p.end_s / 60.0) for p in forecast.passes]

    assert [name for name, _, _ in rows] == ["inuvik", "hartebeesthoek", "awarua"]
    assert [start for _, start, _ in rows] == pytest.approx([14.7, 54.8, 79.9], abs=0.06)
    assert [end for _, _, end in rows] == pytest.approx([24.4, 59.7, 87.2], abs=0.06)
    (eclipse,) = forecast.eclipses
    assert eclipse.start_s / 60.0 == pytest.approx(30.2, abs=0.06)
    assert eclipse.end_s / 60.0 == pytest.approx(65.6, abs=0.06)
    (anomaly,) = forecast.anomalies
    assert anomaly.start_s / 60.0 == pytest.approx(53.6, abs=0.06)
    assert is_demonstrative(forecast)


def test_the_default_orbit_satisfies_its_rules_literally():
    """The promises a demo leans on, spelled out without ``is_demonstrative``."""
    plant = Plant()
    forecast = plant.forecast(SPAN_S)
    (eclipse,) = forecast.eclipses
    first, *_, last = forecast.passes

    assert plant.truth().sun_fraction == 1.0
    assert eclipse.duration_s / 60.0 == pytest.approx(35.4, abs=0.2)
    assert first.duration_s >= 300.0
    assert last.duration_s >= 300.0
    assert first.start_s < SPAN_S / 3.0
    assert last.start_s > eclipse.end_s
    assert last.end_s <= SPAN_S - 180.0
    assert last.start_s - first.end_s > 1800.0


def test_forecast_agrees_with_flying_it():
    plant = Plant()
    forecast = plant.forecast(SPAN_S)
    dark = contact = anomaly = 0.0
    for _ in range(int(SPAN_S)):
        truth = plant.step(1.0, Loads(gpu_power_w=300.0))
        dark += truth.sun_fraction < 0.5
        contact += truth.in_contact
        anomaly += truth.proton_flux_cm2_s > 10.0
    assert dark == pytest.approx(sum(w.duration_s for w in forecast.eclipses), abs=2.0)
    assert contact == pytest.approx(sum(w.duration_s for w in forecast.contacts), abs=2.0 * len(forecast.contacts))
    assert anomaly == pytest.approx(sum(w.duration_s for w in forecast.anomalies), abs=2.0)


@pytest.mark.parametrize("name", ["leo_550", "sso_550", "starcloud1"])
def test_eclipse_edges_agree_with_an_independent_shadow(sky, name):
    """Sun of DE421, dense sampling with numpy, the centre of the Sun behind the Earth's disc."""
    orbit = orbit_of(name)
    geometry = Geometry(orbit, Network(()), belt_grid())
    ours = [edge for w in geometry.forecast(0.0, 12000.0).eclipses for edge in (w.start_s, w.end_s)]

    seconds = np.arange(0.0, 12000.0, 0.5)
    middle = sky.time.tt_jd(sky.time.from_datetime(orbit.epoch).tt + 6000.0 / 86400.0)
    sun = sky.planets["earth"].at(middle).observe(sky.planets["sun"]).apparent()
    unit = sun.frame_xyz(true_equator_and_equinox_of_date).au
    unit = unit / np.linalg.norm(unit)
    place = np.array([orbit.position_km(t) for t in seconds])
    along = place @ unit
    across = np.linalg.norm(place - along[:, None] * unit, axis=1)
    dark = (along < 0.0) & (across < 6378.137)
    theirs = [seconds[k + 1] for k in np.flatnonzero(dark[1:] != dark[:-1])]
    inside = [edge for edge in ours if 0.0 < edge < 11999.0]
    assert len(inside) >= 3
    assert inside == pytest.approx(theirs, abs=2.0)


def test_eclipse_edges_agree_with_skyfield_is_sunlit(sky):
    orbit = TleOrbit("iss", *ISS)
    ours = [
        edge
        for w in Geometry(orbit, Network(()), belt_grid()).forecast(0.0, 6000.0).eclipses
        for edge in (w.start_s, w.end_s)
    ]
    satellite = EarthSatellite(*ISS, "iss", sky.time)
    for edge in ours:
        if 5.0 < edge < 5995.0:
            around = sky.time.tt_jd(satellite.epoch.tt + (edge + np.array([-4.0, 4.0])) / 86400.0)
            before, after = satellite.at(around).is_sunlit(sky.planets)
            assert before != after, f"no edge within 4 s of {edge:.1f} s"
    assert len(ours) >= 2


def test_passes_agree_with_skyfield(sky):
    orbit = TleOrbit("iss", *ISS)
    stations = stations_of(("weilheim", "santiago", "awarua"))
    forecast = Geometry(orbit, Network(stations), belt_grid()).forecast(0.0, 43200.0)
    satellite = EarthSatellite(*ISS, "iss", sky.time)
    end = sky.time.tt_jd(satellite.epoch.tt + 0.5)
    compared = 0
    for station in stations:
        place = wgs84.latlon(station.latitude_deg, station.longitude_deg, station.height_km * 1000.0)
        times, kinds = satellite.find_events(place, satellite.epoch, end, altitude_degrees=station.mask_deg)
        events = [((t.tt - satellite.epoch.tt) * 86400.0, kind) for t, kind in zip(times, kinds, strict=True)]
        events = events[[k for _, k in events].index(0) :]  # A pass that was on at the start has no rise.
        mine = [p for p in forecast.passes if p.station == station.name and p.start_s > 1.0 and p.end_s < 43199.0]
        rises, sets = [t for t, k in events if k == 0], [t for t, k in events if k == 2]
        assert [p.start_s for p in mine] == pytest.approx(rises[: len(mine)], abs=1.5)
        assert [p.end_s for p in mine] == pytest.approx(sets[: len(mine)], abs=1.5)
        tops = [t for t, k in events if k == 1][: len(mine)]
        for found, top in zip(mine, tops, strict=True):
            altitude, _, _ = (satellite - place).at(sky.time.tt_jd(satellite.epoch.tt + top / 86400.0)).altaz()
            assert found.elevation_max_deg == pytest.approx(altitude.degrees, abs=0.2)
            compared += 1
    assert compared >= 5


def test_subsatellite_point_agrees_with_skyfield(sky):
    geometry = Geometry(TleOrbit("iss", *ISS), Network(()), belt_grid())
    satellite = EarthSatellite(*ISS, "iss", sky.time)
    for world_s in (0.0, 1000.0, 2500.0, 4000.0):
        latitude, longitude, height_km = geodetic(geometry.fixed_km(world_s))
        theirs = wgs84.geographic_position_of(satellite.at(sky.time.tt_jd(satellite.epoch.tt + world_s / 86400.0)))
        assert latitude == pytest.approx(theirs.latitude.degrees, abs=0.01)
        assert longitude == pytest.approx(theirs.longitude.degrees, abs=0.01)
        assert height_km == pytest.approx(theirs.elevation.km, abs=0.1)


@pytest.mark.parametrize("inclination_deg", [45.0, 53.0, 97.6])
def test_a_start_is_found_for_other_orbits(inclination_deg):
    orbit = CircularOrbit("other", Elements(inclination_deg=inclination_deg, raan_deg=200.0))
    geometry = Geometry(orbit, Network(stations_of(PlantConfig().stations)), belt_grid())
    offset_s = choose_start(geometry, SPAN_S)
    assert offset_s is not None
    assert is_demonstrative(geometry.shifted(offset_s).forecast(0.0, SPAN_S))


def test_no_start_where_there_is_no_eclipse():
    geometry = Geometry(orbit_of("dawn_dusk_650"), Network(stations_of(PlantConfig().stations)), belt_grid())
    assert choose_start(geometry, SPAN_S) is None
    assert Plant(PlantConfig(orbit="dawn_dusk_650", start="demonstrative")).truth().world_s == 0.0


def test_intervals_find_edges_and_keep_what_is_open():
    (found,) = intervals(lambda t: t - 100.0, 0.0, 200.0)
    assert (found.start_s, found.end_s) == pytest.approx((100.0, 200.0), abs=0.05)
    assert intervals(lambda t: 1.0, 5.0, 50.0) == (Window(start_s=5.0, end_s=50.0),)
    assert intervals(lambda t: -1.0, 5.0, 50.0) == ()


@pytest.mark.parametrize("horizon_s", [0.0, -5.0, float("nan"), 1e9])
def test_a_horizon_out_of_range(horizon_s):
    with pytest.raises(ValueError, match="horizon"):
        Plant().forecast(horizon_s)


def test_elevation_at_the_edge_of_a_pass_is_the_mask():
    plant = Plant()
    network = plant.geometry.network
    for found in plant.forecast(SPAN_S).passes:
        index = [s.name for s in network.stations].index(found.station)
        for edge in (found.start_s, found.end_s):
            assert network.elevation_deg(index, plant.geometry.fixed_km(edge)) == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize("orbit", ["leo_550", "dawn_dusk_650", "starcloud1"])
def test_a_start_before_a_pass(orbit):
    first = Plant(PlantConfig(orbit=orbit, start="pass")).forecast(3600.0).passes[0]
    assert first.start_s == pytest.approx(PASS_LEAD_S, abs=0.1)


def test_no_pass_to_start_before():
    nowhere = Geometry(orbit_of("leo_550"), Network(()), belt_grid())
    assert before_first_pass(nowhere) is None
