"""R4, R23: absolute sequences: TAI and its validity, late steps, steps of time in both directions, bursts."""

import pytest
from core_flight import telecommand
from core_sequences import Bird, absolute, after, at, flying, mark, relative, start

from flightsw.core import correlation, executive, sequence
from flightsw.core.sequence_life import Life
from flightsw.link.sequence import Step


def marks(first_s: float, count: int, every_s: float = 1.0) -> tuple[Step, ...]:
    """Steps number 0 to ``count`` − 1 from a mission time on."""
    return tuple(at(first_s + every_s * n, **mark(n)) for n in range(count))


@pytest.mark.parametrize(("frame_s", "warp"), [(0.1, 1.0), (1.0, 1.0), (0.1, 20.0), (1.0, 5.0)])
def test_r4_absolute_steps_act_in_the_frame_of_their_tai(frame_s: float, warp: float) -> None:
    bird = flying(frame_s=frame_s, warp=warp)
    first_s = bird.world_s + 10.0 * warp
    bird.load("ats1", absolute(*marks(first_s, 20, 0.7 * warp)))
    start(bird, "ats1")
    bird.fly(30.0)
    assert bird.numbers == list(range(20))
    for world_s, number in bird.acted:
        due_s = first_s + 0.7 * warp * number
        assert due_s - 0.06 <= world_s < due_s + frame_s * warp + 0.06
    assert bird.names() == ["STARTED", "ENDED"]


def test_r4_resolution_of_absolute_steps_is_a_tenth_of_a_second() -> None:
    bird = flying()
    bird.load("ats2", absolute(*marks(10.0, 40, 0.1)))
    start(bird, "ats2")
    bird.fly(12.0)
    assert bird.acted == [(pytest.approx(10.0 + 0.1 * n, abs=0.01), n) for n in range(40)]


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_r4_a_sequence_waits_for_valid_time(kind: str) -> None:
    """Started before the time is confirmed (3 s): nothing fires early, and the event says what it waits for."""
    bird = Bird()
    if kind == "absolute":
        bird.load("ats1", absolute(*marks(2.0, 5)))
        name, expected = "ats1", [2, 3, 4]
    else:
        bird.load("rts01", relative(after(1.0, **mark(7)), wait_for_time=True))
        name, expected = "rts01", [7]
    start(bird, name)
    assert bird.slot(name).life is Life.WAITING
    while not bird.vehicle.correlation.valid:
        assert bird.acted == []
        bird.frame()
    valid_s = bird.world_s
    bird.fly(5.0)
    assert bird.numbers[-len(expected) :] == expected
    assert bird.names()[:2] == ["WAITING", "STARTED"]
    assert dict(bird.events())["SEQUENCE_STARTED"]["by"] == "valid time"
    if kind == "relative":
        assert bird.acted[0][0] == pytest.approx(valid_s + 1.0)


def test_r4_late_steps_are_skipped_with_one_event() -> None:
    """A sequence that starts at mission time 10 s: what is more than 2 s late is past; the rest is not."""
    bird = flying()
    bird.fly(6.0)
    now_s = bird.world_s
    bird.load("ats1", absolute(*marks(now_s - 7.5, 12)))
    start(bird, "ats1")
    bird.fly(8.0)
    assert bird.numbers == [6, 7, 8, 9, 10, 11]
    skipped = [fields for name, fields in bird.events() if name == "SEQUENCE_SKIPPED"]
    assert skipped == [
        {"sequence": "ats1", "step": 1, "count": 6, "late_s": pytest.approx(7.6, abs=0.15)},
    ]
    assert bird.vehicle.sequences.skipped == 6
    assert bird.slot("ats1").skipped == 6


@pytest.mark.parametrize(("late_s", "fires"), [(1.7, True), (2.4, False)])
@pytest.mark.parametrize("warp", [1.0, 10.0])
def test_r4_how_late_is_too_late(late_s: float, warp: float, fires: bool) -> None:
    bird = flying(warp=warp)
    bird.load("ats1", absolute(at(bird.world_s - late_s * warp + 0.1 * warp, **mark(1))))
    start(bird, "ats1")
    bird.fly(1.0)
    assert bird.numbers == ([1] if fires else [])


@pytest.mark.parametrize("step_s", [600.0, 15.0, 3600.0 * 24 * 365])
def test_r23_a_forward_step_of_time_skips_what_it_passes_once(step_s: float) -> None:
    bird = flying()
    bird.load("ats1", absolute(*marks(10.0, 10), *(at(10.0 + step_s + n, **mark(100 + n)) for n in range(5))))
    start(bird, "ats1")
    bird.fly(7.5)
    before = list(bird.numbers)
    bird.tai_step_s = step_s
    bird.fly(20.0)
    assert bird.vehicle.correlation.steps == 1
    assert len(set(bird.numbers)) == len(bird.numbers)
    assert [n for n in bird.numbers if n < 10] == list(range(len([n for n in bird.numbers if n < 10])))
    assert before == [0, 1]
    count = sum(fields["count"] for name, fields in bird.events() if name == "SEQUENCE_SKIPPED")
    assert len(bird.numbers) + count == 15, "every step fired or was skipped, once"
    assert bird.vehicle.sequences.skipped == count
    assert bird.slot("ats1").life is Life.LOADED


