"""Power tracking: the card is learned from two witnesses, the set-point follows, what says nothing teaches
nothing."""

from math import isnan, nan

import msgspec
import pytest

from flightsw.core import tracking
from flightsw.core.inputs import GpuSample
from flightsw.core.job import Job
from flightsw.core.lifecycle import Life
from flightsw.core.tracking import Card, Config, Seen

CARD = Card(80.0, 700.0)
FRAME_S = 0.1


class Loop:
    """A card that draws its own line, exactly; what it shows can be falsified."""

    def __init__(self, idle_w: float = 80.0, active_w: float = 700.0, config: Config | None = None) -> None:
        self.idle_w, self.active_w = idle_w, active_w
        self.config = config or Config()
        self.state = tracking.start(0.0)
        self.now_s = self.energy_j = self.busy_s = 0.0
        self.duty = 0.0
        self.events: list[str] = []
        self.sequence = 0
        # How the world deviates.
        self.counter = 1.0
        self.offered = True
        self.rail: float | None = None
        self.rail_ripple_w = 0.0
        self.throttle: int | None = 0
        self.works = True
        self.obeys = True
        self.every = 2

    def fly(self, budget_w: float, duration_s: float, *, working: bool = True, **seen: object) -> tracking.State:
        for _ in range(round(duration_s / FRAME_S)):
            self.now_s += FRAME_S
            self.sequence += 1
            power_w = self.idle_w + self.duty * (self.active_w - self.idle_w)
            self.energy_j += power_w * FRAME_S * self.counter
            self.busy_s += self.duty * FRAME_S if self.works else 0.0
            energy_j = self.energy_j if self.offered else None
            sample = GpuSample(
                sequence=self.sequence, source="x", energy_j=energy_j, throttle_reasons=self.throttle
            )
            if self.sequence % self.every:
                sample = None
            rail_w = nan if self.rail is None else self.rail * power_w + self.rail_ripple_w * (self.sequence % 2)
            fields: dict[str, object] = {
                "sample": sample, "fresh": True, "rail_w": rail_w, "rail_on": True, "duty": self.duty,
                "busy_s": self.busy_s, "steady": True,
            }  # fmt: skip
            self.state, found = tracking.step(
                self.state, self.config, CARD, budget_w, working, Seen(**{**fields, **seen}), self.now_s
            )
            self.events += [event.name for event in found]
            self.duty = self.state.duty if self.obeys else 0.0
        return self.state

    @property
    def power_w(self) -> float:
        return self.idle_w + self.duty * (self.active_w - self.idle_w)


@pytest.mark.parametrize("scale", [(1.2, 1.2), (0.8, 0.8), (1.2, 0.8), (0.8, 1.2)], ids=str)
def test_the_budget_is_drawn_by_another_card_than_the_profiles(scale: tuple[float, float]) -> None:
    loop = Loop(80.0 * scale[0], 700.0 * scale[1])
    loop.fly(80.0, 21.0, working=False)
    loop.fly(300.0, 32.0)
    for budget_w in (120.0, 200.0, 400.0, 500.0):
        loop.fly(budget_w, 1.0)
        assert loop.power_w == pytest.approx(budget_w, rel=0.02), "at once, not after another window"
    loop.fly(500.0, 30.0)
    assert loop.state.error_fraction == pytest.approx(0.0, abs=0.01)
    assert loop.state.power_w == pytest.approx(500.0, rel=0.01)
    assert loop.state.idle_w == pytest.approx(loop.idle_w, rel=0.05)
    assert loop.state.active_w == pytest.approx(loop.active_w, rel=0.03)


@pytest.mark.parametrize(
    ("budget_w", "working", "duty"),
    [(390.0, True, 0.5), (80.0, True, 0.0), (10.0, True, 0.0), (900.0, True, 1.0), (390.0, False, 0.0)],
)
def test_before_the_first_window_the_profile_is_believed(budget_w: float, working: bool, duty: float) -> None:
    assert Loop().fly(budget_w, FRAME_S, working=working).duty == pytest.approx(duty)


