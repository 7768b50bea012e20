"""R4, R23: random operators, clocks and power cuts against the rules of stored sequences.

A machine of rules loads, starts, suspends, steps, resumes and aborts sequences, steps TAI forward and backward,
lies about it for a moment, spoils a step, cuts the power, and lets time pass. The marks that acted are compared
with what each image was given:

- no absolute step of one loaded image acts twice, over reboots and steps of time;
- an absolute step acts within its lateness (by the onboard TAI of that frame) or never;
- the steps of an absolute sequence act in order;
- no frame dispatches more than the bound.
"""

import pytest
from core_flight import TAI_AT_ZERO_S, telecommand
from core_sequences import Bird, absolute, after, at, mark, relative
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flightsw.core import executive, sequence, sequence_time
from flightsw.core.sequence_life import Life

BOUND = 4
LATE_S = 2.0
RUN = 1000
"""Marks of one run or image: its number × RUN + the step."""
CONFIG = executive.Config(
    sequence=sequence.Config(dispatches_per_frame_max=BOUND, late_max_s=LATE_S, power_on="", warm_reset="")
)
DELAYS_DS = (0, 0, 0, 1, 3, 5, 10, 30)
NAMES = ("ats1", "ats2", "rts01", "rts02")


class Operators(RuleBasedStateMachine):
    """The satellite, and what may act on it."""

    @initialize(frame_s=st.sampled_from([0.1, 0.5, 1.0]))
    def launch(self, frame_s: float) -> None:
        self.bird = Bird(config=CONFIG, frame_s=frame_s)
        self.checked = 0
        self.images = 0
        self.due: dict[int, float] = {}
        self.offset: dict[int, float] = {}
        self.dispatched = 0
        self.commands = 0
        self.fly(5.0)

    def send(self, name: str, **arguments: object) -> None:
        self.commands += 1
        self.frame(telecommand(name, 10_000 * self.bird.boots + self.commands, **arguments))

    def frame(self, *packets: bytes) -> None:
        self.bird.frame(*packets)
        bird = self.bird
        total = bird.vehicle.sequences.dispatched
        assert total - self.dispatched <= BOUND, "more dispatches than the bound"
        self.dispatched = total
        tai_s = bird.vehicle.correlation.tai_s - TAI_AT_ZERO_S
        for _, number in bird.acted[self.checked :]:
            if number in self.due and number not in self.stepped:
                late_s = tai_s - self.due[number]
                assert -0.01 <= late_s <= LATE_S + 0.01, f"{number} acted {late_s:.2f} s late"
        self.checked = len(bird.acted)

    def fly(self, duration_s: float) -> None:
        self.stepped = getattr(self, "stepped", set())
        for _ in range(max(1, round(duration_s / self.bird.frame_s))):
            self.frame()

    @rule(
        begin=st.booleans(),
        name=st.sampled_from(NAMES),
        delays=st.lists(st.sampled_from(DELAYS_DS), min_size=1, max_size=12),
        reference=st.sampled_from(["dispatch", "completion"]),
        on_failure=st.sampled_from(["abort", "continue"]),
    )
    def load(self, name: str, delays: list[int], reference: str, on_failure: str, begin: bool) -> None:
        if self.bird.slot(name).life in (Life.WAITING, Life.RUNNING, Life.SUSPENDED):
            return
        self.images += 1
        numbers = [self.images * RUN + n for n in range(len(delays))]
        if name.startswith("ats"):
            now_s = self.bird.world_s + self.bird.tai_step_s
            times, moment = [], round(now_s, 1) - 1.0
            for delay in delays:
                moment += delay / 10
                times.append(moment)
            self.due |= dict(zip(numbers, times, strict=True))
            steps = [at(t, **mark(n)) for t, n in zip(times, numbers, strict=True)]
            self.bird.load(name, absolute(*steps, on_failure=on_failure))
        else:
            steps = [after(d / 10, **mark(n)) for d, n in zip(delays, numbers, strict=True)]
            self.bird.load(name, relative(*steps, reference=reference, on_failure=on_failure))
        if begin:
            self.send("sequence.start", sequence=name)

    @rule(name=st.sampled_from(NAMES), order=st.sampled_from(["start", "start", "suspend", "resume", "abort"]))
    def order(self, name: str, order: str) -> None:
        self.send(f"sequence.{order}", sequence=name)

    @rule(name=st.sampled_from(NAMES[:2]), duration_s=st.sampled_from([0.1, 0.5, 1.0]))
    def begin_again(self, name: str, duration_s: float) -> None:
        self.fly(duration_s)
        self.send("sequence.abort", sequence=name)
        self.send("sequence.start", sequence=name)

    @rule(name=st.sampled_from(NAMES))
    def step_once(self, name: str) -> None:
        slot = self.bird.slot(name)
        if slot.life is Life.SUSPENDED and name.startswith("ats"):
            # An ordered step does not look at the time.
            self.stepped |= {n for n in self.due}
        self.send("sequence.step", sequence=name)
        self.frame()

    @rule(duration_s=st.sampled_from([0.1, 0.5, 1.0, 3.0, 8.0]))
    def time_passes(self, duration_s: float) -> None:
        self.fly(duration_s)

    @rule(step_s=st.sampled_from([-100.0, -3.0, 3.0, 5.0, 100.0]))
    def time_steps(self, step_s: float) -> None:
        self.bird.tai_step_s += step_s

    @rule(step_s=st.sampled_from([-100.0, 4.0, 1e6]), duration_s=st.sampled_from([0.5, 2.0]))
    def time_lies(self, step_s: float, duration_s: float) -> None:
        self.bird.tai_step_s += step_s
        self.fly(duration_s)
        self.bird.tai_step_s -= step_s

    @rule(on=st.booleans())
    def sensors(self, on: bool) -> None:
        self.bird.sensors_on = on
        self.frame()

    @rule(
        name=st.sampled_from(NAMES),
        where=st.integers(0, 11),
        change=st.sampled_from([{}, {"at_ds": 1}, {"op": 0x31}]),
    )
    def spoil(self, name: str, where: int, change: dict[str, int]) -> None:
        slot = self.bird.slot(name)
        if slot.life is not Life.EMPTY and slot.index <= where < len(slot.flown.steps):
            self.bird.spoil(name, where, **change)

    @rule(power_on=st.booleans(), down_s=st.sampled_from([0.1, 2.0, 20.0]))
    def power_cut(self, power_on: bool, down_s: float) -> None:
        self.bird.reboot(power_on=power_on, down_s=down_s)
        self.dispatched = 0
        self.frame()

    @precondition(lambda self: hasattr(self, "bird"))
    @invariant()
    def nothing_absolute_acts_twice(self) -> None:
        fired = [number for number in self.bird.numbers if number in self.due]
        assert len(fired) == len(set(fired)), "an absolute step acted twice"

    @precondition(lambda self: hasattr(self, "bird"))
    @invariant()
    def runs_are_in_order(self) -> None:
        last: dict[int, int] = {}
        for _, number in self.bird.acted:
            image, index = divmod(number, RUN)
            if number in self.due:
                assert index > last.get(image, -1), "an absolute sequence went backwards"
            last[image] = index

    @precondition(lambda self: hasattr(self, "bird"))
    @invariant()
    def slots_are_sound(self) -> None:
        state = self.bird.vehicle.sequences
        for slot in state.slots:
            if slot.life is Life.EMPTY:
                continue
            assert 0 <= slot.index <= len(slot.flown.steps)
            if slot.life is Life.LOADED:
                assert slot.pending == ()
                assert slot.ordered_s is None


