"""What a flight configuration believes of its satellite, in the plant's own words.

``flightd`` flies with believed values: capacity, efficiencies, array power, the heat path, period and eclipse. This
module reads them from the same file, without the daemon's types (the bench does not import them), so that a
mission is planned with what it will fly with. ``SHARED`` is the whole list; keys that it does not name are the
daemon's business, and the daemon checks them.

The file has no orbit, only a period and an eclipse. Both together are an orbit, up to its node: the circle of that
period, tilted against the Sun until its shadow is that long. ``elements_of`` gives it as a polar circle of the
epoch. Its eclipses are right, its passes mean nothing.
"""

from collections.abc import Mapping
from math import acos, asin, atan2, cos, degrees, hypot, pi, radians, sin
from typing import Any, Final

import msgspec

from flightsw.shell.typed_toml import allowed, convertible, shown

from ..plant.bounds import ALTITUDE_MAX_KM, ALTITUDE_MIN_KM
from ..plant.eps import SOLAR_CONSTANT_W_M2, EpsConfig
from ..plant.geometry import EARTH_RADIUS_KM, days_since_j2000, parse_utc, sun
from ..plant.orbit import CircularOrbit, Elements, eclipse_length_s
from ..plant.thermal import ThermalConfig

BISECTIONS: Final = 60
ECLIPSE_TOLERANCE_S: Final = 30.0
"""A believed eclipse may be this much longer than the longest of its orbit: penumbra, J2, rounding."""

# (section, key) of the flight configuration → (part of the plan, key there). A pair of names is one fact.
SHARED: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("eps", "capacity_wh"): ("eps", "capacity_wh"),
    ("eps", "charge_efficiency"): ("eps", "charge_efficiency"),
    ("eps", "discharge_efficiency"): ("eps", "discharge_efficiency"),
    ("eps", "charge_power_max_w"): ("eps", "charge_power_max_w"),
    ("eps", "bus_power_w"): ("eps", "bus_power_w"),
    ("eps", "transmitter_power_w"): ("eps", "transmitter_power_w"),
    ("eps", "dod_max"): ("limits", "dod_max"),
    ("thermal", "conductance_w_k"): ("thermal", "conductance_w_k"),
    ("thermal", "gpu_capacity_j_k"): ("thermal", "gpu_heat_capacity_j_k"),
    ("thermal", "radiator_capacity_j_k"): ("thermal", "radiator_heat_capacity_j_k"),
    ("thermal", "radiator_area_m2"): ("thermal", "area_m2"),
    ("thermal", "emissivity"): ("thermal", "emissivity"),
    ("thermal", "absorbed_w_m2"): ("thermal", "reference_ir_w_m2"),
    ("thermal", "absorbed_sun_w_m2"): ("thermal", "reference_sun_w_m2"),
    ("thermal", "gpu_limit_degc"): ("limits", "gpu_degc"),
    ("thermal", "radiator_limit_degc"): ("limits", "radiator_degc"),
    ("governor", "gpu_idle_w"): ("card", "idle_w"),
    ("governor", "gpu_max_w"): ("card", "maximum_w"),
    ("radio", "rate_bps"): ("downlink", "rate_bps"),
    ("downlink", "fill"): ("downlink", "share"),
}


class Beliefs(msgspec.Struct, frozen=True, kw_only=True):
    """Values for the parts of a plan document; only keys that the configuration has are in the tables."""

    name: str = ""
    eps: dict[str, float] = {}
    thermal: dict[str, float] = {}
    limits: dict[str, float] = {}
    downlink: dict[str, float] = {}
    card: dict[str, float] = {}
    profile: str = ""
    """Card profile that it names."""
    elements: Elements | None = None
    notes: tuple[str, ...] = ()