def test_a_duty_that_is_not_given_stays_zero_however_low_the_idle_card_is() -> None:
    loop = Loop(idle_w=60.0)
    assert loop.fly(80.0, 30.0, working=False).duty == 0.0
    assert loop.state.idle_w == pytest.approx(60.0, abs=1.0)
    assert loop.fly(80.0, 0.1, working=True).duty > 0.0, "the budget of the profile's idle card buys a little work"


def test_corrections_are_bounded() -> None:
    loop = Loop(idle_w=300.0, active_w=1380.0)
    loop.fly(80.0, 30.0, working=False)
    loop.fly(700.0, 60.0)
    assert loop.state.idle_w == pytest.approx(80.0 * 1.4)
    assert loop.state.active_w == pytest.approx(80.0 * 1.4 + 620.0 * 1.4)
    low = Loop(idle_w=5.0, active_w=50.0)
    low.fly(700.0, 60.0)
    assert low.state.active_w >= 0.6 * 700.0


def test_no_uncertainty_of_the_profile_means_the_profile_alone() -> None:
    loop = Loop(96.0, 560.0, Config(prior_fraction=0.0, drift_fraction=0.0))
    loop.fly(390.0, 60.0)
    assert (loop.state.duty, loop.state.idle_w, loop.state.active_w) == (pytest.approx(0.5), 80.0, 700.0)


def test_a_card_that_drifts_is_followed() -> None:
    loop = Loop()
    loop.fly(400.0, 200.0)
    loop.active_w *= 1.1
    loop.fly(400.0, 300.0)
    assert loop.power_w == pytest.approx(400.0, rel=0.02)


def unmoved(loop: Loop) -> bool:
    return loop.state.belief is None


FROZEN: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    # what is different in the world, what is different in what the frame sees
    "a job starts": ({}, {"steady": False}),
    "the rail is off": ({}, {"rail_on": False}),
    "the card is hot": ({"throttle": 0x40}, {}),
    "the workers had no work": ({"works": False}, {}),
    "the counter stands still": ({"counter": 0.0}, {}),
    "the counter runs backwards": ({"counter": -1.0}, {}),
    "the counter is absurd": ({"counter": 50.0}, {}),
    "no witness at all": ({"offered": False}, {}),
    "the board repeats one number": ({"offered": False}, {"rail_w": 320.0}),
    "the probe is stale and the board unknown": ({}, {"fresh": False, "sample": None}),
    "the counter's readings fail": ({}, {"sample": GpuSample(sequence=1, source="x", energy_j=nan)}),
    "no reading ever comes": ({"every": 10**9}, {"fresh": True, "sample": None}),
}


@pytest.mark.parametrize(("world", "seen"), FROZEN.values(), ids=FROZEN)
def test_what_says_nothing_teaches_nothing(world: dict[str, object], seen: dict[str, object]) -> None:
    loop = Loop(active_w=560.0)
    for name, value in world.items():
        setattr(loop, name, value)
    loop.fly(390.0, 65.0, **seen)
    assert unmoved(loop)
    assert loop.state.duty == pytest.approx(0.5)
    assert isnan(loop.state.error_fraction)


def test_a_window_without_an_end_is_discarded_and_the_next_one_is_whole() -> None:
    loop = Loop(active_w=560.0)
    loop.fly(390.0, 1.0)
    loop.fly(390.0, 40.0, sample=None)
    assert loop.state.window is None
    loop.fly(390.0, 25.0)
    assert loop.state.windows == 2


def test_clocks_at_the_power_cap_or_of_an_unknown_reason_are_the_card_as_it_is() -> None:
    for reasons in (0x4, None):
        loop = Loop(active_w=560.0)
        loop.throttle = reasons
        loop.fly(390.0, 30.0)
        assert not unmoved(loop)


def test_the_board_is_the_witness_where_the_card_has_no_counter() -> None:
    loop = Loop(active_w=560.0)
    loop.offered, loop.rail, loop.rail_ripple_w = False, 1.0, 1.0
    loop.fly(300.0, 60.0)
    assert loop.power_w == pytest.approx(300.0, rel=0.02)


