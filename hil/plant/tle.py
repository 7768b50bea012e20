"""A two-line element set as an orbit: read, checked, and propagated by SGP4 as published."""

from datetime import timedelta
from math import pi
from pathlib import Path
from typing import Final

from sgp4.api import SGP4_ERRORS, WGS72, Satrec
from sgp4.io import compute_checksum

from .bounds import ALTITUDE_MAX_KM, ALTITUDE_MIN_KM
from .geometry import EARTH_RADIUS_KM, J2000, Vector

TLE_BYTES_MAX: Final = 1 << 20


class TleOrbit:
    """A two-line element set propagated by SGP4 (WGS 72 constants, as TLEs are made with)."""

    def __init__(self, name: str, line1: str, line2: str) -> None:
        """Raises ``ValueError`` for a broken line, a wrong checksum or an orbit that is not in range."""
        for number, line in enumerate((line1, line2), start=1):
            _check_line(name, number, line)
        if line1[2:7] != line2[2:7]:
            raise ValueError(f"TLE {name}: the lines are of two satellites, {line1[2:7]} and {line2[2:7]}")
        try:
            self._satellite = Satrec.twoline2rv(line1, line2, WGS72)
        except ValueError as error:
            raise ValueError(f"TLE {name}: {error}") from None
        self.name = name
        satellite = self._satellite
        days = satellite.jdsatepoch - 2451545.0 + satellite.jdsatepochF
        self.epoch = J2000 + timedelta(days=days)
        motion_rad_s = satellite.no_kozai / 60.0
        self.period_s = 2.0 * pi / (motion_rad_s + satellite.argpdot / 60.0) if motion_rad_s > 0.0 else 0.0
        if satellite.error or motion_rad_s <= 0.0:
            raise ValueError(f"TLE {name}: SGP4 refuses it: {SGP4_ERRORS.get(satellite.error, 'mean motion is 0')}")
        low_km, high_km = satellite.altp * EARTH_RADIUS_KM, satellite.alta * EARTH_RADIUS_KM
        if low_km < ALTITUDE_MIN_KM or high_km > ALTITUDE_MAX_KM:
            raise ValueError(
                f"TLE {name}: perigee {low_km:.0f} km, apogee {high_km:.0f} km; the bench flies orbits between "
                f"{ALTITUDE_MIN_KM:.0f} and {ALTITUDE_MAX_KM:.0f} km"
            )

    def position_km(self, elapsed_s: float) -> Vector:
        """Inertial (TEME) position; ``ValueError`` once SGP4 gives the orbit up (decay)."""
        error, position, _ = self._satellite.sgp4_tsince(elapsed_s / 60.0)
        if error:
            raise ValueError(f"TLE {self.name}: SGP4 at {elapsed_s:.0f} s: {SGP4_ERRORS[error]}")
        x, y, z = position
        return (x, y, z)

    def state(self, elapsed_s: float) -> tuple[Vector, Vector]:
        """Inertial position in km and velocity in km/s."""
        _, (x, y, z), (vx, vy, vz) = self._satellite.sgp4_tsince(elapsed_s / 60.0)
        return (x, y, z), (vx, vy, vz)


def read_tle(path: Path) -> TleOrbit:
    """First element set of a TLE file, with or without a name line; ``ValueError`` when there is none."""
    try:
        with path.open("rb") as file:
            text = file.read(TLE_BYTES_MAX).decode("ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"TLE file {path}: {error.strerror}") from None
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.startswith("1 ") and index + 1 < len(lines) and lines[index + 1].startswith("2 "):
            title = lines[index - 1].removeprefix("0 ").strip() if index else ""
            return TleOrbit(title or line[2:7].strip(), line, lines[index + 1])
    raise ValueError(f"TLE file {path}: no two lines that begin with '1 ' and '2 '")


def _check_line(name: str, number: int, line: str) -> None:
    if len(line) != 69 or not line.isascii():
        raise ValueError(f"TLE {name}: line {number} has {len(line)} characters, a TLE line has 69")
    checksum = compute_checksum(line)
    if line[68] != str(checksum):
        raise ValueError(f"TLE {name}: line {number} ends in checksum {line[68]!r}, its digits give {checksum}")
