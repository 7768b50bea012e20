"""Ground stations and who sees the satellite.

A station sees it when its elevation over the local (geodetic) horizon is at least the station's mask. Refraction,
which lifts a satellite at 5° by 0.16°, is left out, as is terrain beyond the mask.

Positions are those of the sites' antennas as published by their operators, to 0.01°.
"""

from collections.abc import Iterable
from math import asin, degrees, radians, sin, sqrt
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .geometry import Vector, from_geodetic

STATIONS_MAX: Final = 32


class Station(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ground station."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """Name in reports and scenarios."""
    latitude_deg: Annotated[float, Meta(ge=-90.0, le=90.0)]
    """Geodetic latitude."""
    longitude_deg: Annotated[float, Meta(ge=-180.0, le=180.0)]
    """Longitude, east positive."""
    height_km: Annotated[float, Meta(ge=-0.5, le=9.0)] = 0.0
    """Over the WGS 84 ellipsoid."""
    mask_deg: Annotated[float, Meta(ge=0.0, lt=90.0)] = 5.0
    """Least elevation of a contact."""


def _site(name: str, latitude_deg: float, longitude_deg: float, height_km: float) -> Station:
    return Station(name=name, latitude_deg=latitude_deg, longitude_deg=longitude_deg, height_km=height_km)


STATIONS: Final[dict[str, Station]] = {
    site.name: site
    for site in (
        _site("svalbard", 78.23, 15.39, 0.50),
        _site("kiruna", 67.86, 20.96, 0.40),
        _site("inuvik", 68.32, -133.55, 0.05),
        _site("fairbanks", 64.86, -147.85, 0.18),
        _site("weilheim", 47.88, 11.08, 0.66),
        _site("wallops", 37.92, -75.48, 0.01),
        _site("south_point", 19.01, -155.66, 0.36),
        _site("singapore", 1.40, 103.83, 0.02),
        _site("hartebeesthoek", -25.89, 27.69, 1.56),
        _site("mingenew", -29.05, 115.35, 0.25),
        _site("santiago", -33.15, -70.67, 0.73),
        _site("awarua", -46.53, 168.38, 0.01),
        _site("punta_arenas", -52.94, -70.85, 0.04),
        _site("troll", -72.01, 2.53, 1.30),
    )
}

DEFAULT_STATIONS: Final = ("inuvik", "kiruna", "santiago", "hartebeesthoek", "awarua")


def stations_of(names: Iterable[str]) -> tuple[Station, ...]:
    """Stations by name; ``ValueError`` with the known names for one that is not in the table."""
    found = []
    for name in names:
        if name not in STATIONS:
            raise ValueError(f"station {name!r}: unknown; known are {', '.join(STATIONS)}")
        found.append(STATIONS[name])
    return tuple(found)


class Network:
    """Stations with their geometry worked out."""

    def __init__(self, stations: tuple[Station, ...]) -> None:
        """Raises ``ValueError`` for more than ``STATIONS_MAX`` or for two of one name."""
        names = [station.name for station in stations]
        if len(names) > STATIONS_MAX or len(set(names)) != len(names):
            raise ValueError(f"stations: at most {STATIONS_MAX}, each name once, got {len(names)}")
        self.stations = stations
        self._sites = [
            (s.name, *from_geodetic(s.latitude_deg, s.longitude_deg, s.height_km), sin(radians(s.mask_deg)))
            for s in stations
        ]

    def visible(self, fixed_km: Vector) -> tuple[tuple[str, float], ...]:
        """Name and elevation in degrees of every station that sees this Earth-fixed position."""
        x, y, z = fixed_km
        seen: tuple[tuple[str, float], ...] = ()
        for name, (sx, sy, sz), (ux, uy, uz), mask_sin in self._sites:
            dx, dy, dz = x - sx, y - sy, z - sz
            height = dx * ux + dy * uy + dz * uz
            if height <= 0.0:
                continue
            elevation_sin = height / sqrt(dx * dx + dy * dy + dz * dz)
            if elevation_sin >= mask_sin:
                seen = (*seen, (name, degrees(asin(elevation_sin))))
        return seen

    def elevation_deg(self, index: int, fixed_km: Vector) -> float:
        """Elevation of an Earth-fixed position over one station's horizon, −90 to 90."""
        _, site, up, _ = self._sites[index]
        dx, dy, dz = fixed_km[0] - site[0], fixed_km[1] - site[1], fixed_km[2] - site[2]
        height = dx * up[0] + dy * up[1] + dz * up[2]
        return degrees(asin(height / sqrt(dx * dx + dy * dy + dz * dz)))
