"""Power and heat: published anchors, balances that must close, and faults that must show."""

from math import isclose

import pytest

from hil.plant.eps import EpsConfig, PowerSystem, array_power_w, open_circuit_v
from hil.plant.plant import Loads, Plant, PlantConfig
from hil.plant.thermal import STEFAN_BOLTZMANN, HeatBalance, ThermalConfig, view_factor

EPS = EpsConfig()


@pytest.mark.parametrize(
    ("change", "watts"),
    [
        ({}, 1204.5),
        ({"array_area_m2": 1.5}, 602.2),
        ({"array_efficiency": 0.20}, 816.6),
        ({"pointing_error_deg": 60.0}, 602.2),
    ],
    ids=["nominal", "half the area", "other cells", "cosine of 60°"],
)
def test_array_output(change, watts):
    assert array_power_w(EpsConfig(**change), 1.0, 1.0, 1.0) == pytest.approx(watts, abs=0.1)
    assert array_power_w(EpsConfig(**change), 0.25, 1.0, 0.5) == pytest.approx(watts / 8.0, abs=0.1)
    assert array_power_w(EpsConfig(**change), 1.0, 1.0167, 1.0) == pytest.approx(watts / 1.0167**2, abs=0.1)


@pytest.mark.parametrize(
    ("array_w", "load_w", "stored_w", "spilled_w"),
    [
        (1200.0, 960.0, 240.0 * 0.95, 0.0),
        (1200.0, 460.0, 350.0 * 0.95, 390.0),
        (0.0, 380.0, -380.0 / 0.95, 0.0),
        (500.0, 500.0, 0.0, 0.0),
    ],
    ids=["charging", "charge limit", "eclipse", "balanced"],
)
def test_battery_energy(array_w, load_w, stored_w, spilled_w):
    power = PowerSystem(EpsConfig(initial_soc_fraction=0.8))
    before_j = power.energy_j
    power.step(2.0, array_w, load_w)
    assert power.energy_j - before_j == pytest.approx(2.0 * stored_w)
    assert power.spilled_w == pytest.approx(spilled_w)
    assert (power.battery_current_a > 0.0) == (stored_w > 0.0)
    assert power.unserved_w == 0.0


def test_a_full_battery_takes_no_more_and_spills():
    power = PowerSystem(EpsConfig(initial_soc_fraction=1.0))
    power.step(10.0, 1200.0, 200.0)
    assert power.energy_j == power.capacity_j == 700.0 * 3600.0
    assert power.spilled_w == pytest.approx(1000.0)
    assert power.battery_current_a == pytest.approx(0.0, abs=1e-9)


def test_an_empty_battery_cannot_serve_and_trips_the_rail():
    power = PowerSystem(EpsConfig(initial_soc_fraction=0.0001))
    for _ in range(60):
        power.step(10.0, 0.0, 400.0)
    assert power.energy_j == 0.0
    assert power.unserved_w == pytest.approx(400.0)
    assert not power.rail(True)
    assert not power.rail(False)
    assert power.rail(True), "off and on again resets the trip"


def test_bus_sags_under_load_and_rises_in_charge():
    voltages = []
    for array_w in (0.0, 800.0, 1150.0):
        power = PowerSystem(EpsConfig(initial_soc_fraction=0.8))
        power.step(0.1, array_w, 800.0)
        voltages.append(power.bus_voltage_v)
        battery_w = power.bus_voltage_v * power.battery_current_a
        assert battery_w == pytest.approx(min(350.0, array_w - 800.0), rel=1e-9)
        drop_v = power.bus_voltage_v - open_circuit_v(power.soc_fraction)
        assert drop_v == pytest.approx(EPS.resistance_ohm * power.battery_current_a, abs=1e-9)
    assert voltages == sorted(voltages)
    assert voltages[1] - voltages[0] == pytest.approx(1.05, abs=0.1)


def test_a_load_past_the_packs_power_is_a_collapsed_bus_not_an_error():
    power = PowerSystem(EpsConfig(initial_soc_fraction=0.5, resistance_ohm=1.0))
    power.step(1.0, 0.0, 5000.0)
    assert power.rail_tripped
    assert power.bus_voltage_v == pytest.approx(0.5 * open_circuit_v(power.soc_fraction))


