"""The plant: one satellite and its world behind one interface, advanced step by step.

    plant = Plant(PlantConfig(), seed=1)
    truth = plant.step(0.1, Loads(gpu_power_w=430.0))      # world seconds
    frame = plant.sense(warp=50.0, radio_lock=truth.in_contact)
    plant.inject("radiator_degrade", factor=0.7)
    plant.forecast(5700.0).passes

``step`` is deterministic and draws no random numbers; only ``sense`` does, from streams of the seed. Steps longer
than ``STEP_MAX_S`` are cut, so that results do not hang on the caller's rate: 1 Hz and 10 Hz agree within an
eclipse edge's share of a step.

Order in a step: geometry at its end, then array, battery, heat, all with the loads held.
"""

from collections.abc import Mapping
from math import ceil, isfinite, sqrt
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from flightsw.link.avionics import SensorFrame

from .disturbances import BIASED_SENSOR, FAULTS, checked_parameter
from .eps import EpsConfig, PowerSystem, array_power_w
from .geometry import DAY_S, days_since_j2000, earth_fixed, geodetic, gmst_rad, sun, sunlit_fraction, tai_s
from .orbit import CircularOrbit, Elements, orbit_of
from .radiation import belt_grid
from .sensors import SensorSuite
from .stations import DEFAULT_STATIONS, STATIONS_MAX, Network, Station, stations_of
from .thermal import HeatBalance, ThermalConfig
from .truth import Truth
from .windows import Forecast, Geometry, before_first_pass, choose_start

STEP_MAX_S: Final = 5.0
STEP_CALL_MAX_S: Final = 3600.0
SUN_REFRESH_S: Final = 60.0  # The Sun moves 0.0007° in that time.


class PlantConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The satellite and its world, as a scenario's section ``[plant]``."""

    orbit: Annotated[str, Meta(min_length=1, max_length=4096)] = "leo_550"
    """A named orbit (leo_550, sso_550, dawn_dusk_650, starcloud1) or a TLE file, whose first set is taken."""
    elements: Elements | None = None
    """A circular orbit of one's own; ``orbit`` is then only its name."""
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


class Loads(msgspec.Struct, frozen=True, kw_only=True):
    """What the satellite's loads draw and how its switches are commanded during a step.

    ``gpu_power_w`` counts only while the rail is on.
    """

    gpu_power_w: float = 0.0
    gpu_rail_on: bool = True
    transmitter_on: bool = False


