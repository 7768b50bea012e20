"""From series of measurements to the numbers of a card profile. Pure functions over arrays, SI units.

*Hull.* A card can be switched between two operating points, so everything on the line between them can be had as
well: the curve is the upper hull of the measured points (power, throughput) over the idle point (idle, 0). Points
below it are settings that nobody should choose.

*Heat.* One node: C Ṫ = P − G (T − T_a). With τ = C/G and the filter F_τ[P] (the first-order lag of P, from 0),

    T(t) = T_a + F_τ[P](t) / G + (T_0 − T_a) e^(−t/τ)

which is linear in T_a, 1/G and T_0 − T_a once τ is given: a search over τ with a linear fit inside. Any series with
changing power will do; a step test is not needed. A card has no single node (die, memory, cold plate); what is
found is the node that explains minutes best, and the residual says how well.

*Uncertainties* are standard ones. Residuals of a sensor with memory are not independent: their number is divided by
(1 + ρ)/(1 − ρ), with ρ the correlation of neighbours.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

HEAT_SAMPLES: Final = 600
TAU_STEPS: Final = 40
TAU_ROUNDS: Final = 3
SETTLE_BAND: Final = 0.05
"""A step has settled when the power stays within this part of it."""


class FitError(ValueError):
    """The series does not hold what is to be found in it; the text says what is missing."""


class Mean(NamedTuple):
    """A mean and its standard uncertainty."""

    value: float
    sigma: float


class Heat(NamedTuple):
    """One node: capacity J/K, conductance W/K, what cools it °C, each with its σ; rms of the residual in K."""

    capacity: Mean
    conductance: Mean
    ambient: Mean
    residual_k: float


def mean(values: Sequence[float] | Array) -> Mean:
    """Mean of a series whose neighbours may be correlated."""
    series = np.asarray(values, dtype=float)
    if series.size == 0:
        raise FitError("no reading came in this window")
    sigma = float(series.std(ddof=1) / np.sqrt(effective(series))) if series.size > 1 else 0.0
    return Mean(float(series.mean()), sigma)


def effective(residual: Array) -> float:
    """Number of independent values among these, at least 1."""
    centred = residual - residual.mean()
    power = float(centred @ centred)
    if power <= 0.0 or centred.size < 3:
        return float(centred.size)
    rho = min(max(float(centred[1:] @ centred[:-1]) / power, 0.0), 0.999)
    return float(max(1.0, centred.size * (1.0 - rho) / (1.0 + rho)))


def hull(idle_w: float, points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Upper concave hull from (idle, 0) to the point of the greatest throughput, of (power W, throughput) points.

    Points that draw no more than the idle card or deliver nothing are left out. Raises ``FitError`` without one.
    """
    useful = sorted((power, work) for power, work in points if power > idle_w and work > 0.0)
    if not useful:
        raise FitError("no setting draws more than the idle card: the load did not reach it")
    best = max(work for _, work in useful)
    chain: list[tuple[float, float]] = [(idle_w, 0.0)]
    for power, work in useful:
        if work <= chain[-1][1]:
            # The chain rises to the right: one that draws more for less is below it.
            continue
        while len(chain) > 1 and _turns_up(chain[-2], chain[-1], (power, work)):
            chain.pop()
        chain.append((power, work))
        if work == best:
            break
    return tuple(chain)


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0]) * (1.0 + 1e-12)


def settle_s(times_s: Array, power_w: Array) -> float:
    """Time after 0, the instant of the step, from which the power stays within ``SETTLE_BAND`` of its last level.

    The last third of the series is the new level, what was measured up to 0 the old one. Raises ``FitError`` when
    there is no step.
    """
    before, after = power_w[times_s <= 0.0], power_w[times_s > 2.0 * times_s[-1] / 3.0] if times_s.size else power_w
    if before.size == 0 or after.size == 0:
        raise FitError("a step needs readings before and after it")
    old, new = float(before.mean()), float(after.mean())
    band = SETTLE_BAND * abs(new - old)
    if band == 0.0:
        raise FitError("the power did not move at the step")
    outside = times_s[(np.abs(power_w - new) > band) & (times_s > 0.0) & (times_s <= 2.0 * times_s[-1] / 3.0)]
    later = times_s[times_s > (outside[-1] if outside.size else 0.0)]
    return float(later[0]) if later.size else float(times_s[-1])


def lagged(times_s: Array, power_w: Array, tau_s: float) -> Array:
    """First-order lag of a power that is constant between two readings, W; it starts at 0."""
    decays = np.exp(-np.diff(times_s) / tau_s)
    gains = power_w[:-1] * (1.0 - decays)
    out = [0.0]
    for decay, gain in zip(decays.tolist(), gains.tolist(), strict=True):
        out.append(out[-1] * decay + gain)
    return np.array(out)


