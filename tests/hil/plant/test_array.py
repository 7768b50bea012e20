"""The solar array: mounts against the Sun's geometry, jitter that repeats, ageing, lost strings."""

import statistics
from math import cos, radians

import pytest

from hil.plant.eps import EpsConfig
from hil.plant.orbit import beta_deg, orbit_of
from hil.plant.plant import Loads, Plant, PlantConfig

LOADS = Loads(gpu_power_w=300.0)


def outputs(config, seed=1, seconds=3000, dt_s=1.0, **plant):
    """(time, output over that of a perfect array) while the Sun is whole."""
    own, perfect = Plant(PlantConfig(eps=config, **plant), seed=seed), Plant(PlantConfig(**plant))
    rows = []
    for _ in range(round(seconds / dt_s)):
        truth, full = own.step(dt_s, LOADS), perfect.step(dt_s, LOADS)
        if full.sun_fraction == 1.0:
            rows.append((truth, truth.array_power_w / full.array_power_w))
    return rows


@pytest.mark.parametrize("orbit", ["leo_550", "sso_550", "dawn_dusk_650"])
def test_one_axis_leaves_the_cosine_of_beta(orbit):
    for truth, share in outputs(EpsConfig(array_mount="one_axis"), seconds=1500, orbit=orbit)[::200]:
        beta = beta_deg(orbit_of(orbit), truth.world_s)
        assert share == pytest.approx(cos(radians(beta)), abs=2e-4)


def test_a_zenith_array_follows_the_suns_height_and_is_dark_below():
    for truth, share in outputs(EpsConfig(array_mount="zenith"), seconds=5700):
        assert share == pytest.approx(max(0.0, truth.sun_zenith_cos), abs=1e-9)


def test_constant_pointing_error_is_its_cosine():
    for _, share in outputs(EpsConfig(pointing_error_deg=10.0), seconds=100):
        assert share == pytest.approx(cos(radians(10.0)))


def test_jitter_has_its_spread_and_repeats_by_seed_whatever_the_steps():
    config = EpsConfig(pointing_error_deg=30.0, pointing_jitter_deg=1.0)
    rows = outputs(config)
    shares = [share for _, share in rows]
    # Off by 30°, one degree of jitter about the axis of the error moves the output by tan 30° · 1°.
    assert statistics.fmean(shares) == pytest.approx(cos(radians(30.0)), rel=2e-3)
    assert statistics.pstdev(shares) / cos(radians(30.0)) == pytest.approx(0.577 * radians(1.0), rel=0.15)
    assert shares == [share for _, share in outputs(config)]
    assert shares != [share for _, share in outputs(config, seed=2)]
    by_time = {round(truth.world_s, 6): share for truth, share in outputs(config, dt_s=0.5, seconds=600)}
    assert all(by_time[round(t.world_s, 6)] == pytest.approx(s, abs=1e-9) for t, s in rows if t.world_s <= 600.0)


def test_an_array_ages_by_the_year():
    config = EpsConfig(array_degradation_per_year=0.03, array_age_years=5.0)
    (truth, share), *_ = outputs(config, seconds=10)
    assert share == pytest.approx(0.97**5, rel=1e-5)
    later = Plant(PlantConfig(eps=config, start_s=365.2422 * 86400.0)).truth()
    new = Plant(PlantConfig(start_s=365.2422 * 86400.0)).truth()
    assert later.array_power_w == pytest.approx(new.array_power_w * 0.97**6, rel=1e-4)
    assert truth.array_power_w > 0.0


@pytest.mark.parametrize(("strings", "left"), [(1.0, 0.9), (4.0, 0.6), (10.0, 0.0)])
def test_open_strings_take_their_share(strings, left):
    plant = Plant()
    full_w = plant.step(1.0, LOADS).array_power_w
    plant.inject("array_string_open", strings=strings)
    assert plant.step(1.0, LOADS).array_power_w == pytest.approx(left * full_w, rel=1e-6)
    plant.inject("array_degrade", factor=0.5)
    assert plant.step(1.0, LOADS).array_power_w == pytest.approx(0.5 * left * full_w, rel=1e-6)
    plant.clear("array_string_open")
    plant.clear("array_degrade")
    assert plant.step(1.0, LOADS).array_power_w == pytest.approx(full_w, rel=1e-6)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (EpsConfig(array_mount="sideways"), "eps.array_mount = 'sideways'"),
        (EpsConfig(pointing_jitter_deg=-1.0), "eps.pointing_jitter_deg = -1.0"),
        (EpsConfig(array_degradation_per_year=float("inf")), "eps.array_degradation_per_year is inf"),
        (EpsConfig(array_strings=0), "eps.array_strings = 0"),
        (EpsConfig(array_area_m2=-3.0), "eps.array_area_m2 = -3.0"),
    ],
)
def test_impossible_arrays_are_refused_in_one_line(config, complaint):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        Plant(PlantConfig(eps=config))
    assert complaint in str(caught.value)
