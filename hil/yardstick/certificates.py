"""The yardstick's own results, which no governor touches: what was achievable in each scenario, and its bound.

Both are kept as JSON lines in the output folder, one file for each set of scenarios, and made once.
"""

import time
from pathlib import Path
from typing import Final

from .clairvoyant import achievable, reference_value, start_of
from .records import YARDSTICK_VERSION, Line, Records
from .scenarios import ORBITS, make

REFERENCE_STEP_S: Final = 60.0


class Clairvoyant(Line, frozen=True, kw_only=True):
    """Mean throughputs of one scenario, and the processor time they took.

    ``achievable`` was flown without a violation; ``reference`` is the reference's value: equal steps of 60 s over
    sunlit edges, which cannot be flown.
    """

    achievable: float
    reference: float
    eclipse_min: float
    seconds: float


def clairvoyant(number: int) -> Clairvoyant:
    """Solve one scenario."""
    began_s = time.process_time()
    scenario = make(number)
    achieved = achievable(scenario)
    steps = int(ORBITS * scenario.truth.orbit_s // REFERENCE_STEP_S)
    plan, _ = reference_value(scenario.truth, steps, start_of(scenario))
    return Clairvoyant(
        scenario=number,
        version=YARDSTICK_VERSION,
        achievable=achieved.value,
        reference=plan.value,
        eclipse_min=scenario.eclipse_min,
        seconds=time.process_time() - began_s,
    )


def clairvoyants(folder: Path, set_name: str) -> Records[Clairvoyant]:
    """The achievable values that are known of a set."""
    return Records(folder / f"clairvoyant-{set_name}.jsonl", Clairvoyant, YARDSTICK_VERSION)
