"""Fits of a calibration: known parameters come back from noisy series within their σ; hulls are valid curves."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightsw.link.card import Workload, reference_workload
from hil.calibration import fits
from hil.calibration.campaign import Alias, Measurements, Point, Step, Stops, settle
from hil.calibration.fits import FitError, Mean
from hil.calibration.outcome import Facts, conclude, linearity_w, workload
from hil.instruments.nvml_meter import CardReading

FACTS = Facts("Card", "measured", "2026-11-30", "a test")


def run_of(capacity: float, conductance: float, ambient: float, *, seed: int, noise_k: float, whole: bool):
    """Power in steps over eight minutes and what one node makes of it, as a sensor reads it."""
    rng = np.random.default_rng(seed)
    times_s = np.cumsum(rng.uniform(0.04, 0.07, 9000))
    levels_w = rng.uniform(80.0, 700.0, 40)
    power_w = levels_w[np.minimum((times_s / 10.0).astype(int), 39)]
    power_w[times_s > times_s[-1] - 90.0] = 80.0
    temp = np.empty_like(times_s)
    temp[0] = ambient + 80.0 / conductance
    for i, dt_s in enumerate(np.diff(times_s)):
        equilibrium = ambient + power_w[i] / conductance
        temp[i + 1] = equilibrium + (temp[i] - equilibrium) * np.exp(-dt_s * conductance / capacity)
    seen = temp + rng.normal(0.0, noise_k, temp.size)
    return times_s, power_w, np.round(seen) if whole else seen


HEAT = list(itertools.product((600.0, 3000.0), (5.0, 14.0), (0.2, 1.0), (False, True)))


@pytest.mark.parametrize(("capacity", "conductance", "noise_k", "whole"), HEAT)
def test_heat_is_recovered_within_its_uncertainty(
    capacity: float, conductance: float, noise_k: float, whole: bool
) -> None:
    for seed in (1, 2):
        series = run_of(capacity, conductance, 25.0, seed=seed, noise_k=noise_k, whole=whole)
        found = fits.heat(*series)
        for got, true in ((found.capacity, capacity), (found.conductance, conductance), (found.ambient, 25.0)):
            # Whole degrees are an error that no residual shows: at most a few thousandths of the span.
            slack = 0.003 * true if whole else 0.0
            assert abs(got.value - true) < 4.0 * got.sigma + slack
            assert got.sigma < 0.06 * true
        assert found.residual_k < noise_k + 0.3


def test_heat_sigma_is_neither_boast_nor_fear() -> None:
    """Over many runs the errors are as large as they are said to be."""
    pulls = []
    for seed in range(16):
        found = fits.heat(
            *(series[::9] for series in run_of(3000.0, 14.0, 25.0, seed=seed, noise_k=1.0, whole=False))
        )
        pulls += [(found.capacity.value - 3000.0) / found.capacity.sigma]
        pulls += [(found.conductance.value - 14.0) / found.conductance.sigma]
    assert 0.6 < float(np.sqrt(np.mean(np.square(pulls)))) < 1.5


# (series of power, why there is no heat in it)
EVEN = np.full(100, 80.0)
TIMES = np.arange(100.0)
NO_HEAT = {
    "too short": (TIMES[:5], TIMES[:5], TIMES[:5], "too short"),
    "even power": (TIMES, EVEN, 40.0 + 0.1 * TIMES, "too even"),
    "even temperature": (TIMES, 80.0 + TIMES, np.full(100, 40.0), "too even"),
    "cools when it works": (TIMES, 80.0 + 3.0 * TIMES, 60.0 - 0.2 * TIMES, "cooled when its power rose"),
}


@pytest.mark.parametrize(("times_s", "power_w", "temp_degc", "why"), NO_HEAT.values(), ids=NO_HEAT)
def test_a_run_without_heat_in_it(times_s, power_w, temp_degc, why: str) -> None:
    with pytest.raises(FitError, match=why):
        fits.heat(times_s, power_w, temp_degc)


points = st.lists(st.tuples(st.floats(60.0, 900.0), st.floats(0.0, 1.0)), min_size=1, max_size=25)


@given(points)
def test_a_hull_is_a_curve_and_no_point_lies_above_it(found: list[tuple[float, float]]) -> None:
    rounded = [(round(p, 1), round(s, 4)) for p, s in found]
    if not any(p > 80.0 and s > 0.0 for p, s in rounded):
        with pytest.raises(FitError, match="no setting draws more"):
            fits.hull(80.0, rounded)
        return
    best = max(s for p, s in rounded if p > 80.0)
    scaled = [(p, round(s / best, 4) if s < best else 1.0) for p, s in rounded if p > 80.0]
    chain = fits.hull(80.0, scaled)
    curve = Workload(power_w=tuple(p for p, _ in chain), throughput=tuple(s for _, s in chain))
    for power_w, work in scaled:
        assert curve.throughput_at(power_w) >= work - 1e-9
    assert set(chain[1:]) <= set(scaled)


HULLS = {
    "one": ([(700.0, 1.0)], [(80.0, 0.0), (700.0, 1.0)]),
    "on the line": ([(390.0, 0.5), (700.0, 1.0)], [(80.0, 0.0), (700.0, 1.0)]),
    "above the line": ([(300.0, 0.5), (700.0, 1.0)], [(80.0, 0.0), (300.0, 0.5), (700.0, 1.0)]),
    "below the line": ([(500.0, 0.5), (700.0, 1.0)], [(80.0, 0.0), (700.0, 1.0)]),
    "more power for less": ([(600.0, 1.0), (700.0, 0.9)], [(80.0, 0.0), (600.0, 1.0)]),
    "two of one power": ([(300.0, 0.4), (300.0, 0.5), (700.0, 1.0)], [(80.0, 0.0), (300.0, 0.5), (700.0, 1.0)]),
}


@pytest.mark.parametrize(("found", "chain"), HULLS.values(), ids=HULLS)
def test_which_points_make_the_hull(found, chain) -> None:
    assert list(fits.hull(80.0, found)) == chain


@pytest.mark.parametrize("tau_s", [0.05, 0.25, 0.8])
def test_settle_time_of_a_first_order_step(tau_s: float) -> None:
    rng = np.random.default_rng(3)
    times_s = np.arange(-0.5, 6.0, 0.02)
    power_w = 80.0 + 600.0 * np.where(times_s > 0.0, 1.0 - np.exp(-np.maximum(times_s, 0.0) / tau_s), 0.0)
    for series in (power_w, 760.0 - power_w):
        noisy = series + rng.normal(0.0, 3.0, series.size)
        assert fits.settle_s(times_s, noisy) == pytest.approx(-np.log(0.05) * tau_s, abs=0.05 + 0.1 * tau_s)


NO_STEPS = {
    "nothing before": (np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]), "before and after"),
    "nothing at all": (np.array([]), np.array([]), "before and after"),
    "no step": (np.array([-0.1, 0.1, 0.3]), np.array([5.0, 5.0, 5.0]), "did not move"),
}


@pytest.mark.parametrize(("times_s", "power_w", "why"), NO_STEPS.values(), ids=NO_STEPS)
def test_a_series_without_a_step(times_s, power_w, why: str) -> None:
    with pytest.raises(FitError, match=why):
        fits.settle_s(times_s, power_w)


@pytest.mark.parametrize("period_s", [0.02, 0.1, 1.0])
def test_the_period_of_a_counter(period_s: float) -> None:
    times_s = np.arange(0.0, 12.0, 0.001)
    assert fits.period_s(times_s, np.floor(times_s / period_s)) == pytest.approx(period_s, abs=0.001)
    with pytest.raises(FitError, match="did not move twice"):
        fits.period_s([0.0, 1.0, 2.0], [5.0, 5.0, 6.0])


def test_correlated_readings_are_fewer_than_they_look() -> None:
    rng = np.random.default_rng(5)
    white = rng.normal(0.0, 1.0, 4000)
    slow = np.empty_like(white)
    slow[0] = white[0]
    for i in range(1, white.size):
        slow[i] = 0.9 * slow[i - 1] + white[i]
    assert fits.effective(white) == pytest.approx(4000, rel=0.1)
    assert fits.effective(slow) == pytest.approx(4000 * 0.1 / 1.9, rel=0.25)
    assert fits.mean([5.0]) == Mean(5.0, 0.0)
    assert fits.effective(np.full(10, 3.0)) == 10.0
    with pytest.raises(FitError, match="no reading"):
        fits.mean([])


def card_points(duties: tuple[float, ...] = (1.0, 0.25, 0.5)) -> tuple[Point, ...]:
    """A card of the reference's curve: paced below full batch, and three partitions on the curve."""
    curve = reference_workload(80.0, 700.0)
    paced = [Point(d, 0, 0, Mean(80.0 + 620.0 * d, 1.0), Mean(5000.0 * d, 20.0), 0.05, d) for d in duties]
    parts = [Point(1.0, 0, n, Mean(curve.power_at(s), 1.0), Mean(5000.0 * s, 20.0), 0.05, 1.0)
             for n, s in ((64, 0.55), (96, 0.75), (120, 0.9))]  # fmt: skip
    return (*paced, *parts)


