"""Wilson's interval against the reference's own figures and against its definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hil.integrity.intervals import Z_95, Share, trials_for, wilson

# hits, total, low and high in per cent: radiation reference, section 7.1, and its numbers of trials.
PUBLISHED = [
    (26, 26, 87.1, 100.0),
    (50, 50, 92.9, 100.0),
    (566, 566, 99.3, 100.0),
    (260, 566, 41.9, 50.1),
    (381, 381, 99.0, 100.0),
    (3838, 3838, 99.9, 100.0),
    (0, 10, 0.0, 27.8),
]


@pytest.mark.parametrize(("hits", "total", "low", "high"), PUBLISHED)
def test_published_intervals(hits: int, total: int, low: float, high: float) -> None:
    found = wilson(hits, total)
    assert 100.0 * found[0] == pytest.approx(low, abs=0.05)
    assert 100.0 * found[1] == pytest.approx(high, abs=0.05)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_its_ends_are_where_the_normal_test_just_accepts(case: tuple[int, int]) -> None:
    hits, total = case
    for end in wilson(hits, total):
        if 0.0 < end < 1.0:
            deviation = abs(hits / total - end) / math.sqrt(end * (1.0 - end) / total)
            assert deviation == pytest.approx(Z_95, rel=1e-6)


@pytest.mark.parametrize(("low", "trials"), [(0.99, 381), (0.999, 3838), (0.0, 0)])
def test_trials_without_a_miss(low: float, trials: int) -> None:
    assert trials_for(low) == trials
    if trials:
        assert wilson(trials, trials)[0] >= low > wilson(trials - 1, trials - 1)[0]


def test_nothing_is_known_without_a_trial() -> None:
    empty = Share(hits=0, total=0)
    assert (empty.low, empty.high) == (0.0, 1.0)
    assert math.isnan(empty.value)
    assert str(empty) == "– (none)"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Share(hits=3838, total=3838), "100 % [99.900, 100]"),
        (Share(hits=3837, total=3838), "99.973 % [99.852, 99.995]"),
        (Share(hits=1, total=4), "25.00 % [4.56, 69.94]"),
    ],
)
def test_a_miss_is_never_rounded_away(share: Share, text: str) -> None:
    assert str(share) == text


@pytest.mark.parametrize("wrong", [{"hits": 2, "total": 1}, {"hits": -1, "total": 1}])
def test_no_share(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is no share"):
        Share(**wrong)


@pytest.mark.parametrize("low", [1.0, -0.1])
def test_certainty_has_no_number_of_trials(low: float) -> None:
    with pytest.raises(ValueError, match="infinitely many"):
        trials_for(low)
