"""Make ``data/ap8max_10mev.npz``: the flux of trapped protons over 10 MeV on a 5° grid.

The plant must know where and when upsets come, offline and in a microsecond. NASA's AP8MAX, as the package
``aep8`` (IRBEM) has it, is evaluated once per grid point and the table is shipped; ``radiation`` interpolates.
``aep8`` uses the magnetic field AP8 was built with; the other package, ``radbelt``, uses the field of date and
gives a fluence 3 to 6 times higher, so the map is good for *where and when* and the absolute rate carries a
factor of 5.

This script is not part of the bench at run time and its libraries are none of gpusat's: run it in a virtual
environment of its own,

    python -m venv belt && belt/bin/pip install aep8 && belt/bin/python -m hil.plant.make_belt_grid

Points for which the model gives NaN or warns have no trapped protons in this range and are stored as zero.
"""

import argparse
import datetime
import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Final

import numpy as np

STEP_DEG: Final = 5
ALTITUDES_KM: Final = (
    250.0,
    300.0,
    350.0,
    400.0,
    450.0,
    500.0,
    550.0,
    600.0,
    650.0,
    700.0,
    800.0,
    900.0,
    1000.0,
    1200.0,
)
ENERGY_MEV: Final = 10.0
EPOCH: Final = "2026-01-01T00:00:00"
FILE: Final = Path(__file__).parent / "data" / "ap8max_10mev.npz"


def main() -> int:
    """Evaluate the model and write the file; exit status 2 when ``aep8`` is not installed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=FILE, help="file to write (default: the shipped one)")
    output: Path = parser.parse_args().output
    try:
        aep8 = importlib.import_module("aep8")
        coordinates = importlib.import_module("astropy.coordinates")
        time = importlib.import_module("astropy.time")
        units = importlib.import_module("astropy.units")
    except ImportError as error:
        print(f"make_belt_grid: {error}; install aep8 in a virtual environment of its own", file=sys.stderr)
        return 2

    latitudes = np.arange(-90, 91, STEP_DEG, dtype=float)
    longitudes = np.arange(-180, 180, STEP_DEG, dtype=float)
    model = aep8.model(solar="max", particle="p")
    flux = np.zeros((len(ALTITUDES_KM), len(latitudes), len(longitudes)), dtype=np.float32)
    for index, altitude_km in enumerate(ALTITUDES_KM):
        latitude, longitude = np.meshgrid(latitudes, longitudes, indexing="ij")
        place = coordinates.EarthLocation.from_geodetic(
            longitude * units.deg, latitude * units.deg, altitude_km * units.km
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Points off the model's B–L range; their NaN becomes zero below.
            value = model.integral_flux(place, time.Time(EPOCH), ENERGY_MEV * units.MeV)
        flux[index] = np.nan_to_num(value.to_value(1 / (units.s * units.cm**2)), nan=0.0)
        print(f"{altitude_km:6.0f} km: peak {flux[index].max():8.1f} /cm²/s")

    provenance = {
        "model": "NASA AP8MAX, integral flux, protons",
        "energy_mev": ENERGY_MEV,
        "unit": "1/(cm2 s)",
        "epoch": EPOCH,
        "package": f"aep8 {aep8.__version__} (IRBEM), astropy {importlib.import_module('astropy').__version__}",
        "command": "python -m hil.plant.make_belt_grid",
        "made_utc": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        output,
        altitude_km=np.array(ALTITUDES_KM),
        latitude_deg=latitudes,
        longitude_deg=longitudes,
        flux_cm2_s=flux,
        provenance=np.array(json.dumps(provenance)),
    )
    print(f"{output}: {output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
