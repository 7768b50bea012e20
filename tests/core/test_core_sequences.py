"""R4: relative sequences and what is common to all: due times, failures, bounds, turns, arming, modes, boot."""

import timeit

import pytest
from core_flight import telecommand
from core_sequences import COMMITTED, TRAINING, Bird, after, flying, mark, relative, start, training
from msgspec.structs import replace

from flightsw.core import commanding, executive, responses, sequence
from flightsw.core.sequence_driver import command_id, position_of
from flightsw.core.sequence_life import NAMES, POSITION, Life
from flightsw.link.limit_tables import Actionpoint, Response
from flightsw.link.schema import FailureCode, Mode


@pytest.mark.parametrize(("frame_s", "warp"), [(0.1, 1.0), (1.0, 1.0), (0.1, 10.0), (0.5, 2.0)])
@pytest.mark.parametrize("reference", ["dispatch", "completion"])
def test_r4_relative_steps_act_in_the_frame_in_which_they_are_due(
    frame_s: float, warp: float, reference: str
) -> None:
    """Delays add up from due time to due time: the same times at every frame rate, within a frame."""
    bird = flying(frame_s=frame_s, warp=warp)
    bird.load("rts07", relative(*[after(0.7, **mark(n)) for n in range(10)], reference=reference))
    start(bird, "rts07")
    began_s = bird.world_s
    bird.fly(10.0)
    assert bird.numbers == list(range(10))
    for world_s, number in bird.acted:
        due_s = began_s + 0.7 * (number + 1)
        assert due_s - 1e-3 <= world_s < due_s + frame_s * warp + 1e-6
    assert bird.names() == ["STARTED", "ENDED"]


def test_r4_resolution_is_a_tenth_of_a_second() -> None:
    bird = flying()
    bird.load("rts64", relative(*[after(0.1, **mark(n)) for n in range(50)]))
    start(bird, "rts64")
    began_s = bird.world_s
    bird.fly(6.0)
    assert bird.acted == [(pytest.approx(began_s + 0.1 * (n + 1)), n) for n in range(50)]


def test_r4_completion_counts_from_the_outcome_and_dispatch_does_not() -> None:
    """A checkpoint that takes 2 s: the step after it waits for it, or does not, as the image says."""
    acted = {}
    for reference in ("dispatch", "completion"):
        bird = training()
        steps = after(0.0, "job.checkpoint", job="train"), after(0.5, **mark(1))
        bird.load("rts03", relative(*steps, reference=reference))
        start(bird, "rts03")
        began_s = bird.world_s
        bird.fly(2.0)
        bird.frame(reports=(COMMITTED,))
        bird.fly(1.0)
        acted[reference] = bird.acted[0][0] - began_s
        assert bird.names() == ["STARTED", "ENDED"]
    assert acted["dispatch"] == pytest.approx(0.5, abs=0.01)
    assert acted["completion"] == pytest.approx(2.1 + 0.5, abs=0.01)


def test_r4_all_relative_sequences_at_once_within_the_bound_and_in_turn() -> None:
    """64 sequences of two steps each, all due: 8 dispatches in a frame, everybody once before anybody twice."""
    bird = flying()
    names = [name for name in NAMES if name.startswith("rts")]
    for number, name in enumerate(names):
        bird.load(name, relative(after(0.0, **mark(number)), after(0.0, **mark(1000 + number))))
    state = bird.vehicle.sequences
    for name in names:
        state, _ = sequence.start(state, name, bird.vehicle.correlation, "test")
    bird.vehicle = replace(bird.vehicle, sequences=state)
    for frame in range(16):
        bird.frame()
        assert len(bird.acted) == 8 * (frame + 1)
    assert bird.numbers == [*range(64), *range(1000, 1064)]
    assert bird.vehicle.sequences.count(Life.LOADED) == 64


