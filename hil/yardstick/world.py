"""One satellite as the yardstick knows it: constants, and the throughput–power curve in its three forms.

The yardstick judges flight code, so it shares none of it: everything here is written from the equations of the
power-thermal-orbit reference, sections 6.1 and 6.2. Units are W, J, K and s; state of charge is E / E_cap.

The curve. A card that is paced below its knee mixes idle time with work at the knee, above it each unit of work
costs more watts than the one before, so P(s) is convex:

    s_knee = (a0 / 2 a3)^(1/3)
    P(s)   = P_idle + (P_knee − P_idle) s / s_knee          s < s_knee
    P(s)   = P_idle + a0 + a1 s + a3 s³                     s ≥ s_knee

For a linear programme it becomes a row of straight pieces of rising watts and falling throughput per watt: *inner*
pieces are chords, never below the curve (a plan on them delivers at least what it says); *outer* pieces are
tangents, never above it (no plan delivers more than they say).
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ETA_CHARGE: Final = 0.95
ETA_DISCHARGE: Final = 0.95
CHARGE_MAX_W: Final = 350.0
DISCHARGE_MAX_W: Final = 700.0
IDLE_W: Final = 80.0
MAX_W: Final = 700.0
GPU_J_K: Final = 3000.0
AREA_M2: Final = 1.4
STEFAN_BOLTZMANN: Final = 5.670374419e-8
DOD_MAX: Final = 0.30
GPU_MAX_K: Final = 353.15
RADIATOR_MAX_K: Final = 333.15
ZERO_CELSIUS_K: Final = 273.15

CURVE_A0_W: Final = 100.0
CURVE_A1_W: Final = 100.0
CURVE_A3_W: Final = MAX_W - IDLE_W - CURVE_A0_W - CURVE_A1_W
KNEE: Final = (CURVE_A0_W / (2.0 * CURVE_A3_W)) ** (1.0 / 3.0)
KNEE_W: Final = IDLE_W + CURVE_A0_W + CURVE_A1_W * KNEE + CURVE_A3_W * KNEE**3
CURVE_POINTS: Final = 2001
"""Points of the table that s(P) is interpolated in, equally spaced in s."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Array, battery, orbit and heat path: the true ones, or what a governor believes. Defaults are nominal.

    Sunlit while ``(t + phase_s) mod orbit_s < orbit_s − eclipse_s``.
    """

    orbit_s: float = 5700.0
    eclipse_s: float = 2100.0
    phase_s: float = 0.0
    array_w: float = 1200.0
    capacity_j: float = 2.52e6
    infrared_w_m2: float = 65.0
    """Absorbed always, per m² of radiator."""
    sunlight_w_m2: float = 20.0
    """Absorbed in addition while the Sun shines."""
    emissivity: float = 0.85
    conductance_w_k: float = 14.0
    radiator_j_k: float = 12_000.0
    bus_w: float = 60.0

    @property
    def emission_w_k4(self) -> float:
        """K = ε σ A."""
        return self.emissivity * STEFAN_BOLTZMANN * AREA_M2

    @property
    def energy_min_j(self) -> float:
        """Energy at the deepest allowed depth of discharge."""
        return (1.0 - DOD_MAX) * self.capacity_j

    def lit(self, time_s: float) -> bool:
        """Whether the Sun shines."""
        return (time_s + self.phase_s) % self.orbit_s < self.orbit_s - self.eclipse_s

    def sunlit(self, steps: int, step_s: float, samples: int = 12) -> Floats:
        """Sunlit share of each of ``steps`` steps from time 0, by sub-samples at the middle of equal parts."""
        offsets_s = (np.arange(samples) + 0.5) * (step_s / samples)
        times_s = np.arange(steps)[:, None] * step_s + offsets_s + self.phase_s
        lit = (times_s % self.orbit_s < self.orbit_s - self.eclipse_s).astype(np.float64)
        return np.asarray(lit.mean(axis=1), dtype=np.float64)


def power_w(throughput: Floats) -> Floats:
    """P(s), exactly."""
    active = IDLE_W + CURVE_A0_W + CURVE_A1_W * throughput + CURVE_A3_W * throughput**3
    paced = IDLE_W + (KNEE_W - IDLE_W) / KNEE * throughput
    return np.where(throughput < KNEE, paced, active)


_TABLE_S: Final = np.linspace(0.0, 1.0, CURVE_POINTS)
_TABLE_W: Final = power_w(_TABLE_S)


def throughput(gpu_w: Floats) -> Floats:
    """s(P): what a card delivers at a mean power."""
    return np.interp(gpu_w, _TABLE_W, _TABLE_S)


class Pieces(msgspec.Struct, frozen=True):
    """The curve as straight pieces from (P_idle, 0): their lengths in W, and throughput per W, falling."""

    watts: tuple[float, ...]
    slope: tuple[float, ...]


def _knots(count: int) -> Floats:
    return np.linspace(KNEE, 1.0, count)


def inner(count: int) -> Pieces:
    """``count`` chords between the points {0, ``count`` knots over [s_knee, 1]}: conservative."""
    s = np.concatenate(([0.0], _knots(count)))
    return _pieces(power_w(s), s)


def outer(count: int) -> Pieces:
    """The line of pacing and the tangents at ``count`` knots over [s_knee, 1]: optimistic.

    The lowest of the tangent lines P ≥ m s + b is a concave row of pieces in P: it bends where neighbours cross.
    """
    knots = _knots(count)
    slope = np.concatenate(([(KNEE_W - IDLE_W) / KNEE], CURVE_A1_W + 3.0 * CURVE_A3_W * knots**2))
    offset = np.concatenate(([IDLE_W], power_w(knots) - slope[1:] * knots))
    # The tangent at the knee is the line of pacing; rounding would put their crossing anywhere.
    slope, offset = np.delete(slope, 1), np.delete(offset, 1)
    cross = (offset[:-1] - offset[1:]) / (slope[1:] - slope[:-1])
    s = np.concatenate(([0.0], cross, [1.0]))
    # At the knot s = 1 the last tangent meets P_max exactly.
    return _pieces(np.concatenate(([IDLE_W], slope[:-1] * cross + offset[:-1], [MAX_W])), s)


def _pieces(watts: Floats, s: Floats) -> Pieces:
    lengths = np.diff(watts)
    return Pieces(tuple(lengths.tolist()), tuple((np.diff(s) / lengths).tolist()))