def thinned(
    times_s: Array, power_w: Array, temp_degc: Array, count: int = HEAT_SAMPLES
) -> tuple[Array, Array, Array]:
    """The same run in at most ``count`` samples: mean temperature around each time, mean power up to the next."""
    if times_s.size <= count:
        return times_s, power_w, temp_degc
    groups = np.array_split(np.arange(times_s.size), count)
    times = np.array([times_s[group].mean() for group in groups])
    temps = np.array([temp_degc[group].mean() for group in groups])
    energy_j = np.concatenate(([0.0], np.cumsum(power_w[:-1] * np.diff(times_s))))
    means = np.diff(np.interp(times, times_s, energy_j)) / np.diff(times)
    return times, np.append(means, means[-1]), temps


def heat(times_s: Array, power_w: Array, temp_degc: Array) -> Heat:
    """Capacity, conductance and ambient from a whole run. Raises ``FitError`` when its power hardly changed."""
    if times_s.size < 20 or float(np.ptp(power_w)) <= 0.0 or float(np.ptp(temp_degc)) <= 1.0:
        raise FitError("the run is too short or too even to see heat in it")
    times_s, power_w, temp_degc = thinned(times_s, power_w, temp_degc)
    span_s = float(times_s[-1] - times_s[0])
    low, high = np.log(span_s / 300.0), np.log(span_s * 10.0)
    tau_s = span_s
    for _ in range(TAU_ROUNDS):
        grid = np.linspace(low, high, TAU_STEPS)
        losses = [_heat_given(times_s, power_w, temp_degc, float(np.exp(g)))[0] for g in grid]
        best = int(np.argmin(losses))
        tau_s = float(np.exp(grid[best]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, TAU_STEPS - 1)]
    loss, solution = _heat_given(times_s, power_w, temp_degc, tau_s)
    ambient, per_g, _ = (float(value) for value in solution)
    if per_g <= 0.0:
        raise FitError("the card cooled when its power rose: something else moves its temperature")
    conductance = 1.0 / per_g
    sigma = _heat_sigma(times_s, power_w, temp_degc, tau_s, solution)
    capacity = tau_s * conductance
    # C = τ/b, G = 1/b: first-order propagation with their covariance.
    gradient_c = np.array([0.0, -tau_s / per_g**2, 0.0, 1.0 / per_g])
    gradient_g = np.array([0.0, -1.0 / per_g**2, 0.0, 0.0])
    return Heat(
        Mean(capacity, float(np.sqrt(gradient_c @ sigma @ gradient_c))),
        Mean(conductance, float(np.sqrt(gradient_g @ sigma @ gradient_g))),
        Mean(ambient, float(np.sqrt(sigma[0, 0]))),
        float(np.sqrt(loss / times_s.size)),
    )


def _design(times_s: Array, power_w: Array, tau_s: float) -> Array:
    decay = np.exp(-(times_s - times_s[0]) / tau_s)
    return np.column_stack((np.ones_like(times_s), lagged(times_s, power_w, tau_s), decay))


def _heat_given(times_s: Array, power_w: Array, temp_degc: Array, tau_s: float) -> tuple[float, Array]:
    """Sum of squared residuals and (T_a, 1/G, T_0 − T_a) for this τ."""
    design = _design(times_s, power_w, tau_s)
    solution, *_ = np.linalg.lstsq(design, temp_degc, rcond=None)
    residual = temp_degc - design @ solution
    return float(residual @ residual), solution


def _heat_sigma(times_s: Array, power_w: Array, temp_degc: Array, tau_s: float, solution: Array) -> Array:
    """Covariance of (T_a, 1/G, T_0 − T_a, τ), from the Jacobian at the solution."""
    design = _design(times_s, power_w, tau_s)
    step = 1e-4 * tau_s
    by_tau = (_design(times_s, power_w, tau_s + step) - _design(times_s, power_w, tau_s - step)) @ solution
    jacobian = np.column_stack((design, by_tau / (2.0 * step)))
    residual = temp_degc - design @ solution
    scale = times_s.size / effective(residual) * float(residual @ residual) / max(times_s.size - 4, 1)
    covariance: Array = np.linalg.pinv(jacobian.T @ jacobian) * scale
    return covariance


def period_s(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Median time between two moves of a counter that was read often. Raises ``FitError`` below two moves."""
    moves = [t for (t, value), before in zip(list(zip(times_s, values, strict=True))[1:], values, strict=False)
             if value != before]  # fmt: skip
    if len(moves) < 2:
        raise FitError("the counter did not move twice")
    return float(np.median(np.diff(moves)))