@pytest.mark.parametrize("bound", [1, 3, 8, 64])
def test_r4_dispatch_bound(bound: int) -> None:
    bird = flying(config=executive.Config(sequence=sequence.Config(dispatches_per_frame_max=bound)))
    bird.load("rts09", relative(*[after(0.0, **mark(n)) for n in range(100)]))
    start(bird, "rts09")
    before = len(bird.acted)
    assert before == bound
    while len(bird.acted) < 100:
        bird.frame()
        assert len(bird.acted) - before in (bound, 100 - before)
        before = len(bird.acted)
    assert bird.numbers == list(range(100))


def test_r4_what_the_bound_cut_keeps_its_time_base() -> None:
    """100 steps due at once take 13 frames; a step 3 s later is due 3 s after them, not after frame 13."""
    bird = flying()
    steps = [after(0.0, **mark(n)) for n in range(100)]
    bird.load("rts09", relative(*steps, after(3.0, **mark(100))))
    start(bird, "rts09")
    began_s = bird.world_s
    bird.fly(5.0)
    assert bird.acted[-1] == (pytest.approx(began_s + 3.0), 100)


def test_r4_a_thousand_steps() -> None:
    bird = flying(frame_s=1.0)
    bird.load("rts01", relative(*[after(0.5, **mark(n)) for n in range(1000)]))
    start(bird, "rts01")
    bird.fly(510.0)
    assert bird.numbers == list(range(1000))
    assert bird.vehicle.sequences.dispatched == 1000


def test_r4_a_sequence_that_starts_itself_for_ever_starves_nobody() -> None:
    """Without any delay it takes what the bound leaves; the others have their turns."""
    bird = flying()
    bird.load("rts01", relative(after(0.0, **mark(1)), after(0.0, "sequence.start", sequence="rts01")))
    bird.load("rts02", relative(*[after(0.1, **mark(2)) for _ in range(20)]))
    start(bird, "rts01", "rts02")
    began = len(bird.acted)
    bird.fly(2.0)
    numbers = bird.numbers[began:]
    assert numbers.count(2) == 20
    assert numbers.count(1) > 60
    assert bird.slot("rts01").life is Life.RUNNING
    assert bird.names() == ["STARTED", "STARTED", "ENDED"]


def test_r4_a_cycle_has_no_drift() -> None:
    """A sequence that starts itself each second, at frames of 0.3 s: a hundred cycles are a hundred seconds."""
    bird = flying(frame_s=0.3)
    cycle = after(0.4, **mark(1)), after(0.6, "sequence.start", sequence="rts05")
    bird.load("rts05", relative(*cycle, reference="completion"))
    start(bird, "rts05")
    began_s = bird.world_s
    bird.fly(100.2)
    assert len(bird.acted) == 100
    assert all(-1e-3 <= t - (began_s + n + 0.4) < 0.3 for n, (t, _) in enumerate(bird.acted))


def test_r4_a_sequence_starts_another_but_none_that_runs() -> None:
    bird = flying()
    bird.load("rts01", relative(after(0.0, "sequence.start", sequence="rts02"), on_failure="continue"))
    bird.load("rts02", relative(after(1.0, **mark(1))))
    start(bird, "rts01")
    assert bird.slot("rts02").life is Life.RUNNING
    start(bird, "rts01")
    bird.fly(2.0)
    assert bird.numbers == [1]
    assert dict(bird.events())["SEQUENCE_STEP_FAILED"] == {
        "sequence": "rts01",
        "step": 1,
        "command": "sequence.start",
        "code": "WRONG_STATE",
        "reason": "rts02 is RUNNING; start is possible in LOADED",
    }


