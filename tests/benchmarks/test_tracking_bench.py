"""The tracking benchmark measures what it says: within the goal with the loop, far outside without it."""

import pytest
import tracking as bench

from flightsw.core import tracking

HOLD_S = 20.0


@pytest.mark.parametrize(("scale", "micro_batch_s"), [((1.2, 0.8), 0.02), ((0.8, 1.2), 0.25)], ids=str)
def test_a_wrong_profile_is_tracked_within_the_goal(scale: tuple[float, float], micro_batch_s: float) -> None:
    found = bench.errors(scale, micro_batch_s, tracking.Config(), HOLD_S)
    assert max(found.values()) < 0.05


def test_the_profile_alone_is_not_enough() -> None:
    alone = tracking.Config(prior_fraction=0.0, drift_fraction=0.0)
    assert max(bench.errors((1.2, 1.2), 0.08, alone, HOLD_S).values()) > 0.15


def test_uncut_micro_batches_are_too_coarse_at_low_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SEQUENCES", 1)
    found = bench.errors((0.8, 1.2), 0.25, tracking.Config(), HOLD_S)
    assert max(found[0.02], found[0.05]) > 0.05
    assert found[0.5] < 0.05


def test_the_worst_window_is_found_where_it_begins() -> None:
    steady = [10.0 * n for n in range(301)]
    assert bench.worst_error(steady, 100.0) == pytest.approx(0.0)
    burst = [value + (100.0 if n > 150 else 0.0) for n, value in enumerate(steady)]
    assert bench.worst_error(burst, 100.0) == pytest.approx(0.1)
