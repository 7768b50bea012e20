"""Power and heat: arcs learned from edges, what the array can give, thresholds of SAFE, the rail."""

import random

import msgspec
import pytest
from core_flight import sensor_frame
from core_plant import Plant

from flightsw.core import eps, limits, sense, thermal
from flightsw.core.inputs import Inputs
from flightsw.core.limits import Limit

NAN = float("nan")
SAFE_EVENTS = ("SOC_LOW", "BUS_UNDERVOLTAGE", "GPU_HOT", "RADIATOR_HOT")


def sensed(now_s: float, plant: Plant, **changes: object) -> sense.State:
    """A fresh sensing state with one frame of this plant."""
    inputs = Inputs(sensors=sensor_frame(1, plant, **changes))
    return sense.step(sense.start(now_s), sense.Config(), inputs, now_s)[0]


class Orbits:
    """Flies ``eps`` through mission time with a sun sensor only."""

    def __init__(self, config: eps.Config, **plant: float) -> None:
        self.config, self.state, self.plant, self.names = config, eps.start(config), Plant(**plant), []

    def until(self, world_s: float, **changes: object) -> eps.State:
        while self.plant.time_s < world_s:
            self.plant.time_s += 5.0
            self.state, found = eps.step(
                self.state,
                self.config,
                sensed(self.plant.time_s, self.plant, **changes),
                self.plant.time_s,
                self.plant.time_s,
            )
            self.names += [event.name for event in found if event.name.startswith("ECLIPSE")]
        return self.state


def test_forecast_is_used_before_any_edge() -> None:
    state = Orbits(eps.Config(eclipse_entry_s=3600.0)).until(3000.0)
    assert (state.eclipse, state.arc_remaining_s) == (False, pytest.approx(600.0))


def test_without_a_forecast_sun_may_end_at_any_moment() -> None:
    state = Orbits(eps.Config()).until(100.0)
    assert (state.eclipse, state.arc_remaining_s) == (False, 0.0)


def test_boot_in_the_dark_expects_the_whole_eclipse_until_the_exit_tells() -> None:
    orbits = Orbits(eps.Config(), phase_s=4600.0)
    state = orbits.until(100.0)
    assert (state.eclipse, state.arc_remaining_s) == (True, pytest.approx(2005.0))
    state = orbits.until(1200.0)  # The exit was at 1100.
    assert (state.eclipse, state.arc_remaining_s) == (False, pytest.approx(3500.0, abs=10.0))


@pytest.mark.parametrize(
    ("orbit_s", "eclipse_s"), [(5700.0, 2100.0), (5600.0, 1500.0), (5800.0, 2140.0), (5700.0, 600.0)]
)
def test_edges_teach_phase_period_and_length(orbit_s: float, eclipse_s: float) -> None:
    orbits = Orbits(eps.Config(eclipse_entry_s=3000.0), orbit_s=orbit_s, eclipse_s=eclipse_s)
    state = orbits.until(2 * orbit_s + 1000.0)
    assert state.period_s == pytest.approx(orbit_s, abs=10.0)
    assert state.eclipse_s == pytest.approx(eclipse_s, abs=10.0)
    assert not state.eclipse
    assert state.arc_remaining_s == pytest.approx(orbit_s - eclipse_s - 1000.0, abs=20.0)
    assert orbits.names == ["ECLIPSE_ENTERED", "ECLIPSE_LEFT"] * 2


@pytest.mark.parametrize(("orbit_s", "believed_s"), [(6100.0, 6100.0), (6400.0, 5700.0), (5000.0, 5700.0)])
def test_a_period_that_no_orbit_has_is_not_learned(orbit_s: float, believed_s: float) -> None:
    """Two entries seen more than a tenth of the configured 5700 s off set the phase, and not the period."""
    orbits = Orbits(eps.Config(eclipse_entry_s=None), orbit_s=orbit_s, phase_s=orbit_s - 3000.0)
    state = orbits.until(3000.0 + 2 * orbit_s)
    assert orbits.names.count("ECLIPSE_ENTERED") >= 2
    assert state.period_s == pytest.approx(believed_s, abs=10.0)