# Ways for a step to fail: what comes before, the step, code, beginning of the reason.
FAILURES = {
    "refused by the mode": (
        ("mode.set", {"mode": "SAFE"}),
        "job.start",
        {"job": "x"},
        "MODE_FORBIDS",
        "job.start is",
    ),
    "not armed": (None, "gpu.rail", {"on": True}, "NOT_ARMED", "gpu.rail is hazardous"),
    "unknown target": (None, "job.stop", {"job": "x"}, "UNKNOWN_TARGET", "no job 'x'"),
    "bad argument": (None, "hk.interval", {"group": "slow", "interval_s": 0.5}, "BAD_ARGUMENT", "interval_s = 0.5"),
    "execution": (None, "mode.set", {"mode": "NOMINAL"}, "EXECUTION_FAILED", "not in SAFE"),
}


@pytest.mark.parametrize("on_failure", ["abort", "continue"])
@pytest.mark.parametrize("case", FAILURES)
def test_r4_a_failed_step_ends_the_sequence_or_not(case: str, on_failure: str) -> None:
    prepare, name, arguments, code, reason = FAILURES[case]
    bird = flying()
    if prepare is not None:
        bird.frame(telecommand(prepare[0], 1, **prepare[1]))
        bird.fly(0.2)
    steps = after(0.0, **mark(1)), after(0.5, name, **arguments), after(0.5, **mark(2))
    bird.load("rts04", relative(after(0.0, "ping"), on_failure=on_failure))
    # Without the check of the image, which knows some of these: arming can be used up by somebody else.
    slot = bird.slot("rts04")
    bird.put("rts04", replace(slot, sequence=replace(slot.flown, steps=steps)))
    start(bird, "rts04")
    began_s = bird.world_s
    bird.fly(2.0)
    assert bird.acted[0] == (pytest.approx(began_s), 1)
    if on_failure == "abort":
        assert bird.numbers == [1]
        assert bird.names()[-2:] == ["STEP_FAILED", "ABORTED"]
    else:
        assert bird.acted[1] == (pytest.approx(began_s + 1.0), 2)
        assert bird.names()[-2:] == ["STEP_FAILED", "ENDED"]
    failed = dict(bird.events())["SEQUENCE_STEP_FAILED"]
    assert (failed["sequence"], failed["step"], failed["command"], failed["code"]) == ("rts04", 2, name, code)
    assert str(failed["reason"]).startswith(reason)
    assert bird.vehicle.sequences.failed == 1
    assert bird.slot("rts04").life is Life.LOADED
    # The ground's own counters and reports know nothing of it.
    assert bird.vehicle.commanding.rejected == 0
    assert "TC_FAILED" not in dict(bird.events("TC"))


@pytest.mark.parametrize("on_failure", ["abort", "continue"])
@pytest.mark.parametrize("reference", ["dispatch", "completion"])
def test_r4_a_time_out_is_a_failure(on_failure: str, reference: str) -> None:
    bird = training()
    steps = after(0.0, "job.checkpoint", job="train"), after(1.0, **mark(1)), after(70.0, **mark(2))
    bird.load("rts04", relative(*steps, on_failure=on_failure, reference=reference))
    start(bird, "rts04")
    bird.fly(140.0)
    assert dict(bird.events())["SEQUENCE_STEP_FAILED"]["code"] == "TIMEOUT"
    expected = {
        ("abort", "dispatch"): [1],
        ("abort", "completion"): [],
        ("continue", "dispatch"): [1, 2],
        ("continue", "completion"): [1, 2],
    }
    assert bird.numbers == expected[on_failure, reference]


FLIPS = {
    "argument": {},
    "opcode": {"op": 0x02},
    "unknown opcode": {"op": 0x2001},
    "time": {"at_ds": 1 << 40},
    "crc": {"crc": 0},
}


