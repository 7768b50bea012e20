"""The battery's laws: open-circuit voltage, resistance, and how cycles and time wear it.

Open circuit    piecewise linear in the state of charge: eight NMC cells in series
Resistance      R = R₀ · exp(B (1/T − 1/T₀)) · shape(SoC) · (1 + 5 L)      law ``temperature_soc``
Wear            f = Σ n_i S_δ(δ_i) S_σ(σ_i) S_T(T_i) + k_t t S_σ S_T          over cycles i, and over time
Lost capacity   L = 1 − α e^{−β f} − (1 − α) e^{−f}

δ is a cycle's depth, σ its mean state of charge, n 1 for a whole cycle and 1/2 for a half. Cycles are counted by
rainflow (ASTM E1049) as they close. S_δ = 1/(k₁ δ^k₂ + k₃), S_σ = exp(k_σ (σ − ½)), S_T = exp(k_T (T − T₀) T₀/T):
Xu, Oudalov, Ulbig, Andersson and Kirschen, Modeling of Lithium-Ion Battery Degradation for Cell Life Assessment,
IEEE Trans. Smart Grid 9 (2018), whose LMO constants these are; T₀ 298.15 K. A pack of another chemistry needs
others.

Assumptions: B = 2,500 K (an activation energy of 21 kJ/mol), the shape of R over the state of charge, and a
resistance that doubles when a fifth of the capacity is gone.
"""

from math import exp
from typing import Final

JOULE_PER_WH: Final = 3600.0
CELLS_IN_SERIES: Final = 8
# Open-circuit voltage of one NMC cell at 0, 10 … 100 % charge.
CELL_OCV_V: Final = (3.00, 3.45, 3.55, 3.60, 3.65, 3.71, 3.79, 3.88, 3.97, 4.07, 4.18)
# The last point stands twice, so that a full battery needs no case of its own.
_PACK_OCV_V: Final = tuple(CELLS_IN_SERIES * v for v in (*CELL_OCV_V, CELL_OCV_V[-1]))

REFERENCE_K: Final = 298.15
RESISTANCE_B_K: Final = 2500.0
# Resistance over that at half charge, at 0, 10 … 100 % charge.
RESISTANCE_SHAPE: Final = (1.80, 1.30, 1.12, 1.05, 1.01, 1.00, 1.00, 1.00, 1.01, 1.03, 1.08, 1.08)
RESISTANCE_PER_LOSS: Final = 5.0

DEPTH_K1, DEPTH_K2, DEPTH_K3 = 1.40e5, -0.501, -1.23e5
CHARGE_K: Final = 1.04
CHARGE_REFERENCE: Final = 0.5
TEMPERATURE_K: Final = 0.0693
CALENDAR_PER_S: Final = 4.14e-10
SEI_SHARE: Final = 0.0575
SEI_RATE: Final = 121.0

RIPPLE: Final = 0.002
"""Reversals of the state of charge under this depth are no cycles."""
OPEN_REVERSALS_MAX: Final = 64
"""Reversals that wait for their cycle to close; past it the oldest half cycle counts."""
CALENDAR_CHUNK_S: Final = 21_600.0


def open_circuit_v(soc_fraction: float) -> float:
    """Open-circuit voltage of the pack, piecewise linear in the state of charge."""
    place = 10.0 * soc_fraction
    index = int(place)
    low = _PACK_OCV_V[index]
    return low + (_PACK_OCV_V[index + 1] - low) * (place - index)


def resistance_factor(temp_k: float, soc_fraction: float) -> float:
    """Resistance over that at 25 °C and half charge, law ``temperature_soc``."""
    place = 10.0 * soc_fraction
    index = int(place)
    low = RESISTANCE_SHAPE[index]
    shape = low + (RESISTANCE_SHAPE[index + 1] - low) * (place - index)
    return shape * exp(RESISTANCE_B_K * (1.0 / temp_k - 1.0 / REFERENCE_K))


