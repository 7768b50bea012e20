"""Integrity levels as operators read them: names, order, and what each of them costs."""

import pytest

from flightsw.link import integrity
from flightsw.link.dictionary import PARAMETER_BY_NAME, TELECOMMAND_BY_NAME
from flightsw.link.integrity import (
    COSTS,
    COSTS_MEASURED_ON,
    LEVEL_BY_NAME,
    LEVEL_NAMES,
    Cost,
    Level,
    catalogue,
    described,
)
from flightsw.link.schema import Hazard

COST_TEXTS = (
    (Cost(), "cost not measured"),
    (Cost(training=0.0, inference=0.0), "costs nothing"),
    (Cost(training=0.034, inference=0.0125), "costs 3.4 % of training, 1.2 % of inference"),
    (Cost(training=0.004), "costs 0.4 % of training, an unmeasured part of inference"),
    (Cost(training=0.0, inference=0.02), "costs 0 % of training, 2 % of inference"),
)


@pytest.mark.parametrize(("cost", "text"), COST_TEXTS)
def test_a_level_is_described_with_its_measured_cost(
    monkeypatch: pytest.MonkeyPatch, cost: Cost, text: str
) -> None:
    monkeypatch.setitem(integrity.COSTS, Level.STORM, cost)
    assert described(Level.STORM) == f"STORM: everything is checked, every time; {text}"


@pytest.mark.parametrize(
    ("measured_on", "end"), [("", "not measured."), ("an H100, 2026-12-01", "(measured on an H100, 2026-12-01).")]
)
def test_figures_come_with_what_they_were_measured_on(
    monkeypatch: pytest.MonkeyPatch, measured_on: str, end: str
) -> None:
    monkeypatch.setitem(integrity.COSTS, Level.STORM, Cost())
    monkeypatch.setattr(integrity, "COSTS_MEASURED_ON", measured_on)
    assert catalogue().endswith(end)


def test_codes_names_and_levels_are_one_order() -> None:
    assert LEVEL_NAMES == ("OFF", "WATCH", "STANDARD", "STORM")
    assert [LEVEL_BY_NAME[name.lower()] for name in LEVEL_NAMES] == sorted(Level) == list(range(4))
    for name in ("integrity.level", "integrity.level_wanted"):
        assert PARAMETER_BY_NAME[name].states == LEVEL_NAMES
    choices = TELECOMMAND_BY_NAME["integrity.level"].arguments[0].choices
    assert choices == ("AUTO", "WATCH", "STANDARD", "STORM"), "the code of a level is its own number"


def test_the_telecommand_tells_the_cost_of_every_level_and_off_is_hazardous() -> None:
    level, off = TELECOMMAND_BY_NAME["integrity.level"], TELECOMMAND_BY_NAME["integrity.off"]
    assert catalogue() in level.text
    assert all(described(shown) in catalogue() for shown in (Level.WATCH, Level.STANDARD, Level.STORM))
    assert (level.hazard, off.hazard) == (Hazard.NONE, Hazard.HAZARDOUS)
    assert off.arguments[0].default is None, "nobody switches checks off without saying for how long"


def test_costs_are_sane_and_figures_name_what_they_were_measured_on() -> None:
    assert set(COSTS) == set(Level)
    figures = [
        [cost for cost in (getattr(COSTS[level], work) for level in Level) if cost is not None]
        for work in ("training", "inference")
    ]
    assert all(rising == sorted(rising) and rising[0] >= 0.0 and rising[-1] < 1.0 for rising in figures)
    assert bool(COSTS_MEASURED_ON) is any(len(rising) > 1 for rising in figures)
