"""Radiators with published figures, flown to their steady state by the plant's own heat balance; pump and nodes.

Starcloud's white paper: a two-sided panel at 20 °C emits 770 W/m², absorbs about 137 and nets 633. 770 implies an
emissivity of 0.92. AI1 as announced: 110 m² at 120 kW on average and 150 kW at peak; 337 and 353 K follow for a
two-sided panel of emissivity 0.91 that sees a sink of 220 K.
"""

import pytest

from hil.plant.eps import EpsConfig
from hil.plant.orbit import sun_synchronous
from hil.plant.plant import Loads, Plant, PlantConfig
from hil.plant.thermal import STEFAN_BOLTZMANN, HeatBalance, ThermalConfig

SINK_W_M2 = 2 * 0.91 * STEFAN_BOLTZMANN * 220.0**4
AI1 = {
    "area_m2": 110.0,
    "emissivity": 0.91,
    "environment": "reference",
    "reference_ir_w_m2": SINK_W_M2,
    "reference_sun_w_m2": 0.0,
    "conductance_w_k": 20000.0,
    "gpu_heat_capacity_j_k": 2e6,
    "radiator_heat_capacity_j_k": 1e6,
}


def steady(config: ThermalConfig, watts: float, flux_w_m2: float) -> HeatBalance:
    heat = HeatBalance(config)
    for _ in range(6000):
        heat.step(5.0, watts, 0.0, flux_w_m2 * config.area_m2, 1.0)
    return heat


def test_white_paper_radiator_emits_770_and_nets_633():
    config = ThermalConfig(area_m2=1.0, sides=2, emissivity=0.92, environment="reference", conductance_w_k=50.0)
    heat = steady(config, 633.0, 137.0)
    assert heat.radiator_degc == pytest.approx(20.0, abs=0.2)
    assert heat.emitted_w == pytest.approx(770.0, rel=0.01)
    # Held at 20 °C exactly: what it emits less what it absorbs.
    held = HeatBalance(config)
    held.step(1e-6, 0.0, 0.0, 137.0, 1.0)
    assert held.emitted_w == pytest.approx(770.0, rel=0.01)
    assert held.emitted_w - held.absorbed_w == pytest.approx(633.0, rel=0.02)


def test_the_white_papers_absorption_is_that_of_a_panel_edge_on_by_day():
    """137 W/m² is between night and noon of our own geometry at its height, 600 km and more, both faces lit."""
    heat = HeatBalance(ThermalConfig(area_m2=1.0, sides=2, emissivity=0.92))
    night_w = heat.environment_w(6378.137 + 600.0, -0.5, 1.0, 0.0, 1.0)
    noon_w = heat.environment_w(6378.137 + 600.0, 1.0, 1.0, 1.0, 1.0)
    assert night_w < 137.0 < noon_w


@pytest.mark.parametrize(("kilowatt", "kelvin"), [(120.0, 337.0), (150.0, 353.0)])
def test_a_two_sided_110_m2_radiator(kilowatt, kelvin):
    heat = steady(ThermalConfig(sides=2, **AI1), 1000.0 * kilowatt, SINK_W_M2)
    assert heat.radiator_degc + 273.15 == pytest.approx(kelvin, abs=1.0)


def test_one_side_cannot_reach_the_published_temperature():
    best = ThermalConfig(**(AI1 | {"emissivity": 1.0}))
    assert steady(best, 120e3, 0.0).radiator_degc + 273.15 > 371.0


def test_the_degraded_110_m2_radiator_loses_a_third():
    """Published stress case: emissivity 0.80 and a sink of 260 K cost some 40 of 120 kW at one temperature."""
    kilowatt = 2 * 0.80 * STEFAN_BOLTZMANN * 110.0 * (337.1**4 - 260.0**4) / 1000.0
    sink_w_m2 = 2 * 0.80 * STEFAN_BOLTZMANN * 260.0**4
    config = ThermalConfig(sides=2, **(AI1 | {"emissivity": 0.80, "reference_ir_w_m2": sink_w_m2}))
    assert steady(config, 1000.0 * kilowatt, sink_w_m2).radiator_degc + 273.15 == pytest.approx(337.1, abs=0.2)
    assert 120.0 - kilowatt == pytest.approx(40.0, rel=0.10)


def test_the_whole_plant_flies_the_110_m2_radiator():
    """A dawn-dusk orbit without eclipse, an array of 250 kW, 120 kW of GPUs."""
    plant = Plant(
        PlantConfig(
            elements=sun_synchronous(700.0, 18.0, 0.0, "2026-03-31T00:00:00Z"),
            eps=EpsConfig(array_area_m2=600.0, capacity_wh=1e5, charge_power_max_w=5e4, bus_power_w=0.0),
            thermal=ThermalConfig(sides=2, **AI1),
        )
    )
    for _ in range(40):
        truth = plant.step(600.0, Loads(gpu_power_w=120e3))
    assert truth.gpu_rail_on
    assert truth.radiator_temp_degc + 273.15 == pytest.approx(337.0, abs=1.0)


