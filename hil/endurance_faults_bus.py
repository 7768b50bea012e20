"""Faults of sensors, power and heat, as the bus would have them.

Readings that cannot be are ignored and then stale; stale sensors idle the card and end in SAFE; a limit that is
passed ends in SAFE with the rail shed. What changes the real world without breaking a limit is to be absorbed:
the mission goes on, within the limits.
"""

# ruff: noqa: E501 - the table has one fact per line.

from collections.abc import Callable
from random import Random
from typing import Any, Final

from flightsw.link.avionics import SensorFrame

from .endurance_fault import (
    ENTERED_SAFE,
    IDLE,
    NEEDLESS_SAFE,
    PAYLOAD_OFF,
    RAIL_OFF,
    SAFE,
    SERVING,
    Fault,
    also,
    event,
    lit,
)
from .endurance_world import World, replaced

SHORT_W: Final = 7500.0
SHORT_SOC_MIN: Final = 0.85


def filtered(change: Callable[[SensorFrame], SensorFrame | None]) -> Callable[[World, Random], None]:
    """Begin: every sensor frame passes through ``change``."""

    def begin(world: World, random: Random) -> None:
        world.filters["fault"] = change

    return begin


def unfiltered(world: World) -> None:
    """End: sensors as they are."""
    world.filters.pop("fault", None)


def reading(**values: Any) -> Callable[[World, Random], None]:
    """Begin: these fields read these values."""
    return filtered(lambda frame: replaced(frame, values))


def offset(field: str, by: float) -> Callable[[World, Random], None]:
    """Begin: this field reads too much."""
    return filtered(lambda frame: replaced(frame, {field: getattr(frame, field) + by}))


def frozen(world: World, random: Random) -> None:
    """Begin: the bus repeats its last frame, sequence number and all."""
    held: list[SensorFrame] = []

    def repeat(frame: SensorFrame) -> SensorFrame:
        held.append(frame) if not held else None
        return held[0]

    world.filters["fault"] = repeat


def reordered(world: World, random: Random) -> None:
    """Begin: every other frame comes a second time, late."""
    late: list[SensorFrame] = []

    def swap(frame: SensorFrame) -> SensorFrame:
        if late:
            return late.pop()
        late.append(frame)
        return frame

    world.filters["fault"] = swap


def plant(name: str, parameter: str, low: float, high: float) -> tuple[Any, Any]:
    """Begin and end of a fault of the plant with a parameter drawn from a range."""

    def begin(world: World, random: Random) -> None:
        world.plant.inject(name, **{parameter: random.uniform(low, high)})

    def end(world: World) -> None:
        world.plant.clear(name)

    return begin, end


_BLIND: Final[dict[str, Any]] = {
    "answers": (event("SENSORS_STALE"), IDLE, SAFE),
    "deadline_s": 25.0,
    "span_s": (30.0, 90.0),
}
_SHED: Final[dict[str, Any]] = {"deadline_s": 45.0, "span_s": (60.0, 180.0)}
_SHED_ANSWER: Final = (ENTERED_SAFE, SAFE, PAYLOAD_OFF, RAIL_OFF)
_ABSORBED: Final[dict[str, Any]] = {"forbidden": (ENTERED_SAFE,), "recovery_s": 120.0}
_WITHIN: Final[dict[str, Any]] = {"forbidden": (NEEDLESS_SAFE,), "recovery_s": 120.0}
_HARD_BEGIN, _HARD_END = plant("stray_load", "power_w", SHORT_W, SHORT_W)
_LOW_BEGIN, _LOW_END = plant("battery_bias", "offset", -0.45, -0.35)
_HIGH_BEGIN, _HIGH_END = plant("battery_bias", "offset", 0.02, 0.05)
_HOT_BEGIN, _HOT_END = plant("gpu_temp_bias", "offset_k", 90.0, 100.0)
_DARK_BEGIN, _DARK_END = plant("array_degrade", "factor", 0.0, 0.04)
_HALF_BEGIN, _HALF_END = plant("array_degrade", "factor", 0.4, 0.6)
_RADIATOR_BEGIN, _RADIATOR_END = plant("radiator_degrade", "factor", 0.3, 0.6)
_HEATER_BEGIN, _HEATER_END = plant("stray_load", "power_w", 100.0, 250.0)

