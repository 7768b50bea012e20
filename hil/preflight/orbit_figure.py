"""The handbook's picture of one orbit: sun, charge, temperatures, power, throughput, plan and truth.

    python -m hil.preflight.orbit_figure [PATH]      # flightsw/pictures/orbit.png

The executive flies ``ORBITS_BEFORE`` orbits in virtual time, so that what it learns has settled, and one more. That
one is drawn, with the plan that a clairvoyant would fly orbit after orbit.
"""

import sys
from pathlib import Path
from typing import Final

from ..plant.plant import Plant, PlantConfig
from .compare import Comparison, compare
from .document import PlanError
from .figure import draw_comparison
from .flown import SAMPLE_S, cut, record

PATH: Final = Path(__file__).parent.parent.parent / "flightsw" / "pictures" / "orbit.png"
HEADING: Final = "One orbit: what the governor flew, and what a clairvoyant would have"
ORBITS_BEFORE: Final = 2
FRAME_S: Final = 1.0
SEED: Final = 1


def orbit(name: str = "leo_550", orbits_before: int = ORBITS_BEFORE, seed: int = SEED) -> Comparison:
    """Fly, and compare the last orbit with its plan."""
    plant = Plant(PlantConfig(orbit=name), seed=seed)
    period_s = plant.geometry.orbit.period_s
    start_s = orbits_before * period_s
    _, flown = record(plant, start_s + period_s + SAMPLE_S, FRAME_S, seed)
    return compare(cut(flown, start_s, start_s + period_s), periodic=True)


def main() -> int:
    """Entry point; the exit status."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = orbit()
        draw_comparison(found, path, HEADING)
    except PlanError as error:
        print(f"orbit_figure: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"orbit_figure: {path}: {error.strerror}", file=sys.stderr)
        return 2
    for row in found.quantities:
        print(f"{row.label:28} plan {row.planned:8.4g} {row.unit:3} flown {row.measured:8.4g} {row.unit}")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