@pytest.mark.parametrize("step_s", [-5.0, -600.0])
def test_r23_a_backward_step_of_time_fires_nothing_twice(step_s: float) -> None:
    """The next step waits until its TAI has come (again); nothing that fired is repeated."""
    bird = flying()
    bird.load("ats1", absolute(*marks(10.0, 10)))
    start(bird, "ats1")
    bird.fly(10.0)
    fired = list(bird.numbers)
    bird.tai_step_s = step_s
    bird.fly(5.0)
    # The step of time is confirmed by now; until TAI comes again a frame a second sees as much of nothing.
    confirmed = list(bird.numbers)
    bird.frame_s = 1.0
    bird.fly(-step_s - 5.0)
    assert bird.numbers == confirmed
    bird.frame_s = 0.1
    bird.fly(20.0)
    assert bird.vehicle.correlation.steps == 1
    assert fired == [0, 1, 2, 3, 4]
    assert bird.numbers == list(range(10))
    for world_s, number in bird.acted[8:]:
        assert world_s + step_s == pytest.approx(10.0 + number, abs=0.15)


def test_r23_a_glitch_of_time_neither_fires_nor_skips() -> None:
    """Frames that lie about the time for less than ``confirm_s``, forward and backward, change nothing."""
    bird = flying()
    bird.load("ats1", absolute(*marks(8.0, 30, 0.5)))
    start(bird, "ats1")
    for step_s in (600.0, 0.0, -600.0, 0.0, 1e6, 0.0):
        bird.tai_step_s = step_s
        bird.fly(2.0)
    bird.fly(15.0)
    assert bird.vehicle.correlation.steps == 0
    assert bird.vehicle.correlation.rejected > 50
    assert bird.acted == [(pytest.approx(8.0 + 0.5 * n, abs=0.06), n) for n in range(30)]
    assert bird.vehicle.sequences.skipped == 0


def test_r23_relative_sequences_know_no_clock() -> None:
    bird = flying()
    bird.load("rts01", relative(*[after(1.0, **mark(n)) for n in range(20)]))
    start(bird, "rts01")
    began_s = bird.world_s
    for step_s in (600.0, -600.0, 5.0):
        bird.tai_step_s = step_s
        bird.fly(7.0)
    assert bird.vehicle.correlation.steps == 3
    assert bird.acted == [(pytest.approx(began_s + 1.0 + n), n) for n in range(20)]


def test_r4_a_sequence_waits_when_the_time_is_lost() -> None:
    """Freewheeling past the uncertainty allowed: nothing fires; when the time is back, what is late is skipped."""
    drifting = correlation.Config(drift_ppm=10_000.0, uncertainty_max_s=0.15, resolution_s=0.1)
    bird = flying(config=executive.Config(correlation=drifting))
    bird.load("ats1", absolute(*marks(6.0, 30)))
    start(bird, "ats1")
    bird.fly(4.0)
    bird.sensors_on = False
    bird.fly(12.0)
    waiting = list(bird.numbers)
    assert bird.slot("ats1").life is Life.WAITING
    bird.sensors_on = True
    bird.fly(20.0)
    assert bird.numbers[: len(waiting)] == waiting
    count = 30 - len(bird.numbers)
    assert 0 < count == bird.vehicle.sequences.skipped
    assert bird.names() == ["STARTED", "WAITING", "STARTED", "SKIPPED", "ENDED"]


def test_r4_absolute_sequences_come_first_the_earlier_step_before_the_later() -> None:
    bird = flying(config=executive.Config(sequence=sequence.Config(dispatches_per_frame_max=1)))
    bird.load("ats1", absolute(at(8.0, **mark(1)), at(8.4, **mark(3))))
    bird.load("ats2", absolute(at(8.2, **mark(2)), at(8.4, **mark(4))))
    bird.load("rts01", relative(*[after(0.1, **mark(9)) for _ in range(60)]))
    start(bird, "ats1", "ats2", "rts01")
    bird.fly(8.0)
    assert [n for n in bird.numbers if n < 9] == [1, 2, 3, 4]
    assert [world_s for world_s, n in bird.acted if n < 9] == pytest.approx([8.0, 8.2, 8.4, 8.5], abs=0.01)
    assert bird.numbers.count(9) == 60


@pytest.mark.parametrize(("frame_s", "fired"), [(0.1, 168), (1.0, 24)])
def test_r4_what_frames_cannot_dispatch_in_time_is_skipped(frame_s: float, fired: int) -> None:
    """400 steps at one instant: at 8 a frame, those of the 2 s after it act, in order, and none later."""
    bird = flying(frame_s=frame_s)
    bird.load("ats1", absolute(*[at(10.0, **mark(n)) for n in range(400)]))
    start(bird, "ats1")
    bird.fly(12.0)
    assert bird.numbers == list(range(fired))
    assert max(world_s for world_s, _ in bird.acted) <= 12.0 + 0.01
    assert bird.vehicle.sequences.skipped == 400 - fired
    assert bird.names() == ["STARTED", "SKIPPED", "ENDED"]


