"""What the telemetry says now: newest values, limits, newest events, contact, gaps. Pure: no clock, no I/O.

Live and played-back packets arrive mixed. A value is replaced only by a newer one, by (boot, mission time), so
playback never winds a display back; and only live packets are held against limits, because an alarm is about
now. An alarm is raised when a parameter changes its level, not again with every packet.
"""

import math
from collections import deque
from typing import Final

from flightsw.link import leap
from flightsw.link.bodies import EventBody
from flightsw.link.codec import HousekeepingBody, Telemetry, event_text
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_VERIFICATION,
    DICTIONARY_HASH,
    EVENT_BY_ID,
    EVENT_BY_NAME,
    HOUSEKEEPING,
    PARAMETER_BY_NAME,
)
from flightsw.link.render import printable
from flightsw.link.schema import Parameter

from .protocol import Alarm, EventLine, Level, Value

EVENTS_MAX: Final = 200
ALARMS_MAX: Final = 100
CONTACT_S: Final = 3.0
"""Silence after which the wire shows no life: three reports of the 1 Hz housekeeping group."""
IDENTITY_NAMES: Final = frozenset(("packet_sequence",))

_STREAM_NAMES: Final = {
    APID_VERIFICATION: "verification",
    APID_EVENT: "events",
    APID_REPLY: "replies",
    APID_PING: "ping",
    APID_TABLE: "table",
    **{group.apid: f"hk {group.name}" for group in HOUSEKEEPING},
}


def stream_name(apid: int) -> str:
    """What travels on an APID, as an operator says it."""
    return _STREAM_NAMES.get(apid, f"APID 0x{apid:03X}")


def level(parameter: Parameter, value: float) -> Level:
    """Where a value stands against the operator's limits; no valid value is no violation."""
    limits = parameter.limits
    if limits is None or math.isnan(value):
        return ""
    low, high = limits.red_low, limits.red_high
    if (low is not None and value < low) or (high is not None and value > high):
        return "red"
    low, high = limits.yellow_low, limits.yellow_high
    if (low is not None and value < low) or (high is not None and value > high):
        return "yellow"
    return ""


def value_text(parameter: Parameter, value: float) -> str:
    """A value as an operator reads it, without its unit: states by name, "–" for no valid value."""
    if math.isnan(value):
        return "–"
    if parameter.states and value.is_integer() and 0 <= value < len(parameter.states):
        return parameter.states[int(value)]
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value)}"
    return f"{value:.4g}" if abs(value) < 1000 or abs(value) >= 1e7 else f"{value:.1f}"


class Monitor:
    """The station's picture of the spacecraft."""

    def __init__(self) -> None:
        self.latest: dict[str, Value] = {}
        self.events: dict[tuple[int, int], EventLine] = {}
        self.alarms: deque[Alarm] = deque(maxlen=ALARMS_MAX)
        self.boot: int | None = None
        self.world_s: float | None = None
        self.onboard_utc_s: float | None = None
        self.dictionary_onboard = ""
        self._newest: dict[str, tuple[int, float]] = {}

    def observe(self, telemetry: Telemetry, received_utc_s: float) -> list[Alarm]:
        """Take in one packet; returns the alarms it raises or clears."""
        live = not telemetry.playback
        if live and (self.boot is None or (telemetry.boot, telemetry.world_s) >= (self.boot, self.world_s)):
            self.boot, self.world_s = telemetry.boot, telemetry.world_s
            self.onboard_utc_s = leap.unix_of_tai(telemetry.packet.tai_s)
        match telemetry.body:
            case HousekeepingBody(values=values):
                return self._values(telemetry, values, received_utc_s, live)
            case EventBody() as body:
                self._event(telemetry, body)
        return []

    def recall(self, events: list[EventLine]) -> None:
        """Fill in events from the archive, oldest first, so that who comes late sees what was before."""
        for event in events:
            self._keep(event)

    @property
    def dictionary_differs(self) -> bool:
        """True when the spacecraft told in its boot event that it flies another dictionary."""
        return self.dictionary_onboard not in ("", DICTIONARY_HASH)

    def _values(
        self, telemetry: Telemetry, values: dict[str, float], received_utc_s: float, live: bool
    ) -> list[Alarm]:
        when = (telemetry.boot, telemetry.world_s)
        alarms = []
        for name, value in values.items():
            if name in IDENTITY_NAMES or when < self._newest.get(name, when):
                continue
            parameter, before = PARAMETER_BY_NAME[name], self.latest.get(name)
            now_level: Level = level(parameter, value) if live else ""
            if live and now_level != (before.level if before else ""):
                alarms.append(_alarm(parameter, now_level, value, telemetry.world_s, received_utc_s))
            elif not live and before is not None:
                now_level = before.level
            self._newest[name] = when
            self.latest[name] = Value(
                value=value if math.isfinite(value) else None,
                text=value_text(parameter, value),
                unit=parameter.unit,
                level=now_level,
                world_s=telemetry.world_s,
                received_utc_s=received_utc_s,
                live=live,
            )
        self.alarms.extend(alarms)
        return alarms

    def _event(self, telemetry: Telemetry, body: EventBody) -> None:
        event = EVENT_BY_ID.get(body.id)
        self._keep(
            EventLine(
                boot=body.boot,
                sequence=body.seq,
                world_s=body.t,
                onboard_utc_s=leap.unix_of_tai(telemetry.packet.tai_s),
                severity=body.sev,
                name=event.name if event else f"0x{body.id:02X}",
                text=event_text(body),
                fields=body.fields,
                playback=telemetry.playback,
            )
        )
        if event is EVENT_BY_NAME["BOOT"] and (self.boot is None or body.boot >= self.boot):
            self.dictionary_onboard = printable(str(body.fields.get("dictionary", "")))[:64]

    def _keep(self, event: EventLine) -> None:
        key = (event.boot, event.sequence)
        if key not in self.events:
            self.events[key] = event
            if len(self.events) > EVENTS_MAX:
                del self.events[min(self.events)]


def _alarm(parameter: Parameter, now_level: Level, value: float, world_s: float, received_utc_s: float) -> Alarm:
    limits, unit = parameter.limits, f" {parameter.unit}" if parameter.unit else ""
    assert limits is not None
    low, high = (limits.red_low, limits.red_high) if now_level == "red" else (limits.yellow_low, limits.yellow_high)
    if not now_level:
        why = "back inside its limits"
    elif low is not None and value < low:
        why = f"under its {now_level} limit {low:g}{unit}"
    else:
        why = f"over its {now_level} limit {high:g}{unit}"
    return Alarm(
        received_utc_s=received_utc_s,
        world_s=world_s,
        parameter=parameter.name,
        level=now_level,
        value=value,
        text=f"{parameter.name} = {value_text(parameter, value)}{unit}: {why}",
    )