def read(raw: Mapping[str, Any]) -> Beliefs:
    """Beliefs of a flight configuration; ``ValueError`` with a line for each value that no satellite has."""
    parts: dict[str, dict[str, float]] = {
        "eps": {},
        "thermal": {},
        "limits": {},
        "downlink": {},
        "card": {},
    }
    complaints: list[str] = []
    for (section, key), (part, name) in SHARED.items():
        if (value := _number(raw, section, key, complaints)) is not None:
            parts[part][name] = value
    array_w = _number(raw, "eps", "array_power_w", complaints)
    if array_w is not None:
        # The plant has an area; the flight software a power in full sun at the Sun's mean distance.
        parts["eps"]["array_area_m2"] = array_w / (SOLAR_CONSTANT_W_M2 * EpsConfig().array_efficiency)
    complaints += _out_of_range(parts)
    period_s = _number(raw, "eps", "orbit_period_s", complaints)
    eclipse_s = _number(raw, "eps", "eclipse_s", complaints)
    elements = None
    if not complaints and period_s is not None:
        try:
            elements = elements_of(period_s, eclipse_s or 0.0)
        except ValueError as error:
            complaints.append(str(error))
    if complaints:
        raise ValueError("\n".join(complaints))
    notes = [f"believed values of the flight configuration: {sum(map(len, parts.values()))} keys"]
    if elements is not None:
        notes.append(f"believed period {period_s:g} s and eclipse {eclipse_s or 0.0:g} s")
    return Beliefs(
        name=_text(raw, "mission", "name"),
        profile=_text(raw, "card", "profile"),
        elements=elements,
        notes=tuple(notes),
        **parts,
    )


def elements_of(period_s: float, eclipse_s: float) -> Elements:
    """A polar circle with this nodal period whose eclipse is this long at its epoch.

    Raises ``ValueError`` when no circle of 250 to 1,200 km has the period, or none of that period the eclipse.
    """
    low_km, high_km = ALTITUDE_MIN_KM, ALTITUDE_MAX_KM
    if not _period_s(low_km) <= period_s <= _period_s(high_km):
        raise ValueError(
            f"eps.orbit_period_s = {period_s:g}: no orbit from {low_km:.0f} to {high_km:.0f} km has it; "
            f"allowed is {_period_s(low_km):.0f} to {_period_s(high_km):.0f}"
        )
    for _ in range(BISECTIONS):
        middle_km = 0.5 * (low_km + high_km)
        low_km, high_km = (middle_km, high_km) if _period_s(middle_km) < period_s else (low_km, middle_km)
    longest_s = eclipse_length_s(low_km, 0.0)
    if eclipse_s > longest_s + ECLIPSE_TOLERANCE_S:
        raise ValueError(
            f"eps.eclipse_s = {eclipse_s:g}: an orbit of {period_s:g} s ({low_km:.0f} km) is dark for "
            f"{longest_s:.0f} s at most"
        )
    # eclipse_length_s solved for beta: cos β = √(h² + 2 R h) / (a cos(π eclipse / period)).
    radius_km = EARTH_RADIUS_KM + low_km
    edge = (radius_km**2 - EARTH_RADIUS_KM**2) ** 0.5 / radius_km
    ratio = edge / cos(pi * min(eclipse_s, longest_s) / period_s)
    beta = acos(min(1.0, ratio)) + (radians(5.0) if eclipse_s <= 0.0 else 0.0)
    elements = Elements(altitude_km=low_km, inclination_deg=90.0, raan_deg=0.0)
    # The normal of a polar orbit lies in the equator: β is the Sun's angle to it, less what its declination takes.
    (x, y, _), _ = sun(days_since_j2000(parse_utc(elements.epoch_utc)))
    off = asin(min(1.0, sin(beta) / hypot(x, y)))
    return msgspec.structs.replace(elements, raan_deg=degrees(atan2(y, x) + off) % 360.0)


def _period_s(altitude_km: float) -> float:
    return CircularOrbit("", Elements(altitude_km=altitude_km, inclination_deg=90.0)).period_s


def _text(raw: Mapping[str, Any], section: str, key: str) -> str:
    table = raw.get(section)
    value = table.get(key, "") if isinstance(table, Mapping) else ""
    return value if isinstance(value, str) else ""


def _number(raw: Mapping[str, Any], section: str, key: str, complaints: list[str]) -> float | None:
    table = raw.get(section, {})
    value = table.get(key) if isinstance(table, Mapping) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not convertible(float(value), float):
        complaints.append(f"{section}.{key} = {shown(value)}: allowed is a number")
        return None
    return float(value)


def _out_of_range(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each value that the plant does not take, in the words of the flight configuration."""
    spoken = {place: f"{section}.{key}" for (section, key), place in SHARED.items()}
    spoken["eps", "array_area_m2"] = "eps.array_power_w"
    found: list[str] = []
    for part, kind in (("eps", EpsConfig), ("thermal", ThermalConfig)):
        for field in msgspec.structs.fields(kind):
            value = parts[part].get(field.name)
            if value is not None and not convertible(value, field.type):
                found.append(
                    f"{spoken[part, field.name]}: the plant's {part}.{field.name} = {value:g}; "
                    f"allowed is {allowed(field.type)}"
                )
    return found