def test_r4_a_thousand_absolute_steps() -> None:
    bird = flying(frame_s=0.5)
    bird.load("ats1", absolute(*marks(10.0, 1000, 0.3)))
    start(bird, "ats1")
    bird.fly(320.0)
    assert bird.numbers == list(range(1000))


def test_r4_start_again_after_an_abort_goes_on_and_after_the_end_is_refused() -> None:
    bird = flying()
    bird.load("ats1", absolute(*marks(6.0, 10)))
    start(bird, "ats1")
    bird.fly(5.0)
    bird.frame(telecommand("sequence.abort", 50, sequence="ats1"))
    bird.fly(3.0)
    start(bird, "ats1")
    bird.fly(10.0)
    skipped = bird.vehicle.sequences.skipped
    assert len(bird.numbers) + skipped == 10
    assert len(set(bird.numbers)) == len(bird.numbers)
    bird.frame(telecommand("sequence.start", 51, sequence="ats1"))
    assert bird.verdicts(51)[-1][1] == "all steps of ats1 have passed; load it again to repeat it"
    bird.load("ats1", absolute(*marks(bird.world_s + 2.0, 2)))
    start(bird, "ats1")
    bird.fly(5.0)
    assert bird.numbers[-2:] == [0, 1]


def test_r4_a_suspended_absolute_sequence_skips_what_it_missed() -> None:
    bird = flying()
    bird.load("ats1", absolute(*marks(6.0, 12)))
    start(bird, "ats1")
    bird.fly(4.0)
    bird.frame(telecommand("sequence.suspend", 50, sequence="ats1"))
    held = list(bird.numbers)
    bird.fly(5.0)
    assert bird.numbers == held
    bird.frame(telecommand("sequence.resume", 51, sequence="ats1"))
    bird.fly(10.0)
    assert 2 <= bird.vehicle.sequences.skipped <= 4
    assert len(bird.numbers) == 12 - bird.vehicle.sequences.skipped
    assert bird.names() == ["STARTED", "SUSPENDED", "RESUMED", "SKIPPED", "ENDED"]


def test_r4_single_steps_of_an_absolute_sequence_do_not_look_at_the_time() -> None:
    bird = flying()
    bird.load("ats1", absolute(*marks(1000.0, 3)))
    start(bird, "ats1")
    bird.frame(telecommand("sequence.suspend", 50, sequence="ats1"))
    for n in range(3):
        bird.frame(telecommand("sequence.step", 60 + n, sequence="ats1"))
        bird.fly(0.3)
        assert bird.numbers == list(range(n + 1))
        assert bird.verdicts(60 + n)[-1] == (0, "")
    assert bird.names() == ["STARTED", "SUSPENDED", "ENDED"]


def test_an_absolute_sequence_cannot_start_itself_anew() -> None:
    bird = flying()
    itself = at(6.0, "sequence.start", sequence="ats1")
    bird.load("ats1", absolute(itself, at(7.0, **mark(1)), on_failure="continue"))
    start(bird, "ats1")
    bird.fly(5.0)
    assert dict(bird.events())["SEQUENCE_STEP_FAILED"]["code"] == "WRONG_STATE"
    assert bird.numbers == [1]


def test_r4_a_flipped_time_in_an_absolute_sequence_holds_nobody_up() -> None:
    for flip_ds in (0, 1 << 36):
        bird = flying()
        bird.load("ats1", absolute(*marks(8.0, 4), on_failure="continue"))
        start(bird, "ats1")
        bird.fly(1.0)
        bird.spoil("ats1", 1, at_ds=flip_ds)
        bird.fly(12.0)
        assert bird.numbers == [0, 2, 3]
        assert bird.names() == ["STARTED", "STEP_FAILED", "ENDED"]


def test_time_to_the_next_absolute_step_is_telemetry() -> None:
    from flightsw.core.getters import GETTERS

    read = GETTERS["sequence.ats_next_s"]
    bird = flying()
    assert read(bird.vehicle) != read(bird.vehicle)
    bird.load("ats1", absolute(*marks(20.0, 2)))
    bird.load("ats2", absolute(*marks(15.0, 2)))
    start(bird, "ats1", "ats2")
    assert read(bird.vehicle) == pytest.approx(15.0 - bird.world_s, abs=0.1)
    assert GETTERS["sequence.running"](bird.vehicle) == 2
    bird.frame(telecommand("sequence.suspend", 50, sequence="ats2"))
    assert read(bird.vehicle) == pytest.approx(20.0 - bird.world_s, abs=0.1)
    assert GETTERS["sequence.suspended"](bird.vehicle) == 1
