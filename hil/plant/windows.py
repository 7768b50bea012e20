"""What is coming: eclipses, passes and anomaly crossings, and a good moment to start a scenario.

All three are intervals in which a function of time is over zero. They are found by a scan at ``SCAN_S`` and
bisection of each sign change to ``EDGE_S``; what is shorter than ``SCAN_S`` may be missed.

Times are seconds of the plant's world clock, which may start later than the orbit's epoch.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from .geometry import DAY_S, Vector, days_since_j2000, earth_fixed, geodetic, gmst_rad, sun, sunlit_fraction
from .orbit import Orbit
from .radiation import SAA_FLUX_CM2_S, BeltGrid
from .stations import Network

SCAN_S: Final = 20.0
EDGE_S: Final = 0.05
HORIZON_MAX_S: Final = 7 * DAY_S
START_SCAN_S: Final = 60.0
PASS_LEAD_S: Final = 60.0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """An interval of world time."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Length."""
        return self.end_s - self.start_s


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """One station's contact, acquisition to loss of signal."""

    station: str
    start_s: float
    end_s: float
    elevation_max_deg: float

    @property
    def duration_s(self) -> float:
        """Length."""
        return self.end_s - self.start_s


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Everything geometry says about ``start_s`` to ``end_s``; what is cut by an end of it ends there.

    An eclipse lasts while less than half of the Sun's disc is seen. ``passes`` are per station and in order of
    start; ``contacts`` are their union.
    """

    start_s: float
    end_s: float
    eclipses: tuple[Window, ...]
    passes: tuple[Pass, ...]
    contacts: tuple[Window, ...]
    anomalies: tuple[Window, ...]


class Geometry:
    """Orbit, Sun, stations and belt as functions of world time; holds no state."""

    def __init__(self, orbit: Orbit, network: Network, grid: BeltGrid, offset_s: float = 0.0) -> None:
        """World time 0 is ``offset_s`` after the orbit's epoch."""
        self.orbit, self.network, self.grid, self.offset_s = orbit, network, grid, offset_s
        self._days = days_since_j2000(orbit.epoch)

    def shifted(self, seconds: float) -> "Geometry":
        """The same world with its clock started ``seconds`` later."""
        return Geometry(self.orbit, self.network, self.grid, self.offset_s + seconds)

    def days(self, world_s: float) -> float:
        """UTC days since J2000."""
        return self._days + (self.offset_s + world_s) / DAY_S

    def inertial_km(self, world_s: float) -> Vector:
        """Inertial position."""
        return self.orbit.position_km(self.offset_s + world_s)

    def fixed_km(self, world_s: float) -> Vector:
        """Earth-fixed position."""
        return earth_fixed(self.inertial_km(world_s), gmst_rad(self.days(world_s)))

    def sunlit(self, world_s: float) -> float:
        """Visible share of the Sun's disc."""
        return sunlit_fraction(self.inertial_km(world_s), *sun(self.days(world_s)))

    def forecast(self, start_s: float, horizon_s: float) -> Forecast:
        """Everything in ``horizon_s`` from ``start_s``; ``ValueError`` when the horizon is not in range."""
        if not 0.0 < horizon_s <= HORIZON_MAX_S:
            raise ValueError(f"forecast horizon {horizon_s:g} s: must be over 0 and at most {HORIZON_MAX_S:.0f}")
        end_s = start_s + horizon_s
        passes = [
            found for index in range(len(self.network.stations)) for found in self._passes(index, start_s, end_s)
        ]
        passes.sort(key=lambda p: (p.start_s, p.station))
        return Forecast(
            start_s=start_s,
            end_s=end_s,
            eclipses=intervals(lambda t: 0.5 - self.sunlit(t), start_s, end_s),
            passes=tuple(passes),
            contacts=union(passes),
            anomalies=intervals(self._anomaly, start_s, end_s),
        )

    def _passes(self, index: int, start_s: float, end_s: float) -> list[Pass]:
        station = self.network.stations[index]

        def over_mask_deg(world_s: float) -> float:
            return self.network.elevation_deg(index, self.fixed_km(world_s)) - station.mask_deg

        return [
            Pass(
                station=station.name,
                start_s=window.start_s,
                end_s=window.end_s,
                elevation_max_deg=station.mask_deg + max(over_mask_deg(t) for t in _samples(window)),
            )
            for window in intervals(over_mask_deg, start_s, end_s)
        ]

    def _anomaly(self, world_s: float) -> float:
        return self.grid.flux_cm2_s(*geodetic(self.fixed_km(world_s))) - SAA_FLUX_CM2_S