QUICK = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.generate],
)


def test_r4_r23_sequences_keep_their_rules_whatever_happens() -> None:
    run_state_machine_as_test(Operators, settings=QUICK)


def _late_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_time, "_without_late", lambda position, slot, config, clock: (slot, ()))
    original = sequence_time._due_absolute
    patient = sequence.Config(late_max_s=600.0)
    monkeypatch.setattr(sequence_time, "_due_absolute", lambda slot, config, clock: original(slot, patient, clock))


def _position_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    original = sequence.start

    def start(state: object, name: str, clock: object, by: str) -> object:
        ordered = original(state, name, clock, by)
        if isinstance(ordered, sequence.Refusal) or not name.startswith("ats"):
            return ordered
        position = sequence.POSITION[name]
        slot = executive.replace(ordered[0].slots[position], index=0, reserved=0)
        return sequence.put(ordered[0], position, slot), ordered[1]

    monkeypatch.setattr(sequence, "start", start)


def _bound_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flightsw.core.sequence_driver.range", lambda count: range(100), raising=False)


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (_late_is_fine, "s late"),
        (_position_is_forgotten, "acted twice"),
        (_bound_is_ignored, "more dispatches than the bound"),
    ],
)
def test_the_rules_catch_a_planted_bug(plant: object, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=seen):
        run_state_machine_as_test(Operators, settings=settings(QUICK, max_examples=120, print_blob=False))
