"""Reads an NVIDIA card through NVML, field by field. The one place in flightsw that loads an NVML module.

NVML promises little: a card may initialise and then offer nothing at all (Jetson Orin does), a field may come
with a newer driver only, an answer may be a sentinel of all ones, and a card may vanish between two calls. So
every quantity is one row of ``FIELDS``: the calls that can give it, best first, its unit factor and its
believable range. A row yields

    a number   the card said so, and the number is believable;
    None       this card, driver or module does not offer it (its name then stands in ``Sample.unsupported``);
    NaN        it is offered, but this reading failed.

Zero is never a way to say "no value". A row of ``COUNTS`` has no NaN: None without its name in ``unsupported`` is
its failed reading. A later call of a row is tried only when an earlier one is unsupported, never when it fails:
power would otherwise jump between the instantaneous value and the one-second average.

Power is asked three times, because a card's powers are different quantities (``link.power_reading``): each source
of one says its kind and its window.

XID reports are events, not quantities: ``Card.tell_xids`` registers for them and fetches what has come, without
waiting. They are fetched before the quantities, because the report that a card has fallen off the bus (79) is the
last thing it says; numbers and count outlive the session that they came in.

Vendor codes become types here and nowhere else, by ``_KINDS``. NVML_ERROR_NO_PERMISSION counts as unsupported:
what this process may not read, it does not have. A reading without one number, after which NVML is asked to start
again, is a lost card too: after a bus loss some drivers answer every call with NVML_ERROR_UNKNOWN.
"""

import contextlib
import importlib
import time
from collections.abc import Callable
from math import isfinite, nan
from types import ModuleType
from typing import Any, Final

import msgspec

from flightsw.gpu.protocol import Sample
from flightsw.link.power_reading import PowerKind, PowerReading

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 30.0
INSTANT_WINDOW_S: Final = 0.025
"""Length of the sensor's look on A100 and H100 (power-thermal-orbit reference, section 3)."""
AVERAGE_WINDOW_S: Final = 1.0
ALL_ONES_32: Final = 0xFFFFFFFF
ALL_ONES_64: Final = 0xFFFFFFFFFFFFFFFF
XIDS_PER_READ_MAX: Final = 64
"""Reports fetched at one reading; what came beyond waits for the next."""
NAME_CHARACTERS_MAX: Final = 96
XIDS_KEPT: Final = 8
"""Newest reports that a sample carries by number."""


class NvmlError(Exception):
    """Base of what can go wrong with NVML; the text is for people."""


class Unavailable(NvmlError):
    """There is no NVML here: module, shared library, driver or card are missing."""


class Unsupported(NvmlError):
    """This card, driver or module does not offer this one quantity."""


class Lost(NvmlError):
    """The card or the driver is gone; only a new start can bring it back."""


class Failed(NvmlError):
    """This one reading failed; the next may work."""


class Nothing(Failed):
    """Nothing came within the time that was allowed."""


# Numbers of nvml.h, which are part of its stable interface. A code that is not here is ``Failed``.
_KINDS: Final[dict[int, type[NvmlError]]] = {
    1: Lost,  # UNINITIALIZED
    2: Unsupported,  # INVALID_ARGUMENT: the driver does not know this field id.
    3: Unsupported,  # NOT_SUPPORTED
    4: Unsupported,  # NO_PERMISSION
    6: Unsupported,  # NOT_FOUND
    9: Lost,  # DRIVER_NOT_LOADED
    10: Nothing,  # TIMEOUT
    12: Unavailable,  # LIBRARY_NOT_FOUND
    13: Unsupported,  # FUNCTION_NOT_FOUND
    15: Lost,  # GPU_IS_LOST
    16: Lost,  # RESET_REQUIRED
    18: Lost,  # LIB_RM_VERSION_MISMATCH
    25: Unsupported,  # ARGUMENT_VERSION_MISMATCH
    26: Unsupported,  # DEPRECATED
    28: Lost,  # GPU_NOT_FOUND
}

# Member of the value union by NVML_VALUE_TYPE_*.
_UNION: Final = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class Constant(msgspec.Struct, frozen=True):
    """A named NVML constant with its value in nvml.h, for modules that lack the name."""

    name: str
    value: int


class Call(msgspec.Struct, frozen=True):
    """``function(handle, *arguments)``; ``member`` picks a member of a structure that it returns."""

    function: str
    arguments: tuple[Constant, ...] = ()
    member: str = ""
    kind: PowerKind | None = None
    window_s: float = 0.0


class FieldValue(msgspec.Struct, frozen=True):
    """One id asked through ``nvmlDeviceGetFieldValues``."""

    field: Constant
    kind: PowerKind | None = None
    window_s: float = 0.0