@pytest.mark.parametrize(("attitude", "ratio"), [("edge_on", 2.0), ("nadir", 1.0)])
def test_the_second_face_sees_the_earth_only_edge_on(attitude, ratio):
    one, two = (HeatBalance(ThermalConfig(sides=s, attitude=attitude)) for s in (1, 2))
    view = (6928.137, 0.5, 1.0, 1.0, 1.0)
    assert two.environment_w(*view) == pytest.approx(ratio * one.environment_w(*view))


@pytest.mark.parametrize("flow", [1.0, 0.5, 0.1, 0.0])
def test_conductance_falls_with_the_pumps_flow_to_the_passive_path(flow):
    config = ThermalConfig(pump_power_w=8.0)
    heat = HeatBalance(config)
    heat.pump(flow)
    assert heat.pump_w == pytest.approx(8.0 * flow**3)
    ends = {1.0: 14.0, 0.0: 1.0}
    if flow in ends:
        assert heat.conductance_w_k == pytest.approx(ends[flow])
    else:
        # More than in proportion: slower fluid leaves the exchanger nearer to the wall's temperature.
        assert 1.0 + 13.0 * flow < heat.conductance_w_k < 14.0


def test_a_stopped_pump_heats_the_gpu_and_takes_its_power_off_the_bus():
    config = PlantConfig(thermal=ThermalConfig(pump_power_w=8.0))
    sound, hurt = Plant(config), Plant(config)
    hurt.inject("pump_stop", flow_fraction=0.0)
    for _ in range(600):
        cool, hot = (plant.step(1.0, Loads(gpu_power_w=300.0)) for plant in (sound, hurt))
    assert hot.gpu_temp_degc > cool.gpu_temp_degc + 20.0
    assert hot.radiator_temp_degc < cool.radiator_temp_degc
    assert (cool.load_power_w, hot.load_power_w) == (368.0, 360.0)
    assert (cool.pump_flow_fraction, hot.pump_flow_fraction) == (1.0, 0.0)


def test_nodes_fall_along_the_panel_and_a_stiff_panel_is_one_node():
    watts = 500.0
    one = steady(ThermalConfig(), watts, 60.0)
    fin = steady(ThermalConfig(radiator_nodes=5, node_conductance_w_k=20.0), watts, 60.0)
    stiff = steady(ThermalConfig(radiator_nodes=5, node_conductance_w_k=300.0), watts, 60.0)
    assert list(fin.nodes_degc) == sorted(fin.nodes_degc, reverse=True)
    assert fin.radiator_degc > one.radiator_degc + 5.0
    assert stiff.radiator_degc == pytest.approx(one.radiator_degc, abs=2.0)
    for heat in (one, fin, stiff):
        assert heat.emitted_w == pytest.approx(watts + 60.0 * 1.4, rel=1e-4)


def test_heat_of_many_nodes_is_neither_made_nor_lost():
    config = ThermalConfig(radiator_nodes=4, sides=2)
    heat = HeatBalance(config)

    def stored_j() -> float:
        per_node = config.radiator_heat_capacity_j_k / 4
        return config.gpu_heat_capacity_j_k * heat.gpu_degc + per_node * sum(heat.nodes_degc)

    before_j, net_j = stored_j(), 0.0
    for index in range(2000):
        gpu_w = 700.0 if index % 300 < 150 else 80.0
        heat.step(1.0, gpu_w, 60.0, 80.0, 1.0)
        net_j += gpu_w + 60.0 + 80.0 - heat.emitted_w
    assert stored_j() - before_j == pytest.approx(net_j, rel=1e-9)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (ThermalConfig(passive_conductance_w_k=15.0), "passive_conductance_w_k = 15: at most conductance_w_k, 14"),
        (ThermalConfig(gpu_heat_capacity_j_k=100.0, conductance_w_k=1e5), "time constant is 0.001 s"),
        (ThermalConfig(area_m2=-1.0), "thermal.area_m2 = -1.0"),
        (ThermalConfig(sides=3), "thermal.sides = 3"),
        (ThermalConfig(radiator_nodes=0), "thermal.radiator_nodes = 0"),
        (ThermalConfig(emissivity=float("nan")), "thermal.emissivity is nan"),
    ],
)
def test_impossible_radiators_are_refused_in_one_line(config, complaint):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        Plant(PlantConfig(thermal=config))
    assert complaint in str(caught.value)
