"""When upsets come: events per day by the place in the orbit, from the shipped belt grid.

    rate(t) = N · [ (1 − s) + s · Φ(t) / ⟨Φ⟩ ]

N is the daily mean, Φ the flux of trapped protons over 10 MeV where the satellite is (``hil.plant.radiation``),
⟨Φ⟩ its mean over whole days, s the share of the events that belongs to the belt. However large s, the mean is N:
the anomaly moves events, it makes none. (Multiplying a base rate inside the anomaly instead overstates the day's
total several times.) The rest, 1 − s, is cosmic rays and whatever else knows no place. An orbit that never meets
the belt has all its events evenly.

**Environment** (radiation reference, section 2: 150 rad/yr behind some 10 mm of aluminium in a 650 km dawn-dusk
orbit; memory scaled from 32 to 80 GB, an assumption). The causes below come to 0.05 events a day, one in 20 days.
Beam and simulation agree within a factor of about 5, so ratios can be claimed from this, rates cannot. For memories
in low orbits 80 to 97 % of the upsets are reported inside the anomaly; s is 0.9 here.

**Ladder.** Scenarios scale N: nominal, storm, and rates as in a beam, at which a bench of minutes sees anything.
"""

import random
from itertools import accumulate
from typing import Final

import msgspec

from hil.plant.geometry import DAY_S, days_since_j2000, earth_fixed, geodetic, gmst_rad
from hil.plant.orbit import Orbit
from hil.plant.radiation import SAA_FLUX_CM2_S, BeltGrid, belt_grid
from hil.randomness import stream

BELT_SHARE: Final = 0.9
"""Share of the events that the belt causes (reference, section 2: 80 to 97 % inside the anomaly)."""
AVERAGED_DAYS: Final = 5
"""Days over which the flux is averaged: ground tracks of a low orbit nearly repeat after that."""
SAMPLE_S: Final = 60.0
YEAR_DAYS: Final = 365.25


class Cause(msgspec.Struct, frozen=True):
    """One kind of event of the nominal environment."""

    name: str
    per_year: float
    source: str


ENVIRONMENT: Final = (
    Cause("silent corruption", 8.8, "Suncatcher (arXiv 2511.19468): one per 17 rad in flight, 150 rad a year"),
    Cause("uncorrectable memory", 8.5, "Suncatcher: HBM 44 rad an event at 32 GB, scaled to 80 GB"),
    Cause("accelerator hang", 0.03, "Suncatcher: chip SEFI one per 5 krad"),
    Cause("host hang", 0.7, "Suncatcher: processor one per 450 rad, its memory one per 400 rad"),
)
NOMINAL_PER_DAY: Final = sum(cause.per_year for cause in ENVIRONMENT) / YEAR_DAYS

LADDER: Final[dict[str, float]] = {
    "nominal": 0.05,
    "storm": 1.0,
    "beam-10": 10.0,
    "beam-100": 100.0,
    "beam-1000": 1000.0,
}
"""Events per day of the scenarios."""


def rung(name: str) -> float:
    """Events per day of a rung. Raises ``ValueError`` for one that does not exist."""
    if name not in LADDER:
        raise ValueError(f'rate "{name}" is unknown; there are {", ".join(LADDER)}')
    return LADDER[name]


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """What the orbit makes of a daily mean; per day of time spent there."""

    time_in_anomaly: float
    """Share of time with a flux over ``SAA_FLUX_CM2_S``."""
    events_in_anomaly: float
    """Share of the events that come in that time."""
    inside_per_day: float
    outside_per_day: float


class Exposure:
    """Rates along one orbit; times are seconds after its epoch."""

    def __init__(self, orbit: Orbit, grid: BeltGrid | None = None, belt_share: float = BELT_SHARE) -> None:
        """Averages the flux over ``AVERAGED_DAYS``. Raises ``ValueError`` for a share outside 0 to 1."""
        if not 0.0 <= belt_share <= 1.0:
            raise ValueError(f"belt share {belt_share:g}: 0 to 1 is allowed")
        self._orbit = orbit
        self._epoch_days = days_since_j2000(orbit.epoch)
        self._grid = grid or belt_grid()
        self._fluxes = [self.flux_cm2_s(step * SAMPLE_S) for step in range(int(AVERAGED_DAYS * DAY_S / SAMPLE_S))]
        self.mean_flux_cm2_s = sum(self._fluxes) / len(self._fluxes)
        self.belt_share = belt_share if self.mean_flux_cm2_s > 0.0 else 0.0

    def flux_cm2_s(self, elapsed_s: float) -> float:
        """Flux of trapped protons over 10 MeV where the satellite is then."""
        gmst = gmst_rad(self._epoch_days + elapsed_s / DAY_S)
        return self._grid.flux_cm2_s(*geodetic(earth_fixed(self._orbit.position_km(elapsed_s), gmst)))

    def rate_per_day(self, elapsed_s: float, events_per_day: float) -> float:
        """Events per day at an instant, for a daily mean of ``events_per_day``."""
        return events_per_day * self._factor(self.flux_cm2_s(elapsed_s))

    def weather(self, events_per_day: float) -> Weather:
        """How a daily mean divides between the anomaly and the rest of the orbit."""
        inside = [self._factor(flux) for flux in self._fluxes if flux > SAA_FLUX_CM2_S]
        outside = [self._factor(flux) for flux in self._fluxes if flux <= SAA_FLUX_CM2_S]
        total = sum(inside) + sum(outside)
        return Weather(
            time_in_anomaly=len(inside) / len(self._fluxes),
            events_in_anomaly=sum(inside) / total,
            inside_per_day=events_per_day * _mean(inside),
            outside_per_day=events_per_day * _mean(outside),
        )

    def instants_s(
        self, events_per_day: float, start_s: float, duration_s: float, seed: int, name: str
    ) -> list[float]:
        """Instants of a Poisson process with this rate, from the stream ``name`` of a seed.

        The number is drawn from the mean over the interval, each place by the rate in steps of ``SAMPLE_S``. Raises
        ``ValueError`` for a negative rate or interval.
        """
        if events_per_day < 0.0 or duration_s < 0.0:
            raise ValueError(f"{events_per_day:g} events a day over {duration_s:g} s: neither may be negative")
        steps = max(1, round(duration_s / SAMPLE_S))
        step_s = duration_s / steps
        middle_s = [start_s + (step + 0.5) * step_s for step in range(steps)]
        weights = [self.rate_per_day(at_s, events_per_day) * step_s / DAY_S for at_s in middle_s]
        rng = stream(seed, f"upsets {name}")
        count = _poisson(rng, sum(weights))
        if not count:
            return []
        chosen = rng.choices(middle_s, cum_weights=list(accumulate(weights)), k=count)
        return sorted(at_s + (rng.random() - 0.5) * step_s for at_s in chosen)

    def _factor(self, flux_cm2_s: float) -> float:
        if self.belt_share == 0.0:
            return 1.0
        return 1.0 - self.belt_share + self.belt_share * flux_cm2_s / self.mean_flux_cm2_s


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _poisson(rng: random.Random, mean: float) -> int:
    """A Poisson number by counting exponential gaps: exact, and its cost is its value."""
    count, time = 0, rng.expovariate(1.0)
    while time < mean:
        count, time = count + 1, time + rng.expovariate(1.0)
    return count