@pytest.mark.parametrize("on_failure", ["abort", "continue"])
@pytest.mark.parametrize("flip", FLIPS)
def test_r4_a_bit_that_flips_in_a_stored_step_is_found_before_dispatch(flip: str, on_failure: str) -> None:
    bird = flying()
    bird.load("rts04", relative(*[after(0.5, **mark(n)) for n in range(4)], on_failure=on_failure))
    start(bird, "rts04")
    bird.spoil("rts04", 2, **FLIPS[flip])
    bird.fly(5.0)
    assert bird.numbers == ([0, 1, 3] if on_failure == "continue" else [0, 1])
    failed = dict(bird.events())["SEQUENCE_STEP_FAILED"]
    assert (failed["step"], failed["code"], failed["reason"]) == (3, "INVALID_TABLE", "its CRC does not hold")


def test_r4_a_sequence_arms_its_own_hazardous_step() -> None:
    """Both in one frame: the arming acts before the next step is judged."""
    bird = flying()
    rail = after(0.0, "gpu.rail", on=False)
    bird.load("rts04", relative(after(0.0, "arm", opcode=0x31), rail))
    start(bird, "rts04")
    bird.fly(0.5)
    assert not bird.vehicle.eps.rail_on
    assert bird.names() == ["STARTED", "ENDED"]
    assert bird.vehicle.commanding.armed == ()


def test_r4_in_safe_sequences_go_on_and_their_commands_obey_the_mode() -> None:
    bird = flying()
    steps = after(0.0, "mode.set", mode="SAFE"), after(1.0, "job.start", job="x"), after(0.0, **mark(1))
    bird.load("rts04", relative(*steps, on_failure="continue"))
    start(bird, "rts04")
    bird.fly(2.0)
    assert bird.vehicle.mode.mode is Mode.SAFE
    assert dict(bird.events())["SEQUENCE_STEP_FAILED"]["code"] == "MODE_FORBIDS"
    assert bird.numbers == [1]


def test_stored_commands_leave_room_for_the_ground_and_wait_for_room() -> None:
    """BUSY is no failure: the step keeps its time base and is tried in each frame."""
    limits = sequence.Config(in_flight_max=2)
    bird = training(config=replace(TRAINING, sequence=limits))
    checkpoints = [after(0.0, "job.checkpoint", job="train") for _ in range(3)]
    bird.load("rts04", relative(*checkpoints, after(10.0, **mark(1)), on_failure="continue"))
    bird.load("rts03", relative(after(0.2, **mark(3))))
    start(bird, "rts04", "rts03")
    began_s = bird.world_s
    bird.fly(5.0)
    assert len(bird.vehicle.commanding.in_flight) == 2
    assert bird.slot("rts04").index == 2
    assert bird.numbers == []
    # The ground is served all the same.
    bird.frame(telecommand("ping", 5))
    assert bird.verdicts(5)[-1] == (FailureCode.NONE, "")
    bird.frame(reports=(COMMITTED,))
    bird.fly(6.0)
    assert 3 in bird.numbers
    assert bird.acted[-1] == (pytest.approx(began_s + 10.0), 1)


def test_stored_commands_are_not_counted_as_the_grounds_and_nobody_is_told_of_them() -> None:
    bird = flying()
    accepted = bird.vehicle.commanding.accepted
    bird.load("rts04", relative(*[after(0.0, **mark(n)) for n in range(5)]))
    start(bird, "rts04")
    bird.fly(1.0)
    state = bird.vehicle.commanding
    assert (state.accepted, state.heard, len(state.history)) == (accepted + 1, accepted + 1, 1)
    assert bird.vehicle.sequences.dispatched == 5
    assert state.outcomes == ()


def test_command_ids_are_unique_over_boots_slots_and_counts() -> None:
    ids = {
        command_id(boot, position, serial)
        for boot in (1, 2, 3, 2**26 - 1)
        for position in (0, 1, 65)
        for serial in (0, 1, 2**30 - 1)
    }
    assert len(ids) == 36
    assert all(commanding.ONBOARD_ID_MIN <= identity < 2**64 for identity in ids)
    assert {position_of(identity) for identity in ids} == {0, 1, 65}
    assert command_id(2**26 + 5, 65, 2**30 + 7) == command_id(5, 65, 7)


