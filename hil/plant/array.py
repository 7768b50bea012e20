"""The solar array: how the Sun falls on it, how it points and how it ages.

    P = S/d² · A · η · cos θ · ν · health       S 1361 W/m² at 1 au, ν the visible share of the Sun

Incidence. cos θ is the product of the mount's own angle and the pointing error's:

    sun_pointed   two axes follow the Sun                                        1
    one_axis      one axis along the orbit's normal: β is left                   cos β
    zenith        fixed to the side that looks away from the Earth               max(0, cos ζ)

The pointing error is a constant angle and a jitter of standard deviation σ about each of two axes. Jitter is a sum
of ``HARMONICS`` sines with periods of 2 to 60 s whose phases come from a named stream of the seed: the same instant
has the same error whatever the steps were.

Ageing takes a fixed share of the output per year, compounding; 2 to 3 % is an assumption in the usual range of low
orbits. A lost string takes its share of ``array_strings``. Not modelled: temperature
of the cells, shading, the maximum-power point.
"""

from math import cos, pi, radians, sin, sqrt
from typing import Final

from hil.randomness import stream

from .eps import EpsConfig, array_power_w
from .geometry import TROPICAL_YEAR_S
from .sky import SUN_REFRESH_S, Sky

HARMONICS: Final = 4
JITTER_PERIOD_S: Final = (2.0, 60.0)
AGE_REFRESH_S: Final = 3600.0


class SolarArray:
    """The array's output, a function of time and of what the sky shows."""

    def __init__(self, config: EpsConfig, seed: int, sky: Sky) -> None:
        self._config, self._sky = config, sky
        self.health = 1.0
        """Share of the output that faults leave."""
        self._full_w = self._new_w = array_power_w(config, 1.0, 1.0, 1.0)
        self._mount = config.array_mount
        self._jitter = radians(config.pointing_jitter_deg)
        self._ages = config.array_degradation_per_year > 0.0
        self._age_slot = self._plane_slot = -1
        self._plane_cos = 1.0
        self._steady = self._mount == "sun_pointed" and not self._jitter and not self._ages
        draw = stream(seed, "plant.pointing")
        low_s, high_s = JITTER_PERIOD_S
        # One row per axis: angular rates and phases.
        self._axes = [
            [(2.0 * pi / draw.uniform(low_s, high_s), draw.uniform(0.0, 2.0 * pi)) for _ in range(HARMONICS)]
            for _ in range(2)
        ]

    def power_w(self, elapsed_s: float, sunlit: float, distance2: float, zenith_cos: float) -> float:
        """Output; ``distance2`` is the Sun's distance in au, squared, ``zenith_cos`` of its zenith angle."""
        if self._steady:
            return self._full_w * sunlit * self.health / distance2
        if sunlit <= 0.0:
            return 0.0
        if self._ages:
            self._age(elapsed_s)
        incidence = 1.0
        if self._mount == "one_axis":
            incidence = self._across(elapsed_s)
        elif self._mount == "zenith":
            incidence = max(0.0, zenith_cos)
        if self._jitter:
            incidence *= self._pointing_cos(elapsed_s)
        return self._full_w * incidence * sunlit * self.health / distance2

    def _pointing_cos(self, elapsed_s: float) -> float:
        """Cosine of the pointing error over that of its constant part, which the full output has in it."""
        scale = self._jitter * sqrt(2.0 / HARMONICS)
        with_it, beside = (scale * sum([sin(r * elapsed_s + p) for r, p in axis]) for axis in self._axes)
        constant = radians(self._config.pointing_error_deg)
        return max(0.0, cos(constant + with_it)) * cos(beside) / cos(constant)

    def _across(self, elapsed_s: float) -> float:
        """Cosine of beta, renewed with the Sun."""
        slot = int(elapsed_s // SUN_REFRESH_S)
        if slot != self._plane_slot:
            self._plane_slot, self._plane_cos = slot, self._sky.across_cos(elapsed_s)
        return self._plane_cos

    def _age(self, elapsed_s: float) -> None:
        slot = int(elapsed_s // AGE_REFRESH_S)
        if slot != self._age_slot:
            self._age_slot = slot
            years = self._config.array_age_years + slot * AGE_REFRESH_S / TROPICAL_YEAR_S
            self._full_w = self._new_w * (1.0 - self._config.array_degradation_per_year) ** years
