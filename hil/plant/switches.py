"""Load switches of the power board: a table of loads, what is commanded and stuck, and a closing switch's inrush.

Each row of the table is a load with its watts. All are on unless commanded off. The under-voltage trip opens every
switch whose load is not essential; it stays open until it has been commanded off and on again.

Inrush. A closing switch charges the load's input capacitance C from the bus, whose source is the battery's V₀
behind R, through the limiter R_s. With τ = (R + R_s) C:

    I(t) = V₀/(R + R_s) · e^{−t/τ}        V_bus(t) = V₀ − R I(t)        energy C V₀²: half stored, half burnt

The dip stays under the trip level for τ ln(R I(0) / (V₀ − V_trip)); the comparator trips when that is longer than
its filter. τ is milliseconds, so a step of the plant holds all of it.
"""

from collections.abc import Collection, Mapping
from math import log
from typing import Annotated, Final

import msgspec
from msgspec import Meta

LOADS_MAX: Final = 32


class LoadSwitch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of the table of loads."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """Name in commands and faults."""
    power_w: Annotated[float, Meta(ge=0.0, le=1e5)]
    """Drawn while the switch is closed."""
    essential: bool = False
    """Kept through an under-voltage."""
    capacitance_f: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Input capacitance that a closing switch charges."""


class Inrush(msgspec.Struct, frozen=True):
    """What a closing switch does to the bus."""

    peak_a: float
    voltage_min_v: float
    energy_j: float
    under_s: float


def inrush(voltage_v: float, source_ohm: float, limiter_ohm: float, capacitance_f: float, trip_v: float) -> Inrush:
    """The transient of charging ``capacitance_f``; ``under_s`` is how long the bus is under ``trip_v``."""
    loop_ohm = source_ohm + limiter_ohm
    peak_a = voltage_v / loop_ohm
    dip_v = source_ohm * peak_a
    above_v = voltage_v - trip_v
    under_s = loop_ohm * capacitance_f * log(dip_v / above_v) if dip_v > above_v > 0.0 else 0.0
    return Inrush(peak_a, voltage_v - dip_v, capacitance_f * voltage_v * voltage_v, under_s)


class SwitchBoard:
    """State of the switches. ``power_w`` and ``on`` hold between calls of ``command``."""

    def __init__(self, loads: tuple[LoadSwitch, ...]) -> None:
        """Raises ``ValueError`` for two loads of one name."""
        self.names = tuple(load.name for load in loads)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"loads: {', '.join(self.names)}: each name once")
        self._loads = loads
        self._dropped: frozenset[str] = frozenset()
        self._off: Collection[str] = frozenset()
        self._tripped = False
        self._stuck: Mapping[str, bool] = {}
        self._settled = False
        self.on: tuple[str, ...] = ()
        self.power_w = 0.0
        self.command(self._off, False)

    def stick(self, stuck: Mapping[str, bool]) -> None:
        """Name the switches that do not obey, with the state they are in."""
        self._stuck, self._settled = stuck, False

    def command(self, off: Collection[str], tripped: bool) -> float:
        """Set the switches; returns the capacitance that is charged by it. ``ValueError`` for an unknown name."""
        if self._settled and off == self._off and tripped == self._tripped:
            return 0.0
        unknown = set(off).difference(self.names)
        if unknown:
            raise ValueError(
                f"plant load switch {sorted(unknown)[0]!r}: unknown; known are {', '.join(self.names) or 'none'}"
            )
        if tripped and not self._tripped:
            self._dropped |= {load.name for load in self._loads if not load.essential}
        self._dropped -= frozenset(off)
        self._off, self._tripped, self._settled = off, tripped, True
        before, on = self.on, []
        for load in self._loads:
            wanted = load.name not in off and load.name not in self._dropped
            if self._stuck.get(load.name, wanted):
                on.append(load)
        self.on = tuple(load.name for load in on)
        self.power_w = sum(load.power_w for load in on)
        return sum(load.capacitance_f for load in on if load.name not in before)
