"""Into how many parts a micro-batch is cut, so that a part fits a time: tried on the machine, once in a job.

The bound has to hold at every integrity level, and a level that is switched must not change the parts. So a job
that may be guarded is timed with all checks on.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch

from flightsw.gpu.workloads.trainer import Trainer

SPLIT_TRIALS: Final = 4
"""Passes that are timed for each split that is tried; the first one warms up."""
SPLIT_MARGIN: Final = 0.7
"""A part has to fit into this much of the target."""


Running = Callable[[], AbstractContextManager[None]]


def fitting_split(trainer: Trainer, target_s: float, running: Running = nullcontext) -> int:
    """Fewest equal parts that take at most ``SPLIT_MARGIN`` · ``target_s`` s here and now, or single rows.

    ``running`` is entered for each pass. For a trainer at a step boundary, which it leaves as it was.
    """
    whole = trainer.rows * trainer.split
    fits = (
        split
        for split in range(1, whole)
        if whole % split == 0 and _pass_s(trainer, whole // split, running) <= SPLIT_MARGIN * target_s
    )
    split = next(fits, whole)
    trainer.go_back()
    return split


def _pass_s(trainer: Trainer, rows: int, running: Running) -> float:
    """Longest of a few passes over so many rows, s."""
    idx, targets = (tensor.expand(rows, -1) for tensor in trainer.batches.first())
    times_s = []
    for _ in range(SPLIT_TRIALS):
        start_s = time.monotonic()
        with running():
            trainer.run_pass(idx, targets, 1.0, 1)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.monotonic() - start_s)
    return max(times_s[1:])
