"""Dither of the rests between micro-batches, so that the card's own power sensor sees a fair sample of the work.

The sensor looks for 25 ms in each 100 ms (power-thermal-orbit reference, section 3; its phase is not known to us).
Work with a period of 100 ms, or of a simple fraction or multiple of it, is then seen at one phase only, and the
sensor with every loop closed on it is wrong by tens of percent for as long as the period holds. Chance does not
help within seconds: the mean of 100 random looks is uncertain by 5 % of full power.

So the rests are *shaped*. With ω = 2π / ``PERIOD_S`` the sensor's error over a stretch of work is a sum over the
harmonics k of the Fourier coefficients of the work,

    S_k = ∫ work(t) exp(−i k ω t) dt,      each seen through the boxcar: w_k = (sin(π k a) / (π k a))²,  a = 25 /
    100

Before each rest a handful of lengths are tried, and the one is taken after which Σ w_k |S_k|² is least: what one
micro-batch adds at a phase, a later one takes away at the opposite phase. Nothing of this needs the sensor's phase
or a clock: time here is the sum of work and rest. Old work is forgotten (``FORGET_S``), so a sensor whose period
is a little off is served too.

Very short rests cannot be placed, and follow each other at harmonics that are not watched; up to ``REST_MIN_S``
they are saved up.
"""

import cmath
import math
from typing import Final

PERIOD_S: Final = 0.1
BOXCAR: Final = 0.25
"""Part of the period in which the sensor looks."""
HARMONICS: Final = (1, 2, 3, 5, 6)
"""Those that pass the boxcar; it is blind to the fourth."""
TRIES: Final = 9
FORGET_S: Final = 10.0
REST_MIN_S: Final = 0.0125

_OMEGA: Final = 2.0 * math.pi / PERIOD_S
# The factor 1/k of the integral over a pulse is in the weight, so that powers of one number are all that is left.
_WEIGHTS: Final = tuple((k, (math.sin(math.pi * k * BOXCAR) / (math.pi * k * BOXCAR * k)) ** 2) for k in HARMONICS)


class Dither:
    """Books of one worker. ``spread_s`` is the largest excess of a rest over what is due."""

    def __init__(self, spread_s: float) -> None:
        self.spread_s = spread_s
        self._time_s = 0.0
        self._burst_s = 0.0
        self._sums = [0j] * len(HARMONICS)

    def spend(self, busy_s: float) -> None:
        """Work of ``busy_s`` seconds ended now."""
        begin, end = self._unit(self._time_s), self._unit(self._time_s + busy_s)
        keeps = math.exp(-busy_s / FORGET_S)
        self._sums = [keeps * total + begin**k - end**k for total, k in zip(self._sums, HARMONICS, strict=True)]
        self._burst_s += busy_s
        self.rest(busy_s)

    def rest(self, rest_s: float) -> None:
        """Time passed without work."""
        self._time_s = (self._time_s + rest_s) % PERIOD_S

    def excess_s(self, due_s: float) -> float:
        """How much longer than ``due_s`` the rest shall be that begins now; negative time is credit.

        0 to ``spread_s``, and such that the whole is not negative where that is possible.
        """
        # The work after the rest is taken to be like the work before it.
        burst_s, self._burst_s = self._burst_s, 0.0
        low_s = max(0.0, -due_s)
        if low_s >= self.spread_s:
            return self.spread_s
        begin, end = self._unit(self._time_s + due_s), self._unit(self._time_s + due_s + burst_s)
        added = [begin**k - end**k for k in HARMONICS]
        step_s = (self.spread_s - low_s) / (TRIES - 1)
        best_s, least = low_s, math.inf
        for number in range(TRIES):
            turn = self._unit(low_s + number * step_s)
            cost = 0.0
            for (k, weight), total, more in zip(_WEIGHTS, self._sums, added, strict=True):
                after = total + more * turn**k
                cost += weight * (after.real * after.real + after.imag * after.imag)
            if cost < least:
                best_s, least = low_s + number * step_s, cost
        return best_s

    @staticmethod
    def _unit(time_s: float) -> complex:
        return cmath.exp(complex(0.0, -_OMEGA * time_s))
