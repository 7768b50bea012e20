"""The true state of the satellite's world after a step. The judge reads it; the daemon never does.

Where the satellite stands over the Earth, what particles meet it there and which stations see it follow from
position and time. They are worked out when they are read, and kept for the next reader: a step does not pay for
them. The record itself never changes.
"""

from typing import Final, Protocol

import msgspec

from .geometry import DAY_S, Vector, earth_fixed, geodetic, gmst_rad
from .radiation import BeltGrid
from .stations import Network

Seen = tuple[tuple[str, float], ...]


class Place(msgspec.Struct, frozen=True):
    """What follows from position and time; ``visible`` names stations with their elevation in degrees."""

    latitude_deg: float
    longitude_deg: float
    altitude_km: float
    proton_flux_cm2_s: float
    visible: Seen


class Surroundings(Protocol):
    """What knows the place of a position."""

    def place(self, position_km: Vector, tai_s: float) -> Place:
        """The place of an inertial position at an instant."""


class Ground:
    """Earth, stations and belt; keeps the place it was asked for last."""

    def __init__(self, network: Network, grid: BeltGrid, epoch_days: float, epoch_tai_s: float) -> None:
        self._visible, self._flux_cm2_s = network.visible, grid.flux_cm2_s
        self._epoch_days, self._epoch_tai_s = epoch_days, epoch_tai_s
        self._asked: tuple[Vector, float] = ((0.0, 0.0, 0.0), -1.0)
        self._found = Place(0.0, 0.0, 0.0, 0.0, ())

    def place(self, position_km: Vector, tai_s: float) -> Place:
        """The place of an inertial position at an instant."""
        at_km, at_s = self._asked
        if tai_s != at_s or (position_km is not at_km and position_km != at_km):
            days = self._epoch_days + (tai_s - self._epoch_tai_s) / DAY_S
            fixed = earth_fixed(position_km, gmst_rad(days))
            latitude, longitude, altitude_km = geodetic(fixed)
            flux = self._flux_cm2_s(latitude, longitude, altitude_km)
            self._found = Place(latitude, longitude, altitude_km, flux, self._visible(fixed))
            self._asked = position_km, tai_s
        return self._found


class Known:
    """A place that is known already: of a recording."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def place(self, position_km: Vector, tai_s: float) -> Place:
        """The place that was recorded."""
        return self._place


class Truth(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Names and units are those of ``SensorFrame`` where a sensor looks at the same thing.

    ``array_power_w`` is what the array gives, ``spilled_w`` what of it the shunts burn, ``unserved_w`` load that an
    empty battery could not carry. ``sun_fraction`` is the visible share of the Sun's disc. ``radiator_temp_degc``
    is the node at the heat pipe's root. ``bus_voltage_min_v`` and ``inrush_peak_a`` tell of the moment a switch
    closed in this step. ``switches_on`` are the loads of the table that draw. Engines make it by position, which is
    five times faster than by name, so a new field goes to the end.
    """

    around: Surroundings
    world_s: float
    tai_s: float
    position_km: Vector
    sun_fraction: float
    sun_zenith_cos: float
    array_power_w: float
    load_power_w: float
    spilled_w: float
    unserved_w: float
    bus_voltage_v: float
    bus_current_a: float
    battery_current_a: float
    battery_temp_degc: float
    battery_energy_j: float
    soc_fraction: float
    gpu_rail_on: bool
    gpu_rail_power_w: float
    gpu_temp_degc: float
    radiator_temp_degc: float
    radiator_absorbed_w: float
    radiator_emitted_w: float
    bus_voltage_min_v: float
    inrush_peak_a: float
    battery_capacity_j: float
    battery_resistance_ohm: float
    pump_flow_fraction: float
    switches_on: tuple[str, ...]
    radiator_nodes_degc: tuple[float, ...]

    def __eq__(self, other: object) -> bool:
        """Equal in everything that can be read, wherever the place came from."""
        if not isinstance(other, Truth):
            return NotImplemented
        mine, theirs = (t.around.place(t.position_km, t.tai_s) for t in (self, other))
        return mine == theirs and all(getattr(self, name) == getattr(other, name) for name in STEPPED)

    @property
    def latitude_deg(self) -> float:
        """Geodetic latitude."""
        return self.around.place(self.position_km, self.tai_s).latitude_deg

    @property
    def longitude_deg(self) -> float:
        """Longitude, east positive."""
        return self.around.place(self.position_km, self.tai_s).longitude_deg

    @property
    def altitude_km(self) -> float:
        """Height over the WGS 84 ellipsoid."""
        return self.around.place(self.position_km, self.tai_s).altitude_km

    @property
    def proton_flux_cm2_s(self) -> float:
        """Trapped protons over 10 MeV."""
        return self.around.place(self.position_km, self.tai_s).proton_flux_cm2_s

    @property
    def visible(self) -> Seen:
        """Every station over whose mask the satellite stands, with its elevation in degrees."""
        return self.around.place(self.position_km, self.tai_s).visible

    @property
    def battery_voltage_v(self) -> float:
        """At the terminals: the bus is unregulated."""
        return self.bus_voltage_v

    @property
    def in_contact(self) -> bool:
        """Whether any station sees the satellite."""
        return bool(self.visible)


# What a step sets, all but ``around``; and what follows from it.
STEPPED: Final = Truth.__struct_fields__[1:]
PLACED: Final = Place.__struct_fields__
