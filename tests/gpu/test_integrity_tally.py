"""What a worker tells of its integrity checks: totals, and when they are due."""

from typing import get_args

import pytest

from flightsw.gpu import protocol
from flightsw.gpu.integrity.finding import Detector, Finding, Outcome
from flightsw.gpu.integrity.levels import LEVELS as POLICIES
from flightsw.gpu.integrity.tally import ACTED, LEVELS, NAMES, OPEN_GRACE_S, QUIET_REPORT_S, Tally, starting_level
from flightsw.gpu.protocol import INTEGRITY_REPORT_S, WHERE_CHARACTERS_MAX
from flightsw.link.integrity import LEVEL_BY_NAME, Level


def found(outcome: Outcome, where: str = "weight head") -> Finding:
    return Finding(detector="digest", outcome=outcome, where=where)


def test_totals_name_every_outcome_and_the_newest_place() -> None:
    tally = Tally(Level.STORM)
    for outcome, count in (("repaired", 4), ("recomputed", 3), ("contained", 2), ("open", 1)):
        for _ in range(count):
            tally.add(Finding(detector="repeat", outcome=outcome, where="x" * 500))
    tally.checked(90)
    tally.scrubbed(7)
    assert tally.report == protocol.IntegrityReport(
        level="storm",
        checks=90,
        detected=10,
        repaired=4,
        recomputed=3,
        contained=2,
        open=1,
        scrubs=7,
        last_detector="repeat",
        last_where="x" * WHERE_CHARACTERS_MAX,
    )
    assert protocol.decode_from_child(protocol.encode(tally.report)[protocol.LENGTH_PREFIX.size :]) == tally.report


@pytest.mark.parametrize(
    ("change", "wait_s"),
    [
        (lambda tally: tally.checked(), QUIET_REPORT_S),
        (lambda tally: tally.add(found("repaired")), INTEGRITY_REPORT_S),
        (lambda tally: tally.add(found("contained")), 0.0),
        (lambda tally: setattr(tally, "level", Level.WATCH), INTEGRITY_REPORT_S),
    ],
    ids=["sound checks", "another repair", "the first of an outcome", "another level"],
)
def test_reports_keep_their_distance_but_a_first_finding_does_not_wait(change: object, wait_s: float) -> None:
    assert callable(change)
    tally = Tally(Level.STANDARD)
    tally.add(found("repaired"))
    assert tally.due(100.0) is not None
    change(tally)
    for before_s in (0.0, 0.5 * wait_s, wait_s - 1e-3):
        if wait_s:
            assert tally.due(100.0 + before_s) is None
    assert tally.due(100.0 + wait_s) is not None
    assert tally.due(100.0 + wait_s) is None


def test_open_damage_is_told_when_nobody_has_settled_it_in_time() -> None:
    tally = Tally(Level.STORM)
    tally.due(0.0)
    tally.add(found("open"))
    tally.add(found("open"))
    assert tally.report.open == 2, "whoever ends now says what is open"
    told = [tally.due(100.0 + tick) for tick in range(int(OPEN_GRACE_S) + 1)]
    assert [report.open for report in told if report is not None] == [0, 2]
    last = told[-1]
    assert last is not None
    assert (last.detected, last.open) == (2, 2)
    tally.add(found("open"))
    for at_s, count in ((200.0, 2), (200.0 + OPEN_GRACE_S, 3)):
        report = tally.due(at_s)
        assert report is not None
        assert report.open == count, "a grace of its own"


FINDINGS = [(d, o) for d in get_args(Detector) for o in ("repaired", "recomputed", "contained")]


@pytest.mark.parametrize(("detector", "outcome"), FINDINGS)
def test_only_what_an_owner_did_settles_open_damage(detector: Detector, outcome: Outcome) -> None:
    tally = Tally(Level.STORM)
    tally.add(found("open"))
    tally.add(found("open"))
    tally.due(0.0)
    tally.add(Finding(detector=detector, outcome=outcome, where="steps 4 to 9"))
    settled = (detector, outcome) in ACTED
    assert settled is (detector in ("digest", "replay") and outcome != "repaired")
    report = tally.due(OPEN_GRACE_S)
    assert report is not None
    assert (report.detected, report.open) == (3, 0 if settled else 2)
    assert report.contained == (2 if settled else 0) + (outcome == "contained")


@pytest.mark.parametrize("integrity", get_args(protocol.Integrity))
def test_every_name_of_a_specification_is_a_level(integrity: str) -> None:
    level = starting_level(integrity)
    assert level is (Level.STANDARD if integrity == "auto" else LEVEL_BY_NAME[integrity])
    assert LEVELS == LEVEL_BY_NAME
    assert set(NAMES) == set(POLICIES) == set(Level)
    assert set(NAMES.values()) == set(get_args(protocol.LevelName))
