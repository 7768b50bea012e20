"""Micro-batch size as an actuator: into how many pieces a micro-batch is cut.

A smaller micro-batch reacts and stops sooner, and it is a smaller quantum of energy, so the mean power over a few
seconds is finer; the card works less efficiently on it. The core sends the longest micro-batch that it wants with
each set-point (``protocol.Pace.micro_batch_s``). The mechanism cuts a micro-batch of n sequences into at most n
pieces, and at most ``PIECES_MAX``.
"""

import math
from typing import Final

PIECES_MAX: Final = 16
"""A piece is never less than this part of a micro-batch."""


def pieces_for(whole_s: float, bound_s: float, sequences: int) -> int:
    """Pieces of a micro-batch that takes ``whole_s`` uncut: the fewest that fit ``bound_s`` (0 or less is no
    bound).

    1 to ``PIECES_MAX``, never more than ``sequences``; a time that is not known (NaN, 0) is not cut.
    """
    if not (bound_s > 0.0 and whole_s > bound_s):
        return 1
    return max(1, min(math.ceil(whole_s / bound_s), PIECES_MAX, sequences))
