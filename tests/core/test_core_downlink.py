"""What goes down: housekeeping schedule and getters, packet numbers, live or not, what is told of the recorder."""

import math

import msgspec
import pytest
from core_flight import Flight, sensor_frame, telecommand
from core_plant import Plant

from flightsw.core import downlink, executive, housekeeping, link_budget
from flightsw.core.effects import Announce, Telemetry
from flightsw.core.events import Event
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import RecorderStatus, RequestReply
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import (
    APID_EVENT,
    APID_HK_FAST,
    APID_REPLY,
    CLOCKS,
    GROUP_BY_NAME,
    HOUSEKEEPING,
    IDENTITY,
    PARAMETER_BY_NAME,
    PARAMETERS,
)
from flightsw.link.schema import FailureCode

CONFIG = executive.Config()

# --- housekeeping ------------------------------------------------------------------------------------------


def test_every_parameter_has_one_getter() -> None:
    assert set(GETTERS) == {p.name for p in PARAMETERS} - set(IDENTITY)


VEHICLE, _ = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)


def with_load(vehicle: executive.Vehicle, current_a: float) -> executive.Vehicle:
    """A vehicle that has measured this bus current: news in the group main, none in fast or slow."""
    frame = sensor_frame(1, Plant(), bus_current_a=current_a)
    sensed = msgspec.structs.replace(vehicle.sense, frame=frame, raw=frame, fresh=True)
    return msgspec.structs.replace(vehicle, sense=sensed)


def due_times(
    state: housekeeping.State,
    name: str,
    frames: int,
    frame_s: float = 0.1,
    changes_s: tuple[float, ...] = (),
) -> list[float]:
    """When a group is due; the bus current changes at ``changes_s``."""
    found, vehicle = [], with_load(VEHICLE, 0.0)
    for number in range(frames):
        now_s = number * frame_s
        if any(abs(now_s - change_s) < frame_s / 2 for change_s in changes_s):
            vehicle = with_load(vehicle, now_s)
        # Clocks, identity and what telemetry moves are no news.
        vehicle = msgspec.structs.replace(vehicle, now_s=now_s, frame_count=number)
        state, due = housekeeping.step(state, vehicle, now_s)
        found += [round(now_s, 3) for group in due if group.name == name]
    return found


def test_r6_groups_come_at_their_intervals() -> None:
    """Default rates: fast 10 Hz, main 1 Hz, slow 0.1 Hz."""
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
    assert due_times(housekeeping.set_interval(state, "main", 2.0, 0.0, 0.0), "main", 50) == [2.0, 4.0]


def test_a_late_group_is_sent_once() -> None:
    state = housekeeping.start(housekeeping.Config(), 0.0)
    state, _ = housekeeping.step(state, VEHICLE, 0.0)
    state, due = housekeeping.step(state, VEHICLE, 100.0)
    assert [group.name for group in due] == ["fast", "main", "slow"]
    assert housekeeping.step(state, VEHICLE, 100.05)[1] == ()


# (times of change, times of report of a group with interval 1 s and longest interval 4 s)
ON_CHANGE = (
    ("nothing changes", (), [0.0, 4.0, 8.0, 12.0]),
    ("a change comes with the next look", (1.5,), [0.0, 2.0, 6.0, 10.0]),
    ("many changes come once in an interval", (1.1, 1.2, 1.3, 1.4), [0.0, 2.0, 6.0, 10.0]),
    ("a change at every look is periodic", tuple(0.5 + n for n in range(13)), [float(n) for n in range(13)]),
)


@pytest.mark.parametrize(("changes_s", "expected"), [c[1:] for c in ON_CHANGE], ids=[c[0] for c in ON_CHANGE])
def test_r6_on_change_at_most_every_interval_and_at_least_every_longest(
    changes_s: tuple[float, ...], expected: list[float]
) -> None:
    config = housekeeping.Config(main_interval_s=1.0, main_max_interval_s=4.0)
    assert due_times(housekeeping.start(config, 0.0), "main", 130, changes_s=changes_s) == expected
    commanded = housekeeping.set_interval(housekeeping.start(housekeeping.Config(), 0.0), "main", 1.0, 4.0, -1.0)
    assert due_times(commanded, "main", 130, changes_s=changes_s) == expected


def test_a_request_is_answered_without_news_and_counts_as_a_report() -> None:
    state = housekeeping.start(housekeeping.Config(main_max_interval_s=4.0), 0.0)
    state, _ = housekeeping.step(state, VEHICLE, 0.0)
    state, due = housekeeping.step(housekeeping.request(state, "main"), VEHICLE, 1.0)
    assert "main" in [group.name for group in due]
    assert "main" not in [group.name for group in housekeeping.step(state, VEHICLE, 4.0)[1]]


def test_clocks_are_parameters() -> None:
    assert set(PARAMETER_BY_NAME) >= CLOCKS > set(IDENTITY)


def test_interval_outside_the_dictionary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slow_interval_s = 0.5 is not 0 \(off\) or 1 to 3600 s"):
        housekeeping.Config(slow_interval_s=0.5)


