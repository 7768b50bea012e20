"""A finding: one detector said that something was not as it should be, and what became of it.

Findings go from the place of the check to whoever owns the job: a worker sends them to the daemon, a campaign
counts them. They are values; nobody acts on the text.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

Detector = Literal["digest", "checksum", "repeat", "transit", "range", "finite", "guard", "replay"]
"""digest: resident memory against its sums · checksum: a matrix product against its operands' sums · repeat: an
operation done twice · transit: a result on its way from producer to consumer · range, finite: bounds of values ·
guard: statistics of training · replay: a whole step or request done again."""
Outcome = Literal["repaired", "recomputed", "contained", "open"]
"""repaired: memory holds its old value again · recomputed: done again, and the second result passed · contained:
step, answer or state was thrown away · open: the owner has to act, what was computed since is not to be used."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``where`` names a region or an operation for people; ``detail`` what was found there."""

    detector: Detector
    outcome: Outcome
    where: str
    detail: str = ""


Report = Callable[[Finding], None]
