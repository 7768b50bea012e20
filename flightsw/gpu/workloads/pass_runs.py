"""Runs of one pass of a served model: which of two ways it is sampled in, and when enough of its runs agree.

Looking at a pass or replaying it: which of the two is cheaper depends on the size of the operations, not on what
they are, as the checks of a small one cost many times the operation. So both are tried (again and again, see
``TRIAL_EVERY``), chunks of prompts and decode steps apart, and the cheaper one is taken. Before passes without
gradients were looked at late (``tape``), looking cost 35 times a decode step of preset tiny and 1.3 times one of
gpt2-85m at storm, a replay twice on all of them; now it costs 1.1 times one 768 wide. Doubling the rows within one
pass would cost 1.3 to 1.5 times a decode step, but other shapes round in another way, and a level must not change
an answer.
"""

import math
from typing import Final, NamedTuple

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.workloads.generation import Drawn

TRIAL_EVERY: Final = 256
"""Every so many sampled passes both ways are tried anew: one is looked at, the next one replayed. The first look
may be slow for once (kernels are loaded), so looking is tried again after 2, 4, 8, 16 … of them."""


class Run(NamedTuple):
    """What one run of a pass gave."""

    drawn: Drawn
    written: tuple[Tensor, ...]
    """Sums of what it wrote to the cache."""
    sound: bool
    seconds: float


class Way(msgspec.Struct):
    """How one kind of pass is sampled, and the least that a token of it has cost of late, in seconds.

    The least, because whatever disturbs a pass makes it slower: one slow look must not let many passes be replayed.
    """

    decode: bool
    passes: int = 0
    sampled: int = 0
    looked_s: float = math.inf
    plain_s: float = math.inf

    def looks(self, *, replayed: bool) -> bool:
        """Whether the next sampled pass is looked at, and not replayed: that costs one more plain run. Of those
        that should be ``replayed`` only trials are looked at."""
        count = self.sampled
        self.sampled += 1
        if count % TRIAL_EVERY == 0:
            self.looked_s = self.plain_s = math.inf
        tried = count % TRIAL_EVERY == 0 or (count > 1 and count.bit_count() == 1)
        return tried or (not replayed and self.plain_s < math.inf and self.looked_s < 2.0 * self.plain_s)


def agreed(runs: list[Run], wanted: int) -> bool:
    """Whether the last run is sound and ``wanted`` runs, itself included, are equal to it."""
    last = runs[-1]
    return last.sound and sum(one is last or (one.sound and _same(one, last)) for one in runs) >= wanted


def _same(one: Run, other: Run) -> bool:
    """Equal bit by bit: logits (NaN equals the same NaN), tokens and what was written."""
    return (
        one.drawn.tokens == other.drawn.tokens
        and torch.equal(one.drawn.logits.view(torch.int32), other.drawn.logits.view(torch.int32))
        and len(one.written) == len(other.written)
        and all(torch.equal(first, second) for first, second in zip(one.written, other.written, strict=True))
    )
