"""What can be wrong with the plant: every fault of it, its one parameter and that parameter's range.

A factor is the remaining share of what was there; an offset is added to a reading and leaves the truth alone. A
stray load is drawn from the bus whatever the switches say: a heater that sticks, at thousands of watts a short.
"""

from typing import Final

import msgspec


class Parameter(msgspec.Struct, frozen=True):
    """A fault's parameter and its range."""

    name: str
    low: float
    high: float


FAULTS: Final[dict[str, Parameter]] = {
    "radiator_degrade": Parameter("factor", 0.05, 1.0),
    "array_degrade": Parameter("factor", 0.0, 1.0),
    "battery_bias": Parameter("offset", -1.0, 1.0),
    "gpu_temp_bias": Parameter("offset_k", -100.0, 100.0),
    "stray_load": Parameter("power_w", 0.0, 10_000.0),
}
BIASED_SENSOR: Final = {"battery_bias": "soc_fraction", "gpu_temp_bias": "gpu_temp_degc"}


def checked_parameter(fault_name: str, parameters: dict[str, float]) -> float:
    """The value of the fault's parameter; ``ValueError`` for a fault, name or value outside ``FAULTS``."""
    if fault_name not in FAULTS:
        raise ValueError(f"plant fault {fault_name!r}: unknown; known are {', '.join(FAULTS)}")
    allowed = FAULTS[fault_name]
    if set(parameters) != {allowed.name}:
        given = ", ".join(sorted(parameters)) or "none"
        raise ValueError(f"plant fault {fault_name}: takes exactly {allowed.name}, given: {given}")
    value = parameters[allowed.name]
    if type(value) not in (int, float) or not allowed.low <= value <= allowed.high:
        limits = f"{allowed.low:g} to {allowed.high:g}"
        raise ValueError(f"plant fault {fault_name}: {allowed.name} = {value!r}, allowed is {limits}")
    return float(value)
