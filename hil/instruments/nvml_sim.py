"""NVML's functions over the simulated card: what the daemon's probe loads where there is no GPU.

The names, units, constants and exceptions are those of ``pynvml``, so that the probe runs the code it runs on a
real card. The numbers come from the file named by the environment variable ``GPUSAT_SIM_GPU``, which the bench
rewrites with every step of its plant (see ``card_state``). Milliwatts, millijoules, whole degrees and percent,
as NVML gives them: the quantisation is part of the instrument.

A card without power has fallen off the bus: every call about it raises ``NVML_ERROR_GPU_IS_LOST``, except that
events which came before are still delivered. Fields that this card does not have answer
``NVML_ERROR_NOT_SUPPORTED``, never zero.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from .card_state import ENVIRONMENT, CardFile, CardState

# Values of nvml.h.
NVML_SUCCESS: Final = 0
NVML_ERROR_UNINITIALIZED: Final = 1
NVML_ERROR_INVALID_ARGUMENT: Final = 2
NVML_ERROR_NOT_SUPPORTED: Final = 3
NVML_ERROR_DRIVER_NOT_LOADED: Final = 9
NVML_ERROR_TIMEOUT: Final = 10
NVML_ERROR_GPU_IS_LOST: Final = 15
NVML_ERROR_UNKNOWN: Final = 999

NVML_TEMPERATURE_GPU: Final = 0
NVML_MEMORY_ERROR_TYPE_CORRECTED: Final = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED: Final = 1
NVML_VOLATILE_ECC: Final = 0
NVML_AGGREGATE_ECC: Final = 1

nvmlEventTypeXidCriticalError: Final = 0x8

NVML_FI_DEV_MEMORY_TEMP: Final = 82
NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: Final = 83
NVML_FI_DEV_POWER_AVERAGE: Final = 185
NVML_FI_DEV_POWER_INSTANT: Final = 186

NVML_VALUE_TYPE_UNSIGNED_INT: Final = 1
NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: Final = 3

NAME: Final = "Simulated GPU (hil)"
LIMIT_MIN_MW: Final = 200_000
LIMIT_MW: Final = 700_000
"""Range of the power limit of an H100 SXM (power-thermal-orbit reference, section 3)."""
SLOWDOWN_DEGC: Final = 90.0

_TEXTS: Final = {
    NVML_ERROR_UNINITIALIZED: "Uninitialized",
    NVML_ERROR_INVALID_ARGUMENT: "Invalid Argument",
    NVML_ERROR_NOT_SUPPORTED: "Not Supported",
    NVML_ERROR_DRIVER_NOT_LOADED: "Driver Not Loaded",
    NVML_ERROR_TIMEOUT: "Timeout",
    NVML_ERROR_GPU_IS_LOST: "GPU is lost",
    NVML_ERROR_UNKNOWN: "Unknown Error",
}


class NVMLError(Exception):
    """An NVML return code as an exception; ``value`` is the code."""

    def __init__(self, value: int) -> None:
        super().__init__(_TEXTS.get(value, f"NVML error {value}"))
        self.value = value


class Utilization(msgspec.Struct, frozen=True):
    """``nvmlUtilization_t``: percent."""

    gpu: int
    memory: int


class Value(msgspec.Struct, frozen=True):
    """``nvmlValue_t``: the member that ``valueType`` names is the one that counts."""

    uiVal: int = 0
    ullVal: int = 0


class FieldValue(msgspec.Struct, frozen=True):
    """``nvmlFieldValue_t``: ``value`` counts only when ``nvmlReturn`` is ``NVML_SUCCESS``."""

    fieldId: int
    nvmlReturn: int
    valueType: int
    value: Value
    timestamp: int = 0


class Handle(msgspec.Struct, frozen=True):
    """A device handle of this session."""

    index: int


class EventData(msgspec.Struct, frozen=True):
    """``nvmlEventData_t``: what happened, and for an XID its number."""

    device: Handle
    eventType: int
    eventData: int
    gpuInstanceId: int = 0xFFFFFFFF
    computeInstanceId: int = 0xFFFFFFFF


class EventSet:
    """``nvmlEventSet_t``: XID reports from the moment of registration on; ``told`` is the count up to there."""

    def __init__(self) -> None:
        self.device: Handle | None = None
        self.told = 0


class _Session:
    """The file that this process has mapped; None before ``nvmlInit``."""

    file: CardFile | None = None


def nvmlInit() -> None:
    """Map the card's file; ``NVML_ERROR_DRIVER_NOT_LOADED`` when there is none."""
    path = os.environ.get(ENVIRONMENT, "")
    if not path:
        raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED)
    nvmlShutdown()
    try:
        _Session.file = CardFile(Path(path), create=False)
    except (OSError, ValueError) as error:
        raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED) from error


def nvmlShutdown() -> None:
    """Unmap the file; harmless when nothing is mapped."""
    if _Session.file is not None:
        _Session.file.close()
        _Session.file = None


def nvmlDeviceGetCount() -> int:
    """There is one card."""
    _state()
    return 1


def nvmlDeviceGetHandleByIndex(index: int) -> Handle:
    """The card has index 0."""
    _state()
    if index != 0:
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return Handle(index)


