"""Ids of injections, and the random stream that belongs to each.

An injection's id is ``seed.index.prior.subject``: all that its draw depends on. Its stream is seeded by that id
alone (``hil.randomness``), never by what was drawn before, so one injection out of a thousand is replayed without
the other 999, in any order and on any machine.
"""

import random
import re
from typing import Final

import msgspec

from hil.randomness import stream

INDEX_MAX: Final = 10**9
# A prior's name has no dot, so the two can be told apart; a subject's may, for layers have dots.
_PRIOR: Final = r"[a-zA-Z0-9_:+=,*/-]{1,200}"
_SUBJECT: Final = r"[a-zA-Z0-9_.:+=,*/-]{1,200}"
_ID: Final = re.compile(rf"(\d{{1,10}})\.(\d{{1,9}})\.({_PRIOR})\.({_SUBJECT})")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What an injection was drawn from; ``prior`` and ``subject`` are names."""

    seed: int
    index: int
    prior: str
    subject: str

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31 or not 0 <= self.index < INDEX_MAX:
            raise ValueError(
                f"seed {self.seed}, index {self.index}: 0 to {2**31 - 1} and 0 to {INDEX_MAX - 1} are allowed"
            )
        for name, pattern, dot in ((self.prior, _PRIOR, ", no dot"), (self.subject, _SUBJECT, ", dots")):
            if not re.fullmatch(pattern, name):
                raise ValueError(f'name "{name}": letters, digits and _ : + = , * / - are allowed{dot}')

    @property
    def id(self) -> str:
        """The id of the injection."""
        return f"{self.seed}.{self.index}.{self.prior}.{self.subject}"

    def stream(self, purpose: str) -> random.Random:
        """The injection's own stream for one purpose; other purposes and other injections shift nothing in it."""
        return stream(self.seed, f"injection {self.id} {purpose}")


def origin_of(injection_id: str) -> Origin:
    """What an id was made from. Raises ``ValueError`` for a text that is no id."""
    found = _ID.fullmatch(injection_id)
    if found is None:
        raise ValueError(f'injection id "{injection_id}": it has the form SEED.INDEX.PRIOR.SUBJECT')
    return Origin(seed=int(found[1]), index=int(found[2]), prior=found[3], subject=found[4])
