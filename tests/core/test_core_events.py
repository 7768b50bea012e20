"""R5: events: severities, rate by source, reserves that no storm takes, filters, and what is told of the rest."""

import pytest
from core_flight import Flight, telecommand

from flightsw.core import events, executive
from flightsw.core.events import Event
from flightsw.link.bodies import VerificationBody
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import EVENT_BY_NAME, TELECOMMAND_BY_NAME
from flightsw.link.event_reports import EVENTS
from flightsw.link.schema import EventReport, FailureCode, Severity
from flightsw.link.telecommands import MUTABLE_EVENTS

CONFIG = executive.Config()


def storm(
    name: str, count: int, config: events.Config, spacing_s: float = 0.0, state: events.State | None = None
) -> tuple[events.State, int]:
    """How many of this many reports of one event pass."""
    state, passed = state or events.start(config), 0
    for number in range(count):
        state, admitted = events.admit(state, config, EVENT_BY_NAME[name], number * spacing_s)
        passed += admitted
    return state, passed


@pytest.mark.parametrize(
    ("name", "count", "spacing_s", "passed"),
    [
        ("SENSOR_INVALID", 100, 0.0, 32),  # burst
        ("SENSOR_INVALID", 1000, 0.01, 32 + 150 - 1),  # 15 a second for 10 s
        ("SENSOR_INVALID", 1000, 0.1, 1000),  # 10 a second pass
        ("SOC_LOW", 1000, 0.0, 1000),  # CRITICAL is never held back
        ("GOVERNOR_LIMIT", 10, 1.0, 0),  # DIAGNOSTIC is filtered by default
        ("TC_REFUSED", 100, 0.0, 64),  # a security event has its own burst after the source's
        ("TC_REFUSED", 1000, 0.01, 64 + 200 - 2),  # 15 + 5 a second
    ],
)
def test_r5_rate_and_filter(name: str, count: int, spacing_s: float, passed: int) -> None:
    state, got = storm(name, count, events.Config(), spacing_s)
    assert got == pytest.approx(passed, abs=1)
    assert state.suppressed == count - got == state.filtered + state.mute_hits + state.throttled


def test_r5_a_source_recovers_by_itself() -> None:
    state, _ = storm("SENSOR_INVALID", 100, events.Config())
    report = EVENT_BY_NAME["SENSOR_INVALID"]
    assert not events.admit(state, events.Config(), report, 0.05)[1]
    assert events.admit(state, events.Config(), report, 0.1)[1]


def test_sources_do_not_starve_each_other() -> None:
    state, _ = storm("SENSOR_INVALID", 100, events.Config())
    assert events.admit(state, events.Config(), EVENT_BY_NAME["JOB_STATE"], 0.0)[1]


def test_r5_a_storm_of_its_source_never_hides_a_security_event() -> None:
    """Commands that fail, and one kind of attack, are storms of the source that security events live in."""
    config = events.Config()
    state, _ = storm("TC_FAILED", 5000, config)
    state, garbage = storm("TC_GARBAGE", 5000, config, state=state)
    assert garbage == config.security_burst
    state, refused = storm("TC_REFUSED", config.security_burst, config, state=state)
    assert refused == config.security_burst
    assert state.throttled_security == 5000 - garbage


@pytest.mark.parametrize("severity", [Severity.CRITICAL, Severity.FATAL])
@pytest.mark.parametrize("security", [False, True])
def test_r5_critical_and_fatal_are_never_dropped(severity: Severity, security: bool) -> None:
    """Under a storm of everything in its source, with every filter at its strongest."""
    config = events.Config(severity_min=4, burst=1, rate_per_s=0.001)
    state = events.start(config)
    worst = EventReport(id=0x5F, name="X", severity=severity, template="", text="", security=security)
    for number in range(2000):
        for name in ("TC_FAILED", "TC_REFUSED", "CONTACT_START"):
            state, _ = events.admit(state, config, EVENT_BY_NAME[name], number * 1e-3)
        state, admitted = events.admit(state, config, worst, number * 1e-3)
        assert admitted


@pytest.mark.parametrize("severity_min", [0, 1, 2, 3, 4])
def test_filter_never_hides_critical_or_security(severity_min: int) -> None:
    config = events.Config(severity_min=severity_min)
    for report in EVENTS:
        state, passed = events.admit(events.start(config), config, report, 0.0)
        kept = report.severity >= Severity.CRITICAL or report.security
        assert passed is (report.severity >= severity_min or kept)
        assert state.filtered == (not passed)


def test_r5_what_an_attack_raises_is_marked() -> None:
    assert {"TC_REFUSED", "TC_GARBAGE"} <= {report.name for report in EVENTS if report.security}


def test_r5_suppressed_count_names_the_worst_and_leaves_out_what_the_filter_took() -> None:
    state, _ = storm("SENSOR_INVALID", 100, events.Config())
    state, _ = storm("SENSORS_RECOVERED", 10, events.Config(), state=state)
    state, found = events.step(state, 1.0)
    assert found == (Event("EVENTS_SUPPRESSED", {"count": 78, "most": "SENSOR_INVALID", "of_most": 68}),)
    assert events.step(state, 100.0)[1] == ()
    state, _ = storm("SENSORS_RECOVERED", 100, events.Config(), state=state)
    assert events.step(state, 1.0 + events.SUPPRESSED_INTERVAL_S - 0.1)[1] == ()
    assert events.step(state, 1.0 + events.SUPPRESSED_INTERVAL_S)[1][0].fields["most"] == "SENSORS_RECOVERED"
    filtered, _ = storm("GOVERNOR_LIMIT", 100, events.Config())
    assert events.step(filtered, 100.0)[1] == ()