class Plant:
    """The embedded engine. Not thread-safe."""

    def __init__(self, config: PlantConfig | None = None, seed: int = 0) -> None:
        """Raises ``ValueError`` with one line for a value out of its range, an unknown orbit or station."""
        self.config = config = checked(config or PlantConfig())
        orbit = CircularOrbit(config.orbit, config.elements) if config.elements else orbit_of(config.orbit)
        network = Network((*stations_of(config.stations), *config.own_stations))
        geometry = Geometry(orbit, network, belt_grid())
        if config.start == "demonstrative":
            geometry = geometry.shifted(choose_start(geometry, config.start_span_s) or 0.0)
        elif config.start == "pass":
            geometry = geometry.shifted(before_first_pass(geometry) or 0.0)
        self.geometry: Final = geometry
        self._position_km, self._visible = orbit.position_km, network.visible
        self._flux_cm2_s = geometry.grid.flux_cm2_s
        self._offset_s = geometry.offset_s
        self._epoch_days, self._epoch_tai_s = days_since_j2000(orbit.epoch), tai_s(orbit.epoch)
        self._sun_slot = -1
        self._sun_unit, self._sun_distance_au = sun(self._epoch_days)
        self._power, self._heat = PowerSystem(config.eps), HeatBalance(config.thermal)
        self._array_w_full = array_power_w(config.eps, 1.0, 1.0, 1.0)
        self._sensors = SensorSuite(seed, config.sensor_noise)
        self._faults: dict[str, float] = {}
        self._bias: dict[str, float] = {}
        self._radiator_health = self._array_health = 1.0
        self._stray_w = 0.0
        self._truth = self._advance(config.start_s, 0.0, Loads())

    def truth(self) -> Truth:
        """State after the last step."""
        return self._truth

    def step(self, dt_s: float, loads: Loads) -> Truth:
        """Advance the world by ``dt_s`` seconds of world time, 0 < dt_s ≤ ``STEP_CALL_MAX_S``, loads held.

        Raises ``ValueError`` for a step or a load that is no number in range.
        """
        if not 0.0 < dt_s <= STEP_CALL_MAX_S:
            raise ValueError(f"plant step of {dt_s} s: must be over 0 and at most {STEP_CALL_MAX_S:.0f}")
        if not 0.0 <= loads.gpu_power_w < 1e6:
            raise ValueError(f"plant load gpu_power_w {loads.gpu_power_w}: must be 0 or more and under 1e6")
        start_s = self._truth.world_s
        if dt_s > STEP_MAX_S:
            count = ceil(dt_s / STEP_MAX_S - 1e-9)
            for index in range(1, count):
                self._truth = self._advance(start_s + dt_s * index / count, dt_s / count, loads)
            self._truth = self._advance(start_s + dt_s, dt_s / count, loads)
        else:
            self._truth = self._advance(start_s + dt_s, dt_s, loads)
        return self._truth

    def sense(self, *, warp: float = 1.0, radio_lock: bool = False) -> SensorFrame:
        """One sample of every sensor, now; two calls differ by noise."""
        return self._sensors.frame(self._truth, warp=warp, radio_lock=radio_lock, bias=self._bias)

    def inject(self, fault_name: str, **parameters: float) -> None:
        """Switch a fault of ``FAULTS`` on or change it; ``ValueError`` for a name or value outside it."""
        self._faults[fault_name] = checked_parameter(fault_name, parameters)
        self._apply_faults()

    def clear(self, fault_name: str) -> None:
        """Switch a fault off; one that is not on stays off. ``ValueError`` for an unknown name."""
        if fault_name not in FAULTS:
            raise ValueError(f"plant fault {fault_name!r}: unknown; known are {', '.join(FAULTS)}")
        self._faults.pop(fault_name, None)
        self._apply_faults()

    @property
    def faults(self) -> Mapping[str, float]:
        """Active faults with their parameter."""
        return dict(self._faults)

    def forecast(self, horizon_s: float) -> Forecast:
        """Eclipses, passes and anomaly crossings of the next ``horizon_s`` seconds, in world time."""
        return self.geometry.forecast(self._truth.world_s, horizon_s)

    def _apply_faults(self) -> None:
        self._radiator_health = self._faults.get("radiator_degrade", 1.0)
        self._array_health = self._faults.get("array_degrade", 1.0)
        self._stray_w = self._faults.get("stray_load", 0.0)
        self._bias = {BIASED_SENSOR[name]: value for name, value in self._faults.items() if name in BIASED_SENSOR}

    def _advance(self, world_s: float, dt_s: float, loads: Loads) -> Truth:
        elapsed_s = self._offset_s + world_s
        days = self._epoch_days + elapsed_s / DAY_S
        slot = int(elapsed_s // SUN_REFRESH_S)
        if slot != self._sun_slot:
            # By slot, not by age: the same instant has the same Sun whatever the steps were.
            self._sun_slot = slot
            self._sun_unit, self._sun_distance_au = sun(self._epoch_days + (slot + 0.5) * SUN_REFRESH_S / DAY_S)
        sun_unit, distance_au = self._sun_unit, self._sun_distance_au
        position = x, y, z = self._position_km(elapsed_s)
        fixed = earth_fixed(position, gmst_rad(days))
        latitude, longitude, altitude_km = geodetic(fixed)
        radius_km = sqrt(x * x + y * y + z * z)
        zenith_cos = (x * sun_unit[0] + y * sun_unit[1] + z * sun_unit[2]) / radius_km
        sunlit = sunlit_fraction(position, sun_unit, distance_au)

        eps, power, heat = self.config.eps, self._power, self._heat
        array_w = self._array_w_full * sunlit * self._array_health / (distance_au * distance_au)
        rail_on = power.rail(loads.gpu_rail_on)
        gpu_w = loads.gpu_power_w if rail_on else 0.0
        bus_w = eps.bus_power_w + (eps.transmitter_power_w if loads.transmitter_on else 0.0)
        load_w = bus_w + gpu_w + self._stray_w
        if dt_s > 0.0:
            health = self._radiator_health
            power.step(dt_s, array_w, load_w)
            absorbed_w = heat.environment_w(radius_km, zenith_cos, distance_au, sunlit, health)
            heat.step(dt_s, gpu_w, bus_w, absorbed_w, health)
        voltage_v = power.bus_voltage_v
        return Truth(
            world_s=world_s,
            tai_s=self._epoch_tai_s + elapsed_s,
            position_km=position,
            latitude_deg=latitude,
            longitude_deg=longitude,
            altitude_km=altitude_km,
            sun_fraction=sunlit,
            sun_zenith_cos=zenith_cos,
            array_power_w=array_w,
            load_power_w=load_w,
            spilled_w=power.spilled_w,
            unserved_w=power.unserved_w,
            bus_voltage_v=voltage_v,
            bus_current_a=load_w / voltage_v,
            battery_voltage_v=voltage_v,
            battery_current_a=power.battery_current_a,
            battery_temp_degc=power.battery_temp_degc,
            battery_energy_j=power.energy_j,
            soc_fraction=power.energy_j / power.capacity_j,
            gpu_rail_on=rail_on,
            gpu_rail_power_w=gpu_w,
            gpu_temp_degc=heat.gpu_degc,
            radiator_temp_degc=heat.radiator_degc,
            radiator_absorbed_w=heat.absorbed_w,
            radiator_emitted_w=heat.emitted_w,
            proton_flux_cm2_s=self._flux_cm2_s(latitude, longitude, altitude_km),
            visible=self._visible(fixed),
        )


def checked(config: PlantConfig) -> PlantConfig:
    """The same configuration, or ``ValueError`` with the path of the first value that is not allowed."""
    plain: Any = msgspec.to_builtins(config)
    _refuse_non_finite(plain, "plant")
    try:
        return msgspec.convert(plain, PlantConfig)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `$")
        value = plain
        for key in path.strip("`.").split("."):
            value = value.get(key) if isinstance(value, dict) else value
        raise ValueError(f"plant configuration: {path.strip('`.')} = {value!r}: {rule}") from None


def _refuse_non_finite(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{path}.{key}")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"plant configuration: {path} is {value}, a finite number is needed")
