"""Watchpoints: one value against one limit, with hysteresis and persistence.

A limit trips when the value stays beyond ``trip`` for ``hold_s``, and clears as soon as it is back behind
``clear``. The gap between both is the hysteresis; which side is bad follows from their order. A value that is NaN
is neither beyond nor behind: stale is its own fact and never counts as a pass, so a tripped watchpoint stays
tripped.

Persistence is on the machine clock, because it rejects sensor noise, which comes per sample and not per orbit.
"""

from typing import Final

from msgspec import Struct

TIMER_SLACK_S: Final = 1e-6
"""Times are sums of frame lengths, which fall short by rounding."""
NEVER: Final = float("-inf")
"""A time before every other: "has not happened yet" in comparisons of ages."""


class Limit(Struct, frozen=True):
    """A bound: beyond ``trip`` is bad, behind ``clear`` good again; ``trip`` over ``clear``: an upper limit."""

    trip: float
    clear: float
    hold_s: float


class Watch(Struct, frozen=True):
    """State of a watchpoint; ``beyond_s`` is the machine time since when the value is beyond, or None."""

    active: bool = False
    beyond_s: float | None = None


CLEAR: Final = Watch()
TRIPPED: Final = Watch(active=True)


def step(state: Watch, limit: Limit, value: float, now_s: float) -> Watch:
    """The watchpoint after one more sample of the value, in the unit of the limit."""
    upper = limit.trip > limit.clear
    if state.active:
        cleared = value < limit.clear if upper else value > limit.clear
        return CLEAR if cleared else state
    beyond = value > limit.trip if upper else value < limit.trip
    if not beyond:
        return CLEAR
    beyond_s = now_s if state.beyond_s is None else state.beyond_s
    if now_s - beyond_s >= limit.hold_s:
        return TRIPPED
    return state if state.beyond_s is not None else Watch(False, beyond_s)