def test_long_reasons_are_cut() -> None:
    event = Event("WORKER_FAULT", {"job": "train", "code": "c", "reason": "x" * 5000})
    _, body, text = events.body(event, 1, 2, 3.0)
    assert len(str(body.fields["reason"])) == events.FIELD_CHARACTERS_MAX
    assert len(text) < 300


# --- muting -------------------------------------------------------------------------------------------------


def test_muting_and_reporting_again() -> None:
    report = EVENT_BY_NAME["JOB_STATE"]
    muted = events.mute(events.start(CONFIG.events), report.id, True)
    assert muted is not None
    state, admitted = events.admit(muted, CONFIG.events, report, 0.0)
    assert (admitted, state.mute_hits, state.suppressed) == (False, 1, 1)
    again = events.mute(state, report.id, False)
    assert again is not None
    assert events.admit(again, CONFIG.events, report, 0.0)[1]


def test_only_so_many_are_muted() -> None:
    state = events.start(CONFIG.events)
    for report in MUTABLE_EVENTS[: events.MUTED_MAX]:
        muted = events.mute(state, report.id, True)
        assert muted is not None
        state = muted
    assert events.mute(state, MUTABLE_EVENTS[events.MUTED_MAX].id, True) is None
    assert events.mute(state, MUTABLE_EVENTS[0].id, True) == state


def answers(flight: Flight, command: int) -> list[tuple[int, int, str]]:
    """(stage, code, text) of the verification reports of a command."""
    found = [decode_telemetry(e.packet).body for e in flight.effects if hasattr(e, "packet")]
    return [(b.stage, b.code, b.text) for b in found if isinstance(b, VerificationBody) and b.id == command]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"event": 0x22, "on": True}, "event = 34 is not one of"),  # SOC_LOW is CRITICAL.
        ({"event": 0x50, "on": True}, "event = 80 is not one of"),  # TC_REFUSED is security.
        ({"event": 0xFFFF, "on": True}, "event = 65535 is not one of"),
        ({"event": 0x30, "on": 2}, "on = 2 is not true or false"),
        ({"event": 0x30}, "argument on is missing"),
        ({"on": True}, "argument event is missing"),
        ({"event": 0x30, "on": True, "until": 3}, "unknown argument 'until'"),
    ],
)
def test_event_mute_refuses_bad_arguments(arguments: dict[str, object], why: str) -> None:
    flight = Flight(CONFIG)
    before = flight.vehicle.events.muted
    flight.frame(telecommand("event.mute", 7, **arguments))
    ((_, code, text),) = answers(flight, 7)
    assert code == FailureCode.BAD_ARGUMENT
    assert why in text
    assert flight.vehicle.events.muted == before


def test_event_mute_from_the_ground_and_its_bound() -> None:
    flight = Flight(CONFIG)
    for number, report in enumerate(MUTABLE_EVENTS[: events.MUTED_MAX + 1]):
        flight.frame(telecommand("event.mute", 100 + number, event=report.id, on=True))
    last = answers(flight, 100 + events.MUTED_MAX)[-1]
    assert last[1:] == (FailureCode.EXECUTION_FAILED, "32 events are muted; report one again first")
    assert flight.vehicle.events.muted == {report.id for report in MUTABLE_EVENTS[: events.MUTED_MAX]}


@pytest.mark.parametrize("severity", [-1, 5, 1.5, "LOUD", True])
def test_event_filter_refuses_bad_severities(severity: object) -> None:
    flight = Flight(CONFIG)
    flight.frame(telecommand("event.filter", 7, severity=severity))
    assert answers(flight, 7)[0][1] == FailureCode.BAD_ARGUMENT
    assert flight.vehicle.events.severity_min == Severity.INFO


def test_r5_diagnostic_is_off_until_the_ground_asks() -> None:
    flight = Flight(CONFIG)
    report = EVENT_BY_NAME["GOVERNOR_LIMIT"]
    assert not events.admit(flight.vehicle.events, CONFIG.events, report, flight.now_s)[1]
    flight.frame(telecommand("event.filter", 7, severity="DIAGNOSTIC"))
    assert events.admit(flight.vehicle.events, CONFIG.events, report, flight.now_s)[1]


def test_r5_suppressed_counts_are_telemetered() -> None:
    flight = Flight(CONFIG)
    flight.frame(*(b"\x10\x01" for _ in range(16)))
    for number in range(120):
        flight.frame(*(telecommand("ping", 1000 + 16 * number + n, nothing=1) for n in range(16)))
    flight.fly(15.0)
    seen: dict[str, float] = {}
    for effect in flight.effects:
        body = decode_telemetry(effect.packet).body if hasattr(effect, "packet") else None
        if isinstance(body, HousekeepingBody):
            seen |= body.values
    state = flight.vehicle.events
    assert seen["events.throttled_security"] == state.throttled_security > 1000
    assert seen["events.filtered"] == state.filtered
    assert seen["events.suppressed"] == sum(seen[f"events.{what}"] for what in ("filtered", "muted", "throttled"))
    assert seen["events.throttled_error"] == 0.0


def test_the_ground_can_name_every_mutable_event() -> None:
    argument = TELECOMMAND_BY_NAME["event.mute"].arguments[0]
    assert dict(zip(argument.choices, argument.codes, strict=True)) == {
        e.name: e.id for e in EVENTS if e.severity < Severity.CRITICAL and not e.security
    }
