"""Against Basilisk over a day. Needs the extra `basilisk`, which weighs 600 MB; without it the comparison skips."""

from importlib.util import find_spec

import pytest

from hil.plant.engine import Loads
from hil.plant.orbit import Elements
from hil.plant.plant import Plant, PlantConfig

installed = find_spec("Basilisk") is not None
needs_basilisk = pytest.mark.skipif(not installed, reason="the extra `basilisk` (600 MB) is not installed")
EIGHT_HOURS_S = 28_800
ELLIPSE = Elements(altitude_km=700.0, eccentricity=0.05, argument_of_perigee_deg=40.0, inclination_deg=53.0)


@needs_basilisk
@pytest.mark.parametrize(
    "config",
    [PlantConfig(), PlantConfig(orbit="sso_550"), PlantConfig(elements=ELLIPSE)],
    ids=["leo", "sso", "ellipse"],
)
def test_orbit_and_eclipse_agree_over_a_day(config):
    from hil.plant.basilisk_comparison import same_models

    found = same_models(config)
    assert found.edges >= 28
    assert found.edge_max_s <= 2.0
    assert found.soc_max <= 0.005
    assert found.temp_max_k <= 1.0
    # It is a comparison of something that moves.
    assert found.soc_spread > 0.1
    assert found.temp_spread_k > 5.0


@needs_basilisk
def test_battery_and_heat_agree_with_its_own_models_over_a_day():
    from hil.plant.basilisk_comparison import own_models

    found = own_models()
    assert found.edge_max_s <= 2.0
    assert found.soc_max <= 0.005
    assert found.temp_max_k <= 1.0
    assert found.soc_spread > 0.1
    assert found.temp_spread_k > 5.0


@needs_basilisk
def test_its_constant_uncorrected_is_colder_by_more_than_a_kelvin():
    """The comparison can fail: Basilisk's own Stefan-Boltzmann constant is 1.6 % too large."""
    from hil.plant.basilisk_comparison import own_models

    assert own_models(corrected=False, seconds=EIGHT_HOURS_S).temp_max_k > 1.0


@needs_basilisk
def test_basilisk_runs_forward_only_and_between_its_ticks():
    from hil.plant.basilisk import BasiliskPlant, BasiliskSky

    fine, coarse = BasiliskPlant(), BasiliskPlant()
    for _ in range(95):
        fine.step(0.1, Loads())
    coarse.step(9.5, Loads())
    assert fine.truth().position_km == pytest.approx(coarse.truth().position_km, abs=1e-5)
    sky = BasiliskSky(Plant().geometry.orbit, 100.0)
    sky.look(200.0)
    with pytest.raises(ValueError, match=r"\Aengine basilisk: 150 s is before its last time"):
        sky.look(150.0)


@needs_basilisk
def test_it_starts_where_the_plant_does():
    from hil.plant.basilisk import BasiliskPlant

    config = PlantConfig(start="demonstrative", start_s=1800.0)
    ours, theirs = Plant(config).truth(), BasiliskPlant(config).truth()
    assert theirs.position_km == pytest.approx(ours.position_km, abs=15.0)
    assert theirs.tai_s == ours.tai_s


@pytest.mark.skipif(installed, reason="Basilisk is installed")
def test_without_basilisk_the_refusal_is_one_line():
    from hil.plant.basilisk import BasiliskPlant

    with pytest.raises(ValueError, match=r"\Aengine basilisk: No module named 'Basilisk'; install [^\n]+\Z"):
        BasiliskPlant()
