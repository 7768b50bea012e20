"""Where the satellite is: a circular or eccentric orbit with J2, or a two-line element set.

A named orbit is circular. Of the Earth's oblateness it keeps the secular terms: the node drifts by −3/2 n J2 (R/a)²
cos i, and the argument of latitude runs at n (1 + 3/4 J2 (R/a)² (8 cos² i − 2)), the sum of the rates of perigee
and mean anomaly at zero eccentricity. The periodic terms (some 10 km) are left out. An eccentric one moves by
Kepler's equation on mean elements (``kepler``). A TLE file goes through SGP4 as published.

All give one thing, a position at seconds after their epoch, in the frame of ``geometry``.

Bounds: orbits are those a LEO bench makes sense for, 250 to 1,200 km, which is also where the radiation grid ends.
"""

from datetime import datetime
from math import acos, cos, degrees, pi, radians, sin, sqrt
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
from msgspec import Meta

from .bounds import ALTITUDE_MAX_KM, ALTITUDE_MIN_KM
from .geometry import (
    DAY_S,
    EARTH_J2,
    EARTH_MU_KM3_S2,
    EARTH_RADIUS_KM,
    TROPICAL_YEAR_S,
    Vector,
    days_since_j2000,
    parse_utc,
    sun,
)
from .kepler import KeplerOrbit, MeanElements, mean_from_degrees, osculating
from .tle import TleOrbit, read_tle


class Orbit(Protocol):
    """What the plant asks of an orbit. ``elapsed_s`` counts from ``epoch``."""

    @property
    def name(self) -> str:
        """Name for reports."""

    @property
    def epoch(self) -> datetime:
        """UTC of ``elapsed_s`` = 0."""

    @property
    def period_s(self) -> float:
        """Nodal period."""

    def position_km(self, elapsed_s: float) -> Vector:
        """Inertial position."""


