"""The card that is flown, and whether it is the one of the profile.

Power and throughput follow the curve of a profile that was measured on one model of card (``link.card``). The probe
tells the name of the card it reads. A name that the profile does not know is another model: its curve is a guess,
so it is said once (CARD_MISMATCH) and what is flown instead is the straight line between the configured idle and
maximum power, which pacing gives on every card. A card that tells no name (no probe, a board without one) is taken
for the profile's.
"""

from functools import lru_cache

from msgspec import Struct

from flightsw.link.card import Profile, Workload, linear

from .events import Event
from .inputs import GpuSample


class State(Struct, frozen=True, kw_only=True):
    """Name that the card told last, empty before it did, and whether the profile is of that model."""

    name: str = ""
    fits: bool = True


def step(state: State, profile: Profile, sample: GpuSample | None) -> tuple[State, tuple[Event, ...]]:
    """State after a reading of the probe, or without a new one."""
    if sample is None or not sample.card or sample.card == state.name:
        return state, ()
    fits = profile.fits(sample.card)
    found = () if fits else (Event("CARD_MISMATCH", {"card": sample.card, "profile": profile.card}),)
    return State(name=sample.card, fits=fits), found


def curve(state: State, profile: Profile, idle_w: float, maximum_w: float) -> Workload:
    """Power against throughput of training as flown, between the configured ends in W."""
    return _curve(profile.train if state.fits else None, idle_w, maximum_w)


@lru_cache(maxsize=8)
def _curve(train: Workload | None, idle_w: float, maximum_w: float) -> Workload:
    """Made once for each curve and pair of ends: every frame asks for it."""
    return linear(idle_w, maximum_w) if train is None else train.rescaled(idle_w, maximum_w)