def intervals(value: Callable[[float], float], start_s: float, end_s: float) -> tuple[Window, ...]:
    """Intervals of ``value`` > 0, edges to ``EDGE_S``."""
    found: list[Window] = []
    before_s, before = start_s, value(start_s) > 0.0
    open_s = start_s
    count = max(1, round((end_s - start_s) / SCAN_S))
    for index in range(1, count + 1):
        now_s = start_s + (end_s - start_s) * index / count
        now = value(now_s) > 0.0
        if now != before:
            edge_s = _edge(value, before_s, now_s, before)
            if now:
                open_s = edge_s
            else:
                found.append(Window(start_s=open_s, end_s=edge_s))
        before_s, before = now_s, now
    if before:
        found.append(Window(start_s=open_s, end_s=end_s))
    return tuple(found)


def union(passes: list[Pass]) -> tuple[Window, ...]:
    """Intervals in which at least one pass is on; ``passes`` in order of start."""
    merged: list[Window] = []
    for item in passes:
        if merged and item.start_s <= merged[-1].end_s:
            last = merged.pop()
            merged.append(Window(start_s=last.start_s, end_s=max(last.end_s, item.end_s)))
        else:
            merged.append(Window(start_s=item.start_s, end_s=item.end_s))
    return tuple(merged)


def is_demonstrative(forecast: Forecast) -> bool:
    """Whether one orbit shows everything: it begins and ends in sunlight around one whole eclipse, and has two
    contacts of 5 min or more: the first begins in its first third, another begins after the eclipse or in
    the second half and ends 3 min or more before the orbit does; they are 10 min or more apart."""
    length_s = forecast.end_s - forecast.start_s
    if len(forecast.eclipses) != 1:
        return False
    (eclipse,) = forecast.eclipses
    if eclipse.start_s <= forecast.start_s + 60.0 or eclipse.end_s >= forecast.end_s - 60.0:
        return False
    good = [c for c in forecast.contacts if c.duration_s >= 300.0 and c.start_s > forecast.start_s]
    first = [c for c in good if c.start_s <= forecast.start_s + length_s / 3.0]
    late_s = min(eclipse.end_s, forecast.start_s + length_s / 2.0)
    second = [c for c in good if c.start_s >= late_s and c.end_s <= forecast.end_s - 180.0]
    return any(b.start_s - a.end_s >= 600.0 for a in first for b in second)


def choose_start(geometry: Geometry, length_s: float, horizon_s: float = DAY_S) -> float | None:
    """World time of the first start, in minutes, whose next ``length_s`` is demonstrative; None when there is none.

    One forecast of the whole horizon is cut into windows, so the search costs what the forecast costs.
    """
    whole = geometry.forecast(0.0, min(HORIZON_MAX_S, horizon_s + length_s))
    start_s = 0.0
    while start_s <= horizon_s:
        if is_demonstrative(_cut(whole, start_s, start_s + length_s)):
            return start_s
        start_s += START_SCAN_S
    return None


def before_first_pass(geometry: Geometry, horizon_s: float = DAY_S) -> float | None:
    """World time ``PASS_LEAD_S`` before the first pass that has not begun at time 0; None when there is none."""
    rises = (p.start_s - PASS_LEAD_S for p in geometry.forecast(0.0, min(HORIZON_MAX_S, horizon_s)).passes)
    return next((start_s for start_s in rises if start_s >= 0.0), None)


def _cut(whole: Forecast, start_s: float, end_s: float) -> Forecast:
    def within(windows: tuple[Window, ...]) -> tuple[Window, ...]:
        return tuple(
            Window(start_s=max(start_s, w.start_s), end_s=min(end_s, w.end_s))
            for w in windows
            if w.end_s > start_s and w.start_s < end_s
        )

    return Forecast(
        start_s=start_s,
        end_s=end_s,
        eclipses=within(whole.eclipses),
        passes=tuple(p for p in whole.passes if p.end_s > start_s and p.start_s < end_s),
        contacts=within(whole.contacts),
        anomalies=within(whole.anomalies),
    )


def _samples(window: Window) -> list[float]:
    count = max(2, round(window.duration_s / 5.0))
    return [window.start_s + window.duration_s * index / count for index in range(count + 1)]


def _edge(value: Callable[[float], float], low_s: float, high_s: float, before: bool) -> float:
    while high_s - low_s > EDGE_S:
        middle_s = 0.5 * (low_s + high_s)
        if (value(middle_s) > 0.0) == before:
            low_s = middle_s
        else:
            high_s = middle_s
    return 0.5 * (low_s + high_s)
