"""Which tokens follow: from logits on the host and a uniform number each, by inverse transform sampling in float64.

Logits come to the host in one piece, so the choice is numpy's work and not an operation of the model: it is made
the same on every machine, and a guard of the model's passes does not see it. So under a guard it is made twice
(``agreed``); the logits themselves are looked at once more when the pass ends, after they were read here.

All rows are drawn together, those of one ``top_k`` at a time: a call of numpy costs more than its work on a row.
Each row's arithmetic is its own, element by element and sum after sum, so that a token does not depend on who was
drawn beside it.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

TEMPERATURE_MIN: Final = 1e-200
"""Under this, no difference of two float32 numbers leaves the other a chance, and none overflows."""
RUNS_MAX: Final = 3
"""Runs of a choice of which two have to agree."""

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Choice = TypeVar("Choice")


class Draw(NamedTuple):
    """How a row is drawn."""

    temperature: float
    """At 0 the likeliest token follows."""
    top_k: int
    """Of how many tokens, the likeliest; 0 is the whole vocabulary. Of equals at the edge the earlier belong."""
    number: float
    """Which part of the distribution, 0 to 1."""


def picks(logits: Logits, draws: Sequence[Draw]) -> list[int]:
    """A token for each row of finite logits (rows, vocabulary)."""
    vocabulary = logits.shape[1]
    alike: dict[int, list[int]] = {}
    """Rows by how many tokens they are drawn from."""
    for row, draw in enumerate(draws):
        kept = 1 if draw.temperature <= 0.0 else draw.top_k if 0 < draw.top_k < vocabulary else vocabulary
        alike.setdefault(kept, []).append(row)
    tokens = [0] * len(draws)
    for kept, rows in alike.items():
        some = logits if len(rows) == len(draws) else logits[rows]
        # Of equals the earliest is the likeliest.
        found = np.argmax(some, axis=1) if kept == 1 else _drawn(some, kept, [draws[row] for row in rows])
        for row, token in zip(rows, found.tolist(), strict=True):
            tokens[row] = token
    return tokens


def _drawn(logits: Logits, kept: int, draws: Sequence[Draw]) -> Indices:
    """A token of each row, of its ``kept`` largest."""
    indices = None
    if kept < logits.shape[1]:
        indices = _largest(logits, kept)
        logits = np.take_along_axis(logits, indices, axis=1)
    temperatures = np.array([max(draw.temperature, TEMPERATURE_MIN) for draw in draws])
    numbers = np.array([draw.number for draw in draws])
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values /= temperatures[:, None]
    weights = np.cumsum(np.exp(values, out=values), axis=1)
    # Sums only grow: so many of them are not above the number.
    places = np.count_nonzero(weights <= (numbers * weights[:, -1])[:, None], axis=1)
    places = np.minimum(places, kept - 1)
    return places if indices is None else np.take_along_axis(indices, places[:, None], axis=1)[:, 0]


def _largest(logits: Logits, count: int) -> Indices:
    """Indices (rows, ``count``) of each row's largest, in falling order; of equals the earlier first."""
    place = logits.shape[1] - count
    edge = np.partition(logits, place, axis=1)[:, place, None]
    above, at = logits > edge, logits == edge
    room = count - np.count_nonzero(above, axis=1)
    chosen = np.nonzero(above | (at & (np.cumsum(at, axis=1) <= room[:, None])))[1].reshape(-1, count)
    order = np.argsort(-np.take_along_axis(logits, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def agreed(choose: Callable[[], Choice]) -> tuple[Choice | None, int]:
    """What two runs of a choice, or two of three, come to, None when no two do; and how many it took."""
    seen: list[Choice] = []
    while len(seen) < RUNS_MAX:
        choice = choose()
        if choice in seen:
            return choice, len(seen) + 1
        seen.append(choice)
    return None, RUNS_MAX
