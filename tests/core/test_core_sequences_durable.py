"""R4, R23: what of a sequence outlives a reboot: no step fires twice, whenever the power goes; bounded writes."""

import itertools

import msgspec
import pytest
from core_flight import telecommand
from core_sequences import COMMITTED, Bird, absolute, after, at, flying, mark, relative, start, training
from msgspec.structs import replace

from flightsw.core import correlation, executive, sequence, sequence_durable
from flightsw.core.sequence_durable import AHEAD_S, INTERVAL_S, SEQUENCES_KEY
from flightsw.core.sequence_life import Life
from flightsw.core.tables import IDLE, Phase, opened, whole
from flightsw.link.sequence import encode
from flightsw.link.tables import TABLE_BY_NAME

PATIENT = executive.Config(
    sequence=sequence.Config(late_max_s=600.0),
    correlation=correlation.Config(confirm_s=0.0),
)
"""Nothing is late, and time is valid after three frames: only what is written keeps a step from firing twice."""
STEPS = tuple(at(8.0 + 0.4 * n, **mark(n)) for n in range(20))


def in_flight(config: executive.Config, write_lag_s: float = 0.0) -> Bird:
    """A sequence of 20 steps in 8 s, just started."""
    bird = flying(config=config, write_lag_s=write_lag_s)
    bird.load("ats1", absolute(*STEPS))
    start(bird, "ats1")
    return bird


@pytest.mark.parametrize("write_lag_s", [0.0, 0.7])
def test_r4_at_most_once_whenever_the_power_goes(write_lag_s: float) -> None:
    """The power is cut after each frame in turn; the disk may be slow. Nothing fires twice, and nothing is lost but
    what was reserved: the steps of the next two seconds.

    One flight is cut again and again: each cut is made to a copy of it, which flies on until its sequence ends.
    """
    flown = in_flight(PATIENT, write_lag_s)
    for _ in range(19):
        flown.frame()
    for _ in range(20, 130):
        flown.frame()
        bird, cut_s = flown.copied(), flown.world_s
        bird.reboot(down_s=0.1)
        end_s = bird.world_s + 15.0
        while bird.slot("ats1").life is not Life.LOADED and bird.world_s < end_s:
            bird.frame()
        assert bird.slot("ats1").life is Life.LOADED, f"cut at {cut_s:.1f} s: it never ended"
        bird.fly(1.0)
        assert len(set(bird.numbers)) == len(bird.numbers), f"cut at {cut_s:.1f} s: a step fired twice"
        missing = {n for n in range(20)} - set(bird.numbers)
        due_s = [8.0 + 0.4 * n - cut_s for n in missing]
        assert all(-0.1 < due < AHEAD_S + INTERVAL_S + 0.1 for due in due_s), f"cut at {cut_s:.1f} s: lost {due_s}"


def test_r4_at_most_once_under_warp_and_slow_frames() -> None:
    for cut_frame in range(1, 12):
        bird = flying(config=PATIENT, frame_s=1.0, warp=10.0)
        first_s = bird.world_s + 20.0
        bird.load("ats1", absolute(*[at(first_s + 4.0 * n, **mark(n)) for n in range(20)]))
        start(bird, "ats1")
        for _ in range(cut_frame):
            bird.frame()
        bird.reboot(down_s=0.1)
        bird.fly(30.0)
        assert len(set(bird.numbers)) == len(bird.numbers)
        assert len(bird.numbers) >= 10