def nvmlDeviceGetName(handle: Handle) -> str:
    """A name that nobody takes for a real card's."""
    _state()
    return NAME


def nvmlDeviceGetPowerUsage(handle: Handle) -> int:
    """Milliwatts, the average of a second as on every card since Ampere (but GA100)."""
    return round(_average_w(_state()) * 1e3)


def nvmlDeviceGetPowerManagementLimit(handle: Handle) -> int:
    """Milliwatts; nobody changes it."""
    _state()
    return LIMIT_MW


def nvmlDeviceGetEnforcedPowerLimit(handle: Handle) -> int:
    """Milliwatts: the only limit is the card's own."""
    _state()
    return LIMIT_MW


def nvmlDeviceGetPowerManagementLimitConstraints(handle: Handle) -> list[int]:
    """Least and most power limit, milliwatts."""
    _state()
    return [LIMIT_MIN_MW, LIMIT_MW]


def nvmlDeviceGetMarginTemperature(handle: Handle) -> int:
    """Whole kelvin to slowdown."""
    return round(SLOWDOWN_DEGC - _state().die_degc)


def nvmlDeviceGetTemperature(handle: Handle, sensor: int) -> int:
    """Whole degrees Celsius of the die."""
    if sensor != NVML_TEMPERATURE_GPU:
        raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)
    return round(_state().die_degc)


def nvmlDeviceGetTotalEnergyConsumption(handle: Handle) -> int:
    """Millijoules since the bench started."""
    return round(_state().energy_j * 1e3)


def nvmlDeviceGetUtilizationRates(handle: Handle) -> Utilization:
    """Percent of time with work; memory is not simulated and shows the same."""
    percent = round(_state().utilisation_fraction * 100.0)
    return Utilization(gpu=percent, memory=percent)


def nvmlDeviceGetTotalEccErrors(handle: Handle, error_type: int, counter_type: int) -> int:
    """Volatile errors; aggregate counts are not supported."""
    if counter_type != NVML_VOLATILE_ECC:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    state = _state()
    match error_type:
        case 0:
            return state.ecc_corrected
        case 1:
            return state.ecc_uncorrected
        case _:
            raise NVMLError(NVML_ERROR_INVALID_ARGUMENT)


def nvmlDeviceGetCurrentClocksEventReasons(handle: Handle) -> int:
    """Bit mask of why the clocks are slow."""
    return _state().throttle_reasons


def nvmlEventSetCreate() -> EventSet:
    """An event set in which nothing is registered."""
    _state()
    return EventSet()


def nvmlDeviceRegisterEvents(handle: Handle, event_types: int, event_set: EventSet) -> None:
    """XID reports from now on; other events are not supported."""
    if event_types != nvmlEventTypeXidCriticalError:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    event_set.told = _state().xid_count
    event_set.device = handle


def nvmlEventSetWait_v2(event_set: EventSet, timeout_ms: int) -> EventData:
    """The next XID report; ``NVML_ERROR_TIMEOUT`` at once when there is none, whatever ``timeout_ms`` allows.

    A simulated card keeps the last few numbers only: of more that came between two calls, the oldest are lost.
    """
    state = _recorded()
    waiting = state.xid_count - event_set.told
    if event_set.device is None or waiting <= 0:
        if not state.powered:
            raise NVMLError(NVML_ERROR_GPU_IS_LOST)
        raise NVMLError(NVML_ERROR_TIMEOUT)
    kept = min(waiting, len(state.xids))
    event_set.told = state.xid_count - kept + 1
    return EventData(event_set.device, nvmlEventTypeXidCriticalError, state.xids[-kept])


def nvmlEventSetFree(event_set: EventSet) -> None:
    """Nothing is held."""


def nvmlDeviceGetFieldValues(handle: Handle, field_ids: list[int]) -> list[FieldValue]:
    """Values by field id, each with its own return code."""
    state = _state()
    return [_field(state, field_id) for field_id in field_ids]


def _field(state: CardState, field_id: int) -> FieldValue:
    match field_id:
        case 185:
            number, kind = round(_average_w(state) * 1e3), NVML_VALUE_TYPE_UNSIGNED_INT
        case 186:
            number, kind = round(state.power_w * 1e3), NVML_VALUE_TYPE_UNSIGNED_INT
        case 82:
            number, kind = round(state.memory_degc), NVML_VALUE_TYPE_UNSIGNED_INT
        case 83:
            number, kind = round(state.energy_j * 1e3), NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        case _:
            return FieldValue(field_id, NVML_ERROR_NOT_SUPPORTED, NVML_VALUE_TYPE_UNSIGNED_INT, Value())
    return FieldValue(field_id, NVML_SUCCESS, kind, Value(uiVal=number, ullVal=number))


def _average_w(state: CardState) -> float:
    return state.power_w if state.power_average_w is None else state.power_average_w


def _recorded() -> CardState:
    """What the bench shows now; raises as NVML does when there is no session or no record."""
    if _Session.file is None:
        raise NVMLError(NVML_ERROR_UNINITIALIZED)
    state = _Session.file.read()
    if state is None:
        raise NVMLError(NVML_ERROR_UNKNOWN)
    return state


def _state() -> CardState:
    """The card now; one without power is lost."""
    state = _recorded()
    if not state.powered:
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    return state
