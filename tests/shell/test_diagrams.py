"""The handbook's pictures are those of the tables."""

import pytest
from msgspec.structs import replace

from flightsw.core import executive
from flightsw.core.fdir_table import shipped
from flightsw.core.mode import CAUSES, TRANSITIONS
from flightsw.link.limit_tables import Actionpoint, ActionTable, Response, Watchpoint, WatchTable
from flightsw.shell import diagrams


def test_the_handbook_shows_the_tables_as_they_are() -> None:
    """After a change of the tables: python -m flightsw.shell.diagrams."""
    text = diagrams.README.read_text(encoding="utf-8")
    assert diagrams.written(text) == text


def test_every_reason_and_every_cause_is_drawn() -> None:
    drawn = diagrams.modes()
    for row in TRANSITIONS:
        assert row.reason in drawn or row.reason.endswith(diagrams.KEPT)
    assert diagrams.KEPT in drawn
    for name in CAUSES:
        assert f"`{name}`" in drawn


def test_every_actionpoint_is_drawn_twice() -> None:
    watch, action = shipped(executive.Config())
    drawn = diagrams.limits(watch, action)
    for point in action.actionpoints:
        assert f"({point.id})" in drawn
        assert f"a{point.id}([" in drawn


def test_conditions_in_words() -> None:
    watch = WatchTable(
        name="w",
        watchpoints=(
            Watchpoint(id=1, name="a", parameter="gpu.power_w", operator=">", trip=9.0, clear=8.0, samples=2),
            Watchpoint(id=2, name="b", parameter="gpu.age_s", operator="<", trip=3.0, quantity="rate"),
        ),
    )
    condition = (1, "not", 2, "stale", "or")
    point = Actionpoint(id=1, name="x", condition=condition, response=Response.KILL, domain="gpu")
    start = replace(point, id=2, name="y", persistence_s=5.0, response=Response.SEQUENCE, argument=7.0)
    action = ActionTable(name="a", actionpoints=(point, start))
    drawn = diagrams.limits(watch, action)
    when = "not (gpu.power_w > 9 (until 8), 2 samples) or gpu.age_s is stale"
    assert f"| {when} | 0 s: **kill** (1)<br>5 s: **sequence rts07** (2) |" in drawn


@pytest.mark.parametrize("marker", ["<!-- generated: modes -->", "<!-- end of limits -->"])
def test_a_handbook_without_its_markers_is_refused(marker: str) -> None:
    text = diagrams.README.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the markers"):
        diagrams.written(text.replace(marker, ""))


def test_a_planted_difference_is_found() -> None:
    text = diagrams.README.read_text(encoding="utf-8")
    changed = text.replace("throttle to 0.25", "throttle to 0.26", 1)
    assert changed != text
    assert diagrams.written(changed) == text
