"""Loss of contact: for how long the ground has been silent, in mission time, over restarts.

The ground is heard when a telecommand from the radio is accepted; what a stored sequence dispatches does not count,
because it proves nothing about the link. The silence grows by elapsed machine time × warp, so neither a jump of the
mission clock nor a missing sensor frame shortens or lengthens it. It is a durable fact: a satellite that restarts
every day must still notice on the third that nobody talks to it.

What follows from it (SAFE, left by telecommand only) is a row of ``mode.TRANSITIONS``.
"""

from typing import Final

from msgspec import Struct

from .events import Event, Fields

S_PER_H: Final = 3600.0


class State(Struct, frozen=True, kw_only=True):
    """Mission time without an accepted telecommand; how many were accepted then; whether it was reported."""

    silence_s: float = 0.0
    heard: int = 0
    lost: bool = False


def step(state: State, limit_s: float, heard: int, dt_s: float) -> tuple[State, tuple[Event, ...]]:
    """The silence after ``dt_s`` of mission time; ``heard`` counts telecommands accepted from the ground."""
    if heard != state.heard:
        fields: Fields = {"silence_h": state.silence_s / S_PER_H}
        return State(heard=heard), ((Event("CONTACT_REGAINED", fields),) if state.lost else ())
    silence_s = state.silence_s + dt_s
    lost = silence_s >= limit_s
    if not lost or state.lost:
        return State(silence_s=silence_s, heard=heard, lost=lost), ()
    found = Event("CONTACT_LOST", {"silence_h": silence_s / S_PER_H, "limit_h": limit_s / S_PER_H})
    return State(silence_s=silence_s, heard=heard, lost=True), (found,)
