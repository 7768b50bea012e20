"""Event reports: what happened, said once, under a rate that cannot drown the link.

Subsystems raise an ``Event``: its name in the dictionary and the fields of its template. Two gates stand before
the downlink:

- the severity filter, set by telecommand; CRITICAL and FATAL pass always;
- a token bucket per source (a source is one block of sixteen event ids, that is one subsystem): ``burst`` reports
  at once, ``rate_per_s`` in the long run, as cFS EVS does. CRITICAL and FATAL neither wait for nor take a token,
  so an event storm cannot hide them.

What the buckets hold back is counted, and the count is itself reported once the storm is over or every
``SUPPRESSED_INTERVAL_S``. What the filter holds back is only counted: somebody asked for it.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.bodies import EventBody, Scalar
from flightsw.link.dictionary import EVENT_BY_NAME
from flightsw.link.render import event_text
from flightsw.link.schema import EventReport, Severity

from .limits import NEVER

SUPPRESSED_INTERVAL_S: Final = 10.0
FIELD_CHARACTERS_MAX: Final = 200
"""Text fields are cut to this; a reason may quote what came from a child process."""


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
    severity_min: Annotated[int, Meta(ge=0, le=4)] = int(Severity.INFO)
    """Least severity reported at boot: 0 DIAGNOSTIC, 1 INFO, 2 WARNING, 3 ERROR, 4 CRITICAL."""


class Bucket(Struct, frozen=True):
    """Tokens of one source at machine time ``filled_s``."""

    tokens: float
    filled_s: float


class State(Struct, frozen=True, kw_only=True):
    """Filter, buckets by source, and the counters of what was held back since boot."""

    severity_min: int
    buckets: dict[int, Bucket] = {}
    suppressed: int = 0
    throttled: int = 0
    throttled_reported: int = 0
    reported_s: float = NEVER


def start(config: Config) -> State:
    """State at boot."""
    return State(severity_min=config.severity_min)


def admit(state: State, config: Config, report: EventReport, now_s: float) -> tuple[State, bool]:
    """Whether this report goes out, and the state that remembers the decision."""
    if report.severity >= Severity.CRITICAL:
        return state, True
    if report.severity < state.severity_min:
        return replace(state, suppressed=state.suppressed + 1), False
    source = report.id >> 4
    bucket = state.buckets.get(source) or Bucket(config.burst, now_s)
    tokens = min(float(config.burst), bucket.tokens + (now_s - bucket.filled_s) * config.rate_per_s)
    admitted = tokens >= 1.0
    buckets = {**state.buckets, source: Bucket(tokens - admitted, now_s)}
    if admitted:
        return replace(state, buckets=buckets), True
    return (
        replace(state, buckets=buckets, suppressed=state.suppressed + 1, throttled=state.throttled + 1),
        False,
    )


def step(state: State, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Report how many reports the rate limit held back, at most every ``SUPPRESSED_INTERVAL_S``."""
    count = state.throttled - state.throttled_reported
    if not count or now_s - state.reported_s < SUPPRESSED_INTERVAL_S:
        return state, ()
    state = replace(state, throttled_reported=state.throttled, reported_s=now_s)
    return state, (Event("EVENTS_SUPPRESSED", {"count": count}),)


def body(event: Event, boot: int, sequence: int, world_s: float) -> tuple[EventReport, EventBody, str]:
    """Dictionary entry, packet body and text of an event; an unknown name is a mistake of ours (``KeyError``)."""
    report = EVENT_BY_NAME[event.name]
    fields = {
        name: value[:FIELD_CHARACTERS_MAX] if isinstance(value, str) else value
        for name, value in event.fields.items()
    }
    packet_body = EventBody(boot, sequence, world_s, report.id, int(report.severity), fields)
    return report, packet_body, event_text(packet_body)
