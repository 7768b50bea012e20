"""Time scales, the Sun and the Earth's shadow: the geometry every part of the plant shares.

Frames. Inertial vectors are in the true equator and mean equinox of date, the frame SGP4 works in (TEME), so a
TLE orbit and a circular orbit need no conversion between them. Rotation by Greenwich mean sidereal time gives
Earth-fixed vectors; polar motion (under 15 m) is left out and UT1 is taken as UTC (under 0.9 s, 0.004°).

Vectors are plain tuples of floats: at one satellite and one instant numpy costs ten times as much.

Sources: Astronomical Almanac, page C5 (low-precision Sun, 0.01° from 1950 to 2050); IAU 1982 sidereal time;
Montenbruck & Gill, Satellite Orbits, 3.4.2 (conical shadow); Bowring 1976 (geodetic latitude); WGS 84.
"""

from datetime import UTC, datetime
from math import acos, asin, atan2, cos, degrees, fmod, hypot, pi, radians, sin, sqrt
from typing import Final

Vector = tuple[float, float, float]

EARTH_RADIUS_KM: Final = 6378.137
EARTH_MU_KM3_S2: Final = 398600.4418
EARTH_J2: Final = 1.08262668e-3
EARTH_FLATTENING: Final = 1.0 / 298.257223563
SUN_RADIUS_KM: Final = 695700.0
AU_KM: Final = 149597870.7
DAY_S: Final = 86400.0
TROPICAL_YEAR_S: Final = 365.2422 * DAY_S
TAI_MINUS_UTC_S: Final = 37.0  # Since 2017-01-01; no further leap second has been announced.

J2000: Final = datetime(2000, 1, 1, 12, tzinfo=UTC)
CUC_EPOCH: Final = datetime(1958, 1, 1, tzinfo=UTC)

# Up to this far behind the Earth the penumbra lies within EDGE_BAND_KM of the Earth's radius.
EDGE_BAND_KM: Final = 60.0
EDGE_REACH_KM: Final = 12_000.0
_LIT_KM2: Final = (EARTH_RADIUS_KM + EDGE_BAND_KM) ** 2
_DARK_KM2: Final = (EARTH_RADIUS_KM - EDGE_BAND_KM) ** 2

_B_KM: Final = EARTH_RADIUS_KM * (1.0 - EARTH_FLATTENING)
_E2: Final = EARTH_FLATTENING * (2.0 - EARTH_FLATTENING)
_EP2: Final = _E2 / (1.0 - _E2)


def parse_utc(text: str) -> datetime:
    """ISO 8601 date and time, without a zone taken as UTC; ``ValueError`` outside 1950 to 2050."""
    try:
        utc = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"epoch {text!r}: not an ISO 8601 date and time like 2026-03-20T12:00:00Z") from None
    utc = utc.replace(tzinfo=UTC) if utc.tzinfo is None else utc.astimezone(UTC)
    if not 1950 <= utc.year < 2050:
        raise ValueError(f"epoch {text!r}: must lie between 1950 and 2050, where the Sun's formula holds")
    return utc


def days_since_j2000(utc: datetime) -> float:
    """Days of UTC since 2000-01-01 12:00, for ``gmst_rad`` and ``sun``."""
    return (utc - J2000).total_seconds() / DAY_S


def tai_s(utc: datetime) -> float:
    """Seconds of TAI since 1958-01-01, the epoch of CUC time."""
    return (utc - CUC_EPOCH).total_seconds() + TAI_MINUS_UTC_S


def gmst_rad(days: float) -> float:
    """Greenwich mean sidereal time, rad (IAU 1982 without the T³ term, 6e-6 s per century³)."""
    centuries = days / 36525.0
    angle_deg = 280.46061837 + 360.98564736629 * days + 0.000387933 * centuries * centuries
    return radians(fmod(angle_deg, 360.0))


def sun(days: float) -> tuple[Vector, float]:
    """Unit vector to the Sun and its distance in astronomical units; 0.01° and 0.0003 au."""
    mean_longitude = 280.460 + 0.9856474 * days
    anomaly = radians(fmod(357.528 + 0.9856003 * days, 360.0))
    longitude = radians(fmod(mean_longitude + 1.915 * sin(anomaly) + 0.020 * sin(2.0 * anomaly), 360.0))
    obliquity = radians(23.439 - 4.0e-7 * days)
    distance_au = 1.00014 - 0.01671 * cos(anomaly) - 0.00014 * cos(2.0 * anomaly)
    across = sin(longitude)
    return (cos(longitude), cos(obliquity) * across, sin(obliquity) * across), distance_au