def test_a_tumble_is_dark_but_not_learned() -> None:
    orbits = Orbits(eps.Config(eclipse_entry_s=3600.0))
    orbits.until(1000.0)
    assert orbits.until(1060.0, sun_fraction=0.0).eclipse
    state = orbits.until(1200.0)
    assert (state.eclipse, state.arc_remaining_s) == (False, pytest.approx(2400.0))


@pytest.mark.parametrize(("sun", "dark"), [(1.0, False), (0.5, False), (0.39, True)])
def test_penumbra_keeps_the_last_verdict(sun: float, dark: bool) -> None:
    orbits = Orbits(eps.Config(eclipse_entry_s=3600.0))
    orbits.until(100.0)
    assert orbits.until(110.0, sun_fraction=sun).dark is dark


def test_forecast_darkness_wins_over_a_stuck_sun_sensor() -> None:
    orbits = Orbits(eps.Config(eclipse_entry_s=3600.0))
    assert orbits.until(4000.0, sun_fraction=1.0).eclipse


@pytest.mark.parametrize(
    ("changes", "believed_w"),
    [
        ({"soc_fraction": 0.8, "array_power_w": 900.0, "battery_current_a": 2.0}, 900.0),
        ({"soc_fraction": 0.8, "array_power_w": 900.0, "battery_current_a": 12.0}, 1200.0),  # charge limit curtails
        ({"soc_fraction": 0.99, "array_power_w": 500.0, "battery_current_a": 0.0}, 1200.0),  # full curtails
        ({"soc_fraction": 0.99, "array_power_w": 1300.0, "battery_current_a": 0.0}, 1300.0),
        ({"soc_fraction": 0.8, "array_power_w": NAN, "battery_current_a": 2.0}, 1200.0),
        ({"soc_fraction": 0.8, "array_power_w": 10.0, "sun_fraction": 0.1}, 1200.0),  # dark teaches nothing
    ],
)
def test_array_is_learned_while_nothing_curtails_it(changes: dict[str, object], believed_w: float) -> None:
    config = eps.Config(array_regulation="series")
    state, _ = eps.step(eps.start(config), config, sensed(0.0, Plant(), **changes), 0.0, 0.0)
    assert state.array_power_w == believed_w


@pytest.mark.parametrize(
    ("field", "good", "bad", "between", "event"),
    [
        ("soc_fraction", 0.9, 0.70, 0.72, "SOC_LOW"),
        ("bus_voltage_v", 28.0, 21.0, 23.0, "BUS_UNDERVOLTAGE"),
        ("gpu_temp_degc", 60.0, 81.0, 75.0, "GPU_HOT"),
        ("radiator_temp_degc", 30.0, 61.0, 55.0, "RADIATOR_HOT"),
    ],
)
def test_thresholds_of_safe(field: str, good: float, bad: float, between: float, event: str) -> None:
    power, heat = eps.start(eps.Config()), thermal.start(thermal.Config())
    active, names = [], []
    # Value by tick of 0.2 s: a glitch shorter than trip_s, then the real thing, then hysteresis, then good. A tick
    # is a batch of the charge filter in mission time: what the gauge says is heard or refused at once.
    for tick, value in enumerate((good, bad, bad, good, bad, bad, bad, bad, between, between, good)):
        seen = sensed(tick * 0.2, Plant(), **{field: value})
        power, found = eps.step(power, eps.Config(), seen, tick * 10.0, tick * 0.2)
        heat, more = thermal.step(heat, thermal.Config(), seen, tick * 10.0, tick * 0.2, 60.0)
        watches = (power.soc_low, power.undervoltage, heat.gpu_hot, heat.radiator_hot)
        active.append(any(watch.active for watch in watches))
        names += [e.name for e in (*found, *more) if e.name in SAFE_EVENTS]
    assert active == [False] * 7 + [True] * 3 + [False]
    assert names == [event]