@pytest.mark.parametrize(
    ("counter", "rail", "believed"),
    [(1.0, 1.3, 1.3), (1.3, 1.0, 1.3), (1.0, 0.7, 1.0), (1.0, 1.1, 1.1), (0.0, 1.0, 1.0)],
)
def test_of_two_witnesses_the_higher_one_is_believed(counter: float, rail: float, believed: float) -> None:
    loop = Loop()
    loop.counter, loop.rail, loop.rail_ripple_w = counter, rail, 0.5
    loop.fly(390.0, 14.0)
    assert loop.state.power_w == pytest.approx(believed * 390.0, rel=0.01)
    differs = counter > 0.0 and not 0.8 < counter / rail < 1.2
    assert loop.events == ["POWER_MISMATCH"] * differs
    loop.fly(390.0, 30.0)
    assert len(loop.events) == differs, "once for each time"
    assert loop.state.mismatch == differs


def test_a_board_that_was_silent_for_a_part_of_the_window_is_no_witness() -> None:
    loop = Loop()
    loop.rail, loop.rail_ripple_w = 1.5, 1.0
    loop.fly(390.0, 2.5, rail_w=nan)
    loop.fly(390.0, 8.5)
    assert loop.state.power_w == pytest.approx(390.0, rel=0.01)
    assert loop.events == []


def test_a_window_begins_after_the_step_not_in_it() -> None:
    loop = Loop()
    loop.fly(80.0, 11.0)
    loop.fly(700.0, 0.3)
    loop.fly(700.0, 12.0)
    assert loop.state.window is not None
    assert loop.state.window.duty_s == pytest.approx(now_in_window(loop), rel=0.05)


def now_in_window(loop: Loop) -> float:
    assert loop.state.window is not None
    return loop.now_s - loop.state.window.opened_s


def test_jobs_that_do_not_follow_make_no_tracking_error() -> None:
    loop = Loop()
    loop.obeys = False
    loop.fly(390.0, 25.0)
    assert isnan(loop.state.error_fraction)
    assert loop.state.power_w == pytest.approx(80.0)
    free = Loop(idle_w=20.0)
    free.fly(0.0, 25.0, working=False)
    assert isnan(free.state.error_fraction), "no budget, no relative error"


@pytest.mark.parametrize(
    ("budget_w", "longest_s"),
    [
        (80.0, 0.015 * 10.0 * 80.0 / 620.0),
        (390.0, 0.015 * 10.0 * 390.0 / 310.0),
        (694.0, 10.0),  # So little rest is left that a micro-batch makes no ripple.
        (700.0, tracking.MICRO_BATCH_MAX_S),
    ],
)
def test_the_longest_micro_batch(budget_w: float, longest_s: float) -> None:
    assert Loop().fly(budget_w, FRAME_S).micro_batch_s == pytest.approx(longest_s)


def test_the_shortest_micro_batch_is_bounded() -> None:
    loop = Loop(config=Config(ripple_fraction=0.001))
    assert loop.fly(80.0, FRAME_S).micro_batch_s == tracking.MICRO_BATCH_MIN_S


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ((), (0.0, 0.0, True)),
        ((Job(wanted=True, life=Life.RUNNING, duty=0.5, busy_s=7.0),), (0.5, 7.0, True)),
        ((Job(wanted=True, life=Life.RUNNING, duty=0.5, late=True),), (0.5, 0.0, False)),
        ((Job(wanted=True, life=Life.RUNNING, duty=0.5), Job(wanted=True, life=Life.STARTING)), (0.5, 0.0, False)),
        ((Job(wanted=True, life=Life.STOPPING),), (0.0, 0.0, False)),
        ((Job(wanted=False),), (0.0, 0.0, True)),
    ],
)
def test_what_the_jobs_were_given(jobs: tuple[Job, ...], expected: tuple[float, float, bool]) -> None:
    assert tracking.given(jobs) == expected


def test_a_state_costs_little_and_says_what_it_knows() -> None:
    state = Loop().fly(390.0, 0.2)
    assert msgspec.structs.asdict(state)["active_w"] == 700.0
    assert state.windows == 0