def measured(**changes: object) -> Measurements:
    readings = [
        CardReading(power_w=float(p), die_degc=float(t), taken_s=float(s))
        for s, p, t in zip(
            *(a[::7] for a in run_of(900.0, 14.0, 22.0, seed=4, noise_k=0.2, whole=True)), strict=True
        )
    ]
    times_s = tuple(np.arange(-0.4, 3.0, 0.05))
    step = Step(
        True, times_s, tuple(80.0 if t <= 0.0 else 700.0 - 620.0 * float(np.exp(-t / 0.25)) for t in times_s)
    )
    whole = Measurements(
        idle=Mean(80.04, 0.1),
        train=card_points(),
        decode=(Point(1.0, 8, 0, Mean(310.0, 2.0), Mean(900.0, 5.0), 0.01, 1.0),),
        counter_period_s=0.1003,
        aliases=(Alias(0.1, 480.0, 3.0, 390.0),),
        steps=(step, step),
        stops=(Stops(0.03, (0.01, 0.02, 0.031)), Stops(0.05, (0.02, 0.04, 0.052))),
        readings=tuple(readings),
        skipped=("SM partitions: none",),
    )
    return whole._replace(**changes)


def test_a_profile_from_measurements() -> None:
    outcome = conclude(measured(), FACTS)
    profile = outcome.profile
    assert profile.provenance == "measured"
    assert profile.fits("Card")
    assert profile.fits("Simulated GPU (hil)"), "the bench flies it too"
    assert not profile.fits("Another")
    # The paced points lie below the partitions: the hull is of the latter.
    assert len(profile.train.power_w) == 5
    assert len(profile.train.settings) == 6
    assert (profile.train.idle_w, profile.train.maximum_w) == (80.0, 700.0)
    assert profile.decode is not None
    assert profile.decode.power_w == (80.0, 310.0)
    assert profile.settle_s == pytest.approx(0.75, abs=0.06)
    assert profile.stop_latency_s == 0.052
    assert [stop.worst_s for stop in profile.stops] == [0.031, 0.052]
    assert profile.energy_counter_period_s == 0.1003
    assert profile.aliases[0].bias_w == 90.0
    assert profile.heat_capacity_j_k == pytest.approx(900.0, rel=0.03)
    assert profile.conductance_w_k == pytest.approx(14.0, rel=0.03)
    assert profile.coolant_degc == pytest.approx(22.0, abs=0.5)
    assert outcome.gaps == ("SM partitions: none",)
    assert outcome.linearity_w == pytest.approx(0.0, abs=0.1)


