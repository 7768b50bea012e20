"""Recording: what the recorder keeps of each group of packets, how long, and in what room.

The policy is one table, ``GROUPS``; the shell's recorder is the mechanism. Each packet belongs to one group:

    group         priority  contents                                   filter
    verification      0     what became of telecommands                all are kept
    critical          0     CRITICAL and FATAL events                  all are kept
    event             1     other events                               all are kept
    reply             2     answers to requests, dumps                 all are kept
    hk_main           3     housekeeping                               keep of N
    hk_slow           4     housekeeping                               keep of N
    hk_fast           5     housekeeping                               keep of N

*Filter.* ``keep`` of every ``of`` packets are recorded, spread evenly (cFS DS calls this N of X). A packet that
the filter takes is still sent live; it only does not come again. One that is neither recorded nor sent is not made
and takes no sequence number, so a gap on the ground always means a loss.

*Quota.* A group may use ``share`` of the recorder's quota. Shares may add up to more than one: they keep one group
from eating all, the total is held by shedding the least important group first, ``SHED_ORDER``.

*Age.* After ``max_age_s`` of the recorder's own time (it runs while the daemon does, and goes on after a restart) a
packet goes, acknowledged or not; 0 keeps it as long as there is room. Mission time would not do: a jump of the
clock must not empty the recorder.

Filter and quota are set by telecommand until the next boot. The shell is told the whole ``SetRetention`` whenever
it changes.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.apids import APID_EVENT, APID_HK_FAST, APID_HK_MAIN, APID_HK_SLOW, APID_VERIFICATION
from flightsw.link.dictionary import FILTERED_GROUPS, PRIORITY_CRITICAL, RECORDER_GROUPS

from .effects import SetRetention

VERIFICATION, CRITICAL, EVENT, REPLY, HK_MAIN, HK_SLOW, HK_FAST = range(len(RECORDER_GROUPS))
"""Codes of the groups, as the recorder's database has them; never renumbered."""
FILTERED: Final = tuple(RECORDER_GROUPS.index(name) for name in FILTERED_GROUPS)
SHED_ORDER: Final = (HK_FAST, HK_SLOW, HK_MAIN, REPLY, EVENT, VERIFICATION, CRITICAL)
"""Groups in the order in which they make room for others."""
OF_MAX: Final = 1000
DAY_S: Final = 86_400.0
FOREVER: Final = 0.0
CONFIGURATIONS_MAX: Final = 8
"""Configurations whose filters are kept read; a vehicle has one, and a few after parameters were activated."""

Filter = tuple[int, int]
"""``keep`` of every ``of`` packets."""
Share = Annotated[float, Meta(ge=0.001, le=1.0)]
Age = Annotated[float, Meta(ge=0.0, le=1e9)]
Keep = Annotated[int, Meta(ge=0, le=OF_MAX)]
Of = Annotated[int, Meta(ge=1, le=OF_MAX)]