ROWS: Final = (
    Fault(name="sensors_missing", text="no sensor frame comes", begin=filtered(lambda frame: None), end=unfiltered, **_BLIND),
    Fault(name="sensors_frozen", text="the bus repeats one frame", begin=frozen, end=unfiltered, **_BLIND),
    Fault(
        name="sensors_hiccup", text="no sensor frame for a few seconds", begin=filtered(lambda frame: None), end=unfiltered,
        span_s=(4.0, 8.0), answers=(event("SENSORS_STALE"), IDLE), deadline_s=8.0,
        forbidden=(ENTERED_SAFE,), recovered=(SERVING, event("SENSORS_RECOVERED")), recovery_s=20.0,
    ),
    Fault(
        name="frames_reordered", text="every other frame is an old one", begin=reordered, end=unfiltered,
        span_s=(30.0, 120.0), **_ABSORBED,
    ),
    Fault(name="soc_absurd", text="the fuel gauge reads 42", begin=reading(soc_fraction=42.0), end=unfiltered, **_BLIND),
    Fault(name="soc_missing", text="the fuel gauge gives no value", begin=reading(soc_fraction=float("nan")), end=unfiltered, **_BLIND),
    Fault(name="gpu_temp_absurd", text="the GPU node reads -273 degC", begin=reading(gpu_temp_degc=-273.0), end=unfiltered, **_BLIND),
    Fault(name="gpu_temp_missing", text="the GPU node gives no value", begin=reading(gpu_temp_degc=float("nan")), end=unfiltered, **_BLIND),
    Fault(name="radiator_missing", text="the radiator gives no value", begin=reading(radiator_temp_degc=float("nan")), end=unfiltered, **_BLIND),
    Fault(
        name="bus_voltage_absurd", text="the bus reads a billion volts", begin=reading(bus_voltage_v=1e9), end=unfiltered,
        span_s=(10.0, 60.0), answers=(event("SENSOR_INVALID", "bus_voltage_v"),), deadline_s=5.0, **_ABSORBED,
    ),
    Fault(
        name="soc_reads_low", text="the fuel gauge reads 0.4 too little", begin=_LOW_BEGIN, end=_LOW_END,
        answers=(event("SOC_LOW"), *_SHED_ANSWER), **_SHED,
    ),
    Fault(
        name="soc_reads_high", text="the fuel gauge reads a little too much", begin=_HIGH_BEGIN, end=_HIGH_END,
        span_s=(120.0, 400.0), **_ABSORBED,
    ),
    Fault(
        name="gpu_node_hot", text="the GPU node reads over its limit", begin=_HOT_BEGIN, end=_HOT_END,
        answers=(event("GPU_HOT"), *_SHED_ANSWER), **_SHED,
    ),
    Fault(
        name="radiator_hot", text="the radiator reads over its limit", begin=offset("radiator_temp_degc", 90.0), end=unfiltered,
        answers=(event("RADIATOR_HOT"), *_SHED_ANSWER), **_SHED,
    ),
    Fault(
        name="bus_reads_low", text="the bus reads 20 V", begin=reading(bus_voltage_v=20.0), end=unfiltered,
        answers=(event("BUS_UNDERVOLTAGE"), *_SHED_ANSWER), **_SHED,
    ),
    Fault(
        name="short_circuit", text="a short of 7.5 kW on the bus, the power board drops the GPU's rail",
        begin=_HARD_BEGIN, end=_HARD_END, span_s=(4.0, 8.0), deadline_s=45.0,
        ready=also(SERVING, "lit, well charged", lambda w: lit(w) and w.plant.truth().soc_fraction > SHORT_SOC_MIN),
        answers=(event("BUS_UNDERVOLTAGE"), *_SHED_ANSWER), recovery_s=120.0,
    ),
    Fault(
        name="array_lost", text="the solar array gives next to nothing in sunlight", begin=_DARK_BEGIN, end=_DARK_END,
        span_s=(240.0, 400.0), ready=also(SERVING, "lit", lit), answers=(IDLE,), deadline_s=220.0, recovery_s=120.0,
    ),
    Fault(
        name="array_halved", text="half the solar array is gone", begin=_HALF_BEGIN, end=_HALF_END,
        span_s=(600.0, 1500.0), **_WITHIN,
    ),
    Fault(
        name="radiator_degraded", text="much of the radiator is lost", begin=_RADIATOR_BEGIN, end=_RADIATOR_END,
        span_s=(900.0, 2400.0), **_WITHIN,
    ),
    Fault(
        name="heater_stuck", text="a heater draws what nobody asked for", begin=_HEATER_BEGIN, end=_HEATER_END,
        span_s=(300.0, 900.0), **_WITHIN,
    ),
)  # fmt: skip
