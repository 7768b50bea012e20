"""Housekeeping: which groups of parameters are due.

What a parameter reads stands in ``getters``.

Groups come periodically (their interval is machine time, because the link is), or once on request. A group whose
time has passed while frames were late is sent once, not in a burst.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.dictionary import GROUP_BY_NAME, HOUSEKEEPING, IDENTITY
from flightsw.link.schema import HousekeepingGroup

from .getters import GETTERS

if TYPE_CHECKING:
    from .vehicle import Vehicle

SLACK_S: Final = 0.02
"""A group is due this much early, so that a frame that comes a little early does not skip it."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Intervals at boot, on the machine clock; 0 disables a group. Bounds are those of the dictionary."""

    fast_interval_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.1
    """Interval of the group "fast"."""
    main_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 1.0
    """Interval of the group "main"."""
    slow_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 10.0
    """Interval of the group "slow"."""

    def __post_init__(self) -> None:
        for group in HOUSEKEEPING:
            value = self.interval_s(group.name)
            if value and not group.interval_min_s <= value <= group.interval_max_s:
                raise ValueError(
                    f"{group.name}_interval_s = {value:g} is not 0 (off) or"
                    f" {group.interval_min_s:g} to {group.interval_max_s:g} s"
                )

    def interval_s(self, group: str) -> float:
        """Configured interval of a group by name."""
        return float(getattr(self, f"{group}_interval_s"))


class Schedule(Struct, frozen=True):
    """One group: whether it comes periodically, how often, when next, and whether one is asked for now."""

    enabled: bool
    interval_s: float
    next_s: float
    requested: bool = False


class State(Struct, frozen=True):
    """Schedules in the order of the dictionary."""

    schedules: tuple[Schedule, ...]


def start(config: Config, now_s: float) -> State:
    """State at boot: every enabled group is due at once."""
    intervals = [(group, config.interval_s(group.name)) for group in HOUSEKEEPING]
    return State(tuple(Schedule(i > 0.0, i or group.interval_s, now_s) for group, i in intervals))


def step(state: State, now_s: float) -> tuple[State, tuple[HousekeepingGroup, ...]]:
    """The groups that are due in this frame."""
    due: list[HousekeepingGroup] = []
    schedules = list(state.schedules)
    for index, schedule in enumerate(schedules):
        ripe = schedule.enabled and now_s >= schedule.next_s - SLACK_S
        if not ripe and not schedule.requested:
            continue
        due.append(HOUSEKEEPING[index])
        next_s = schedule.next_s
        if ripe:
            next_s += schedule.interval_s
            if next_s <= now_s:
                next_s = now_s + schedule.interval_s
        schedules[index] = Schedule(schedule.enabled, schedule.interval_s, next_s)
    return (State(tuple(schedules)) if due else state), tuple(due)


def enable(state: State, name: str, enabled: bool, now_s: float) -> State:
    """Switch periodic generation of a group on or off."""
    return _change(state, name, lambda s: replace(s, enabled=enabled, next_s=now_s))


def request(state: State, name: str) -> State:
    """One report of a group in this frame, enabled or not."""
    return _change(state, name, lambda s: replace(s, requested=True))


def set_interval(state: State, name: str, interval_s: float, now_s: float) -> State:
    """Change a group's interval; the caller has checked it against the group's bounds."""
    return _change(state, name, lambda s: replace(s, interval_s=interval_s, next_s=now_s + interval_s))


def sample(group: HousekeepingGroup, vehicle: "Vehicle", sequence: int) -> list[float]:
    """Values of a group in the dictionary's order."""
    values = [float(vehicle.boot_count), float(sequence), vehicle.correlation.world_s]
    values.extend([getter(vehicle) for getter in _GETTERS_BY_SID[group.sid]])
    return values


def _change(state: State, name: str, change: Callable[[Schedule], Schedule]) -> State:
    index = HOUSEKEEPING.index(GROUP_BY_NAME[name])
    schedules = state.schedules
    return State((*schedules[:index], change(schedules[index]), *schedules[index + 1 :]))


_GETTERS_BY_SID: Final = {
    group.sid: tuple(GETTERS[name] for name in group.parameters if name not in IDENTITY) for group in HOUSEKEEPING
}
