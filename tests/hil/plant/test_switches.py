"""Load switches, under-voltage and inrush: every load moves the bus, and a closing switch dips it."""

from math import exp, log

import pytest

from hil.plant.eps import EpsConfig, PowerSystem
from hil.plant.plant import Loads, Plant, PlantConfig
from hil.plant.switches import LoadSwitch, SwitchBoard, inrush

LOADS = (
    LoadSwitch(name="computer", power_w=15.0, essential=True),
    LoadSwitch(name="heater", power_w=40.0),
    LoadSwitch(name="camera", power_w=25.0, capacitance_f=0.004),
)
NIGHT_S = 3000.0


def night_plant(**eps) -> Plant:
    return Plant(PlantConfig(start_s=NIGHT_S, eps=EpsConfig(loads=LOADS, **eps)))


@pytest.mark.parametrize(
    ("off", "on", "watts"),
    [
        ((), ("computer", "heater", "camera"), 80.0),
        (("heater",), ("computer", "camera"), 40.0),
        (("computer", "heater", "camera"), (), 0.0),
    ],
)
def test_commands_open_switches(off, on, watts):
    board = SwitchBoard(LOADS)
    board.command(frozenset(off), False)
    assert (board.on, board.power_w) == (on, watts)


def test_every_load_moves_the_bus_voltage():
    """NOS3 issue 305: there, the battery's voltage was unchanged when a switch turned on."""
    for switched in (load.name for load in LOADS):
        plant = night_plant()
        without = plant.step(1.0, Loads(off=frozenset({switched})))
        with_it = plant.step(1.0, Loads())
        watts = next(load.power_w for load in LOADS if load.name == switched)
        assert with_it.load_power_w - without.load_power_w == pytest.approx(watts)
        assert without.bus_voltage_v - with_it.bus_voltage_v > 0.9 * 0.040 * watts / without.bus_voltage_v
        assert with_it.switches_on == ("computer", "heater", "camera")
    rail = night_plant()
    off = rail.step(1.0, Loads(gpu_power_w=400.0, gpu_rail_on=False))
    on = rail.step(1.0, Loads(gpu_power_w=400.0))
    assert off.bus_voltage_v - on.bus_voltage_v == pytest.approx(0.040 * 400.0 / on.bus_voltage_v, rel=0.1)


def test_undervoltage_drops_what_is_not_essential_until_it_is_commanded_off_and_on():
    plant = night_plant()
    plant.inject("stray_load", power_w=5500.0)
    plant.step(1.0, Loads())
    assert plant.truth().bus_voltage_v < 25.0
    plant.clear("stray_load")
    for _ in range(3):
        truth = plant.step(1.0, Loads())
    assert truth.switches_on == ("computer",)
    assert not truth.gpu_rail_on
    # The heater is reset, then the rail; the camera waits for its own command.
    plant.step(1.0, Loads(off=frozenset({"heater"})))
    truth = plant.step(1.0, Loads())
    assert truth.switches_on == ("computer", "heater")
    assert not truth.gpu_rail_on
    plant.step(1.0, Loads(gpu_rail_on=False))
    truth = plant.step(1.0, Loads())
    assert (truth.gpu_rail_on, truth.switches_on) == (True, ("computer", "heater"))


@pytest.mark.parametrize(("on", "commanded_off", "drawn"), [(1.0, True, True), (0.0, False, False)])
def test_a_stuck_switch_does_not_obey(on, commanded_off, drawn):
    plant = night_plant()
    plant.inject("switch_stuck", load="heater", on=on)
    loads = Loads(off=frozenset({"heater"} if commanded_off else ()))
    assert ("heater" in plant.step(1.0, loads).switches_on) is drawn
    assert plant.faults == {"switch_stuck:heater": on}
    plant.clear("switch_stuck")
    assert ("heater" in plant.step(1.0, loads).switches_on) is not drawn


def test_inrush_is_a_capacitor_charged_through_two_resistors():
    rush = inrush(30.0, 0.05, 0.45, 0.01, 29.0)
    assert rush.peak_a == pytest.approx(60.0)
    assert rush.voltage_min_v == pytest.approx(27.0)
    assert rush.energy_j == pytest.approx(9.0)
    # V(t) = 30 − 3 e^{−t/τ}, τ 5 ms, passes 29 V at τ ln 3.
    assert rush.under_s == pytest.approx(0.005 * log(3.0))
    assert 30.0 - 3.0 * exp(-rush.under_s / 0.005) == pytest.approx(29.0)
    assert inrush(30.0, 0.05, 0.45, 0.01, 26.0).under_s == 0.0


def test_a_closing_switch_peaks_and_dips_for_one_step_and_costs_energy():
    plant, twin = night_plant(), Plant(PlantConfig(start_s=NIGHT_S, eps=EpsConfig(loads=(*LOADS[:2],))))
    camera_off = Loads(off=frozenset({"camera"}))
    quiet = plant.step(1.0, camera_off)
    assert (quiet.inrush_peak_a, quiet.bus_voltage_min_v) == (0.0, quiet.bus_voltage_v)
    twin.step(1.0, Loads())
    rush = plant.step(1.0, Loads())
    assert rush.inrush_peak_a == pytest.approx(rush.bus_voltage_v / 0.540, rel=1e-6)
    assert rush.bus_voltage_v - rush.bus_voltage_min_v == pytest.approx(0.040 * rush.inrush_peak_a)
    spent_j = quiet.battery_energy_j - rush.battery_energy_j
    assert spent_j == pytest.approx((60.0 + 80.0 + 0.004 * rush.bus_voltage_v**2) / 0.95, rel=1e-6)
    after = plant.step(1.0, Loads())
    assert (after.inrush_peak_a, after.bus_voltage_min_v) == (0.0, after.bus_voltage_v)


@pytest.mark.parametrize(("filter_s", "trips"), [(0.0001, True), (0.5, False)])
def test_a_dip_trips_only_when_it_outlasts_the_filter(filter_s, trips):
    eps = {"gpu_rail_capacitance_f": 0.05, "resistance_ohm": 0.2, "undervoltage_filter_s": filter_s}
    plant = night_plant(**eps)
    plant.step(1.0, Loads(gpu_rail_on=False))
    closing = plant.step(1.0, Loads(gpu_power_w=80.0))
    assert closing.gpu_rail_on
    assert closing.bus_voltage_min_v < 25.0 < closing.bus_voltage_v
    assert plant.step(1.0, Loads(gpu_power_w=80.0)).gpu_rail_on is not trips


def test_a_plant_that_starts_has_no_inrush():
    plant = night_plant(gpu_rail_capacitance_f=0.01)
    assert plant.step(1.0, Loads()).inrush_peak_a == 0.0


def test_unknown_and_double_names_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"\Aplant load switch 'toaster': unknown; known are computer, heater"):
        night_plant().step(1.0, Loads(off=frozenset({"toaster"})))
    with pytest.raises(ValueError, match=r"unknown; known are none\Z"):
        Plant().step(1.0, Loads(off=frozenset({"toaster"})))
    with pytest.raises(ValueError, match=r"\Aloads: heater, heater: each name once\Z"):
        Plant(PlantConfig(eps=EpsConfig(loads=(LOADS[1], LOADS[1]))))


def test_a_trip_without_a_table_is_the_rail_alone():
    power = PowerSystem(EpsConfig())
    power.step(1.0, 0.0, 5500.0)
    assert power.rail_tripped
