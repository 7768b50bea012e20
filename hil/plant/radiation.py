"""Flux of trapped protons over 10 MeV along the orbit: the South Atlantic Anomaly, from a shipped table.

``data/ap8max_10mev.npz`` is AP8MAX on a 5° grid of latitude and longitude at 14 altitudes; ``make_belt_grid`` made
it and its provenance is inside. Between the grid points the flux is linear in all three directions.

The map tells *where and when* upsets come. Its absolute scale is uncertain by a factor of 5 (two packages that both
hold AP8 differ by 3 to 6 in fluence), so rates are mission parameters and never read from here.
"""

import json
from bisect import bisect
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

GRID_FILE: Final = Path(__file__).parent / "data" / "ap8max_10mev.npz"
SAA_FLUX_CM2_S: Final = 10.0
"""Flux over which the satellite counts as inside the anomaly."""


class BeltGrid:
    """The table and its interpolation."""

    def __init__(self, path: Path = GRID_FILE) -> None:
        """Raises ``ValueError`` when the file is missing or is no such table."""
        try:
            with np.load(path, allow_pickle=False) as file:
                altitudes, latitudes = file["altitude_km"], file["latitude_deg"]
                longitudes, flux = file["longitude_deg"], np.nan_to_num(file["flux_cm2_s"], nan=0.0)
                self.provenance: dict[str, object] = json.loads(str(file["provenance"]))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"radiation grid {path}: {error}; make it again with hil.plant.make_belt_grid"
            ) from None
        if flux.shape != (len(altitudes), len(latitudes), len(longitudes)) or (flux < 0.0).any():
            raise ValueError(f"radiation grid {path}: shape {flux.shape} or sign of the flux is wrong")
        self.altitudes_km: tuple[float, ...] = tuple(altitudes.tolist())
        self._step_deg = float(latitudes[1] - latitudes[0])
        self._columns = len(longitudes)
        # The column at +180° repeats the one at −180°, so that no index ever wraps.
        closed = np.concatenate([flux, flux[:, :, :1]], axis=2)
        self._flux: list[list[list[float]]] = closed.tolist()
        self._last_row = len(latitudes) - 2

    def flux_cm2_s(self, latitude_deg: float, longitude_deg: float, altitude_km: float) -> float:
        """Integral flux; longitude −180 to 180. Outside the grid's altitudes the nearest one counts."""
        altitudes = self.altitudes_km
        altitude_km = min(altitudes[-1], max(altitudes[0], altitude_km))
        upper = min(len(altitudes) - 1, max(1, bisect(altitudes, altitude_km)))
        low_km = altitudes[upper - 1]
        share = (altitude_km - low_km) / (altitudes[upper] - low_km)

        y = (latitude_deg + 90.0) / self._step_deg
        x = (longitude_deg + 180.0) / self._step_deg
        row, column = min(self._last_row, int(y)), min(self._columns - 1, int(x))
        y, x = y - row, x - column
        total = 0.0
        for level, weight in ((self._flux[upper - 1], 1.0 - share), (self._flux[upper], share)):
            south, north = level[row], level[row + 1]
            a, b = south[column], south[column + 1]
            c, d = north[column], north[column + 1]
            if a or b or c or d:
                below, above = a + (b - a) * x, c + (d - c) * x
                total += weight * (below + (above - below) * y)
        return total


@cache
def belt_grid() -> BeltGrid:
    """The shipped table, read once per process."""
    return BeltGrid()