_GROUP_BY_APID: Final = {
    APID_VERIFICATION: VERIFICATION,
    APID_EVENT: EVENT,
    APID_HK_FAST: HK_FAST,
    APID_HK_MAIN: HK_MAIN,
    APID_HK_SLOW: HK_SLOW,
}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Store and forward of telemetry: room, filters and ages by group of packets."""

    quota_mb: Annotated[float, Meta(ge=0.05, le=1_000_000.0)] = 256.0
    """Size in MB (10^6 bytes) at which the recorder sheds: acknowledged first, then least important, oldest."""
    ack_timeout_s: Annotated[float, Meta(ge=0.1, le=3600.0)] = 8.0
    """A packet sent and not acknowledged for this long is played back again."""
    commit_interval_s: Annotated[float, Meta(ge=0.01, le=1.0)] = 0.1
    """Packets are committed to disk in batches of this time."""
    verification_share: Share = 0.1
    """Part of the quota that verification reports may use."""
    critical_share: Share = 0.1
    """Part of the quota that CRITICAL and FATAL events may use."""
    event_share: Share = 0.2
    """Part of the quota that other events may use."""
    reply_share: Share = 0.2
    """Part of the quota that replies and dumps may use."""
    hk_main_share: Share = 0.5
    """Part of the quota that the housekeeping group main may use."""
    hk_slow_share: Share = 0.1
    """Part of the quota that the housekeeping group slow may use."""
    hk_fast_share: Share = 0.5
    """Part of the quota that the housekeeping group fast may use."""
    verification_max_age_s: Age = FOREVER
    """Verification reports older than this go, sent or not; 0 keeps them. Time in which the daemon ran."""
    critical_max_age_s: Age = FOREVER
    """The same for CRITICAL and FATAL events."""
    event_max_age_s: Age = FOREVER
    """The same for other events."""
    reply_max_age_s: Age = FOREVER
    """The same for replies and dumps."""
    hk_main_max_age_s: Age = 30 * DAY_S
    """The same for the housekeeping group main."""
    hk_slow_max_age_s: Age = 90 * DAY_S
    """The same for the housekeeping group slow."""
    hk_fast_max_age_s: Age = 7 * DAY_S
    """The same for the housekeeping group fast."""
    hk_main_keep: Keep = 1
    """Packets of the housekeeping group main that are recorded, of every hk_main_of; all are sent live."""
    hk_main_of: Of = 1
    """See hk_main_keep."""
    hk_slow_keep: Keep = 1
    """Packets of the housekeeping group slow that are recorded, of every hk_slow_of."""
    hk_slow_of: Of = 1
    """See hk_slow_keep."""
    hk_fast_keep: Keep = 1
    """Packets of the housekeeping group fast that are recorded, of every hk_fast_of."""
    hk_fast_of: Of = 1
    """See hk_fast_keep."""

    def __post_init__(self) -> None:
        for group in FILTERED:
            keep, of = self.filter(group)
            if keep > of:
                name = RECORDER_GROUPS[group]
                raise ValueError(f"{name}_keep = {keep} is more than {name}_of = {of}")

    def filter(self, group: int) -> Filter:
        """Configured filter of a group."""
        name = RECORDER_GROUPS[group]
        return (getattr(self, f"{name}_keep"), getattr(self, f"{name}_of")) if group in FILTERED else (1, 1)

    def share(self, group: int) -> float:
        """Configured share of a group."""
        return float(getattr(self, f"{RECORDER_GROUPS[group]}_share"))

    def retention(self, shares: Mapping[int, float]) -> SetRetention:
        """What the shell's recorder is to hold, with the shares that a telecommand has set."""
        groups = range(len(RECORDER_GROUPS))
        return SetRetention(
            quota_bytes=int(self.quota_mb * 1e6),
            ack_timeout_s=self.ack_timeout_s,
            shares=tuple([shares.get(group, self.share(group)) for group in groups]),
            max_ages_s=tuple([float(getattr(self, f"{name}_max_age_s")) for name in RECORDER_GROUPS]),
        )


class State(Struct, frozen=True):
    """Filters and shares that a telecommand has set, and what the shell was last told, for which configuration."""

    filters: dict[int, Filter] = {}
    shares: dict[int, float] = {}
    told: SetRetention | None = None
    told_for: Config | None = None


def step(state: State, config: Config) -> tuple[State, tuple[SetRetention, ...]]:
    """Tell the shell what to hold when that has changed."""
    if state.told_for is config:
        return state, ()
    retention = config.retention(state.shares)
    told = () if retention == state.told else (retention,)
    return replace(state, told=retention, told_for=config), told


def set_filter(state: State, group: int, keep: int, of: int) -> State:
    """Record ``keep`` of every ``of`` packets of a group from now on."""
    return replace(state, filters={**state.filters, group: (keep, of)})


def set_share(state: State, group: int, share: float) -> State:
    """Give a group another share of the quota; the shell is told by the next ``step``."""
    return replace(state, shares={**state.shares, group: share}, told_for=None)


def filter_of(state: State, config: Config, group: int) -> Filter:
    """The filter of a group that is in force."""
    return state.filters.get(group) or config.filter(group)


def filters(state: State, config: Config) -> Mapping[int, Filter]:
    """Filters in force, of the groups that have one."""
    filed = _filed(config)
    return {**filed, **state.filters} if state.filters else filed


@lru_cache(maxsize=CONFIGURATIONS_MAX)
def _filed(config: Config) -> Mapping[int, Filter]:
    return {group: config.filter(group) for group in FILTERED}


def group_of(apid: int, priority: int) -> int:
    """Group of a packet; what the table does not name is somebody's answer."""
    group = _GROUP_BY_APID.get(apid, REPLY)
    return CRITICAL if group == EVENT and priority == PRIORITY_CRITICAL else group


def keeps(rule: Filter, number: int) -> bool:
    """Whether the ``number``-th packet (from 0) of a group is recorded: ``keep`` of ``of``, spread evenly."""
    keep, of = rule
    return number * keep % of < keep
