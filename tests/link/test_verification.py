"""Command tracking: stages in any order, losses, repeats, deadlines and the bound on commands followed."""

import itertools

import pytest

from flightsw.link.bodies import VerificationBody
from flightsw.link.schema import FailureCode, Stage
from flightsw.link.verification import COMMANDS_MAX, Progress, Tracker, observe, sent, step

A, S, P, C = Stage


def report(stage: int, code: int = 0, command: int = 7, text: str = "") -> VerificationBody:
    return VerificationBody(1, 2, 3.0, command, 0x20, stage, code, text)


# (reports as (stage, code), progress, finished)
JOURNEYS = (
    ([], Progress.SENT, False),
    ([(A, 0)], Progress.ACCEPTED, False),
    ([(A, 0), (S, 0)], Progress.STARTED, False),
    ([(A, 0), (S, 0), (P, 0)], Progress.PROGRESS, False),
    ([(A, 0), (S, 0), (P, 0), (C, 0)], Progress.COMPLETED, True),
    ([(C, 0)], Progress.COMPLETED, True),
    ([(A, FailureCode.NOT_ARMED)], Progress.REFUSED, True),
    ([(A, 0), (S, FailureCode.BUSY)], Progress.FAILED, True),
    ([(A, 0), (S, 0), (C, FailureCode.TIMEOUT)], Progress.FAILED, True),
    ([(A, 0), (99, 0)], Progress.ACCEPTED, False),
)


@pytest.mark.parametrize(("reports", "progress", "finished"), JOURNEYS)
def test_journeys_in_every_order_and_twice(reports, progress, finished):
    for order in itertools.permutations(reports):
        tracker = sent(Tracker(), 7, 0x20, deadline_s=100.0)
        for stage, code in [*order, *order]:
            tracker = observe(tracker, report(stage, code))
        status = tracker.commands[7]
        assert status.progress is progress
        assert status.finished is finished
        assert (status.deadline_s is None) is finished


def test_a_failure_tells_why_and_stays():
    tracker = observe(Tracker(), report(C, FailureCode.EXECUTION_FAILED, text="no space"))
    tracker = observe(tracker, report(A, FailureCode.BUSY, text="later"))
    tracker = observe(tracker, report(C))
    status = tracker.commands[7]
    assert (status.progress, status.code, status.text) == (
        Progress.FAILED,
        FailureCode.EXECUTION_FAILED,
        "no space",
    )


def test_a_completion_stays():
    tracker = observe(Tracker(), report(C))
    tracker = observe(tracker, report(C, FailureCode.TIMEOUT))
    assert tracker.commands[7].progress is Progress.COMPLETED


def test_a_report_of_an_unknown_command_starts_its_status():
    status = observe(Tracker(), report(A)).commands[7]
    assert (status.opcode, status.progress, status.deadline_s) == (0x20, Progress.ACCEPTED, None)


def test_a_deadline_passes_once_and_reports_still_count():
    tracker = sent(sent(Tracker(), 7, 0x20, deadline_s=10.0), 8, 0x20)
    tracker, overdue = step(tracker, 9.9)
    assert overdue == ()
    tracker, overdue = step(tracker, 10.0)
    assert [status.command for status in overdue] == [7]
    assert tracker.commands[7].overdue
    assert step(tracker, 11.0) == (tracker, ())
    tracker = observe(tracker, report(C))
    assert tracker.commands[7].progress is Progress.COMPLETED
    assert not tracker.commands[7].overdue


def test_sending_again_renews_the_deadline_and_keeps_what_is_known():
    tracker = observe(sent(Tracker(), 7, 0x20, deadline_s=10.0), report(A))
    tracker, _ = step(tracker, 20.0)
    tracker = sent(tracker, 7, 0x20, deadline_s=30.0)
    status = tracker.commands[7]
    assert (status.progress, status.deadline_s, status.overdue) == (Progress.ACCEPTED, 30.0, False)
    finished = observe(tracker, report(C))
    assert sent(finished, 7, 0x20, deadline_s=50.0).commands[7].deadline_s is None


def test_the_bound_forgets_finished_commands_first():
    tracker = Tracker()
    for command in range(COMMANDS_MAX):
        tracker = sent(tracker, command, 0x20)
    tracker = observe(tracker, report(C, command=500))
    tracker = sent(tracker, 9_000, 0x20)
    assert 500 not in tracker.commands
    tracker = sent(tracker, 9_001, 0x20)
    assert 0 not in tracker.commands
    assert len(tracker.commands) == COMMANDS_MAX
    assert 9_001 in tracker.commands


def test_a_tracker_is_a_value():
    before = sent(Tracker(), 7, 0x20)
    observe(before, report(C))
    assert before.commands[7].progress is Progress.SENT
    assert Tracker().commands == {}
