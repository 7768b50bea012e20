"""SAFE is power positive: the closed form of the core against the plant, over random satellites and orbits.

The core proves at load that a configuration charges over every orbit in SAFE (``core.power_positive``). Here the
plant flies the same satellites, in their worst case, and has to agree: on the sign, and on the watt-hours.
"""

import random
from itertools import pairwise

import pytest

from flightsw.core import eps, power_positive
from hil.plant.eps import EpsConfig
from hil.plant.orbit import Elements
from hil.plant.plant import Loads, Plant, PlantConfig

STEP_S = 30.0
SAFE_LOADS = Loads(gpu_rail_on=False, transmitter_on=True)
SATELLITES = 60


def orbit_of(seed: int) -> tuple[float, power_positive.Balance]:
    """Watt-hours that a random satellite stores in an orbit of SAFE, and what the core says of it.

    Its array is ample or far too small; it begins with a charge that neither fills nor empties the battery.
    """
    draw = random.Random(seed)
    worst = power_positive.Config(
        array_worst=draw.uniform(0.85, 1.0),
        array_end_of_life=draw.uniform(0.85, 1.0),
        eclipse_worst_s=0.0,
        load_factor=draw.uniform(1.0, 1.3),
    )
    bus_w, area_m2 = draw.uniform(30.0, 120.0), draw.choice((3.0, draw.uniform(0.2, 1.2)))
    battery = {
        "capacity_wh": 1400.0 * draw.uniform(0.85, 1.0),
        "charge_efficiency": draw.uniform(0.9, 1.0),
        "discharge_efficiency": draw.uniform(0.9, 1.0),
        "charge_power_max_w": draw.choice((350.0, 120.0)),
    }
    plant = Plant(
        PlantConfig(
            orbit="random",
            elements=Elements(
                altitude_km=draw.uniform(400.0, 700.0),
                inclination_deg=draw.uniform(0.0, 98.0),
                raan_deg=draw.uniform(0.0, 360.0),
            ),
            eps=EpsConfig(
                array_area_m2=area_m2,
                bus_power_w=bus_w * worst.load_factor,
                initial_soc_fraction=0.35,
                **battery,
            ),
        ),
        seed=seed,
    )
    plant.inject("array_degrade", factor=worst.array_worst * worst.array_end_of_life)
    period_s = plant.geometry.orbit.period_s
    before_j, lit_w, dark_s = plant.truth().battery_energy_j, 0.0, 0.0
    count = round(period_s / STEP_S)
    for _ in range(count):
        truth = plant.step(period_s / count, SAFE_LOADS)
        lit_w, dark_s = max(lit_w, truth.array_power_w), dark_s + period_s / count * (1.0 - truth.sun_fraction)
    assert 0.0 < truth.soc_fraction < 1.0
    power = eps.Config(
        bus_power_w=bus_w,
        transmitter_power_w=plant.config.eps.transmitter_power_w,
        array_power_w=lit_w / (worst.array_worst * worst.array_end_of_life),
        orbit_period_s=period_s,
        eclipse_s=dark_s,
        **battery,
    )
    return (truth.battery_energy_j - before_j) / 3600.0, power_positive.balance(worst, power)


def test_the_plant_gains_what_the_closed_form_says() -> None:
    margins = []
    for seed in range(SATELLITES):
        gained_wh, orbit = orbit_of(seed)
        # Edges of the eclipse fall within steps of half a minute.
        slack_wh = 0.02 * (orbit.out_wh + abs(orbit.in_wh)) + 0.5
        assert gained_wh == pytest.approx(orbit.margin_wh, abs=slack_wh), seed
        assert gained_wh > 0.0 or orbit.margin_wh <= slack_wh, seed
        margins.append(orbit.margin_wh)
    # Satellites on both sides of the line, and near it.
    assert min(margins) < -20.0
    assert max(margins) > 200.0
    assert any(abs(margin) < 15.0 for margin in margins)


def test_the_nominal_satellite_at_its_worst_charges_in_every_orbit() -> None:
    """Worst array at the end of life, the longest eclipse of the nominal orbit, 30 % more bus load, GPU off: the
    charge rises in each orbit until the battery is full."""
    worst = power_positive.Config()
    config = PlantConfig(eps=EpsConfig(bus_power_w=60.0 * worst.load_factor, initial_soc_fraction=0.30))
    plant = Plant(config, seed=1)
    plant.inject("array_degrade", factor=worst.array_worst * worst.array_end_of_life)
    period_s = plant.geometry.orbit.period_s
    socs = [plant.truth().soc_fraction]
    for _ in range(5):
        for _ in range(100):
            plant.step(period_s / 100.0, SAFE_LOADS)
        socs.append(plant.truth().soc_fraction)
    assert all(after > before or after > 0.9 for before, after in pairwise(socs)), socs
    assert socs[1] > socs[0] + 0.25
