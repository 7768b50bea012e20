"""What can be wrong with the plant: every fault of it, its one number and that number's range.

A factor is the remaining share of what was there; an offset is added to a reading and leaves the truth alone. A
stray load is drawn from the bus whatever the switches say: a heater that sticks, at thousands of watts a short.

A fault of one of several like parts names it, and each part has it on its own: ``sensor="soc_fraction"``,
``load="heater"``. Its key is then ``sensor_frozen:soc_fraction``.
"""

from collections.abc import Collection, Mapping
from typing import Final

import msgspec


class Parameter(msgspec.Struct, frozen=True):
    """A fault's number, its range, and the kind of part the fault is of; no name is no number."""

    name: str
    low: float = 0.0
    high: float = 0.0
    of: str = ""


FAULTS: Final[dict[str, Parameter]] = {
    "radiator_degrade": Parameter("factor", 0.05, 1.0),
    "array_degrade": Parameter("factor", 0.0, 1.0),
    "battery_bias": Parameter("offset", -1.0, 1.0),
    "gpu_temp_bias": Parameter("offset_k", -100.0, 100.0),
    "stray_load": Parameter("power_w", 0.0, 10_000.0),
    # The loop's flow over the nominal one; 0 is a pump that stands.
    "pump_stop": Parameter("flow_fraction", 0.0, 1.0),
    # Parallel strings of cells that an open cell has taken out; at least one is left.
    "cell_open": Parameter("strings", 1.0, 63.0),
    "resistance_growth": Parameter("factor", 1.0, 20.0),
    "array_string_open": Parameter("strings", 1.0, 1000.0),
    # 1 is stuck closed, 0 stuck open.
    "switch_stuck": Parameter("on", 0.0, 1.0, of="load"),
    "sensor_frozen": Parameter("", of="sensor"),
    "sensor_absurd": Parameter("reading", -1e9, 1e9, of="sensor"),
    "sensor_missing": Parameter("", of="sensor"),
    "sensors_silent": Parameter(""),
}
BIASED_SENSOR: Final = {"battery_bias": "soc_fraction", "gpu_temp_bias": "gpu_temp_degc"}
SENSOR_FAULTS: Final = (
    *BIASED_SENSOR, "sensor_frozen", "sensor_absurd", "sensor_missing", "sensors_silent",
)  # fmt: skip
"""Faults of readings: the truth is as it was, so a replay has them too."""

WITHOUT_NUMBER: Final = 1.0


def checked_fault(
    fault_name: str, parameters: Mapping[str, float | str], parts: Mapping[str, Collection[str]]
) -> tuple[str, float]:
    """Key and number of a fault; ``ValueError`` with one line for a fault, name, part or value outside ``FAULTS``.

    ``parts`` are the names of the parts there are, by kind.
    """
    known_fault(fault_name)
    allowed = FAULTS[fault_name]
    wanted = [name for name in (allowed.of, allowed.name) if name]
    if set(parameters) != set(wanted):
        given = ", ".join(sorted(parameters)) or "none"
        raise ValueError(
            f"plant fault {fault_name}: takes exactly {' and '.join(wanted) or 'none'}, given: {given}"
        )
    key = fault_key(fault_name, parameters)
    if allowed.of and parameters[allowed.of] not in parts[allowed.of]:
        known = ", ".join(parts[allowed.of]) or "none"
        raise ValueError(f"plant fault {fault_name}: {allowed.of} = {parameters[allowed.of]!r}, there are {known}")
    if not allowed.name:
        return key, WITHOUT_NUMBER
    value = parameters[allowed.name]
    if (
        isinstance(value, bool | str)
        or not isinstance(value, int | float)
        or not allowed.low <= value <= allowed.high
    ):
        limits = f"{allowed.low:g} to {allowed.high:g}"
        raise ValueError(f"plant fault {fault_name}: {allowed.name} = {value!r}, allowed is {limits}")
    return key, float(value)


def fault_key(fault_name: str, parameters: Mapping[str, float | str]) -> str:
    """Key of a fault of the table; what ``clear`` takes for one part alone."""
    part = parameters.get(FAULTS[fault_name].of, "") if FAULTS[fault_name].of else ""
    return f"{fault_name}:{part}" if part else fault_name


def known_fault(name: str) -> None:
    """``ValueError`` for a name, or the name of a key, that is not in ``FAULTS``."""
    if name.partition(":")[0] not in FAULTS:
        raise ValueError(f"plant fault {name!r}: unknown; known are {', '.join(FAULTS)}")


class FaultTable:
    """The faults that are on, by key."""

    def __init__(self) -> None:
        self.active: dict[str, float] = {}

    def number(self, name: str, sound: float) -> float:
        """The number of a fault, or ``sound`` when it is not on."""
        return self.active.get(name, sound)

    def of(self, name: str) -> dict[str, float]:
        """Parts that have this fault, with its number."""
        return {key.partition(":")[2]: value for key, value in self.active.items() if key.startswith(name + ":")}

    def clear(self, name: str) -> None:
        """Switch off a fault, by key, or by name of all parts that have it; one that is not on stays off."""
        known_fault(name)
        for key in [k for k in self.active if k == name or k.startswith(name + ":")]:
            del self.active[key]
