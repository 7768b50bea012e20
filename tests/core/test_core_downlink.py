"""What goes down: event gates, housekeeping schedule and getters, packet numbers, live and playback budget."""

import math

import msgspec
import pytest
from core_flight import Flight

from flightsw.core import downlink, executive, housekeeping
from flightsw.core.effects import Announce, Playback, Telemetry
from flightsw.core.events import Event
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import RecorderStatus, RequestReply
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_HK_FAST,
    APID_REPLY,
    GROUP_BY_NAME,
    HOUSEKEEPING,
    IDENTITY,
    PARAMETER_BY_NAME,
    PARAMETERS,
)

CONFIG = executive.Config()

# --- housekeeping ------------------------------------------------------------------------------------------


def test_every_parameter_has_one_getter() -> None:
    assert set(GETTERS) == {p.name for p in PARAMETERS} - set(IDENTITY)


def due_times(state: housekeeping.State, name: str, frames: int, frame_s: float = 0.1) -> list[float]:
    found = []
    for number in range(frames):
        state, due = housekeeping.step(state, number * frame_s)
        found += [round(number * frame_s, 3) for group in due if group.name == name]
    return found


def test_groups_come_at_their_intervals() -> None:
    state = housekeeping.start(housekeeping.Config(), 0.0)
    assert len(due_times(state, "fast", 100)) == 100
    assert due_times(state, "main", 50) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert due_times(state, "slow", 201) == [0.0, 10.0, 20.0]
    assert len(due_times(state, "fast", 60, frame_s=1.0)) == 60


def test_disable_request_and_interval() -> None:
    state = housekeeping.start(housekeeping.Config(fast_interval_s=0.0), 0.0)
    assert due_times(state, "fast", 20) == []
    assert due_times(housekeeping.request(state, "fast"), "fast", 20) == [0.0]
    assert due_times(housekeeping.enable(state, "main", False, 0.0), "main", 50) == []
    assert due_times(housekeeping.set_interval(state, "main", 2.0, 0.0), "main", 50) == [2.0, 4.0]


def test_a_late_group_is_sent_once() -> None:
    state = housekeeping.start(housekeeping.Config(), 0.0)
    state, _ = housekeeping.step(state, 0.0)
    state, due = housekeeping.step(state, 100.0)
    assert [group.name for group in due] == ["fast", "main", "slow"]
    assert housekeeping.step(state, 100.05)[1] == ()


def test_interval_outside_the_dictionary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slow_interval_s = 0.5 is not 0 \(off\) or 1 to 3600 s"):
        housekeeping.Config(slow_interval_s=0.5)


def test_unknown_is_nan_and_never_zero() -> None:
    """Before anything has been sensed, only counters, states and set-points have values."""
    vehicle, _ = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)
    values = {p.name: GETTERS[p.name](vehicle) for p in PARAMETERS if p.name not in IDENTITY}
    measured = [
        name for name, value in values.items()
        if PARAMETER_BY_NAME[name].unit and not math.isnan(value)
    ]  # fmt: skip
    known = {"uptime_s", "frame_jitter_ms", "eps.arc_remaining_s", "governor.power_budget_w", "contact.silence_s"}
    assert set(measured) == known


def test_values_agree_with_the_world() -> None:
    flight = Flight(CONFIG, sensor_changes={"soc_fraction": 0.875, "bus_voltage_v": 27.5, "altitude_km": 551.0})
    flight.fly(1.0)
    seen: dict[str, float] = {}
    for effect in flight.effects:
        if isinstance(effect, Telemetry):
            body = decode_telemetry(effect.packet).body
            if isinstance(body, HousekeepingBody):
                seen |= body.values
    assert (seen["eps.soc_fraction"], seen["eps.bus_voltage_v"]) == (0.875, 27.5)
    assert (seen["boot_count"], seen["gpu.die_degc"]) == (3.0, 60.0)
    assert math.isnan(seen["governor.power_cap_w"])
    assert math.isnan(seen["gpu.ecc_uncorrected"])


# --- packets, contact, playback ----------------------------------------------------------------------------


def test_packets_are_numbered_without_gaps_by_apid() -> None:
    flight = Flight(CONFIG)
    flight.fly(30.0)
    packets = [e for e in flight.effects if isinstance(e, Telemetry)]
    for apid in {e.apid for e in packets}:
        own = [e for e in packets if e.apid == apid]
        assert [e.sequence for e in own] == list(range(len(own)))
        for effect in own:
            telemetry = decode_telemetry(effect.packet)
            assert telemetry.identity == (3, apid, effect.sequence)
            assert telemetry.packet.sequence_count == effect.sequence % 16384
            assert telemetry.world_s == effect.world_s
    counts = [
        decode_telemetry(e.packet).packet.message_count
        for e in packets
        if e.apid in {group.apid for group in HOUSEKEEPING}
    ]
    assert counts == list(range(len(counts)))