def cycle_wear(depth: float, mean_soc: float, temp_k: float) -> float:
    """What one whole cycle of this depth, 0 to 1, adds to f."""
    if depth <= 0.0:
        return 0.0
    per_cycle: float = DEPTH_K1 * depth**DEPTH_K2 + DEPTH_K3
    return environment(mean_soc, temp_k) / per_cycle


def environment(mean_soc: float, temp_k: float) -> float:
    """S_σ S_T: how charge and temperature speed the wear up."""
    heat = exp(TEMPERATURE_K * (temp_k - REFERENCE_K) * REFERENCE_K / temp_k)
    return heat * exp(CHARGE_K * (mean_soc - CHARGE_REFERENCE))


def lost_share(wear: float) -> float:
    """Lost share of the capacity after wear f."""
    return 1.0 - SEI_SHARE * exp(-SEI_RATE * wear) - (1.0 - SEI_SHARE) * exp(-wear)


class Rainflow:
    """Counts cycles of a quantity as they close; what is open yet waits in ``open_reversals``."""

    def __init__(self, first: float) -> None:
        self.open_reversals = [first]

    def turn(self, value: float) -> list[tuple[float, float, float]]:
        """Take the next reversal; returns closed cycles as (depth, mean, 1 or 0.5)."""
        waiting = self.open_reversals
        closed: list[tuple[float, float, float]] = []
        if value == waiting[-1]:
            return closed
        waiting.append(value)
        while len(waiting) >= 3:
            last, before = abs(waiting[-1] - waiting[-2]), abs(waiting[-2] - waiting[-3])
            if last < before:
                break
            mean = 0.5 * (waiting[-2] + waiting[-3])
            if len(waiting) == 3:  # It holds the start: half a cycle, and the start goes.
                closed.append((before, mean, 0.5))
                del waiting[0]
            else:
                closed.append((before, mean, 1.0))
                del waiting[-3:-1]
        if len(waiting) > OPEN_REVERSALS_MAX:
            closed.append((abs(waiting[1] - waiting[0]), 0.5 * (waiting[0] + waiting[1]), 0.5))
            del waiting[0]
        return closed


class Ageing:
    """Wear of one battery from its charge and temperature over time."""

    def __init__(self, soc_fraction: float, lost: float) -> None:
        """``lost`` is the share of the capacity that is gone at the start."""
        self.wear = _wear_of(lost)
        self.lost = lost
        self.cycles = 0.0
        self._rainflow = Rainflow(soc_fraction)
        self._extreme = soc_fraction
        self._rising = False
        self._since_s = self._charge_s = self._heat_s = 0.0

    def observe(self, dt_s: float, soc_fraction: float, temp_k: float) -> bool:
        """Take one step's end; whether ``lost`` is new."""
        self._since_s += dt_s
        self._charge_s += soc_fraction * dt_s
        self._heat_s += temp_k * dt_s
        beyond = soc_fraction - self._extreme if self._rising else self._extreme - soc_fraction
        if beyond >= 0.0:
            self._extreme = soc_fraction
        elif beyond < -RIPPLE:
            mean_k = self._heat_s / self._since_s
            for depth, mean_soc, share in self._rainflow.turn(self._extreme):
                self.cycles += share
                self.wear += share * cycle_wear(depth, mean_soc, mean_k)
            self._extreme, self._rising = soc_fraction, not self._rising
            return self._settle()
        return self._since_s >= CALENDAR_CHUNK_S and self._settle()

    def _settle(self) -> bool:
        """Add the time since the last settling to the wear."""
        if self._since_s > 0.0:
            mean_soc, mean_k = self._charge_s / self._since_s, self._heat_s / self._since_s
            self.wear += CALENDAR_PER_S * self._since_s * environment(mean_soc, mean_k)
            self._since_s = self._charge_s = self._heat_s = 0.0
        self.lost = lost_share(self.wear)
        return True


def _wear_of(lost: float) -> float:
    """f of a lost share, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if lost_share(middle) < lost else (low, middle)
    return high if lost > 0.0 else 0.0