def test_open_circuit_voltage_rises_with_charge():
    volts = [open_circuit_v(k / 200.0) for k in range(201)]
    assert volts == sorted(volts)
    assert (volts[0], volts[-1]) == (pytest.approx(24.0), pytest.approx(33.44))


def test_the_battery_warms_by_its_losses():
    power = PowerSystem(EPS)
    for _ in range(20000):
        power.step(10.0, 460.0, 460.0)
    assert power.battery_temp_degc == pytest.approx(EPS.battery_panel_degc)
    power = PowerSystem(EpsConfig(initial_soc_fraction=1.0, capacity_wh=1e6))
    for _ in range(4000):
        power.step(10.0, 0.0, 760.0)
    # 760 W at 0.95 lose 40 W; over 2 W/K that is 20 K.
    assert power.battery_temp_degc == pytest.approx(EPS.battery_panel_degc + 20.0, abs=0.1)


# Share of the half-space, altitude 550 km: the reference's 0.848 flat and 0.258 edge-on.
@pytest.mark.parametrize(
    ("attitude", "share", "absorbed_w_m2"), [("nadir", 0.848, 171.0), ("edge_on", 0.258, 52.0)]
)
def test_view_factor_and_earth_infrared(attitude, share, absorbed_w_m2):
    radius_km = 6378.137 + 550.0
    assert view_factor(radius_km, attitude) == pytest.approx(share, abs=0.001)
    heat = HeatBalance(ThermalConfig(attitude=attitude, area_m2=1.0))
    assert heat.environment_w(radius_km, -0.5, 1.0, 0.0, 1.0) == pytest.approx(absorbed_w_m2, abs=0.5)
    # Albedo under the noon Sun: 0.15 · 0.3 · 1361 · F.
    noon_w = heat.environment_w(radius_km, 1.0, 1.0, 1.0, 1.0)
    assert noon_w - heat.environment_w(radius_km, -0.5, 1.0, 0.0, 1.0) == pytest.approx(61.245 * share, rel=2e-3)


@pytest.mark.parametrize("zenith_cos", [1.0, 0.7, 0.3, 0.01])
def test_albedo_falls_with_the_cosine_of_the_suns_zenith_angle(zenith_cos):
    heat = HeatBalance(ThermalConfig(area_m2=1.0))
    night_w = heat.environment_w(6928.137, -zenith_cos, 1.0, 0.0, 1.0)
    day_w = heat.environment_w(6928.137, zenith_cos, 1.0, 1.0, 1.0)
    assert day_w - night_w == pytest.approx(0.15 * 0.3 * 1361.0 * 0.2578 * zenith_cos, rel=2e-3)


@pytest.mark.parametrize(
    ("degc", "emissivity", "sides", "w_m2"),
    [(20.0, 0.92, 2, 770.0), (20.0, 0.85, 1, 356.0), (40.0, 0.85, 1, 464.0)],
    ids=["Starcloud white paper", "reference 20 °C", "reference 40 °C"],
)
def test_published_emission(degc, emissivity, sides, w_m2):
    heat = HeatBalance(ThermalConfig(area_m2=float(sides), emissivity=emissivity, initial_degc=degc))
    heat.step(1e-6, 0.0, 0.0, 0.0, 1.0)
    assert heat.emitted_w == pytest.approx(w_m2, rel=0.01)


@pytest.mark.parametrize("gpu_w", [80.0, 300.0, 563.5])
def test_heat_balance_settles_where_emission_equals_input(gpu_w):
    config = ThermalConfig()
    heat = HeatBalance(config)
    for _ in range(20000):
        heat.step(5.0, gpu_w, 60.0, 90.0, 1.0)
    radiator_k = ((gpu_w + 60.0 + 90.0) / (config.emissivity * STEFAN_BOLTZMANN * config.area_m2)) ** 0.25
    assert heat.radiator_degc + 273.15 == pytest.approx(radiator_k, abs=1e-3)
    assert heat.gpu_degc - heat.radiator_degc == pytest.approx(gpu_w / config.conductance_w_k, abs=1e-3)


