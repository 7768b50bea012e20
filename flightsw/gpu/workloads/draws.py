"""Which token follows: from logits on the host and one uniform number, by inverse transform sampling in float64.

Logits come to the host in one piece, so the choice is numpy's work and not an operation of the model: it is made
the same on every machine, and a guard of the model's passes does not see it. So under a guard it is made twice
(``agreed``); the logits themselves are looked at once more when the pass ends, after they were read here.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

TEMPERATURE_MIN: Final = 1e-200
"""Under this, no difference of two float32 numbers leaves the other a chance, and none overflows."""
RUNS_MAX: Final = 3
"""Runs of a choice of which two have to agree."""

Logits = npt.NDArray[np.float32]
Choice = TypeVar("Choice")


def pick(logits: Logits, temperature: float, top_k: int, number: float) -> int:
    """A token for finite logits (vocabulary,): the likeliest at temperature 0, else that of ``number``, 0 to 1.

    ``top_k`` 0 is the whole vocabulary; of equal logits at its edge the earlier ones belong to it.
    """
    if temperature <= 0.0:
        return int(np.argmax(logits))
    indices = None
    if 0 < top_k < logits.size:
        indices = _largest(logits, top_k)
        logits = logits[indices]
    values = logits.astype(np.float64)
    weights = np.cumsum(np.exp((values - values.max()) / max(temperature, TEMPERATURE_MIN)))
    place = min(int(np.searchsorted(weights, number * weights[-1], side="right")), weights.size - 1)
    return place if indices is None else int(indices[place])


def _largest(logits: Logits, count: int) -> Any:
    """Indices of the largest, in falling order; of equals the earlier first."""
    edge = np.partition(logits, logits.size - count)[logits.size - count]
    above, at = np.flatnonzero(logits > edge), np.flatnonzero(logits == edge)
    chosen = np.sort(np.concatenate((above, at[: count - above.size])))
    return chosen[np.argsort(-logits[chosen], kind="stable")]


def agreed(choose: Callable[[], Choice]) -> tuple[Choice | None, int]:
    """What two runs of a choice, or two of three, come to, None when no two do; and how many it took."""
    seen: list[Choice] = []
    while len(seen) < RUNS_MAX:
        choice = choose()
        if choice in seen:
            return choice, len(seen) + 1
        seen.append(choice)
    return None, RUNS_MAX
