"""Anomalies of training: what is unusual for this worker, measured against itself.

No absolute limit says that a micro-batch takes too long or that a loss is too high; both depend on the model, the
card and the data. So each worker is its own yardstick, anew with each process:

- *step time*: the longest micro-batch of a heartbeat over the mean of the first ``BASE_BEATS`` heartbeats after
  ``WARM_UP_BEATS``. The yardstick does not follow, so a slow decline shows.
- *loss*: the loss over its slow mean. A mean that is pulled up by a diverging loss would hide it, so one heartbeat
  lifts it by at most ``LOSS_WEIGHT`` · ``LOSS_LIFT``.

Only heartbeats with progress count: a paced worker that rests is not slow.
"""

from typing import Final

from msgspec import Struct

WARM_UP_BEATS: Final = 5
"""First heartbeats with progress of a worker that are no yardstick: caches and kernels are being made."""
BASE_BEATS: Final = 30
"""Heartbeats that make the yardstick of the step time."""
LOSS_WEIGHT: Final = 0.02
"""Weight of the newest loss in its slow mean."""
LOSS_LIFT: Final = 0.5
"""Most that a loss counts as being over its mean when the mean is renewed."""


class Baseline(Struct, frozen=True):
    """Heartbeats with progress, sum of the longest micro-batches (s) of the base, slow mean of the loss, latest."""

    beats: int = 0
    sum_s: float = 0.0
    loss_mean: float = float("nan")
    step_time_ratio: float = float("nan")
    loss_rise: float = float("nan")


NEW: Final = Baseline()


def step(state: Baseline, micro_batch_s: float, loss: float) -> Baseline:
    """The yardsticks after one more heartbeat with progress, and how it compares with those before it."""
    measured = state.beats - WARM_UP_BEATS
    mean, sum_s, ratio = state.loss_mean, state.sum_s, float("nan")
    if 0 <= measured < BASE_BEATS:
        sum_s += micro_batch_s
    elif measured >= BASE_BEATS and sum_s > 0.0:
        ratio = micro_batch_s * BASE_BEATS / sum_s
    rise = loss - mean
    if loss - loss == 0.0:
        # A loss that is no finite number moves no mean.
        mean = loss if mean != mean else mean + LOSS_WEIGHT * (min(loss, mean + LOSS_LIFT) - mean)
    return Baseline(min(state.beats + 1, WARM_UP_BEATS + BASE_BEATS), sum_s, mean, ratio, rise)