def sunlit_fraction(position_km: Vector, sun_unit: Vector, sun_distance_au: float) -> float:
    """Visible share of the Sun's disc, 1 in full sun, 0 in the umbra, in between in the penumbra.

    Overlap of two discs as the satellite sees them; the Earth is a sphere of its equatorial radius, without
    an atmosphere.
    """
    x, y, z = position_km
    along_km = x * sun_unit[0] + y * sun_unit[1] + z * sun_unit[2]
    if along_km >= 0.0:
        return 1.0
    squared_km2 = x * x + y * y + z * z
    # Far from the shadow's edge no angle is needed. The edge is a band along · 0.00473 wide on either side.
    beside_km2 = squared_km2 - along_km * along_km
    if beside_km2 > _LIT_KM2 and along_km > -EDGE_REACH_KM:
        return 1.0
    if beside_km2 < _DARK_KM2 and along_km > -EDGE_REACH_KM:
        return 0.0
    radius_km = sqrt(squared_km2)
    sun_radius = asin(SUN_RADIUS_KM / (sun_distance_au * AU_KM - along_km))
    earth_radius = asin(min(1.0, EARTH_RADIUS_KM / radius_km))
    # The parallax of the Sun over one orbit radius (0.003°) is a hundredth of its disc; it is left out.
    apart = acos(max(-1.0, min(1.0, -along_km / radius_km)))
    if apart >= sun_radius + earth_radius:
        return 1.0
    if apart <= earth_radius - sun_radius:
        return 0.0
    chord = (apart * apart + sun_radius * sun_radius - earth_radius * earth_radius) / (2.0 * apart)
    half_width = sqrt(max(0.0, sun_radius * sun_radius - chord * chord))
    hidden = (
        sun_radius * sun_radius * acos(max(-1.0, min(1.0, chord / sun_radius)))
        + earth_radius * earth_radius * acos(max(-1.0, min(1.0, (apart - chord) / earth_radius)))
        - apart * half_width
    )
    return max(0.0, min(1.0, 1.0 - hidden / (pi * sun_radius * sun_radius)))


def earth_fixed(position_km: Vector, gmst: float) -> Vector:
    """Inertial vector turned into the Earth-fixed frame."""
    x, y, z = position_km
    c, s = cos(gmst), sin(gmst)
    return (c * x + s * y, c * y - s * x, z)


def geodetic(fixed_km: Vector) -> tuple[float, float, float]:
    """Geodetic latitude and longitude in degrees and height in km above the WGS 84 ellipsoid.

    Bowring's closed form; its error is far below a metre up to 2,000 km.
    """
    x, y, z = fixed_km
    axis_km = hypot(x, y)
    if axis_km < 1e-6:  # Over a pole the formula below divides by zero.
        return (90.0 if z > 0.0 else -90.0), 0.0, abs(z) - _B_KM
    t = z * EARTH_RADIUS_KM / (axis_km * _B_KM)
    norm = sqrt(1.0 + t * t)
    sin_u, cos_u = t / norm, 1.0 / norm
    latitude = atan2(z + _EP2 * _B_KM * sin_u**3, axis_km - _E2 * EARTH_RADIUS_KM * cos_u**3)
    sin_lat = sin(latitude)
    curvature_km = EARTH_RADIUS_KM / sqrt(1.0 - _E2 * sin_lat * sin_lat)
    # This form of the height is well-conditioned at every latitude.
    height_km = axis_km * cos(latitude) + z * sin_lat - curvature_km * (1.0 - _E2 * sin_lat * sin_lat)
    return degrees(latitude), degrees(atan2(y, x)), height_km


def from_geodetic(latitude_deg: float, longitude_deg: float, height_km: float) -> tuple[Vector, Vector]:
    """Earth-fixed position in km and the unit vector of its local vertical."""
    latitude, longitude = radians(latitude_deg), radians(longitude_deg)
    up = (cos(latitude) * cos(longitude), cos(latitude) * sin(longitude), sin(latitude))
    curvature_km = EARTH_RADIUS_KM / sqrt(1.0 - _E2 * up[2] * up[2])
    across_km = curvature_km + height_km
    return (across_km * up[0], across_km * up[1], (curvature_km * (1.0 - _E2) + height_km) * up[2]), up