def test_the_guarantee_is_the_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: a position that is written behind the steps instead of ahead of them. It must be seen."""
    monkeypatch.setattr(sequence_durable, "_reserved", lambda slot, clock: slot.index)
    twice = 0
    for cut_frame in range(40, 130, 5):
        bird = flying(config=PATIENT, write_lag_s=0.7)
        bird.load("ats1", absolute(*STEPS))
        start(bird, "ats1")
        for frame in range(cut_frame + 15):
            if frame == cut_frame:
                bird.reboot(down_s=0.1)
            # Whatever is written, everything may be dispatched.
            bird.put("ats1", replace(bird.slot("ats1"), reserved=20))
            bird.frame()
        twice += len(bird.numbers) - len(set(bird.numbers))
    assert twice > 0


def test_r4_writes_are_bounded_in_time() -> None:
    """A thousand steps in 100 s, and about a hundred writes; none when no absolute sequence runs."""
    bird = flying()
    bird.load("rts01", relative(*[after(0.1, **mark(n)) for n in range(100)]))
    start(bird, "rts01")
    bird.fly(20.0)
    quiet = [at_s for at_s, key, _ in bird.writes if key == SEQUENCES_KEY]
    assert quiet == []
    bird.load("ats1", absolute(*[at(30.0 + 0.1 * n, **mark(n)) for n in range(1000)]))
    start(bird, "ats1")
    bird.fly(120.0)
    written = [at_s for at_s, key, _ in bird.writes if key == SEQUENCES_KEY]
    assert len(bird.numbers) == 1100
    assert 40 <= len(written) <= 105
    assert min(b - a for a, b in itertools.pairwise(written)) >= 0.5 * INTERVAL_S
    bird.fly(100.0)
    assert len([1 for _, key, _ in bird.writes if key == SEQUENCES_KEY]) == len(written)


BOOTS = {
    "warm reset": ({"power_on": False}, Life.WAITING, "SEQUENCE_WAITING", {"by": "warm reset"}),
    "power-on": ({"power_on": True}, Life.LOADED, "SEQUENCE_ABORTED", {"reason": "power-on"}),
    "crash loop": ({"crash_loop": True}, Life.LOADED, "SEQUENCE_ABORTED", {"reason": "crash loop"}),
}


@pytest.mark.parametrize("case", BOOTS)
def test_r4_what_a_boot_does_with_an_absolute_sequence(case: str) -> None:
    how, life, name, fields = BOOTS[case]
    bird = in_flight(executive.Config())
    for _ in range(60):
        bird.frame()
    bird.reboot(**how)
    assert bird.slot("ats1").life is life
    told = [found for event, found in bird.events() if event == name]
    assert told[-1].items() >= {"sequence": "ats1", **fields}.items()
    fired = len(bird.numbers)
    bird.fly(12.0)
    assert len(set(bird.numbers)) == len(bird.numbers)
    if life is Life.LOADED:
        assert len(bird.numbers) == fired
        if case == "power-on":
            # An operator may go on with it: from where it was.
            start(bird, "ats1")
            bird.fly(1.0)
            assert len(set(bird.numbers)) == len(bird.numbers)
    else:
        assert len(bird.numbers) > fired
        assert bird.slot("ats1").life is Life.LOADED


def test_r4_a_suspended_sequence_stays_suspended_over_a_warm_reset() -> None:
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    start(bird, "ats1")
    bird.frame(telecommand("sequence.suspend", 5, sequence="ats1"))
    bird.fly(2.0)
    bird.reboot()
    assert bird.slot("ats1").life is Life.SUSPENDED
    bird.fly(4.0)
    assert bird.numbers == []
    bird.frame(telecommand("sequence.resume", 6, sequence="ats1"))
    bird.fly(12.0)
    assert bird.numbers
    assert len(bird.numbers) + bird.vehicle.sequences.skipped == 20


def test_r4_relative_sequences_end_with_the_daemon() -> None:
    bird = flying(config=executive.Config(sequence=sequence.Config(power_on="", warm_reset="")))
    bird.load("rts09", relative(*[after(1.0, **mark(n)) for n in range(20)]))
    start(bird, "rts09")
    bird.fly(5.0)
    bird.reboot()
    bird.fly(10.0)
    assert bird.numbers == list(range(len(bird.numbers)))
    assert bird.slot("rts09").life is Life.LOADED


def test_r4_another_image_does_not_take_over_the_position() -> None:
    """The power went between the writes of a new image and of its position; only the time of what passed holds."""
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    start(bird, "ats1")
    bird.fly(6.0)
    merged = absolute(*STEPS, at(60.0, **mark(77)))
    bird.writes.append((bird.now_s, "ats1", encode(merged)))
    fired = list(bird.numbers)
    bird.reboot()
    assert bird.slot("ats1").life is Life.LOADED
    assert bird.slot("ats1").index >= len(fired)
    assert dict(bird.events())["SEQUENCE_ABORTED"]["reason"] == "its image is not the one that flew"
    # An image that does not load at all leaves an empty slot.
    bird.writes.append((bird.now_s, "ats1", b"\xc1"))
    bird.reboot()
    assert bird.slot("ats1").life is Life.EMPTY
    bird.fly(1.0)


def test_r4_an_image_that_was_lost_while_it_ran_is_told() -> None:
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    start(bird, "ats1")
    bird.fly(2.0)
    bird.writes.append((bird.now_s, "ats1", b""))
    bird.reboot()
    assert bird.names()[-1] == "ABORTED"
    assert bird.slot("ats1").life is Life.EMPTY


PAYLOADS = {
    "no msgpack": b"\xc1",
    "another shape": b"\x81\xa1a\x01",
    "too many": b"\x93" + b"\x95\x00\x00\x01\x00\x00" * 3,
    "no such slot": b"\x91\x95\x02\x00\x01\x00\x00",
    "no such state": b"\x91\x95\x00\x00\x09\x00\x00",
    "crc": b"\x91\x95\x00\xcf\x00\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00",
    "negative position": b"\x91\x95\x00\x00\x01\xff\x00",
    "negative time": b"\x91\x95\x00\x00\x01\x00\xff",
    "cut": b"\x91\x95\x00\x00",
    "deep": b"\x91" * 2000,
}


@pytest.mark.parametrize("case", PAYLOADS)
def test_r4_a_position_that_does_not_decode_is_told_and_nothing_runs(case: str) -> None:
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    bird.writes.append((bird.now_s, SEQUENCES_KEY, PAYLOADS[case]))
    bird.reboot()
    refused = [fields for name, fields in bird.events("DURABLE") if name == "DURABLE_REFUSED"]
    assert [fields["key"] for fields in refused] == [SEQUENCES_KEY]
    assert bird.slot("ats1").life is Life.LOADED
    assert bird.slot("ats1").index == 0


def test_r4_a_position_behind_the_image_is_its_end() -> None:
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    mark_ = sequence_durable.Mark(0, bird.slot("ats1").crc32, Life.RUNNING, 999, 0)
    bird.writes.append((bird.now_s, SEQUENCES_KEY, msgspec.msgpack.encode([mark_])))
    bird.reboot()
    assert bird.slot("ats1").index == 20
    bird.fly(5.0)
    assert bird.slot("ats1").life is Life.LOADED
    assert bird.numbers == []


def test_r4_an_orderly_end_writes_the_exact_position_and_dispatches_nothing_more() -> None:
    bird = flying(config=PATIENT)
    bird.load("ats1", absolute(*STEPS))
    start(bird, "ats1")
    bird.fly(7.0)
    fired = list(bird.numbers)
    bird.vehicle, effects = executive.shutdown(bird.vehicle, bird.config, "test", bird.now_s)
    bird.take(effects)
    bird.fly(1.0)
    assert bird.numbers == fired
    bird.reboot(down_s=0.1)
    assert bird.slot("ats1").index == len(fired)
    bird.fly(12.0)
    assert bird.numbers == list(range(20))


def test_outcomes_after_the_end_are_taken_and_start_nothing() -> None:
    bird = training()
    bird.load(
        "rts09", relative(after(0.0, "job.checkpoint", job="train"), after(0.0, "ping"), reference="completion")
    )
    start(bird, "rts09")
    bird.vehicle, effects = executive.shutdown(bird.vehicle, bird.config, "test", bird.now_s)
    bird.take(effects)
    bird.frame(reports=(COMMITTED,))
    bird.fly(1.0)
    assert bird.vehicle.commanding.outcomes == ()
    assert bird.vehicle.sequences.dispatched == 1


def test_a_loaded_sequence_with_another_image_is_nothing_to_tell() -> None:
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    bird.fly(2.0)
    assert SEQUENCES_KEY in bird.stored
    bird.writes.append((bird.now_s, "ats1", encode(absolute(at(90.0, **mark(1))))))
    bird.reboot()
    assert bird.names() == []
    assert bird.slot("ats1").life is Life.LOADED


def test_r4_an_appended_sequence_goes_on_after_a_reset() -> None:
    bird = flying()
    bird.load("ats1", absolute(*STEPS))
    start(bird, "ats1")
    bird.fly(5.0)
    load = replace(whole("ats1", encode(absolute(at(40.0, **mark(99))))), phase=Phase.VALIDATED)
    bird.vehicle = replace(bird.vehicle, tables=opened(IDLE, load))
    bird.frame(telecommand("sequence.append", 5, sequence="ats1"))
    bird.fly(0.5)
    bird.reboot()
    bird.fly(40.0)
    assert bird.numbers[-1] == 99
    assert len(set(bird.numbers)) == len(bird.numbers)


def test_durable_keys_hold_what_sequences_need() -> None:
    from flightsw.core.durable import DURABLE_KEYS

    assert SEQUENCES_KEY in DURABLE_KEYS
    assert {name for name, table in TABLE_BY_NAME.items() if table.code > 100} <= set(DURABLE_KEYS)