@pytest.mark.parametrize("longest", [0.5, 1.0, 3600.5])
def test_longest_interval_outside_its_bounds_is_refused(longest: float) -> None:
    with pytest.raises(ValueError, match=rf"main_max_interval_s = {longest:g} is not 0 \(periodic\) or over 1 and"):
        housekeeping.Config(main_max_interval_s=longest)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"group": "medium", "interval_s": 1.0}, "group = 'medium' is not one of"),
        ({"group": "main", "interval_s": 0.0}, "interval_s = 0.0 is not"),
        ({"group": "slow", "interval_s": 0.5}, "interval_s = 0.5: group slow allows 1 to 3600 s"),
        ({"group": "main", "interval_s": 1.0, "max_interval_s": -1.0}, "max_interval_s = -1.0 is not"),
        ({"group": "main", "interval_s": 2.0, "max_interval_s": 1.0}, "group main allows 0 (periodic) or over 2"),
        ({"group": "fast", "interval_s": 2.0, "max_interval_s": 61.0}, "group fast allows 0 (periodic) or over 2"),
    ],
)
def test_hk_interval_refuses(arguments: dict[str, object], why: str) -> None:
    flight = Flight(CONFIG)
    flight.frame()
    before = [(s.interval_s, s.max_interval_s) for s in flight.vehicle.housekeeping.schedules]
    flight.frame(telecommand("hk.interval", 7, **arguments))
    failed = flight.vehicle.commanding.history[7]
    assert failed.code == FailureCode.BAD_ARGUMENT
    assert why in failed.text
    assert [(s.interval_s, s.max_interval_s) for s in flight.vehicle.housekeeping.schedules] == before


def test_hk_interval_from_the_ground() -> None:
    flight = Flight(CONFIG)
    flight.frame(telecommand("hk.interval", 7, group="main", interval_s=1.0, max_interval_s=30.0))
    assert flight.vehicle.commanding.history[7].code == FailureCode.NONE
    assert flight.vehicle.housekeeping.schedules[1].max_interval_s == 30.0
    flight.frame(telecommand("hk.interval", 8, group="main", interval_s=2.0))
    assert flight.vehicle.housekeeping.schedules[1].max_interval_s == 0.0


def test_unknown_is_nan_and_never_zero() -> None:
    """Before anything has been sensed, only counters, states and set-points have values."""
    vehicle, _ = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)
    values = {p.name: GETTERS[p.name](vehicle) for p in PARAMETERS if p.name not in IDENTITY}
    measured = [
        name for name, value in values.items()
        if PARAMETER_BY_NAME[name].unit and not math.isnan(value)
    ]  # fmt: skip
    known = {"uptime_s", "frame_jitter_ms", "eps.arc_remaining_s", "governor.power_budget_w", "contact.silence_s"}
    # What is learned in flight begins as configured.
    known |= {
        "eps.array_estimate_w",
        "eps.array_sigma_w",
        "thermal.conductance_w_k",
        "thermal.radiator_capacity_j_k",
    }
    known |= {"thermal.absorbed_w", "thermal.absorbed_sun_w"}
    known.add("governor.micro_batch_ms")
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


@pytest.mark.parametrize(
    ("change", "event", "count"),
    [
        ({"shed": 5}, "RECORDER_SHED", 5),
        ({"dropped": 9}, "TM_DROPPED", 9),
        ({"fault": "disk full"}, "STORE_FAULT", None),
        ({"full": True, "used_bytes": (1, 2)}, "RECORDER_FULL", None),
        ({"replayed": 77, "replayed_count": 12}, "EVENTS_REPLAYED", 12),
    ],
)
def test_recorder_trouble_is_reported_once(change: dict[str, object], event: str, count: int | None) -> None:
    after = msgspec.structs.replace(RecorderStatus(), **change)
    state = downlink.start(0.0)
    names = []
    for frame in range(300):
        # The shell sends a new, equal value in each frame.
        state, out = downlink.step(state, link_budget.Config(), False, msgspec.structs.replace(after), frame * 0.1)
        names += [(o.name, o.fields.get("count")) for o in out]
    assert names == [(event, count)]


def test_r16_a_full_disk_and_its_end_are_reported() -> None:
    state, names = downlink.start(0.0), []
    for frame in range(9):
        status = RecorderStatus(full=3 <= frame < 6, used_bytes=(1_500_000, 500_000))
        state, out = downlink.step(state, link_budget.Config(), False, status, frame * 0.1)
        names += [(frame, o.name, o.fields["used_mb"]) for o in out]
    assert names == [(3, "RECORDER_FULL", 2.0), (6, "RECORDER_RECOVERED", 2.0)]


def test_losses_that_go_on_are_reported_in_steps() -> None:
    state, found = downlink.start(0.0), []
    for frame in range(251):
        status = RecorderStatus(shed=frame, dropped=2 * frame)
        state, out = downlink.step(state, link_budget.Config(), False, status, frame * 0.1)
        found += [(round(frame * 0.1, 1), o.name, o.fields["count"]) for o in out]
    assert found == [
        (0.1, "RECORDER_SHED", 1),
        (0.1, "TM_DROPPED", 2),
        (10.1, "RECORDER_SHED", 100),
        (10.1, "TM_DROPPED", 200),
        (20.1, "RECORDER_SHED", 100),
        (20.1, "TM_DROPPED", 200),
    ]


def test_group_names_are_the_dictionary_s() -> None:
    assert [group.name for group in HOUSEKEEPING] == list(GROUP_BY_NAME)