class Value(msgspec.Struct, frozen=True):
    """A number, what kind of power reading it is, and when the driver took it (Unix time, NaN: it does not say)."""

    number: float
    kind: PowerKind | None
    window_s: float
    taken_s: float


class Field(msgspec.Struct, frozen=True):
    """One quantity of ``Sample``: where it comes from, its unit factor, its believable range (in the sample's
    unit).

    ``sentinel`` is the raw value by which drivers say "not available".
    """

    name: str
    sources: tuple[Call | FieldValue, ...]
    factor: float
    low: float
    high: float
    sentinel: int = ALL_ONES_32


_XID_CRITICAL: Final = Constant("nvmlEventTypeXidCriticalError", 8)
_GPU_SENSOR: Final = Constant("NVML_TEMPERATURE_GPU", 0)

FIELDS: Final = (
    # A card that answers at all draws power: exactly 0 mW is a reading that failed.
    Field(
        "power_w",
        # On Ampere (but GA100) and later the call is the 1 s average; what is older is taken for no quicker.
        (
            FieldValue(Constant("NVML_FI_DEV_POWER_INSTANT", 186), "instant", INSTANT_WINDOW_S),
            Call("nvmlDeviceGetPowerUsage", kind="average", window_s=AVERAGE_WINDOW_S),
        ),
        1e-3,
        1e-3,
        5000.0,
    ),
    Field(
        "power_average_w",
        (FieldValue(Constant("NVML_FI_DEV_POWER_AVERAGE", 185), "average", AVERAGE_WINDOW_S),),
        1e-3,
        1e-3,
        5000.0,
    ),
    Field(
        "die_degc",
        (
            Call("nvmlDeviceGetTemperature", (_GPU_SENSOR,)),
            Call("nvmlDeviceGetTemperatureV1", (_GPU_SENSOR,)),
        ),
        1.0,
        -80.0,
        200.0,
    ),
    Field("memory_degc", (FieldValue(Constant("NVML_FI_DEV_MEMORY_TEMP", 82)),), 1.0, -80.0, 200.0),
    Field(
        "energy_j",
        (
            Call("nvmlDeviceGetTotalEnergyConsumption", kind="energy"),
            FieldValue(Constant("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 83), "energy"),
        ),
        1e-3,
        0.0,
        1e15,
        ALL_ONES_64,
    ),
    Field("utilisation_fraction", (Call("nvmlDeviceGetUtilizationRates", (), "gpu"),), 1e-2, 0.0, 1.0),
    # Volatile counts start with the driver; aggregate ones would carry the ground's history into flight.
    Field(
        "ecc_corrected",
        (
            Call(
                "nvmlDeviceGetTotalEccErrors",
                (Constant("NVML_MEMORY_ERROR_TYPE_CORRECTED", 0), Constant("NVML_VOLATILE_ECC", 0)),
            ),
            FieldValue(Constant("NVML_FI_DEV_ECC_SBE_VOL_TOTAL", 3)),
        ),
        1.0,
        0.0,
        1e12,
        ALL_ONES_64,
    ),
    Field(
        "ecc_uncorrected",
        (
            Call(
                "nvmlDeviceGetTotalEccErrors",
                (Constant("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", 1), Constant("NVML_VOLATILE_ECC", 0)),
            ),
            FieldValue(Constant("NVML_FI_DEV_ECC_DBE_VOL_TOTAL", 4)),
        ),
        1.0,
        0.0,
        1e12,
        ALL_ONES_64,
    ),
    Field(
        "throttle_reasons",
        (Call("nvmlDeviceGetCurrentClocksEventReasons"), Call("nvmlDeviceGetCurrentClocksThrottleReasons")),
        1.0,
        0.0,
        2.0**32,
        ALL_ONES_64,
    ),
    Field("power_limit_w", (Call("nvmlDeviceGetPowerManagementLimit"),), 1e-3, 0.0, 5000.0),
    Field("power_limit_enforced_w", (Call("nvmlDeviceGetEnforcedPowerLimit"),), 1e-3, 0.0, 5000.0),
    # Degrees to slowdown: an absolute threshold is no longer the way to ask on newer cards.
    Field("slowdown_margin_k", (Call("nvmlDeviceGetMarginTemperature"),), 1.0, -100.0, 200.0),
)

COUNTS: Final = ("ecc_corrected", "ecc_uncorrected", "throttle_reasons")
"""Fields that are whole numbers in a sample."""
XID: Final = "xid"
"""Name under which XID reports stand in ``Sample.unsupported``."""
FIELD_NAMES: Final = (*(field.name for field in FIELDS), XID)


def kind_of(code: object) -> type[NvmlError]:
    """The typed error for an NVML return code; ``Failed`` for one that is not known."""
    return _KINDS.get(code, Failed) if isinstance(code, int) else Failed


class Card:
    """One open NVML session on one card. Every method raises ``NvmlError`` only."""

    def __init__(self, module_name: str, index: int) -> None:
        """Load the module, start NVML, find the card."""
        self._events: Any = None
        try:
            self._module: ModuleType = importlib.import_module(module_name)
        except Exception as error:
            raise Unavailable(f"no NVML module {module_name!r}: {error}") from error
        try:
            self._call("nvmlInit")
            self._handle = self._call("nvmlDeviceGetHandleByIndex", index)
        except Unsupported as error:
            raise Unavailable(f"card {index} is not there: {error}") from error

    def name(self) -> str:
        """What the card calls itself, cut to ``NAME_CHARACTERS_MAX``; empty when it does not say."""
        try:
            raw = self._call("nvmlDeviceGetName", self._handle)
        except (Unsupported, Failed):
            return ""
        text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
        return text[:NAME_CHARACTERS_MAX]

    def value(self, field: Field) -> Value:
        """One quantity now, in the sample's unit; ``Unsupported`` when no source offers it."""
        for source in field.sources:
            try:
                raw, taken_s = self._ask(source)
            except Unsupported:
                continue
            if raw == field.sentinel:
                continue
            if not isinstance(raw, int | float):
                raise Failed(f"{field.name}: {raw!r} is no number")
            value = raw * field.factor
            if not field.low <= value <= field.high:
                raise Failed(f"{field.name}: {value:g} is outside {field.low:g} to {field.high:g}")
            return Value(value, source.kind, source.window_s, taken_s)
        raise Unsupported(field.name)

    def ask(self, function: str, *arguments: object) -> Any:
        """The answer of any function about this card, as the module gives it."""
        return self._call(function, self._handle, *arguments)

    def identity(self) -> str:
        """What tells this card from every other one: its UUID, or its name where it has none."""
        for function in ("nvmlDeviceGetUUID", "nvmlDeviceGetName"):
            try:
                answer = self.ask(function)
            except Unsupported:
                continue
            return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
        raise Unsupported("neither a UUID nor a name")

    def tell_xids(self, tell: Callable[[int], None]) -> None:
        """Each XID reported since the last call, oldest first, at most ``XIDS_PER_READ_MAX``; never waits.

        The first call registers for them: what was reported before is not told.
        """
        if self._events is None:
            events = self._call("nvmlEventSetCreate")
            try:
                self._call("nvmlDeviceRegisterEvents", self._handle, self._constant(_XID_CRITICAL), events)
            except NvmlError:
                self._free(events)
                raise
            self._events = events
        for _ in range(XIDS_PER_READ_MAX):
            try:
                event = self._call("nvmlEventSetWait_v2", self._events, 0)
            except Nothing:
                return
            try:
                if event.eventType & self._constant(_XID_CRITICAL):
                    tell(int(event.eventData))
            except (AttributeError, TypeError, ValueError) as error:
                raise Failed(f"{XID}: answer of an unknown shape ({error})") from error

    def close(self) -> None:
        """End the session; a module that cannot end it is left as it is."""
        if self._events is not None:
            self._free(self._events)
            self._events = None
        # The card is being given up because it is broken; there is no one left to tell.
        with contextlib.suppress(NvmlError):
            self._call("nvmlShutdown")

    def _free(self, events: object) -> None:
        with contextlib.suppress(NvmlError):
            self._call("nvmlEventSetFree", events)

    def _ask(self, source: Call | FieldValue) -> tuple[Any, float]:
        """The raw answer, and when it was taken."""
        if isinstance(source, Call):
            answer = self._call(source.function, self._handle, *map(self._constant, source.arguments))
            return getattr(answer, source.member, None) if source.member else answer, nan
        answers = self._call("nvmlDeviceGetFieldValues", self._handle, [self._constant(source.field)])
        try:
            answer = answers[0]
            code = answer.nvmlReturn
            if code != 0:
                raise kind_of(code)(f"{source.field.name}: NVML code {code}")
            stamp_us = getattr(answer, "timestamp", 0)
            taken_s = stamp_us * 1e-6 if isinstance(stamp_us, int) and stamp_us > 0 else nan
            return getattr(answer.value, _UNION[answer.valueType]), taken_s
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise Failed(f"{source.field.name}: answer of an unknown shape ({error})") from error

    def _constant(self, constant: Constant) -> Any:
        return getattr(self._module, constant.name, constant.value)

    def _call(self, function: str, *arguments: object) -> Any:
        call: Callable[..., Any] | None = getattr(self._module, function, None)
        if call is None:
            raise Unsupported(f"the module has no {function}")
        try:
            return call(*arguments)
        except Exception as error:
            raise kind_of(getattr(error, "value", None))(f"{function}: {error}") from error


class NvmlReader:
    """A card that is read for ever: it is opened again, with back-off, whenever it is lost."""

    source: Final = "nvml"

    def __init__(self, module_name: str, index: int, unix_s: Callable[[], float] = time.time) -> None:
        """``unix_s`` is the clock of the driver's time stamps."""
        self._module_name = module_name
        self._index = index
        self._unix_s = unix_s
        self._energy_j = nan
        self._energy_moved_s = nan
        self._card: Card | None = None
        self._name = ""
        self._unsupported: tuple[str, ...] = ()
        self._xids: tuple[int, ...] = ()
        self._xid_count: int | None = None
        self._retry_s = RETRY_FIRST_S
        self._retry_at_s = float("-inf")
        self.fault: str = ""
        """Why the card is lost; empty while it answers."""

    def open(self) -> None:
        """Start NVML; ``NvmlError`` when there is no card to read."""
        card = Card(self._module_name, self._index)
        try:
            self._name = card.name()
        except NvmlError:
            card.close()
            raise
        self._card = card

    def read(self, sequence: int, now_s: float) -> Sample:
        """One sample, whatever the card does. ``now_s`` is machine time."""
        if self._card is None and not self._reopened(now_s):
            return self._sample(sequence, {})
        assert self._card is not None
        values: dict[str, float] = {}
        readings: list[PowerReading] = []
        missing: set[str] = set()
        reason = ""
        try:
            try:
                self._card.tell_xids(self._note)
                self._xid_count = self._xid_count or 0
            except Unsupported:
                missing.add(XID)
            except Failed as error:
                reason = str(error)
            for field in FIELDS:
                try:
                    value = self._card.value(field)
                    values[field.name] = value.number
                    if value.kind is not None:
                        readings.append(self._reading(value.kind, value, now_s))
                except Unsupported:
                    missing.add(field.name)
                except Failed as error:
                    reason = str(error)
        except NvmlError as error:
            # What is neither unsupported nor a failed reading is a lost card.
            self._lose(str(error), now_s)
            return self._sample(sequence, {})
        self._unsupported = tuple(name for name in FIELD_NAMES if name in missing)
        if reason and not values:
            self._lose(f"no field can be read ({reason})", now_s)
        else:
            self._retry_s = RETRY_FIRST_S
            self.fault = ""
        return self._sample(sequence, values, tuple(readings))

    def close(self) -> None:
        """End NVML."""
        if self._card is not None:
            self._card.close()
            self._card = None

    def _reading(self, kind: PowerKind, value: Value, now_s: float) -> PowerReading:
        """Age by the driver's own stamp; a counter without one is as old as its last move."""
        age_s = self._unix_s() - value.taken_s
        if age_s < 0.0:
            age_s = 0.0
        if kind == "energy":
            if value.number != self._energy_j:
                self._energy_j, self._energy_moved_s = value.number, now_s
            if age_s != age_s:
                age_s = now_s - self._energy_moved_s
        return PowerReading(kind, value.number, value.window_s, age_s)

    def _note(self, xid: int) -> None:
        self._xids = (*self._xids, xid)[-XIDS_KEPT:]
        self._xid_count = (self._xid_count or 0) + 1

    def _reopened(self, now_s: float) -> bool:
        if now_s < self._retry_at_s:
            return False
        try:
            self.open()
        except NvmlError as error:
            self._lose(str(error), now_s)
            return False
        return True

    def _lose(self, reason: str, now_s: float) -> None:
        self.close()
        self.fault = reason
        self._retry_at_s = now_s + self._retry_s
        self._retry_s = min(2.0 * self._retry_s, RETRY_MAX_S)

    def _sample(self, sequence: int, values: dict[str, float], power: tuple[PowerReading, ...] = ()) -> Sample:
        readings: dict[str, Any] = {
            field.name: None if field.name in self._unsupported else values.get(field.name, nan) for field in FIELDS
        }
        for name in COUNTS:
            count = readings[name]
            readings[name] = int(count) if count is not None and isfinite(count) else None
        return Sample(
            sequence=sequence,
            source=self.source,
            card=self._name,
            unsupported=self._unsupported,
            xids=self._xids,
            xid_count=None if XID in self._unsupported else self._xid_count,
            readings=power,
            **readings,
        )