class Elements(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A circular or slightly eccentric orbit, as configured."""

    altitude_km: Annotated[float, Meta(ge=ALTITUDE_MIN_KM, le=ALTITUDE_MAX_KM)] = 550.0
    """Semi-major axis less the equatorial radius, 6378.137 km: the height of a circle."""
    eccentricity: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Perigee and apogee must stay within the range of ``altitude_km``."""
    argument_of_perigee_deg: Annotated[float, Meta(ge=0.0, le=360.0)] = 0.0
    """Angle from the ascending node to perigee at the epoch; a circle has none."""
    inclination_deg: Annotated[float, Meta(ge=0.0, le=180.0)] = 70.0
    """Inclination; over 90° is retrograde."""
    raan_deg: Annotated[float, Meta(ge=0.0, le=360.0)] = 20.0
    """Right ascension of the ascending node at the epoch."""
    argument_of_latitude_deg: Annotated[float, Meta(ge=0.0, le=360.0)] = 0.0
    """Angle from the ascending node to the satellite at the epoch."""
    epoch_utc: Annotated[str, Meta(max_length=32)] = "2026-03-31T00:00:00Z"
    """Epoch, ISO 8601; without a zone it is UTC. 1950 to 2050, where the Sun's formula holds."""


class CircularOrbit:
    """``Elements`` propagated with the secular terms of J2."""

    def __init__(self, name: str, elements: Elements) -> None:
        """Raises ``ValueError`` when the epoch is no date between 1950 and 2050."""
        self.name = name
        self.epoch = parse_utc(elements.epoch_utc)
        self._radius_km = EARTH_RADIUS_KM + elements.altitude_km
        inclination = radians(elements.inclination_deg)
        self._cos_i, self._sin_i = cos(inclination), sin(inclination)
        motion = sqrt(EARTH_MU_KM3_S2 / self._radius_km**3)
        oblate = EARTH_J2 * (EARTH_RADIUS_KM / self._radius_km) ** 2
        self._node, self._node_rate = radians(elements.raan_deg), -1.5 * motion * oblate * self._cos_i
        self._latitude = radians(elements.argument_of_latitude_deg)
        self._latitude_rate = motion * (1.0 + 0.75 * oblate * (8.0 * self._cos_i**2 - 2.0))
        self.period_s = 2.0 * pi / self._latitude_rate
        self.node_rate_deg_day = degrees(self._node_rate) * DAY_S
        self._mean = _mean_elements(elements)

    def mean_elements(self, elapsed_s: float) -> MeanElements:
        """Mean elements ``elapsed_s`` after the epoch."""
        return self._mean.after(elapsed_s)

    def position_km(self, elapsed_s: float) -> Vector:
        """Inertial position ``elapsed_s`` after the epoch."""
        node = self._node + self._node_rate * elapsed_s
        latitude = self._latitude + self._latitude_rate * elapsed_s
        cos_n, sin_n, radius_km = cos(node), sin(node), self._radius_km
        along, across = radius_km * cos(latitude), radius_km * sin(latitude)
        level = across * self._cos_i
        return (cos_n * along - sin_n * level, sin_n * along + cos_n * level, across * self._sin_i)


def state_of(orbit: Orbit, elapsed_s: float) -> tuple[Vector, Vector]:
    """Position in km and velocity in km/s to start an integrator of the full equations of motion from.

    Raises ``ValueError`` for an orbit that is neither mean elements nor a TLE.
    """
    if isinstance(orbit, TleOrbit):
        orbit.position_km(elapsed_s)  # Its refusals are one line.
        return orbit.state(elapsed_s)
    if isinstance(orbit, CircularOrbit | KeplerOrbit):
        return osculating(orbit.mean_elements(elapsed_s))
    raise ValueError(f"orbit {orbit.name}: no velocity is known of it; give elements or a TLE")


def orbit_from(name: str, elements: Elements) -> Orbit:
    """The orbit of configured elements; ``ValueError`` for one that leaves the bench's heights."""
    if elements.eccentricity == 0.0:
        return CircularOrbit(name, elements)
    axis_km = EARTH_RADIUS_KM + elements.altitude_km
    low_km = axis_km * (1.0 - elements.eccentricity) - EARTH_RADIUS_KM
    high_km = axis_km * (1.0 + elements.eccentricity) - EARTH_RADIUS_KM
    if low_km < ALTITUDE_MIN_KM or high_km > ALTITUDE_MAX_KM:
        where = "under the ground" if low_km < 0.0 else f"at {low_km:.0f} km"
        raise ValueError(
            f"orbit {name}: eccentricity {elements.eccentricity:g} at a mean height of {elements.altitude_km:g} km "
            f"puts perigee {where} and apogee at {high_km:.0f} km; the bench flies orbits between "
            f"{ALTITUDE_MIN_KM:.0f} and {ALTITUDE_MAX_KM:.0f} km"
        )
    return KeplerOrbit(name, parse_utc(elements.epoch_utc), _mean_elements(elements))


def _mean_elements(elements: Elements) -> MeanElements:
    return mean_from_degrees(
        axis_km=EARTH_RADIUS_KM + elements.altitude_km,
        eccentricity=elements.eccentricity,
        inclination=elements.inclination_deg,
        node=elements.raan_deg,
        perigee=elements.argument_of_perigee_deg,
        latitude=elements.argument_of_latitude_deg,
    )


def sun_synchronous(altitude_km: float, ltan_h: float, argument_of_latitude_deg: float, epoch_utc: str) -> Elements:
    """Elements of a sun-synchronous circle; ``ltan_h`` is the mean local time of its ascending node, hours."""
    radius_km = EARTH_RADIUS_KM + altitude_km
    rate = 2.0 * pi / TROPICAL_YEAR_S
    motion = sqrt(EARTH_MU_KM3_S2 / radius_km**3)
    inclination = acos(-rate / (1.5 * motion * EARTH_J2 * (EARTH_RADIUS_KM / radius_km) ** 2))
    mean_sun_deg = 280.460 + 0.9856474 * days_since_j2000(parse_utc(epoch_utc))
    return Elements(
        altitude_km=altitude_km,
        inclination_deg=degrees(inclination),
        raan_deg=(mean_sun_deg + (ltan_h - 12.0) * 15.0) % 360.0,
        argument_of_latitude_deg=argument_of_latitude_deg,
        epoch_utc=epoch_utc,
    )


# leo_550 is the default. Its first 95 minutes, with the default stations and times in minutes:
#
#   0.0 sunlight · 14.7–24.4 pass inuvik · 30.2–65.6 eclipse · 53.6–61.7 South Atlantic Anomaly ·
#   54.8–59.7 pass hartebeesthoek · 79.9–87.2 pass awarua · 95.0 sunlight
#
# tests/hil/plant/test_windows.py holds this. The altitude of starcloud1 is published, its inclination is assumed.
ORBITS: Final[dict[str, Elements]] = {
    "leo_550": Elements(),
    "sso_550": sun_synchronous(550.0, 10.5, 0.0, "2026-03-31T00:00:00Z"),
    "dawn_dusk_650": sun_synchronous(650.0, 18.0, 0.0, "2026-03-31T00:00:00Z"),
    "starcloud1": Elements(altitude_km=325.0, inclination_deg=45.0),
    "mid_600": Elements(altitude_km=600.0, inclination_deg=53.0),
}


def orbit_of(text: str) -> Orbit:
    """The orbit that ``text`` names: an entry of ``ORBITS``, or a file whose first TLE is taken.

    Raises ``ValueError`` with one line that says what is wrong and what is allowed.
    """
    if text in ORBITS:
        return orbit_from(text, ORBITS[text])
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"orbit {text!r}: neither a named orbit ({', '.join(ORBITS)}) nor a TLE file")
    return read_tle(path)


def beta_deg(orbit: Orbit, elapsed_s: float) -> float:
    """Angle between the Sun and the orbit plane, degrees, positive towards the orbit's angular momentum."""
    (ax, ay, az), (bx, by, bz) = orbit.position_km(elapsed_s), orbit.position_km(elapsed_s + 60.0)
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    (sx, sy, sz), _ = sun(days_since_j2000(orbit.epoch) + elapsed_s / DAY_S)
    return 90.0 - degrees(acos((nx * sx + ny * sy + nz * sz) / sqrt(nx * nx + ny * ny + nz * nz)))


def eclipse_length_s(altitude_km: float, beta: float) -> float:
    """Length of the eclipse of a circular orbit at a beta angle in degrees, cylindrical shadow, without J2.

    Half-angle acos(√(h² + 2 R h) / (a cos β)); 0 when the orbit stays in the sun.
    """
    radius_km = EARTH_RADIUS_KM + altitude_km
    ratio = sqrt(altitude_km**2 + 2.0 * EARTH_RADIUS_KM * altitude_km) / (radius_km * cos(radians(beta)))
    period_s = 2.0 * pi * sqrt(radius_km**3 / EARTH_MU_KM3_S2)
    return period_s * acos(ratio) / pi if ratio < 1.0 else 0.0
