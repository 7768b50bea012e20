"""The yardstick's own results, which no governor touches: what was achievable in each scenario, and its bound.

Both are kept as JSON lines in the output folder, one file for each set of scenarios, and made once.
"""

import time
from pathlib import Path
from typing import Final

from .bound import certify
from .clairvoyant import achievable, grid, reference_value, start_of
from .records import YARDSTICK_VERSION, Line, Records
from .scenarios import ORBITS, make

REFERENCE_STEP_S: Final = 60.0
DISCRETISATION: Final = 1e-4


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


class Bound(Line, frozen=True, kw_only=True):
    """``bound`` is proved: no plan of the scenario has a higher mean throughput. ``rounds`` of tightening."""

    achievable: float
    bound: float
    rounds: int
    probes: int
    seconds: float

    @property
    def gap(self) -> float:
        """By how much the bound is over what was flown, in percent."""
        return 100.0 * (self.bound / self.achievable - 1.0)


class Contradiction(Exception):
    """A plan was flown that the bound calls impossible: plant or bound is wrong, and no score can be trusted."""


def agreed(number: int, flown: float, proved: float) -> float:
    """The bound, if nothing was flown above it. Raises ``Contradiction``.

    Flown plan and bound discretise differently; ``DISCRETISATION`` is what that may make of it.
    """
    if not proved >= flown * (1.0 - DISCRETISATION):
        raise Contradiction(f"scenario {number}: flown {flown:.5f} is over the bound {proved:.5f}")
    return proved


def bound(number: int) -> Bound:
    """Certify one scenario. Raises ``Contradiction``."""
    began_s = time.process_time()
    scenario = make(number)
    achieved = achievable(scenario)
    steps_s, sunlit = grid(scenario)
    proved = certify(scenario.truth, steps_s, sunlit, start_of(scenario), achieved.solution.value)
    return Bound(
        scenario=number,
        version=YARDSTICK_VERSION,
        achievable=achieved.value,
        bound=agreed(number, achieved.value, proved.value),
        rounds=len(proved.values) - 1,
        probes=proved.probes,
        seconds=time.process_time() - began_s,
    )


def bounds(folder: Path, set_name: str) -> Records[Bound]:
    """The bounds that are known of a set."""
    return Records(folder / f"bound-{set_name}.jsonl", Bound, YARDSTICK_VERSION)
