"""The embedded engine: one satellite and its world behind one interface, advanced step by step.

    plant = Plant(PlantConfig(), seed=1)
    truth = plant.step(0.1, Loads(gpu_power_w=430.0))      # world seconds
    frame = plant.sense(warp=50.0, radio_lock=truth.in_contact)
    plant.inject("radiator_degrade", factor=0.7)
    plant.forecast(5700.0).passes

``step`` is deterministic and draws no random numbers; only ``sense`` does, from streams of the seed. Steps longer
than ``STEP_MAX_S`` are cut, so that results do not hang on the caller's rate: 1 Hz and 10 Hz agree within an
eclipse edge's share of a step.

Order in a step: what the sky shows at its end, then array, battery, heat, all with the loads held, then the inrush
of switches that closed. What is read seldom is worked out when it is read (``truth``), so a step costs some 5 µs.
"""

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from flightsw.link.avionics import SensorFrame

from .array import SolarArray
from .bounds import within_bounds
from .disturbances import FaultTable, checked_fault
from .engine import STEP_CALL_MAX_S as STEP_CALL_MAX_S
from .engine import Loads as Loads
from .engine import check_step
from .eps import EpsConfig, PowerSystem
from .geometry import days_since_j2000, tai_s
from .orbit import Elements, orbit_from, orbit_of
from .radiation import belt_grid
from .sensors import SENSOR_NAMES, SensorSuite
from .sky import OwnSky, Sky
from .stations import DEFAULT_STATIONS, STATIONS_MAX, Network, Station, stations_of
from .switches import SwitchBoard
from .thermal import HeatBalance, ThermalConfig
from .truth import Ground, Truth
from .windows import Forecast, Geometry, before_first_pass, choose_start

STEP_MAX_S: Final = 5.0


class PlantConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The satellite and its world, as a scenario's section ``[plant]``."""

    orbit: Annotated[str, Meta(min_length=1, max_length=4096)] = "leo_550"
    """A named orbit (leo_550, sso_550, dawn_dusk_650, starcloud1, mid_600) or a TLE file; its first set counts."""
    elements: Elements | None = None
    """An orbit of one's own; ``orbit`` is then only its name."""
    start: Literal["epoch", "demonstrative", "pass"] = "epoch"
    """What world time 0 is: the orbit's epoch, or within a day of it the first moment from which ``start_span_s``
    hold a whole eclipse and two separate passes, or a minute before a pass (the epoch when there is none)."""
    start_s: Annotated[float, Meta(ge=0.0, le=1e8)] = 0.0
    """World time at which the plant begins."""
    start_span_s: Annotated[float, Meta(ge=600.0, le=86400.0)] = 5700.0
    """Length of a scenario, for ``start``."""
    stations: Annotated[tuple[str, ...], Meta(max_length=STATIONS_MAX)] = DEFAULT_STATIONS
    """Ground stations by name."""
    own_stations: Annotated[tuple[Station, ...], Meta(max_length=STATIONS_MAX)] = ()
    """Ground stations that are not in the table."""
    eps: EpsConfig = EpsConfig()
    """Electrical power system."""
    thermal: ThermalConfig = ThermalConfig()
    """Heat balance."""
    sensor_noise: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0
    """Scale of every sensor's noise."""