def test_sequence_outlives_fourteen_bits() -> None:
    state = downlink.start(0.0)
    state = msgspec.structs.replace(state, sequences={APID_EVENT: 20_000})
    packer = downlink.Packer(state, downlink.Stamp(1, 5.0, 6.0, 2, True))
    packer.event(Event("PROBE_RECOVERED"))
    announce, telemetry = packer.effects
    assert isinstance(announce, Announce)
    assert isinstance(telemetry, Telemetry)
    decoded = decode_telemetry(telemetry.packet)
    assert (decoded.seq, decoded.packet.sequence_count) == (20_000, 20_000 % 16384)


def test_long_reply_comes_in_parts() -> None:
    text = "".join(chr(0x100 + i % 500) for i in range(2500))
    packer = downlink.Packer(downlink.start(0.0), downlink.Stamp(1, 5.0, 6.0, 2, True))
    packer.reply(
        RequestReply(
            job="infer", request=2**63, text=text, tokens=9, finish="length", generation=-1, duration_s=1.0
        )
    )
    bodies = [decode_telemetry(e.packet).body for e in packer.effects if isinstance(e, Telemetry)]
    assert "".join(b.text for b in bodies) == text
    assert [(b.part, b.parts, b.id) for b in bodies] == [(i, len(bodies), 2**63) for i in range(len(bodies))]
    assert {e.apid for e in packer.effects if isinstance(e, Telemetry)} == {APID_REPLY}


def test_live_in_contact_or_when_blind() -> None:
    flight = Flight(CONFIG, passes=((20.0, 40.0),))
    assert all(e.live for e in flight.effects if isinstance(e, Telemetry))  # Boot: nobody knows yet.
    flight.effects.clear()
    flight.fly(60.0)
    live = {
        round(e.world_s, 1): e.live for e in flight.effects if isinstance(e, Telemetry) and e.apid == APID_HK_FAST
    }
    assert all(is_live is (20.0 <= t < 40.0) for t, is_live in live.items())
    flight.sensors_on = False
    flight.effects.clear()
    flight.fly(5.0)
    last = [e for e in flight.effects if isinstance(e, Telemetry)][-1]
    assert last.live
    names = [name for _, name, _ in flight.events()]
    assert "CONTACT_START" not in names


def budgets(rate_bps: float, live_bytes_per_frame: int, pending: int = 1000, contact: bool = True) -> float:
    """Playback bytes per second over 100 s at 10 Hz."""
    config = downlink.Config(rate_bps=rate_bps)
    state, total = downlink.start(0.0), 0
    for frame in range(1000):
        state, out = downlink.step(state, config, contact, RecorderStatus(pending=pending), frame * 0.1)
        total += sum(o.budget_bytes for o in out if isinstance(o, Playback))
        state = msgspec.structs.replace(state, budget_bytes=max(-1200.0, state.budget_bytes - live_bytes_per_frame))
    return total / 100.0


@pytest.mark.parametrize(
    ("rate_bps", "live", "playback"),
    [
        (115_200.0, 0, 12_960.0),
        (115_200.0, 500, 7_960.0),
        (115_200.0, 2000, 0.0),  # live alone fills the radio
        (1_200.0, 0, 135.0),  # slow, but not never
    ],
)
def test_playback_takes_what_live_leaves(rate_bps: float, live: int, playback: float) -> None:
    assert budgets(rate_bps, live) == pytest.approx(playback, rel=0.05, abs=1.0)


@pytest.mark.parametrize(("pending", "contact"), [(0, True), (10, False)])
def test_no_playback_without_need_or_contact(pending: int, contact: bool) -> None:
    assert budgets(115_200.0, 0, pending, contact) == 0.0


@pytest.mark.parametrize(
    ("change", "event", "count"),
    [
        ({"shed": 5}, "RECORDER_SHED", 3),
        ({"dropped": 9}, "TM_DROPPED", 8),
        ({"fault": "disk full"}, "STORE_FAULT", None),
    ],
)
def test_recorder_trouble_is_reported_once(change: dict[str, object], event: str, count: int | None) -> None:
    before = RecorderStatus(shed=2, dropped=1)
    after = msgspec.structs.replace(before, **change)
    state = msgspec.structs.replace(downlink.start(0.0), recorder=before)
    names = []
    for frame in range(3):
        # The shell sends a new, equal value in each frame.
        state, out = downlink.step(state, downlink.Config(), False, msgspec.structs.replace(after), frame * 0.1)
        names += [(o.name, o.fields.get("count")) for o in out if isinstance(o, Event)]
    assert names == [(event, count)]


def test_group_names_are_the_dictionary_s() -> None:
    assert [group.name for group in HOUSEKEEPING] == list(GROUP_BY_NAME)
