"""Wilson's score interval: what a share of so many of so many says about the true one.

With k of n successes and z the normal quantile, the interval is centred at (k + z²/2) / (n + z²) and keeps its
promise where the textbook's p ± z √(p(1−p)/n) does not: near 0 and 1, which is where a detector lives. No miss in
n trials gives the lower bound n / (n + z²), so 381 trials without one show 99 %, 3,838 show 99.9 %.

Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.
"""

import math
from typing import Final

import msgspec

Z_95: Final = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """``hits`` of ``total`` with its 95 % interval; all shares are 0 to 1, and without a trial nothing is known."""

    hits: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.total:
            raise ValueError(f"{self.hits} of {self.total} is no share")

    @property
    def value(self) -> float:
        """The share as counted; NaN without a trial."""
        return self.hits / self.total if self.total else math.nan

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return wilson(self.hits, self.total)[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return wilson(self.hits, self.total)[1]

    @property
    def percent(self) -> str:
        """The share alone; it says 100 % of nothing but all."""
        return f"{_percent(self.value)} %" if self.total else "–"

    def __str__(self) -> str:
        """As tables have it: per cent with the interval."""
        if not self.total:
            return "– (none)"
        return f"{self.percent} [{_percent(self.low)}, {_percent(self.high)}]"


def wilson(hits: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Ends of the interval, 0 to 1; (0, 1) without a trial."""
    if total == 0:
        return 0.0, 1.0
    p, zz = hits / total, z * z
    centre = p + zz / (2.0 * total)
    half = z * math.sqrt(p * (1.0 - p) / total + zz / (4.0 * total * total))
    scale = 1.0 + zz / total
    # At the ends of the scale the exact value is known, and rounding must not move it.
    low = 0.0 if hits == 0 else (centre - half) / scale
    high = 1.0 if hits == total else (centre + half) / scale
    return low, high


def trials_for(low: float, z: float = Z_95) -> int:
    """Trials without a single miss whose lower bound is at least ``low``, 0 to 1, 1 excluded."""
    if not 0.0 <= low < 1.0:
        raise ValueError(f"a lower bound of {low} needs infinitely many trials; 0 to less than 1 is allowed")
    return math.ceil(low * z * z / (1.0 - low))


def _percent(share: float) -> str:
    """Two decimals, three where the difference to 100 % is all that matters; never rounded up to 100."""
    percent = 100.0 * share
    if percent in (0.0, 100.0):
        return f"{percent:.0f}"
    return f"{math.floor(percent * 1000.0) / 1000.0:.3f}" if percent > 99.5 else f"{percent:.2f}"
