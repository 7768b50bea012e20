"""Housekeeping: which groups of parameters are due.

What a parameter reads stands in ``getters``.

A group has an interval and a longest interval (machine time, because the link is), and can be asked for once:

    longest = 0           periodic: one report every ``interval_s``
    longest > interval    on change: looked at every ``interval_s`` and reported when a value is another than in the
                          last report, and at least every ``max_interval_s``

Identity, clocks and what telemetry itself moves (``CLOCKS`` of the dictionary) are no news: a report must not be
the reason for the next one. A value that stays NaN has not changed. A group whose time has passed while frames
were late is sent once, not in a burst.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.dictionary import CLOCKS, GROUP_BY_NAME, HOUSEKEEPING, IDENTITY
from flightsw.link.schema import HousekeepingGroup

from .getters import GETTERS
from .limits import NEVER

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
    fast_max_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0
    """Longest interval of the group "fast", which is then reported on change; 0 is periodic."""
    main_max_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0
    """Longest interval of the group "main", which is then reported on change; 0 is periodic."""
    slow_max_interval_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0
    """Longest interval of the group "slow", which is then reported on change; 0 is periodic."""

    def __post_init__(self) -> None:
        for group in HOUSEKEEPING:
            value, longest = self.interval_s(group.name), self.max_interval_s(group.name)
            if value and (why := interval_refused(group, value)):
                raise ValueError(f"{group.name}_interval_s = {value:g} is not 0 (off) or {why}")
            if why := max_interval_refused(group, value, longest):
                raise ValueError(f"{group.name}_max_interval_s = {longest:g} is not 0 (periodic) or {why}")

    def interval_s(self, group: str) -> float:
        """Configured interval of a group by name."""
        return float(getattr(self, f"{group}_interval_s"))

    def max_interval_s(self, group: str) -> float:
        """Configured longest interval of a group by name."""
        return float(getattr(self, f"{group}_max_interval_s"))


class Schedule(Struct, frozen=True):
    """One group: whether it comes by itself, how often, when it is next looked at, whether one is asked for now.

    On change (``max_interval_s`` over 0) it is sent at ``latest_s`` at the latest; ``last`` are the values sent.
    """

    enabled: bool
    interval_s: float
    next_s: float
    requested: bool = False
    max_interval_s: float = 0.0
    latest_s: float = NEVER
    last: tuple[float | None, ...] = ()


class State(Struct, frozen=True):
    """Schedules in the order of the dictionary."""

    schedules: tuple[Schedule, ...]


def start(config: Config, now_s: float) -> State:
    """State at boot: every enabled group is due at once."""
    return State(
        tuple(
            Schedule(
                (interval_s := config.interval_s(group.name)) > 0.0,
                interval_s or group.interval_s,
                now_s,
                max_interval_s=config.max_interval_s(group.name),
            )
            for group in HOUSEKEEPING
        )
    )


def step(state: State, vehicle: "Vehicle", now_s: float) -> tuple[State, tuple[HousekeepingGroup, ...]]:
    """The groups that are due in this frame."""
    due: list[HousekeepingGroup] = []
    schedules: list[Schedule] | None = None
    for index, schedule in enumerate(state.schedules):
        ripe = schedule.enabled and now_s >= schedule.next_s - SLACK_S
        if not ripe and not schedule.requested:
            continue
        group, next_s, last, latest_s = HOUSEKEEPING[index], schedule.next_s, schedule.last, schedule.latest_s
        if ripe:
            next_s += schedule.interval_s
            if next_s <= now_s:
                next_s = now_s + schedule.interval_s
        news = True
        if schedule.max_interval_s:
            values = _values(group, vehicle)
            news = schedule.requested or now_s >= latest_s - SLACK_S or values != last
            if news:
                last, latest_s = values, now_s + schedule.max_interval_s
        if news:
            due.append(group)
        schedules = schedules or list(state.schedules)
        schedules[index] = replace(schedule, next_s=next_s, requested=False, last=last, latest_s=latest_s)
    return (State(tuple(schedules)) if schedules else state), tuple(due)


def enable(state: State, name: str, enabled: bool, now_s: float) -> State:
    """Switch periodic generation of a group on or off."""
    return _change(state, name, lambda s: replace(s, enabled=enabled, next_s=now_s))


def request(state: State, name: str) -> State:
    """One report of a group in this frame, enabled or not."""
    return _change(state, name, lambda s: replace(s, requested=True))


def set_interval(state: State, name: str, interval_s: float, max_interval_s: float, now_s: float) -> State:
    """Change a group's intervals; the caller has checked them. The first look always reports."""
    return _change(
        state,
        name,
        lambda s: replace(
            s,
            interval_s=interval_s,
            next_s=now_s + interval_s,
            max_interval_s=max_interval_s,
            latest_s=NEVER,
        ),
    )


def interval_refused(group: HousekeepingGroup, interval_s: float) -> str:
    """What is allowed instead of this interval, or "" when it is."""
    if group.interval_min_s <= interval_s <= group.interval_max_s:
        return ""
    return f"{group.interval_min_s:g} to {group.interval_max_s:g} s"


def max_interval_refused(group: HousekeepingGroup, interval_s: float, max_interval_s: float) -> str:
    """What is allowed instead of this longest interval beside that interval, or "" when it is."""
    if not max_interval_s or interval_s < max_interval_s <= group.interval_max_s:
        return ""
    return f"over {interval_s:g} and up to {group.interval_max_s:g} s"


def sample(group: HousekeepingGroup, vehicle: "Vehicle", sequence: int) -> list[float]:
    """Values of a group in the dictionary's order."""
    values = [float(vehicle.boot_count), float(sequence), vehicle.correlation.world_s]
    values.extend([getter(vehicle) for getter in _GETTERS_BY_SID[group.sid]])
    return values


def _values(group: HousekeepingGroup, vehicle: "Vehicle") -> tuple[float | None, ...]:
    """What may be news; None stands for "no valid value", which unlike NaN equals itself."""
    values = [getter(vehicle) for getter in _NEWS_BY_SID[group.sid]]
    return tuple([None if math.isnan(value) else value for value in values])


def _change(state: State, name: str, change: Callable[[Schedule], Schedule]) -> State:
    index = HOUSEKEEPING.index(GROUP_BY_NAME[name])
    schedules = state.schedules
    return State((*schedules[:index], change(schedules[index]), *schedules[index + 1 :]))


_GETTERS_BY_SID: Final = {
    group.sid: tuple(GETTERS[name] for name in group.parameters if name not in IDENTITY) for group in HOUSEKEEPING
}
_NEWS_BY_SID: Final = {
    group.sid: tuple(GETTERS[name] for name in group.parameters if name not in IDENTITY and name not in CLOCKS)
    for group in HOUSEKEEPING
}
