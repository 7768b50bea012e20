"""R16: policy of the recorder: groups, filters, shares, ages, and the telecommands that change them."""

import msgspec
import pytest
from core_flight import Flight, telecommand

from flightsw.core import executive, recording
from flightsw.core.effects import Replay, SetRetention, Telemetry
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import Inputs, RecorderStatus
from flightsw.link.apids import (
    APID_EVENT,
    APID_HK_FAST,
    APID_HK_MAIN,
    APID_HK_SLOW,
    APID_PING,
    APID_REPLY,
    APID_TABLE,
    APID_VERIFICATION,
    FILTERED_GROUPS,
    PRIORITY_CRITICAL,
    PRIORITY_EVENT,
    PRIORITY_REPLY,
    PRIORITY_VERIFICATION,
    RECORDER_GROUPS,
)
from flightsw.link.dictionary import HOUSEKEEPING
from flightsw.link.schema import FailureCode, Severity
from flightsw.link.telecommands import EVENT_RING_MAX

CONFIG = executive.Config()
PRIORITY = {
    "verification": PRIORITY_VERIFICATION,
    "critical": PRIORITY_CRITICAL,
    "event": PRIORITY_EVENT,
    "reply": PRIORITY_REPLY,
    **{f"hk_{group.name}": group.priority for group in HOUSEKEEPING},
}


@pytest.mark.parametrize(
    ("apid", "priority", "group"),
    [
        (APID_VERIFICATION, PRIORITY_VERIFICATION, "verification"),
        (APID_EVENT, PRIORITY_CRITICAL, "critical"),
        (APID_EVENT, PRIORITY_EVENT, "event"),
        (APID_REPLY, PRIORITY_REPLY, "reply"),
        (APID_PING, PRIORITY_REPLY, "reply"),
        (APID_TABLE, PRIORITY_REPLY, "reply"),
        (APID_HK_FAST, 5, "hk_fast"),
        (APID_HK_MAIN, 3, "hk_main"),
        (APID_HK_SLOW, 4, "hk_slow"),
    ],
)
def test_r16_every_packet_has_its_group(apid: int, priority: int, group: str) -> None:
    assert RECORDER_GROUPS[recording.group_of(apid, priority)] == group


def test_r16_the_least_important_group_goes_first_and_critical_last() -> None:
    order = [RECORDER_GROUPS[code] for code in recording.SHED_ORDER]
    assert sorted(order) == sorted(RECORDER_GROUPS)
    assert [PRIORITY[name] for name in order] == sorted((PRIORITY[name] for name in order), reverse=True)
    assert order[-2:] == ["verification", "critical"]


@pytest.mark.parametrize(("keep", "of"), [(0, 1), (0, 7), (1, 1), (1, 10), (3, 10), (7, 10), (999, 1000)])
def test_r16_keep_of_n_is_exact_and_even(keep: int, of: int) -> None:
    kept = [recording.keeps((keep, of), number) for number in range(3 * of)]
    for start in range(2 * of):
        assert abs(sum(kept[start : start + of]) - keep) <= 1
    assert sum(kept) == 3 * keep


def test_r16_a_filter_thins_the_recorder_and_not_the_live_link() -> None:
    flight = Flight(CONFIG, passes=((20.0, 40.0),))
    flight.fly(1.0)
    flight.frame(telecommand("recorder.filter", 7, group="hk_fast", keep=1, of=10))
    flight.effects.clear()
    flight.fly(30.0)
    fast = [e for e in flight.effects if isinstance(e, Telemetry) and e.apid == APID_HK_FAST]
    live = [e for e in fast if e.live]
    assert len(live) == pytest.approx(110, abs=3)
    assert sum(e.record for e in live) == pytest.approx(11, abs=1)
    assert all(e.record for e in fast if not e.live)
    assert len(fast) - len(live) == pytest.approx(19, abs=2)
    assert GETTERS["recorder.hk_fast_kept_fraction"](flight.vehicle) == pytest.approx(0.1)
    assert flight.vehicle.downlink.filtered > 250


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("recorder.filter", {"group": "event", "keep": 1, "of": 2}, "group = 'event' is not one of hk_main"),
        ("recorder.filter", {"group": 1, "keep": 1, "of": 2}, "group = 1 is not one of"),
        ("recorder.filter", {"group": "hk_fast", "keep": -1, "of": 2}, "keep = -1 is not"),
        ("recorder.filter", {"group": "hk_fast", "keep": 1, "of": 0}, "of = 0 is not"),
        ("recorder.filter", {"group": "hk_fast", "keep": 1, "of": 1001}, "of = 1001 is not"),
        ("recorder.filter", {"group": "hk_fast", "keep": 3, "of": 2}, "keep = 3 is more than of = 2"),
        ("recorder.filter", {"group": "hk_fast", "keep": 3}, "argument of is missing"),
        ("recorder.quota", {"group": "all", "share": 0.5}, "group = 'all' is not one of"),
        ("recorder.quota", {"group": "event", "share": 0.0}, "share = 0.0 is not"),
        ("recorder.quota", {"group": "event", "share": 1.01}, "share = 1.01 is not"),
        ("recorder.quota", {"group": "event", "share": float("nan")}, "share = nan is not"),
        ("event.replay", {"count": 0}, "count = 0 is not"),
        ("event.replay", {"count": EVENT_RING_MAX + 1}, "count = 1001 is not"),
        ("event.replay", {"count": 5, "severity": "LOUD"}, "severity = 'LOUD' is not one of"),
        ("event.replay", {"severity": "INFO"}, "argument count is missing"),
    ],
)
def test_r16_bad_arguments_are_refused_and_change_nothing(
    name: str, arguments: dict[str, object], why: str
) -> None:
    flight = Flight(CONFIG)
    flight.frame()
    before = flight.vehicle.recording
    effects = flight.frame(telecommand(name, 7, **arguments))
    refused = flight.vehicle.commanding.history[7]
    assert refused.code == FailureCode.BAD_ARGUMENT
    assert why in refused.text
    assert flight.vehicle.recording == before
    assert not [e for e in effects if isinstance(e, Replay | SetRetention)]


