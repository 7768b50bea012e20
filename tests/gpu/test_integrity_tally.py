"""What a worker tells of its integrity checks: totals, and when they are due."""

import pytest

from flightsw.gpu import protocol
from flightsw.gpu.integrity.finding import Finding, Outcome
from flightsw.gpu.integrity.levels import LEVELS as POLICIES
from flightsw.gpu.integrity.tally import LEVELS, NAMES, QUIET_REPORT_S, Tally, starting_level
from flightsw.gpu.protocol import INTEGRITY_REPORT_S, WHERE_CHARACTERS_MAX
from flightsw.link.integrity import Level


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
        (lambda tally: tally.add(found("open")), 0.0),
        (lambda tally: setattr(tally, "level", Level.WATCH), INTEGRITY_REPORT_S),
    ],
    ids=["sound checks", "another repair", "the first open one", "another level"],
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


@pytest.mark.parametrize("integrity", protocol.Integrity.__args__)
def test_every_name_of_a_specification_is_a_level(integrity: str) -> None:
    level = starting_level(integrity)
    assert level is (Level.STANDARD if integrity == "auto" else LEVELS[integrity])
    assert set(NAMES) == set(POLICIES) == set(Level)
    assert set(NAMES.values()) == set(protocol.LevelName.__args__)
