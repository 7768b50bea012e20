"""The verdict's values: outcomes, one judged requirement, and the verdict on a run with its exit code.

Outcomes
--------
- PASS          held, and was really put to the test.
- FAIL          broken; the satellite's fault.
- INVALID       the bench's own fault, or a fault that was not seen to fire: the run proves nothing.
- INCONCLUSIVE  no violation seen, but too little evidence: nothing compared, samples missing, flight cut short.
- NOT_APPLICABLE  this orbit has no eclipse, no pass: there is nothing to hold, and nothing is claimed.

The worst one of FAIL, INVALID, INCONCLUSIVE, PASS is the run's. FAIL stands over INVALID because a limit that the
plant's truth breaks is broken, whichever fault failed to fire.
"""

from enum import StrEnum, unique
from typing import Final

import msgspec


@unique
class Outcome(StrEnum):
    """Outcome of one requirement, and of the run."""

    PASS = "PASS"
    FAIL = "FAIL"
    INVALID = "INVALID"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"


EXIT_CODES: Final = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INVALID: 2, Outcome.INCONCLUSIVE: 3}
WORST_FIRST: Final = (Outcome.FAIL, Outcome.INVALID, Outcome.INCONCLUSIVE, Outcome.PASS)


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One judged requirement. ``margin`` is positive when there is room left, in ``unit``."""

    id: str
    requirement: str
    outcome: Outcome
    value: float | None = None
    limit: float | None = None
    margin: float | None = None
    unit: str = ""
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The run's outcome and everything it rests on."""

    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 INVALID, 3 INCONCLUSIVE."""
        return EXIT_CODES[self.outcome]

    def of(self, outcome: Outcome) -> list[Check]:
        """The checks with this outcome."""
        return [check for check in self.checks if check.outcome is outcome]
