"""The table of levels: a higher one never looks less, and the handbook shows what flies."""

import itertools

import pytest

from flightsw.gpu.integrity import levels
from flightsw.gpu.integrity.levels import LEVELS, Vigilance
from flightsw.link.integrity import Level


def looks(row: Vigilance) -> dict[str, float]:
    """How often each look is taken, 0 to 1."""
    found = {name: getattr(row, name) for name in row.__struct_fields__}
    return {name: (1.0 / value if value else 0.0) if name.endswith("_every") else float(value)
            for name, value in found.items()}  # fmt: skip


@pytest.mark.parametrize(("lower", "higher"), list(itertools.pairwise(Level)))
def test_a_higher_level_never_looks_less(lower: Level, higher: Level) -> None:
    less, more = looks(LEVELS[lower]), looks(LEVELS[higher])
    assert all(more[name] >= less[name] for name in less)
    assert more != less


def test_off_looks_at_nothing_and_storm_at_every_operation() -> None:
    assert set(looks(LEVELS[Level.OFF]).values()) == {0.0}
    storm = LEVELS[Level.STORM]
    assert storm.checksum_every == storm.repeat_every == storm.transit_every == 1


def test_the_handbook_shows_the_table() -> None:
    text = levels.README.read_text(encoding="utf-8")
    assert levels.written(text) == text, "python -m flightsw.gpu.integrity.levels"


def test_marks_that_are_missing_are_told() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        levels.written("# nothing\n")
