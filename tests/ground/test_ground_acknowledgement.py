"""Which ranges are acknowledged, and how often."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground.acknowledgement import RANGES_PER_ROUND_MAX, Acknowledger, Range, merge

CASES = (
    ("nothing", set(), []),
    ("one", {(1, 2, 3)}, [(1, 2, 3, 3)]),
    ("run", {(1, 2, 5), (1, 2, 3), (1, 2, 4)}, [(1, 2, 3, 5)]),
    ("gap", {(1, 2, 3), (1, 2, 5)}, [(1, 2, 3, 3), (1, 2, 5, 5)]),
    ("streams", {(1, 2, 3), (1, 3, 4), (2, 2, 4)}, [(1, 2, 3, 3), (1, 3, 4, 4), (2, 2, 4, 4)]),
)


@pytest.mark.parametrize(("identities", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_merge(identities: set[tuple[int, int, int]], expected: list[tuple[int, int, int, int]]) -> None:
    assert merge(identities) == expected


@given(st.sets(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 60))))
def test_merge_names_exactly_what_is_archived(identities: set[tuple[int, int, int]]) -> None:
    ranges = merge(identities)
    named = [(r.boot, r.apid, s) for r in ranges for s in range(r.first, r.last + 1)]
    assert sorted(identities) == named
    assert all(a[:2] != b[:2] or a.last + 1 < b.first for a, b in itertools.pairwise(ranges))


def test_each_packet_is_named_in_two_rounds() -> None:
    acknowledger = Acknowledger()
    acknowledger.archived(1, 2, 1)
    assert acknowledger.next_round() == [Range(1, 2, 1, 1)]
    acknowledger.archived(1, 2, 2)
    assert acknowledger.next_round() == [Range(1, 2, 1, 2)]
    assert acknowledger.next_round() == [Range(1, 2, 2, 2)]
    assert acknowledger.next_round() == []
    assert acknowledger.acknowledged == 2


def test_a_round_is_bounded_and_loses_nothing() -> None:
    acknowledger = Acknowledger()
    holes = range(0, 10 * RANGES_PER_ROUND_MAX, 2)
    for sequence in holes:
        acknowledger.archived(1, 2, sequence)
    named: set[int] = set()
    while ranges := acknowledger.next_round():
        assert len(ranges) <= RANGES_PER_ROUND_MAX
        named |= {r.first for r in ranges}
    assert named == set(holes)
    assert acknowledger.pending == 0
