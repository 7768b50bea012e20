"""Types of the dictionary: what a telecommand, parameter, packet and event report *is*.

The tables themselves are in ``dictionary``. Keeping types and tables apart lets the codec, the ICD and the
XTCE export depend on the shape without depending on the content.

Numbers that travel are fixed here once (``Mode``, ``Severity``, ``Stage``, ``FailureCode``): an enumeration
goes over the wire as its code, so a code is never reused and never renumbered.
"""

from enum import IntEnum, StrEnum, unique
from typing import Any

import msgspec


@unique
class Mode(IntEnum):
    """Vehicle mode. SAFE is a mode, not an error."""

    BOOT = 0
    SAFE = 1
    NOMINAL = 2
    COMPUTE = 3
    DOWNLINK = 4


@unique
class Severity(IntEnum):
    """Severity of an event report; at CRITICAL and above it is never filtered or shed."""

    DIAGNOSTIC = 0
    INFO = 1
    WARNING = 2
    ERROR = 3
    CRITICAL = 4
    FATAL = 5


@unique
class Stage(IntEnum):
    """PUS service 1 stages; the value is the subtype of the success report, +1 is the failure report."""

    ACCEPTANCE = 1
    START = 3
    PROGRESS = 5
    COMPLETION = 7


@unique
class FailureCode(IntEnum):
    """Why a telecommand was refused or failed. NONE marks success."""

    NONE = 0
    NOT_AUTHENTIC = 1
    REPLAYED = 2
    UNKNOWN_COMMAND = 3
    MALFORMED = 4
    BAD_ARGUMENT = 5
    MODE_FORBIDS = 6
    NOT_ARMED = 7
    BUSY = 8
    UNKNOWN_TARGET = 9
    EXECUTION_FAILED = 10
    TIMEOUT = 11
    INVALID_TABLE = 12
    NOT_STAGED = 13
    NOT_VALIDATED = 14
    WRONG_STATE = 15


@unique
class Hazard(StrEnum):
    """NONE executes at once; HAZARDOUS needs an ``arm`` of the same opcode within the arming window."""

    NONE = "none"
    HAZARDOUS = "hazardous"


@unique
class ArgumentType(StrEnum):
    """Type of one telecommand argument as it stands in the msgpack body."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    TEXT = "text"
    ENUM = "enum"
    BYTES = "bytes"


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """One argument of a telecommand.

    ``minimum`` and ``maximum`` bound INT and FLOAT values, and the length of TEXT in characters,
    of BYTES in octets.
    ``choices`` names the codes of an ENUM (code is the position in the tuple unless ``codes`` says otherwise).
    An argument with a ``default`` that is not None may be left out.
    """

    name: str
    type: ArgumentType
    text: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    default: Any = None


class Telecommand(msgspec.Struct, frozen=True, kw_only=True):
    """One telecommand: identity, PUS type, arguments, where it is allowed and how long it may take.

    ``timeout_s`` is the bound from acceptance to completion on the machine clock.
    """

    opcode: int
    name: str
    service: int
    subtype: int
    text: str
    arguments: tuple[Argument, ...] = ()
    modes: tuple[Mode, ...] = tuple(Mode)
    hazard: Hazard = Hazard.NONE
    timeout_s: float = 5.0


class Limits(msgspec.Struct, frozen=True):
    """Operator limits of a parameter: red outside ``red_*``, yellow outside ``yellow_*``; None is no limit."""

    red_low: float | None = None
    yellow_low: float | None = None
    yellow_high: float | None = None
    red_high: float | None = None


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One telemetry parameter. On the wire it is a float64; ``states`` gives names to codes.

    NaN on the wire means "no valid value" (unsupported, stale or not yet measured), never zero.
    """

    name: str
    text: str
    unit: str = ""
    states: tuple[str, ...] = ()
    limits: Limits | None = None


class HousekeepingGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A PUS service 3 structure: one msgpack array of float64 in the order of ``parameters``."""

    sid: int
    name: str
    apid: int
    interval_s: float
    interval_min_s: float
    interval_max_s: float
    priority: int
    parameters: tuple[str, ...]
    text: str


class EventReport(msgspec.Struct, frozen=True, kw_only=True):
    """One event report. ``template`` is a ``str.format`` text over the fields that travel with it.

    ``security`` marks what an attack would raise: it has a quota of its own and no filter takes it.
    """

    id: int
    name: str
    severity: Severity
    template: str
    text: str
    security: bool = False
