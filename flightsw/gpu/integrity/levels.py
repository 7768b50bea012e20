"""What each integrity level does: policy as a table.

A *pass* is one forward pass, with its backward pass in training. ``…_every`` counts passes or steps: 1 is every one
of them, 0 none. Which passes are looked at is a matter of count, not of chance, so a run can be repeated.

*State is not sampled in the training job*: it verifies all of it before every update, at every level but OFF. An
update changes every word, and AdamW is not linear, so a digest cannot be carried over a step: the new one is taken
from the new values. Taken after a step whose start nobody verified, it would seal damage in, the next verification
would pass, and no later checkpoint could be vouched for. Verified every n-th step, only what was hit in that one
step would be seen, and blocks that were left out would stay unknown until the job is restored. So ``state_every``
is for the loops of users under ``protect``, which write no checkpoints of ours; what it leaves out is not seen.
"""

from typing import Final

import msgspec

from flightsw.link.integrity import Level


class Vigilance(msgspec.Struct, frozen=True, kw_only=True):
    """One level. All zero is off."""

    checksum_every: int = 0
    """Passes whose matrix products are checked against the sums of their operands, before rounding."""
    repeat_every: int = 0
    """Passes whose other operations (attention, norms, activations) are done twice and compared bit by bit."""
    transit_every: int = 0
    """Passes whose results are digested by the producer and verified by the consumer."""
    state_every: int = 0
    """Optimiser steps of a user's own loop before which all of the state is verified. The training job does so
    before every step and every checkpoint."""
    scrub_share: float = 0.0
    """Share of busy time that goes into scrubbing resident state, 0 to 1."""
    replay_every: int = 0
    """Optimiser steps, or decoding steps, that are done again as a whole and compared."""
    guards: bool = False
    """Statistics of training: loss, gradient norm, update."""


LEVELS: Final[dict[Level, Vigilance]] = {
    Level.OFF: Vigilance(),
    Level.WATCH: Vigilance(checksum_every=256, transit_every=256, state_every=32, scrub_share=0.002, guards=True),
    Level.STANDARD: Vigilance(
        checksum_every=8, repeat_every=32, transit_every=8, state_every=1, scrub_share=0.01, replay_every=256,
        guards=True,
    ),
    Level.STORM: Vigilance(
        checksum_every=1, repeat_every=1, transit_every=1, state_every=1, scrub_share=0.03, replay_every=64,
        guards=True,
    ),
}  # fmt: skip