def test_r16_the_shell_is_told_once_and_again_when_a_share_changes() -> None:
    flight = Flight(CONFIG)
    flight.fly(1.0)
    told = [e for e in flight.effects if isinstance(e, SetRetention)]
    assert told == [CONFIG.recorder.retention({})]
    assert told[0].quota_bytes == 256_000_000
    flight.frame(telecommand("recorder.quota", 7, group="hk_main", share=0.25))
    flight.frame(telecommand("recorder.quota", 8, group="hk_main", share=0.25))
    last = [e for e in flight.effects if isinstance(e, SetRetention)][1:]
    assert [e.shares[recording.HK_MAIN] for e in last] == [0.25]
    assert GETTERS["recorder.hk_main_share"](flight.vehicle) == 0.25
    assert GETTERS["recorder.event_share"](flight.vehicle) == CONFIG.recorder.event_share


def test_a_new_configuration_is_told() -> None:
    state, _ = recording.step(recording.State(), CONFIG.recorder)
    smaller = msgspec.structs.replace(CONFIG.recorder, quota_mb=1.0)
    state, told = recording.step(state, smaller)
    assert [e.quota_bytes for e in told] == [1_000_000]
    assert recording.step(state, msgspec.structs.replace(smaller))[1] == ()


@pytest.mark.parametrize("name", FILTERED_GROUPS)
def test_a_configured_filter_keeps_at_most_all(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}_keep = 3 is more than {name}_of = 2"):
        recording.Config(**{f"{name}_keep": 3, f"{name}_of": 2})
    config = recording.Config(**{f"{name}_keep": 1, f"{name}_of": 4})
    assert recording.filters(recording.State(), config)[RECORDER_GROUPS.index(name)] == (1, 4)


def test_before_the_first_frame_nothing_is_claimed() -> None:
    vehicle, _ = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)
    for name in ("recorder.event_mb", "recorder.event_share", "recorder.hk_fast_kept_fraction"):
        assert GETTERS[name](vehicle) != GETTERS[name](vehicle), "NaN"
    used = msgspec.structs.replace(vehicle, recorder=RecorderStatus(used_bytes=tuple(range(7))))
    assert GETTERS["recorder.hk_fast_mb"](used) == 6e-6


# --- replay of the ring -------------------------------------------------------------------------------------


def step(flight: Flight, status: RecorderStatus, *telecommands: bytes) -> list[Replay]:
    """One frame with this status of the recorder; the replays it orders."""
    flight.now_s += 0.1
    inputs = Inputs(telecommands=telecommands, recorder=status)
    flight.vehicle, effects = executive.step(flight.vehicle, flight.config, inputs, flight.now_s)
    return [e for e in effects if isinstance(e, Replay)]


def test_r5_replay_is_complete_when_the_recorder_says_so() -> None:
    flight = Flight(CONFIG)
    command = telecommand("event.replay", 9, count=50, severity="WARNING")
    assert step(flight, RecorderStatus(), command) == [Replay(9, 50, Severity.WARNING)]
    assert step(flight, RecorderStatus(replay_left=50, replayed=4)) == []
    assert [c.id for c in flight.vehicle.commanding.in_flight] == [9]
    step(flight, RecorderStatus(replayed=9, replayed_count=42))
    assert flight.vehicle.commanding.in_flight == ()
    assert flight.vehicle.commanding.history[9].text == "42 events"
    assert flight.vehicle.commanding.history[9].code == FailureCode.NONE


def test_r5_a_second_replay_waits_its_turn() -> None:
    flight = Flight(CONFIG)
    step(flight, RecorderStatus(), telecommand("event.replay", 9, count=50))
    assert step(flight, RecorderStatus(replay_left=9), telecommand("event.replay", 10, count=1)) == []
    refused = flight.vehicle.commanding.history[10]
    assert (refused.code, refused.text) == (FailureCode.BUSY, "the replay of command 9 is not complete")
    assert step(flight, RecorderStatus(replayed=9), telecommand("event.replay", 11, count=1)) != []


def test_r5_critical_events_are_marked_for_the_ring_and_their_group() -> None:
    flight = Flight(CONFIG, sensor_changes={"soc_fraction": 0.5})
    flight.fly(3.0)
    events = [e for e in flight.effects if isinstance(e, Telemetry) and e.apid == APID_EVENT]
    critical = [e for e in events if e.severity is Severity.CRITICAL]
    assert critical
    assert {e.group for e in critical} == {recording.CRITICAL}
    assert {e.priority for e in critical} == {PRIORITY_CRITICAL}
    assert all(e.severity is not None for e in events)
    others = [e for e in flight.effects if isinstance(e, Telemetry) and e.apid != APID_EVENT]
    assert all(e.severity is None for e in others)