class Plant:
    """The embedded engine. Not thread-safe."""

    def __init__(self, config: PlantConfig | None = None, seed: int = 0) -> None:
        """Raises ``ValueError`` with one line for a value out of its range, an unknown orbit or station."""
        self.config = config = within_bounds(config or PlantConfig(), "plant")
        orbit = orbit_from(config.orbit, config.elements) if config.elements else orbit_of(config.orbit)
        network = Network((*stations_of(config.stations), *config.own_stations))
        geometry = Geometry(orbit, network, belt_grid())
        if config.start == "demonstrative":
            geometry = geometry.shifted(choose_start(geometry, config.start_span_s) or 0.0)
        elif config.start == "pass":
            geometry = geometry.shifted(before_first_pass(geometry) or 0.0)
        self.geometry: Final = geometry
        self._offset_s, self._epoch_tai_s = geometry.offset_s, tai_s(orbit.epoch)
        self._ground = Ground(network, geometry.grid, days_since_j2000(orbit.epoch), self._epoch_tai_s)
        self._power, self._heat = PowerSystem(config.eps), HeatBalance(config.thermal)
        self._board = SwitchBoard(config.eps.loads)
        self._sensors = SensorSuite(seed, config.sensor_noise)
        self._faults = FaultTable()
        self._radiator_health = 1.0
        self._stray_w = 0.0
        self._sky = self._make_sky()
        self._array = SolarArray(config.eps, seed, self._sky)
        self._single_node = config.thermal.radiator_nodes == 1
        self._rail_was_on = True
        self._truth = self._advance(config.start_s, 0.0, Loads())

    def _make_sky(self) -> Sky:
        """What shows orbit, Sun and shadow; another engine brings its own."""
        return OwnSky(self.geometry.orbit)

    def truth(self) -> Truth:
        """State after the last step."""
        return self._truth

    def step(self, dt_s: float, loads: Loads) -> Truth:
        """Advance the world by ``dt_s`` seconds of world time, 0 < dt_s ≤ ``STEP_CALL_MAX_S``, loads held.

        Raises ``ValueError`` for a step or a load that is no number in range.
        """
        check_step(dt_s, loads)
        start_s = self._truth.world_s
        count = 1 if dt_s <= STEP_MAX_S else ceil(dt_s / STEP_MAX_S - 1e-9)
        for index in range(1, count):
            self._truth = self._advance(start_s + dt_s * index / count, dt_s / count, loads)
        self._truth = truth = self._advance(start_s + dt_s, dt_s / count, loads)
        return truth

    def sense(self, *, warp: float = 1.0, radio_lock: bool = False) -> SensorFrame | None:
        """One sample of every sensor, now; two calls differ by noise. None while the sensors are silent."""
        return self._sensors.frame(self._truth, warp=warp, radio_lock=radio_lock)

    def inject(self, fault_name: str, **parameters: float | str) -> None:
        """Switch a fault of ``FAULTS`` on or change it; ``ValueError`` for a name or value outside it."""
        parts = {"sensor": SENSOR_NAMES, "load": self._board.names}
        key, value = checked_fault(fault_name, parameters, parts)
        eps = self.config.eps
        strings = {"cell_open": eps.battery_strings - 1, "array_string_open": eps.array_strings}.get(key, value)
        if value > strings:
            raise ValueError(f"plant fault {key}: strings = {value:g}, this satellite can lose {strings:g}")
        self._faults.active[key] = value
        self._apply_faults()

    def clear(self, fault_name: str) -> None:
        """Switch a fault off; one that is not on stays off. ``ValueError`` for an unknown name."""
        self._faults.clear(fault_name)
        self._apply_faults()

    @property
    def faults(self) -> Mapping[str, float]:
        """Active faults by key, with their number."""
        return dict(self._faults.active)

    def forecast(self, horizon_s: float) -> Forecast:
        """Eclipses, passes and anomaly crossings of the next ``horizon_s`` seconds, in world time."""
        return self.geometry.forecast(self._truth.world_s, horizon_s)

    def _apply_faults(self) -> None:
        number, eps = self._faults.number, self.config.eps
        self._radiator_health = number("radiator_degrade", 1.0)
        self._stray_w = number("stray_load", 0.0)
        self._array.health = number("array_degrade", 1.0) * (
            1.0 - number("array_string_open", 0.0) / eps.array_strings
        )
        self._power.hurt(1.0 - number("cell_open", 0.0) / eps.battery_strings, number("resistance_growth", 1.0))
        self._heat.pump(number("pump_stop", 1.0))
        self._board.stick({load: value >= 0.5 for load, value in self._faults.of("switch_stuck").items()})
        self._sensors.apply(self._faults)

    def _advance(self, world_s: float, dt_s: float, loads: Loads) -> Truth:
        elapsed_s = self._offset_s + world_s
        position, radius_km, zenith_cos, sunlit, distance2 = self._sky.look(elapsed_s)

        eps, power, heat, board = self.config.eps, self._power, self._heat, self._board
        array_w = self._array.power_w(elapsed_s, sunlit, distance2, zenith_cos)
        rail_on = power.rail(loads.gpu_rail_on)
        charged_f = board.command(loads.off, power.rail_tripped) if loads.off or board.names else 0.0
        gpu_w = loads.gpu_power_w if rail_on else 0.0
        bus_w = eps.bus_power_w + board.power_w + heat.pump_w
        if loads.transmitter_on:
            bus_w += eps.transmitter_power_w
        load_w = bus_w + gpu_w + self._stray_w
        if dt_s > 0.0:
            health = self._radiator_health
            power.step(dt_s, array_w, load_w)
            absorbed_w = heat.environment_w(radius_km, zenith_cos, distance2, sunlit, health)
            heat.step(dt_s, gpu_w, bus_w, absorbed_w, health)
            if rail_on and not self._rail_was_on:
                charged_f += eps.gpu_rail_capacitance_f
            if charged_f:
                power.inrush(charged_f)
        self._rail_was_on = rail_on
        voltage_v = power.bus_voltage_v
        radiator_degc = heat.radiator_degc
        return Truth(
            self._ground,
            world_s,
            self._epoch_tai_s + elapsed_s,
            position,
            sunlit,
            zenith_cos,
            array_w,
            load_w,
            power.spilled_w,
            power.unserved_w,
            voltage_v,
            load_w / voltage_v,
            power.battery_current_a,
            power.battery_temp_degc,
            power.energy_j,
            power.energy_j / power.capacity_j,
            rail_on,
            gpu_w,
            heat.gpu_degc,
            radiator_degc,
            heat.absorbed_w,
            heat.emitted_w,
            power.bus_voltage_min_v,
            power.inrush_peak_a,
            power.capacity_j,
            power.resistance_ohm,
            heat.flow_fraction,
            board.on,
            (radiator_degc,) if self._single_node else heat.nodes_degc,
        )