@pytest.mark.parametrize("gauge_bias", [0.0, 0.008, -0.008])
def test_the_floor_is_held_by_the_estimate_while_the_gauge_is_heard(gauge_bias: float) -> None:
    """From full into the floor: noise under the threshold does not trip it, the charge that is known does."""
    config, draw = eps.Config(), random.Random(1)
    plant, state, trips = Plant(phase_s=3500.0), eps.start(config), []
    for tick in range(120 * 60):
        plant.step(0.5, 80.0 if plant.sun else 350.0 if plant.time_s < 3000.0 else 250.0)
        true = plant.energy_j / plant.capacity_j
        gauge = min(1.0, round(true + gauge_bias + draw.gauss(0.0, 0.001), 4))
        # A glitch of one reading, far under the threshold, every minute.
        seen = sensed(0.5 * tick, plant, soc_fraction=0.5 if tick % 120 == 60 else gauge)
        state, _ = eps.step(state, config, seen, 0.5 * tick, 0.5 * tick)
        if state.soc_low.active:
            trips.append(true)
            break
    (crossed,) = trips
    assert crossed == pytest.approx(config.soc_safe, abs=4.0 * state.soc_sigma + 0.001)
    assert not state.battery.refused_s


def test_a_refused_gauge_counts_where_it_says_less_and_without_its_bias() -> None:
    config, plant, state = eps.Config(), Plant(energy_j=0.9 * 2.52e6), eps.start(eps.Config())
    for tick in range(60):
        reading = 0.9 if tick < 30 else 0.72 if tick < 45 else 0.97
        state, _ = eps.step(state, config, sensed(tick, plant, soc_fraction=reading), 10.0 * tick, 0.2 * tick)
        if tick == 29:
            assert state.soc_lowest == state.soc_fraction
        if tick == 44:
            assert state.battery.refused_s
            assert state.soc_lowest == pytest.approx(0.72 - state.battery.gauge_bias)
            assert state.soc_fraction > 0.88
    assert state.battery.refused_s
    assert state.soc_lowest == state.soc_fraction


@pytest.mark.parametrize(("trip", "clear", "beyond"), [(10.0, 8.0, 11.0), (8.0, 10.0, 7.0)])
def test_nan_neither_trips_nor_clears(trip: float, clear: float, beyond: float) -> None:
    limit = Limit(trip, clear, 0.0)
    assert limits.step(limits.CLEAR, limit, NAN, 1.0) == limits.CLEAR
    tripped = limits.step(limits.CLEAR, limit, beyond, 1.0)
    assert tripped.active
    assert limits.step(tripped, limit, NAN, 2.0) is tripped


def test_stale_sensors_are_no_values() -> None:
    config = eps.Config()
    seen = msgspec.structs.replace(sensed(0.0, Plant()), fresh=False)
    assert eps.step(eps.start(config), config, seen, 0.0, 0.0)[0].soc_fraction != 0.9
    assert (
        str(thermal.step(thermal.start(thermal.Config()), thermal.Config(), seen, 0.0, 0.0, 60.0)[0].gpu_degc)
        == "nan"
    )


@pytest.mark.parametrize(
    ("before", "commanded", "shed", "on", "events"),
    [
        (True, True, True, False, ["OFF"]),
        (True, False, False, False, ["OFF"]),
        (False, True, False, True, ["ON"]),
        (False, False, True, False, []),
        (False, False, False, False, []),
        (True, True, False, True, []),
    ],
)
def test_rail(before: bool, commanded: bool, shed: bool, on: bool, events: list[str]) -> None:
    state = msgspec.structs.replace(eps.start(eps.Config()), rail_on=before, rail_commanded=commanded)
    state, found = eps.switch_rail(state, shed, "test", 0.0)
    assert state.rail_on is on
    assert [event.fields["state"] for event in found] == events


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eclipse_s": 6000.0}, "eclipse_s = 6000 must be shorter than orbit_period_s = 5700"),
        ({"soc_recovered": 0.7}, "soc_recovered = 0.7 must be over soc_safe = 0.701"),
        ({"bus_recovered_v": 20.0}, "bus_recovered_v = 20 must be over bus_undervoltage_v = 22"),
    ],
)
def test_configuration_that_contradicts_itself(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eps.Config(**changes)
