"""The release gate as a table: every stage and event, the bound, the patience, and mutants that let damage out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.gpu.workloads import release
from flightsw.gpu.workloads.release import (
    HELD_MAX,
    PATIENCE,
    TRANSITIONS,
    Event,
    Gate,
    Leaving,
    Situation,
    Stage,
    Ticket,
    hurried,
    step,
)
from flightsw.link.integrity import Level

RUNNING, HELD, AGAIN, RELEASED, FAILED = Stage
FINISHED, UNWATCHED, CLEAN, DAMAGED, DISOWNED, STARTED, REFUSED, STOPPED = Event

PATHS = {
    "a good answer": ([FINISHED, CLEAN], [HELD, RELEASED]),
    "level off": ([UNWATCHED], [RELEASED]),
    "damaged while it ran": (
        [DAMAGED, STARTED, FINISHED, CLEAN],
        [AGAIN, RUNNING, HELD, RELEASED],
    ),
    "damaged while it was held": (
        [FINISHED, DAMAGED, STARTED, FINISHED, CLEAN],
        [HELD, AGAIN, RUNNING, HELD, RELEASED],
    ),
    "damaged twice, running": ([DAMAGED, STARTED, DAMAGED], [AGAIN, RUNNING, FAILED]),
    "damaged twice, held": ([FINISHED, DAMAGED, STARTED, FINISHED, DAMAGED], [HELD, AGAIN, RUNNING, HELD, FAILED]),
    "the level rises, then damage": (
        [DISOWNED, STARTED, DAMAGED, STARTED, DISOWNED, STARTED, FINISHED, CLEAN],
        [AGAIN, RUNNING, AGAIN, RUNNING, AGAIN, RUNNING, HELD, RELEASED],
    ),
    "stopped while it ran": ([STOPPED], [FAILED]),
    "stopped while it was held": ([FINISHED, STOPPED], [HELD, FAILED]),
    "stopped while it waited to run again": ([DAMAGED, STOPPED], [AGAIN, FAILED]),
    "a model that gives none": ([REFUSED], [FAILED]),
    "a request that was lost while it waited": ([DAMAGED, REFUSED], [AGAIN, FAILED]),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths(name: str) -> None:
    events, stages = PATHS[name]
    ticket, seen = Ticket(), []
    for event in events:
        ticket = step(ticket, event, "why")
        seen.append(ticket.stage)
    assert seen == stages
    assert ticket.damages == events.count(DAMAGED)


def test_the_table_is_whole_and_says_no_to_the_rest() -> None:
    assert set(TRANSITIONS) == set(Stage)
    for stage, event in itertools.product(Stage, Event):
        if event not in TRANSITIONS[stage]:
            with pytest.raises(ValueError, match=f"a {stage.value} answer cannot be {event.value}"):
                step(Ticket(stage), event)
    into_release = {(stage, event) for stage in Stage for event, to in TRANSITIONS[stage].items() if RELEASED in to}
    assert into_release == {(HELD, CLEAN), (RUNNING, UNWATCHED)}, "two ways out, and one of them is level off"


def tainted_release(events: list[Event]) -> bool:
    """Whether a walk lets an answer out that was damaged after its last start and not computed again since."""
    ticket, tainted = Ticket(), False
    for event in events:
        if event not in TRANSITIONS[ticket.stage]:
            continue
        ticket = step(ticket, event, "why")
        tainted = event is DAMAGED or (tainted and event is not STARTED)
        if ticket.stage is RELEASED and tainted:
            return True
    return False


@given(st.lists(st.sampled_from(Event), max_size=20))
def test_no_walk_releases_what_was_damaged(events: list[Event]) -> None:
    assert not tainted_release(events)


def test_the_walks_find_a_gate_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSITIONS, HELD, TRANSITIONS[HELD] | {DAMAGED: (HELD, HELD)})
    walks = itertools.product((FINISHED, DAMAGED, CLEAN), repeat=3)
    assert any(tainted_release(list(walk)) for walk in walks)


def test_a_second_failure_tells_both_reasons() -> None:
    ticket = step(step(step(Ticket(), DAMAGED, "row damaged"), STARTED), DAMAGED, "weights damaged")
    assert ticket.reason == "weights damaged; before that: row damaged; no answer is released"


def held(*marks: int) -> Gate[str, int]:
    gate: Gate[str, int] = Gate()
    for number, mark in enumerate(marks):
        gate.hold(f"answer {number}", Ticket(), mark, now_s=10.0 + number)
    return gate


def stages(leaving: list[Leaving[str]]) -> dict[str, Stage]:
    return {one.item: one.ticket.stage for one in leaving}


def test_one_pass_frees_all_that_it_began_after() -> None:
    gate = held(1, 1, 2, 3)
    assert gate.clean(lambda mark: mark <= 0, lambda item: "") == []
    free = gate.clean(lambda mark: mark <= 2, lambda item: "a flaw" if item == "answer 1" else "")
    assert stages(free) == {"answer 0": RELEASED, "answer 1": AGAIN, "answer 2": RELEASED}
    assert (len(gate), gate.waited_s(15.0), gate.newest) == (1, 2.0, 3)


@pytest.mark.parametrize(("event", "stage"), [(DAMAGED, AGAIN), (STOPPED, FAILED)], ids=str)
def test_all_leave_at_once(event: Event, stage: Stage) -> None:
    gate = held(1, 2)
    assert stages(gate.empty(event, "why")) == {"answer 0": stage, "answer 1": stage}
    assert (len(gate), gate.waited_s(99.0), gate.newest) == (0, 0.0, None)


def test_the_gate_says_when_it_is_full() -> None:
    assert not held(*[1] * (HELD_MAX - 1)).full
    assert held(*[1] * HELD_MAX).full


QUIET = {"held": 1, "waited_s": 0.0, "pass_s": 0.001, "idle": False, "full": False, "swap": False}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"idle": True}, True),
        ({"full": True}, True),
        ({"swap": True}, True),
        ({"idle": True, "full": True, "swap": True, "held": 0}, False),
        ({"waited_s": 0.999}, False),
        ({"waited_s": 1.0}, True),
        # A pass of half a second may take a fiftieth of the time.
        ({"waited_s": 24.9, "pass_s": 0.5}, False),
        ({"waited_s": 25.1, "pass_s": 0.5}, True),
    ],
    ids=str,
)
def test_when_the_pass_is_hurried(changes: dict[str, object], expected: bool) -> None:
    assert hurried(Situation(**QUIET | changes), Level.STANDARD) is expected


def test_patience_is_less_the_higher_the_level() -> None:
    assert set(PATIENCE) == set(Level)
    watched = [PATIENCE[level] for level in Level if level is not Level.OFF]
    assert [one.wait_s for one in watched] == sorted((one.wait_s for one in watched), reverse=True)
    assert [one.share for one in watched] == sorted(one.share for one in watched)
    assert release.DAMAGES_MAX == 1
