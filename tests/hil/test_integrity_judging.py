"""Effects and outcomes: each run has exactly one of either, whatever comes of it."""

import itertools
import math
import signal
import threading
import time

import pytest
import torch

from hil.integrity.judging import Observation, caught, effect, harmful, observe, verdict
from hil.integrity.subjects import Around, Base, bounded
from hil.integrity.targets import Subject

LOGITS = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
TWIN = observe(LOGITS, 2.0)


def changed(row: int, column: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    logits = LOGITS.clone()
    logits[row, column] = value
    return logits.to(dtype)


CASES = [
    ("same bits", TWIN, "masked"),
    ("other bits, same token", observe(changed(0, 0, 0.5), 2.0), "masked"),
    ("loss worse by less than 1 %", observe(changed(0, 0, 0.5), 2.019), "masked"),
    ("loss better", observe(changed(0, 0, 0.5), 1.0), "masked"),
    ("another token", observe(changed(0, 2, 9.0), 2.0), "sdc"),
    ("loss worse by 1 %", observe(LOGITS, 2.02), "critical"),
    ("another token and a worse loss", observe(changed(0, 2, 9.0), 3.0), "critical"),
    ("not a number", observe(changed(0, 2, math.nan), 2.0), "due"),
    ("infinite", observe(changed(1, 0, math.inf), 2.0), "due"),
    ("loss not finite", observe(LOGITS, math.nan), "due"),
    ("exception", Observation(ending="error", detail="IndexError"), "due"),
    ("too long", Observation(ending="hang"), "hang"),
]


@pytest.mark.parametrize(("name", "seen", "expected"), CASES, ids=[case[0] for case in CASES])
def test_effect(name: str, seen: Observation, expected: str) -> None:
    assert effect(TWIN, seen) == expected
    assert harmful(effect(TWIN, seen)) == (expected != "masked")


def test_a_signed_zero_is_another_bit_pattern() -> None:
    assert observe(changed(1, 1, -0.0), 2.0).digest != TWIN.digest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_observed(dtype: torch.dtype) -> None:
    assert effect(TWIN, observe(LOGITS.to(dtype), 2.0)) == "masked"
    assert effect(TWIN, observe(changed(0, 2, math.nan, dtype), 2.0)) == "due"


OTHER = observe(changed(0, 2, 9.0), 2.0)
# noticed, what was used, outcome, released
OUTCOMES = [
    (True, TWIN, "corrected", False),
    (True, None, "detected", False),
    (True, OTHER, "detected", True),
    (False, TWIN, "masked", False),
    (False, OTHER, "silent", True),
]


@pytest.mark.parametrize(("noticed", "used", "outcome", "released"), OUTCOMES)
def test_outcome(noticed: bool, used: Observation | None, outcome: str, released: bool) -> None:
    found = verdict(TWIN, used, noticed=noticed)
    assert (found.outcome, found.released) == (outcome, released)
    assert found.caught == (noticed and not released)


def test_a_wrong_repair_is_not_caught() -> None:
    assert not caught("detected", released=True)
    assert [
        o for o, r in itertools.product(("corrected", "detected", "masked", "silent"), (False,)) if caught(o, r)
    ] == [
        "corrected",
        "detected",
    ]


def test_nothing_is_withheld_without_a_notice() -> None:
    with pytest.raises(AssertionError, match="without a notice"):
        verdict(TWIN, None, noticed=False)


class Stubborn(Base):
    """A program that raises, or does not end."""

    def __init__(self, work) -> None:
        self._work = work
        self._weight = torch.ones(4)
        super().__init__(Subject(name="stubborn", weights=lambda: [("w", self._weight)]), "float32")

    def _run(self, around: Around) -> Observation:
        return self._pass(around, self._work)


def spin() -> Observation:
    until_s = time.monotonic() + 30.0
    while time.monotonic() < until_s:
        pass
    raise AssertionError("the alarm clock never rang")


def wait(seconds: float) -> Observation:
    threading.Event().wait(seconds)
    return TWIN


def test_an_exception_is_an_observation() -> None:
    def fail() -> Observation:
        raise IndexError("index out of range\nin self")

    assert Stubborn(fail).run() == Observation(ending="error", detail="IndexError: index out of range")


# What a run does, what it may (processor time, wall; s), and how it ends.
HANGS = {
    "it works on and on": (spin, (0.05, 60.0), "hang", "it worked for 0.05 s"),
    "it waits on and on": (lambda: wait(30.0), (60.0, 0.2), "hang", "it took 0.2 s"),
    "others have the processor": (lambda: wait(0.3), (0.05, 60.0), "done", ""),
}


@pytest.mark.parametrize("name", HANGS)
def test_a_hang_is_an_observation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work, limits, ending, said = HANGS[name]
    monkeypatch.setattr("hil.integrity.subjects.bounded", lambda: bounded(*limits))
    seen = Stubborn(work).run()
    assert (seen.ending, seen.detail) == (ending, said)


def test_a_machine_that_was_suspended_is_no_hang() -> None:
    """Alarms that are due meanwhile come as one."""
    with bounded(60.0, 0.3):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        try:
            wait(0.6)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})


@pytest.mark.parametrize(
    ("verdicts", "ending", "runs"),
    [([True], "done", 1), ([False, True], "done", 2), ([False, False], "withheld", 2)],
)
def test_a_pass_that_may_not_be_used_is_run_once_again(verdicts: list[bool], ending: str, runs: int) -> None:
    done: list[int] = []

    def work() -> Observation:
        done.append(1)
        return TWIN

    left = list(verdicts)
    assert Stubborn(work).run(Around(settled=lambda: left.pop(0))).ending == ending
    assert len(done) == runs


def test_restore_is_unseen_and_complete() -> None:
    testee = Stubborn(lambda: TWIN)
    version = testee.guarded()[0][1]._version
    testee.guarded()[0][1].untyped_storage().fill_(7)
    assert not testee.intact()
    testee.restore()
    assert testee.intact()
    assert testee.guarded()[0][1]._version == version
