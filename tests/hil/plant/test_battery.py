"""The battery's laws and wear: standard counting vectors, published constants, losses that close."""

from itertools import pairwise

import pytest

from hil.plant.battery import (
    OPEN_REVERSALS_MAX,
    Ageing,
    Rainflow,
    cycle_wear,
    lost_share,
    open_circuit_v,
    resistance_factor,
)
from hil.plant.eps import EpsConfig, PowerSystem

LEO_ORBITS_A_YEAR = 5495
RESISTIVE = EpsConfig(battery_losses="resistance", charge_efficiency=1.0, discharge_efficiency=1.0)


def test_rainflow_counts_the_example_of_astm_e1049():
    """Figure 6 of the standard: ranges 3, 4, 8, 9, 8, 6 as halves (the last three stay open) and one whole 4."""
    counter = Rainflow(-2.0)
    closed = [cycle for value in (1, -3, 5, -1, 3, -4, 4, -2) for cycle in counter.turn(float(value))]
    assert closed == [(3.0, -0.5, 0.5), (4.0, -1.0, 0.5), (4.0, 1.0, 1.0), (8.0, 1.0, 0.5)]
    assert [abs(b - a) for a, b in pairwise(counter.open_reversals)] == [9.0, 8.0, 6.0]


def test_open_reversals_are_bounded():
    counter = Rainflow(0.0)
    for k in range(1000):  # Ever smaller swings never close.
        counter.turn((1.0 - k / 1000.0) * (-1.0) ** k)
    assert len(counter.open_reversals) == OPEN_REVERSALS_MAX


@pytest.mark.parametrize(
    ("depth", "wear"), [(1.0, 1 / 1.7e4), (0.5, 1 / (1.40e5 * 0.5**-0.501 - 1.23e5)), (0.0, 0.0)]
)
def test_wear_of_a_cycle_at_reference_is_the_papers(depth, wear):
    assert cycle_wear(depth, 0.5, 298.15) == pytest.approx(wear)


def test_wear_grows_with_depth_charge_and_heat():
    depths = [cycle_wear(d / 10, 0.5, 298.15) for d in range(11)]
    assert depths == sorted(depths)
    # Two cycles of half the depth wear less than one.
    assert 2.0 * cycle_wear(0.3, 0.5, 298.15) < cycle_wear(0.6, 0.5, 298.15)
    assert cycle_wear(0.3, 0.9, 298.15) > cycle_wear(0.3, 0.5, 298.15)
    assert cycle_wear(0.3, 0.5, 318.15) > 2.0 * cycle_wear(0.3, 0.5, 298.15)


def test_lost_share_begins_steep_and_ends_at_all():
    assert lost_share(0.0) == pytest.approx(0.0, abs=1e-12)
    assert lost_share(0.01) / 0.01 > 4.0 * (lost_share(0.11) - lost_share(0.10)) / 0.01
    assert lost_share(20.0) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("depth", "low", "high"), [(0.1, 0.03, 0.08), (0.3, 0.06, 0.12), (0.8, 0.12, 0.40)])
def test_a_year_in_low_orbit(depth, low, high):
    """Orbits of one depth from full, at 15 °C: some percent at a shallow depth, many more at a deep one."""
    ageing = Ageing(1.0, 0.0)
    for _ in range(LEO_ORBITS_A_YEAR):
        for part in range(11):
            ageing.observe(300.0, 1.0 - depth * part / 10, 288.15)
        for part in range(1, 10):
            ageing.observe(300.0, 1.0 - depth * (1.0 - part / 10), 288.15)
    # Equal cycles close as halves of the first and last swing; all are counted but the open ones.
    assert ageing.cycles == pytest.approx(LEO_ORBITS_A_YEAR, abs=1.5)
    assert low < ageing.lost < high


def test_a_battery_that_rests_ages_by_the_calendar_alone():
    ageing = Ageing(0.5, 0.0)
    for _ in range(365 * 24):
        ageing.observe(3600.0, 0.5, 298.15)
    assert ageing.cycles == 0.0
    assert ageing.wear == pytest.approx(4.14e-10 * 365 * 86400, rel=1e-3)


def test_a_worn_battery_starts_where_it_says():
    ageing = Ageing(1.0, 0.2)
    assert lost_share(ageing.wear) == pytest.approx(0.2, abs=1e-9)
    new, old = PowerSystem(EpsConfig()), PowerSystem(EpsConfig(initial_fade_fraction=0.2))
    assert old.capacity_j == pytest.approx(0.8 * new.capacity_j)
    assert old.soc_fraction == pytest.approx(new.soc_fraction)
    assert old.resistance_ohm == pytest.approx(2.0 * new.resistance_ohm)


