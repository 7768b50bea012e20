"""The Kalman filter's two moves on a handful of states, for the estimators of charge and heat.

    fuse    K = P h / (h'P h + r),  x ← x + K (z − h'x),  P ← P − K h'P
    carry   x_i ← x_i + f'x in one row of the transition, P ← F P F', plus noise on the diagonal

Measurements are scalars, taken one after the other, so nothing is ever inverted. A row h is given by its few
coefficients that are not zero; a covariance is a tuple of rows. Source: Maybeck, Stochastic Models, Estimation,
and Control, volume 1, section 5.3.
"""

from math import sqrt

Vector = tuple[float, ...]
Covariance = tuple[Vector, ...]
Row = tuple[tuple[int, float], ...]
"""Coefficients of a measurement or transition: pairs of state index and factor."""


def diagonal(*sigmas: float) -> Covariance:
    """Covariance of independent states from their standard uncertainties."""
    return tuple(
        tuple(s * s if column == row else 0.0 for column in range(len(sigmas))) for row, s in enumerate(sigmas)
    )


def variance(covariance: Covariance, row: Row) -> float:
    """Variance of the combination ``row`` of the states."""
    return sum(f * g * covariance[i][j] for i, f in row for j, g in row)


def fuse(
    mean: Vector, covariance: Covariance, row: Row, innovation: float, noise_var: float
) -> tuple[Vector, Covariance]:
    """Mean and covariance after a measurement of ``row`` that is off by ``innovation``, of variance ``noise_var``.

    ``noise_var`` must be positive.
    """
    if len(row) == 1:
        ((index, factor),) = row
        through = [factor * p for p in covariance[index]]
        spread = factor * through[index] + noise_var
    else:
        through = [0.0] * len(mean)
        for index, factor in row:
            through = [t + factor * p for t, p in zip(through, covariance[index], strict=True)]
        spread = noise_var
        for index, factor in row:
            spread += factor * through[index]
    inverse = 1.0 / spread
    step = innovation * inverse
    after = tuple([m + t * step for m, t in zip(mean, through, strict=True)])
    return after, tuple(
        [
            tuple([p - t * inverse * u for p, u in zip(line, through, strict=True)])
            for line, t in zip(covariance, through, strict=True)
        ]
    )


def carry(covariance: Covariance, index: int, row: Row, noise_var: float = 0.0) -> Covariance:
    """Covariance after state ``index`` became the combination ``row`` of the states, with noise of its own."""
    line = [0.0] * len(covariance)
    for source, factor in row:
        line = [a + factor * p for a, p in zip(line, covariance[source], strict=True)]
    own = noise_var
    for source, factor in row:
        own += factor * line[source]
    line[index] = own
    rows = [tuple([*old[:index], new, *old[index + 1 :]]) for old, new in zip(covariance, line, strict=True)]
    rows[index] = tuple(line)
    return tuple(rows)


def widened(covariance: Covariance, index: int, noise_var: float) -> Covariance:
    """Covariance after noise of this variance came over one state."""
    line = covariance[index]
    wider = (*line[:index], line[index] + noise_var, *line[index + 1 :])
    return (*covariance[:index], wider, *covariance[index + 1 :])


def forgotten(covariance: Covariance, index: int, sigma: float) -> Covariance:
    """Covariance after everything learned of one state was given up; it is independent of the others again."""
    return tuple(
        tuple(
            (sigma * sigma if column == row else 0.0) if index in (row, column) else p
            for column, p in enumerate(line)
        )
        for row, line in enumerate(covariance)
    )


def sigma(covariance: Covariance, index: int) -> float:
    """Standard uncertainty of one state."""
    return sqrt(max(0.0, covariance[index][index]))
