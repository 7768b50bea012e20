"""Light and dark to come, cut into the steps of a plan.

The first steps are short, because the next minutes are flown before the plan is made anew; the rest is coarse.
Every edge of the shadow is an edge between two steps, so each step is wholly lit or wholly dark. A mean share would
let the light of one half of a step feed the other, which neither the charge limit nor the losses allow, and plans
would run 1 % of charge under the floor. Coarse steps cost nothing that could be measured: planning anew every
minute with the shipped steps reaches 99.9 % of the clairvoyant optimum when everything is known.

The forecast is that of ``eps``: darkness that is seen or expected, and in a disagreement the darker opinion.
"""

from typing import Final

from msgspec import Struct

from .plan import STEPS_MAX

ARC_MIN_S: Final = 1.0
"""A shorter rest of an arc makes no step."""
STRETCH: Final = 1.5
"""The last step of an arc takes up to this many lengths, so that none is left too short."""


class Arcs(Struct, frozen=True):
    """The arc that the vehicle is in, the time left in it, and the orbit, all in seconds of mission time."""

    eclipse: bool
    remaining_s: float
    period_s: float
    eclipse_s: float


class Blocking(Struct, frozen=True):
    """``near`` steps of ``near_s``, then steps of ``far_s``, at least to ``horizon_s``."""

    near: int
    near_s: float
    far_s: float
    horizon_s: float


def steps(arcs: Arcs, blocking: Blocking) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Length and sunlit share of each step, at most ``STEPS_MAX``; the orbit is over ``ARC_MIN_S`` long."""
    lengths: list[float] = []
    shares: list[float] = []
    dark, left_s, total_s = arcs.eclipse, arcs.remaining_s, 0.0
    while total_s < blocking.horizon_s and len(lengths) < STEPS_MAX:
        if left_s < ARC_MIN_S:
            dark = not dark
            left_s = arcs.eclipse_s if dark else arcs.period_s - arcs.eclipse_s
            continue
        length_s = blocking.near_s if len(lengths) < blocking.near else blocking.far_s
        if left_s < STRETCH * length_s:
            length_s = left_s
        lengths.append(length_s)
        shares.append(0.0 if dark else 1.0)
        total_s += length_s
        left_s -= length_s
    return tuple(lengths), tuple(shares)