def test_the_plant_wears_its_battery_only_when_told_to():
    systems = [PowerSystem(EpsConfig(ageing=on)) for on in (False, True)]
    for power in systems:
        for orbit in range(40):
            for second in range(0, 5700, 10):
                power.step(10.0, 1200.0 * (second < 3600), 460.0)
            assert orbit >= 0
    constant, worn = systems
    assert constant.capacity_j == 700.0 * 3600.0
    assert 1e-4 < 1.0 - worn.capacity_j / constant.capacity_j < 1e-2
    assert worn.resistance_ohm > constant.resistance_ohm
    assert worn.energy_j <= worn.capacity_j


def test_resistance_rises_in_the_cold_and_when_empty():
    assert resistance_factor(298.15, 0.5) == pytest.approx(1.0)
    assert resistance_factor(273.15, 0.5) == pytest.approx(2.15, abs=0.05)
    assert resistance_factor(318.15, 0.5) < 0.65
    assert resistance_factor(298.15, 0.0) > resistance_factor(298.15, 0.1) > resistance_factor(298.15, 0.3)
    cold = PowerSystem(EpsConfig(resistance_law="temperature_soc", battery_panel_degc=-10.0))
    warm = PowerSystem(EpsConfig(resistance_law="temperature_soc", battery_panel_degc=25.0))
    for power in (cold, warm):
        power.step(1.0, 0.0, 600.0)
    assert cold.bus_voltage_v < warm.bus_voltage_v - 1.0


@pytest.mark.parametrize(("array_w", "load_w"), [(0.0, 600.0), (800.0, 600.0), (0.0, 0.0)])
def test_losses_of_the_resistance_close(array_w, load_w):
    """Bus power = stored power + I²R, step by step, and the heat is the battery's."""
    power = PowerSystem(RESISTIVE)
    power.step(1.0, array_w, load_w)
    before_j, ocv_v = power.energy_j, open_circuit_v(power.soc_fraction)
    power.step(1.0, array_w, load_w)
    stored_w, net_w = power.energy_j - before_j, array_w - load_w
    current_a = stored_w / ocv_v
    assert net_w == pytest.approx(stored_w + RESISTIVE.resistance_ohm * current_a**2, rel=1e-9, abs=1e-9)
    assert power.battery_current_a == pytest.approx(current_a, rel=1e-3, abs=1e-9)


def test_the_heat_of_the_resistance_and_of_the_converter_warms_the_pack():
    """500 W at 0.97 and 0.1 Ω: 15 W of the converter and, at 18 A, 33 W of I²R; over 2 W/K that is 24 K."""
    config = EpsConfig(
        battery_losses="resistance",
        capacity_wh=1e6,
        initial_soc_fraction=0.6,
        resistance_ohm=0.1,
        discharge_efficiency=0.97,
    )
    power = PowerSystem(config)
    for _ in range(4000):
        power.step(10.0, 0.0, 500.0)
    heat_w = 500.0 * (1.0 / 0.97 - 1.0) + 0.1 * power.battery_current_a**2
    assert heat_w == pytest.approx(48.0, abs=1.0)
    assert power.battery_temp_degc == pytest.approx(config.battery_panel_degc + heat_w / 2.0, abs=0.1)


def test_a_round_trip_loses_more_at_a_high_current():
    shares = []
    for watts in (100.0, 300.0):
        power = PowerSystem(EpsConfig(battery_losses="resistance", initial_soc_fraction=0.6, resistance_ohm=0.2))
        before_j, taken_s = power.energy_j, 1800.0 * 100.0 / watts
        for _ in range(round(taken_s)):
            power.step(1.0, 0.0, watts)
        for _ in range(round(taken_s)):
            power.step(1.0, watts, 0.0)
        shares.append((before_j - power.energy_j) / (watts * taken_s))
    assert 0.0 < shares[0] < shares[1]


def test_a_load_past_the_cells_power_collapses_and_is_not_served():
    power = PowerSystem(EpsConfig(battery_losses="resistance", resistance_ohm=1.0, discharge_efficiency=1.0))
    ocv_v = open_circuit_v(power.soc_fraction)
    power.step(1.0, 0.0, 1000.0)
    assert power.unserved_w == pytest.approx(1000.0 - ocv_v**2 / 4.0)
    assert power.rail_tripped
    assert power.bus_voltage_v == pytest.approx(ocv_v / 2.0, rel=0.01)


@pytest.mark.parametrize("losses", ["efficiency", "resistance"])
def test_neither_law_overfills_or_overdraws(losses):
    config = EpsConfig(battery_losses=losses, initial_soc_fraction=0.999, capacity_wh=10.0)
    power = PowerSystem(config)
    for _ in range(200):
        power.step(5.0, 900.0, 100.0)
    assert power.soc_fraction == pytest.approx(1.0)
    assert power.spilled_w == pytest.approx(800.0, abs=1.0)
    for _ in range(200):
        power.step(5.0, 0.0, 400.0)
    assert power.energy_j == pytest.approx(0.0, abs=1e-6)
    assert power.unserved_w == pytest.approx(400.0, abs=1.0)
