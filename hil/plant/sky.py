"""What the satellite sees of Sun and Earth at an instant: the part of the plant another engine may bring.

    view = sky.look(elapsed_s)        position, radius, cos of the Sun's zenith angle, visible Sun, (distance/au)²

``OwnSky`` is the embedded engine's: the configured orbit, the almanac's Sun, a conical shadow. The Basilisk adapter
brings its own orbit and eclipse and leaves battery, bus and heat to the same code.

The Sun is renewed once per slot of ``SUN_REFRESH_S``, at the slot's middle, so that an instant has the same Sun
whatever the steps were.
"""

from math import sqrt
from typing import Final, Protocol

from .geometry import DAY_S, Vector, days_since_j2000, sun, sunlit_fraction
from .orbit import Orbit

SUN_REFRESH_S: Final = 60.0  # The Sun moves 0.0007° in that time.
NORMAL_BASE_S: Final = 60.0  # Between the two positions that span the orbit's plane.

View = tuple[Vector, float, float, float, float]


class Sky(Protocol):
    """An orbit with its Sun and shadow; ``elapsed_s`` counts from the orbit's epoch and never runs backwards."""

    def look(self, elapsed_s: float) -> View:
        """Position in km, its length, the cosine of the Sun's zenith angle, visible share of the Sun, (d/au)²."""

    def across_cos(self, elapsed_s: float) -> float:
        """Cosine of the angle between the Sun and the orbit's plane."""


class OwnSky:
    """The embedded engine's sky."""

    def __init__(self, orbit: Orbit) -> None:
        self._position_km = orbit.position_km
        self._epoch_days = days_since_j2000(orbit.epoch)
        self._slot = -1
        self._sun_unit, self._distance_au = sun(self._epoch_days)

    def look(self, elapsed_s: float) -> View:
        """What is seen at ``elapsed_s``; see ``Sky``."""
        slot = int(elapsed_s // SUN_REFRESH_S)
        if slot != self._slot:
            self._turn_to(slot)
        sun_unit, distance_au = self._sun_unit, self._distance_au
        position = x, y, z = self._position_km(elapsed_s)
        radius_km = sqrt(x * x + y * y + z * z)
        zenith_cos = (x * sun_unit[0] + y * sun_unit[1] + z * sun_unit[2]) / radius_km
        sunlit = 1.0 if zenith_cos >= 0.0 else sunlit_fraction(position, sun_unit, distance_au)
        return position, radius_km, zenith_cos, sunlit, distance_au * distance_au

    def across_cos(self, elapsed_s: float) -> float:
        """Cosine of the beta angle."""
        self._turn_to(int(elapsed_s // SUN_REFRESH_S))
        return plane_cos(self._position_km(elapsed_s), self._position_km(elapsed_s + NORMAL_BASE_S), self._sun_unit)

    def _turn_to(self, slot: int) -> None:
        self._slot = slot
        self._sun_unit, self._distance_au = sun(self._epoch_days + (slot + 0.5) * SUN_REFRESH_S / DAY_S)


def plane_cos(one_km: Vector, other_km: Vector, sun_unit: Vector) -> float:
    """Cosine of the angle between the Sun and the plane through two positions, 0 to 1."""
    (ax, ay, az), (bx, by, bz) = one_km, other_km
    nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    across = nx * sun_unit[0] + ny * sun_unit[1] + nz * sun_unit[2]
    return sqrt(max(0.0, 1.0 - across * across / (nx * nx + ny * ny + nz * nz)))
