"""The benchmark's book-keeping: rows by id, goals on the right side, README's table replaced in place."""

from pathlib import Path

import pytest
from results import BEGIN, END, Result, merge, number, render


def row(id: str, value: float, *, goal: float | None = 10.0, better: str = "lower") -> Result:
    return Result(
        id=id,
        value=value,
        unit="ms",
        goal=goal,
        better=better,
        baseline=5.0,
        baseline_name="bare",
        machine="m",
        date="d",
    )


@pytest.mark.parametrize(
    ("value", "better", "met"),
    [(9.0, "lower", True), (11.0, "lower", False), (11.0, "higher", True), (9.0, "higher", False)],
)
def test_goal_has_a_side(value: float, better: str, met: bool) -> None:
    assert row("a", value, better=better).met is met
    assert row("a", value, goal=None, better=better).met


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.01234, "0.0123"), (12.0, "12"), (123456.0, "123,456")])
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_merge_replaces_by_id(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "results.json"
    merge(path, [row("b", 1.0), row("a", 1.0)])
    assert [(r.id, r.value) for r in merge(path, [row("a", 2.0)])] == [("a", 2.0), ("b", 1.0)]


def test_render_keeps_what_was_not_measured_and_the_text_around() -> None:
    first = render(f"before\n{BEGIN}\n{END}\nafter\n", [row("a", 1.0), row("b", 20.0)])
    again = render(first, [row("a", 2.0)])
    assert again.startswith("before\n")
    assert again.endswith("\nafter\n")
    assert "| `a` | 2 ms | ≤ 10 | 5 (bare) | m | d |" in again
    assert "| `b` | 20 ms | ≤ 10 (missed) |" in again
    assert again.count("| `a` |") == 1


def test_render_without_markers_says_so() -> None:
    with pytest.raises(ValueError, match="no table between"):
        render("nothing", [row("a", 1.0)])