# (what is missing, the gap that says so)
GAPS = {
    "no decoding": ({"decode": ()}, "decoding: no setting did any work"),
    "no heat": ({"readings": ()}, "heat: the run is too short"),
    "no steps": ({"steps": ()}, "settle time"),
    "no stops": ({"stops": ()}, "stop latency"),
}


@pytest.mark.parametrize(("changes", "gap"), GAPS.values(), ids=GAPS)
def test_what_was_not_found_is_said(changes: dict[str, object], gap: str) -> None:
    outcome = conclude(measured(**changes), FACTS)
    assert any(line.startswith(gap) for line in outcome.gaps), outcome.gaps
    if "readings" in changes:
        assert outcome.profile.heat_capacity_sigma_j_k == 0.0, "nobody has measured it"


def test_without_a_curve_there_is_no_profile() -> None:
    idle = Mean(80.0, 1.0)
    with pytest.raises(FitError, match="did any work"):
        workload(idle, ())
    with pytest.raises(FitError, match="the load did not reach it"):
        workload(idle, (Point(1.0, 0, 0, Mean(79.0, 1.0), Mean(5.0, 0.1), 0.1, 1.0),))
    assert linearity_w(idle, card_points((1.0,))) is None


def test_steps_that_cannot_be_read_are_left_out() -> None:
    assert settle((Step(True, (), ()),)) is None