def test_r4_late_and_foreign_outcomes_are_ignored() -> None:
    """An aborted run leaves a command in flight; its outcome comes in the middle of the next run."""
    bird = training()
    bird.load("rts04", relative(after(0.0, "job.checkpoint", job="train"), after(1.0, **mark(1))))
    start(bird, "rts04")
    bird.frame(telecommand("sequence.abort", 50, sequence="rts04"))
    assert len(bird.vehicle.commanding.in_flight) == 1
    bird.fly(58.5)
    bird.load("rts04", relative(after(3.0, **mark(2))))
    start(bird, "rts04")
    bird.fly(4.0)
    assert bird.vehicle.commanding.in_flight == ()
    assert bird.numbers == [2]
    assert bird.names() == ["STARTED", "ABORTED", "STARTED", "ENDED"]


@pytest.mark.parametrize(
    ("power_on", "crash_loop", "expected"),
    [(True, False, [1]), (False, False, [2]), (True, True, []), (False, True, [])],
    ids=["power-on", "warm reset", "power-on of a crash loop", "crash loop"],
)
def test_r4_sequences_at_boot(power_on: bool, crash_loop: bool, expected: list[int]) -> None:
    """They start when BOOT is left, so that their steps are allowed what a mode allows."""
    bird = Bird()
    for name in ("rts01", "rts02"):
        bird.load(name, relative(after(0.0, **mark(POSITION[name] - 1))))
    bird.reboot(power_on=power_on, crash_loop=crash_loop)
    bird.fly(2.0)
    assert bird.numbers == expected
    if expected:
        fields = dict(bird.events())["SEQUENCE_STARTED"]
        assert fields["by"] == ("power-on" if power_on else "warm reset")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"power_on": "rts00"}, "power_on = 'rts00'"), ({"warm_reset": "rts65"}, "warm_reset = 'rts65'")],
)
def test_configuration_names_sequences_that_exist(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence.Config(**changes)
    assert sequence.Config(power_on="", warm_reset="").power_on == ""


def test_boot_without_sequences_starts_nothing() -> None:
    bird = flying(config=executive.Config(sequence=sequence.Config(power_on="")))
    assert not bird.vehicle.sequences.awake
    bird = flying()
    assert bird.names() == []
    assert not bird.vehicle.sequences.awake


def test_r9_a_response_starts_a_sequence_or_tells_why_not() -> None:
    """What FDIR orders runs from the same frame on; a sequence that is not there is told."""
    point = Actionpoint(id=7, name="hot", condition=(1,), response=Response.SEQUENCE, argument=5.0, domain="task")
    bird = flying()
    vehicle, told = responses.apply(bird.vehicle, bird.config, (point,), bird.now_s)
    assert vehicle == bird.vehicle
    assert [(event.name, event.fields["reason"]) for event in told] == [
        ("SEQUENCE_REFUSED", "rts05 is EMPTY; start is possible in LOADED")
    ]
    bird.load("rts05", relative(after(0.0, **mark(1)), after(1.0, **mark(2))))
    bird.vehicle, told = responses.apply(bird.vehicle, bird.config, (point,), bird.now_s)
    assert [(event.name, event.fields["by"]) for event in told] == [("SEQUENCE_STARTED", "actionpoint 7 (hot)")]
    bird.frame()
    assert bird.numbers == [1]


def test_r4_nothing_to_do_costs_nothing() -> None:
    """A frame asks one question when no sequence is under way; loaded ones do not change that."""
    bird = flying()
    for name in NAMES:
        if name.startswith("rts"):
            bird.load(name, relative(after(0.0, "ping")))
    bird.fly(2.0)
    state = bird.vehicle.sequences
    assert not state.awake
    bird.fly(1.0)
    assert bird.vehicle.sequences is state
    assert min(timeit.repeat(lambda: state.awake, number=1000, repeat=20)) / 1000 < 2e-6