def test_heat_is_neither_made_nor_lost():
    config = ThermalConfig()
    heat = HeatBalance(config)

    def stored_j():
        return config.gpu_heat_capacity_j_k * heat.gpu_degc + config.radiator_heat_capacity_j_k * heat.radiator_degc

    before_j, net_j = stored_j(), 0.0
    for index in range(3000):
        gpu_w = 700.0 if index % 300 < 150 else 80.0
        heat.step(2.0, gpu_w, 60.0, 80.0, 1.0)
        net_j += 2.0 * (gpu_w + 60.0 + 80.0 - heat.emitted_w)
    assert stored_j() - before_j == pytest.approx(net_j, rel=1e-9)


def test_energy_closes_over_an_orbit():
    """Array = load served + spilled + stored/η_c or − drawn·η_d, step by step over an orbit of the whole plant."""
    plant = Plant(PlantConfig(eps=EpsConfig(initial_soc_fraction=0.9)))
    before_j = plant.truth().battery_energy_j
    expected_j = before_j
    for index in range(5700):
        truth = plant.step(1.0, Loads(gpu_power_w=650.0 if index % 700 < 500 else 90.0))
        net_w = truth.array_power_w - truth.load_power_w - truth.spilled_w
        expected_j += net_w * 0.95 if net_w > 0.0 else net_w / 0.95
        assert isclose(truth.bus_voltage_v * truth.battery_current_a, net_w, abs_tol=1e-6)
    assert plant.truth().battery_energy_j == pytest.approx(expected_j, rel=1e-9)
    assert plant.truth().battery_energy_j != pytest.approx(before_j, rel=1e-3)


def test_the_array_follows_sunlight_and_the_suns_distance():
    """Over an orbit with both penumbrae: full output on 31 March at 0.9991 au, none in the umbra, parts between."""
    plant = Plant()
    seen = {"sun": 0, "penumbra": 0, "umbra": 0}
    for _ in range(5700):
        truth = plant.step(1.0, Loads(gpu_power_w=300.0))
        assert truth.array_power_w == pytest.approx(1204.5 / 0.9991**2 * truth.sun_fraction, rel=1e-3)
        seen["sun" if truth.sun_fraction == 1.0 else "penumbra" if truth.sun_fraction > 0.0 else "umbra"] += 1
    assert seen["umbra"] == pytest.approx(2115, abs=15)
    assert 10 <= seen["penumbra"] <= 30


def _run(plant, seconds, gpu_w=400.0):
    for _ in range(seconds):
        truth = plant.step(1.0, Loads(gpu_power_w=gpu_w))
    return truth


def test_a_degraded_radiator_runs_hotter_until_it_is_mended():
    sound, hurt = Plant(), Plant()
    hurt.inject("radiator_degrade", factor=0.6)
    warm, hot = _run(sound, 4000), _run(hurt, 4000)
    assert hot.radiator_temp_degc > warm.radiator_temp_degc + 15.0
    assert hot.gpu_temp_degc > warm.gpu_temp_degc + 15.0
    hurt.clear("radiator_degrade")
    _run(sound, 20000)
    _run(hurt, 20000)
    assert hurt.truth().radiator_temp_degc == pytest.approx(sound.truth().radiator_temp_degc, abs=0.1)


def test_a_degraded_array_gives_less_and_a_dead_one_nothing():
    plant = Plant()
    plant.inject("array_degrade", factor=0.5)
    assert _run(plant, 1).array_power_w == pytest.approx(602.0, rel=0.01)
    plant.inject("array_degrade", factor=0.0)
    assert _run(plant, 1).array_power_w == 0.0
    plant.clear("array_degrade")
    assert _run(plant, 1).array_power_w == pytest.approx(1204.0, rel=0.01)


def test_the_rail_cuts_the_gpu_and_nothing_else():
    plant = Plant()
    on = plant.step(1.0, Loads(gpu_power_w=400.0))
    off = plant.step(1.0, Loads(gpu_power_w=400.0, gpu_rail_on=False))
    sending = plant.step(1.0, Loads(gpu_power_w=400.0, gpu_rail_on=False, transmitter_on=True))
    assert (on.load_power_w, off.load_power_w, sending.load_power_w) == (460.0, 60.0, 70.0)
    assert (on.gpu_rail_power_w, off.gpu_rail_power_w) == (400.0, 0.0)
    assert (on.gpu_rail_on, off.gpu_rail_on) == (True, False)
