"""Event reports: what happened, said once, under a rate that cannot drown the link.

Subsystems raise an ``Event``: its name in the dictionary and the fields of its template. Two gates stand before
the downlink, and a report that passes both also enters the recorder's ring:

- the filters, set by telecommand: the least severity that is reported, and up to ``MUTED_MAX`` event ids that are
  muted one by one (as F Prime filters by id);
- a token bucket per source (a source is one block of sixteen event ids, that is one subsystem): ``burst`` reports
  at once, ``rate_per_s`` in the long run, as cFS EVS does. It fills by itself.

Two kinds of reports have a quota of their own, so that no storm hides them:

- CRITICAL and FATAL pass always; they neither wait for nor take a token.
- Security reports (``EventReport.security``: refused and unreadable telecommands) pass both filters. When the
  bucket of their source is empty each event id still has a reserve, ``security_burst`` at once and
  ``security_rate_per_s`` in the long run. The reserve is by id, so that noise of one kind cannot hide an attack of
  another; it is bounded, because whoever attacks decides how many there are.

What was held back is counted by what held it: severity filter, mute, rate. What the rate held back is itself
reported once the storm is over or every ``SUPPRESSED_INTERVAL_S``; what a filter took is only counted, because
somebody asked for it.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.bodies import EventBody, Scalar
from flightsw.link.dictionary import EVENT_BY_ID, EVENT_BY_NAME
from flightsw.link.render import event_text
from flightsw.link.schema import EventReport, Severity

from .limits import NEVER

SUPPRESSED_INTERVAL_S: Final = 10.0
FIELD_CHARACTERS_MAX: Final = 200
"""Text fields are cut to this; a reason may quote what came from a child process."""
MUTED_MAX: Final = 32
"""Event ids that may be muted at the same time."""


Fields = dict[str, Scalar]
"""Fields of an event by the names in its template."""


class Event(Struct, frozen=True):
    """An event as a subsystem raises it; ``fields`` are those of the dictionary's template."""

    name: str
    fields: Fields = {}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rates and filter of event reports."""

    burst: Annotated[int, Meta(ge=1, le=1000)] = 32
    """Reports a source may raise at once."""
    rate_per_s: Annotated[float, Meta(gt=0.0, le=1000.0)] = 15.0
    """Reports per second a source may raise in the long run (machine clock)."""
    security_burst: Annotated[int, Meta(ge=1, le=1000)] = 32
    """Reserve of each security event at once, when its source has used up its own."""
    security_rate_per_s: Annotated[float, Meta(gt=0.0, le=1000.0)] = 5.0
    """Reserve of each security event per second in the long run (machine clock)."""
    severity_min: Annotated[int, Meta(ge=0, le=4)] = int(Severity.INFO)
    """Least severity reported at boot: 0 DIAGNOSTIC, 1 INFO, 2 WARNING, 3 ERROR, 4 CRITICAL."""


class Bucket(Struct, frozen=True):
    """Tokens of one source, or of one security event, at machine time ``filled_s``."""

    tokens: float
    filled_s: float


class State(Struct, frozen=True, kw_only=True):
    """Filters, buckets by source, reserves by event id, and the counters of what was held back since boot.

    ``throttled`` counts all that the rate held back; ``throttled_error`` and ``throttled_security`` are those among
    them that matter most. ``worst`` counts by event id since the last report of suppression.
    """

    severity_min: int
    muted: frozenset[int] = frozenset()
    buckets: dict[int, Bucket] = {}
    reserves: dict[int, Bucket] = {}
    filtered: int = 0
    mute_hits: int = 0
    throttled: int = 0
    throttled_error: int = 0
    throttled_security: int = 0
    worst: dict[int, int] = {}
    throttled_reported: int = 0
    reported_s: float = NEVER

    @property
    def suppressed(self) -> int:
        """All reports that were held back since boot, whatever held them."""
        return self.filtered + self.mute_hits + self.throttled


def start(config: Config) -> State:
    """State at boot."""
    return State(severity_min=config.severity_min)


def admit(state: State, config: Config, report: EventReport, now_s: float) -> tuple[State, bool]:
    """Whether this report goes out, and the state that remembers the decision."""
    if report.severity >= Severity.CRITICAL:
        return state, True
    if not report.security:
        if report.severity < state.severity_min:
            return replace(state, filtered=state.filtered + 1), False
        if report.id in state.muted:
            return replace(state, mute_hits=state.mute_hits + 1), False
    source = report.id >> 4
    bucket, admitted = _draw(state.buckets.get(source), config.burst, config.rate_per_s, now_s)
    state = replace(state, buckets={**state.buckets, source: bucket})
    if not admitted and report.security:
        reserve, admitted = _draw(
            state.reserves.get(report.id), config.security_burst, config.security_rate_per_s, now_s
        )
        state = replace(state, reserves={**state.reserves, report.id: reserve})
    if admitted:
        return state, True
    throttled = replace(
        state,
        throttled=state.throttled + 1,
        throttled_error=state.throttled_error + (report.severity is Severity.ERROR),
        throttled_security=state.throttled_security + report.security,
        worst={**state.worst, report.id: state.worst.get(report.id, 0) + 1},
    )
    return throttled, False


def mute(state: State, event_id: int, on: bool) -> State | None:
    """Mute or unmute one event id; None when ``MUTED_MAX`` others are muted."""
    muted = state.muted | {event_id} if on else state.muted - {event_id}
    return None if len(muted) > MUTED_MAX else replace(state, muted=muted)


def step(state: State, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Report how many reports the rate limit held back, and most of which, every ``SUPPRESSED_INTERVAL_S``."""
    count = state.throttled - state.throttled_reported
    if not count or now_s - state.reported_s < SUPPRESSED_INTERVAL_S:
        return state, ()
    worst = max(state.worst, key=lambda event_id: state.worst[event_id])
    fields: Fields = {"count": count, "most": EVENT_BY_ID[worst].name, "of_most": state.worst[worst]}
    state = replace(state, throttled_reported=state.throttled, worst={}, reported_s=now_s)
    return state, (Event("EVENTS_SUPPRESSED", fields),)


def body(event: Event, boot: int, sequence: int, world_s: float) -> tuple[EventReport, EventBody, str]:
    """Dictionary entry, packet body and text of an event; an unknown name is a mistake of ours (``KeyError``)."""
    report = EVENT_BY_NAME[event.name]
    fields = {
        name: value[:FIELD_CHARACTERS_MAX] if isinstance(value, str) else value
        for name, value in event.fields.items()
    }
    packet_body = EventBody(boot, sequence, world_s, report.id, int(report.severity), fields)
    return report, packet_body, event_text(packet_body)


def _draw(bucket: Bucket | None, burst: int, rate_per_s: float, now_s: float) -> tuple[Bucket, bool]:
    """The bucket after one report asked for a token, and whether it got one."""
    if bucket is None:
        return Bucket(burst - 1.0, now_s), True
    tokens = min(float(burst), bucket.tokens + (now_s - bucket.filled_s) * rate_per_s)
    admitted = tokens >= 1.0
    return Bucket(tokens - admitted, now_s), admitted
