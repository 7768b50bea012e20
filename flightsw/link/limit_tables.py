"""Tables of limits: watchpoints say what is wrong, actionpoints what is done about it.

A *watchpoint* compares one telemetry parameter, or its rate of change per second of mission time, with a limit.
It trips after ``samples`` consecutive new samples beyond ``trip``, and clears with the first one behind
``clear``. Without a valid new sample for ``stale_s`` of machine time it is STALE, which is neither. A rate is
taken between two samples at least ``RATE_STEP_S`` of machine time apart, so that it means the same at every frame
rate.

An *actionpoint* combines watchpoints in reverse Polish notation (``[3, 4, "or"]``; ``"stale"`` asks whether the
watchpoint before it is stale). When its condition has held for ``persistence_s`` it does its response, once or
each time the condition comes back; standing responses (throttle, pause) end when the condition has been gone for
``release_s``. Several actionpoints on one condition with growing persistence are an escalation; ``level`` is the
rung.

``check_watchpoints`` and ``check_actionpoints`` run on the ground when a table is compiled, and on board when it
is validated.
"""

import math
from enum import StrEnum, unique
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from .dictionary import IDENTITY, PARAMETER_BY_NAME
from .errors import TableError
from .tables import IMAGE_BYTES_MAX, RELATIVE_SEQUENCES

ENTRIES_MAX: Final = 256
TOKENS_MAX: Final = 20
RATE_STEP_S: Final = 0.95
"""Least machine time between the two samples of a rate: those of a source of 1 Hz, a little early."""
RATE_STALE_MIN_S: Final = 2.0
"""Least ``stale_s`` of a rate; with less it would be stale between any two of its samples."""
OPERATIONS: Final = {"and": 2, "or": 2, "not": 1, "stale": 1}
"""Operations of a condition, and how many values each takes."""
UPPER: Final = frozenset((">", ">="))
LOWER: Final = frozenset(("<", "<="))

Id = Annotated[int, Meta(ge=1, le=9999)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.]{0,39}$")]


@unique
class Response(StrEnum):
    """What an actionpoint does. The mildest comes first; ``argument`` stands in brackets."""

    REPORT = "report"
    """Only say so."""
    THROTTLE = "throttle"
    """Duty of the payload at most [0 to 1] while the condition holds."""
    CHECKPOINT = "checkpoint"
    """Commit a checkpoint of every running training job."""
    PAUSE = "pause"
    """Duty 0 while the condition holds; workers stay."""
    SEQUENCE = "sequence"
    """Start relative sequence [1 to 64]."""
    KILL = "kill"
    """Kill the workers; they are restored from their last verified checkpoint."""
    POWER_CYCLE = "power_cycle"
    """Switch the GPU's rail off for [1 to 3600] seconds, then on."""
    POWER_OFF = "power_off"
    """Switch the GPU's rail off until it is commanded on."""
    RESTART = "restart"
    """Restart the daemon, by the restart ladder."""
    SAFE = "safe"
    """Enter SAFE."""


ARGUMENT_SPAN: Final[dict[Response, tuple[float, float]]] = {
    Response.THROTTLE: (0.0, 1.0),
    Response.SEQUENCE: (1.0, float(RELATIVE_SEQUENCES)),
    Response.POWER_CYCLE: (1.0, 3600.0),
}
"""Allowed arguments; every other response takes none, that is 0."""


class Watchpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One limit. ``clear`` None is the same as ``trip``; it must be None for "==" and "!=". Times in seconds."""

    id: Id
    name: Name
    parameter: str
    quantity: Literal["value", "rate"] = "value"
    operator: Literal["<", "<=", ">", ">=", "==", "!="]
    trip: float
    clear: float | None = None
    samples: Annotated[int, Meta(ge=1, le=1000)] = 1
    stale_s: Annotated[float, Meta(ge=0.1, le=86_400.0)] = 5.0


class Actionpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One response. Times are machine seconds; "passive" reports and does nothing, "disabled" is not looked at.

    After it has acted, a "once" actionpoint becomes passive until the ground activates it again.
    """

    id: Id
    name: Name
    condition: Annotated[tuple[int | str, ...], Meta(min_length=1, max_length=TOKENS_MAX)]
    persistence_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0
    release_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 10.0
    response: Response
    argument: float = 0.0
    level: Annotated[int, Meta(ge=1, le=9)] = 1
    domain: Literal["power", "thermal", "gpu", "link", "storage", "task"]
    repeat: Literal["once", "repeating"] = "repeating"
    state: Literal["active", "passive", "disabled"] = "active"


class WatchTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Image of the table "watchpoints"."""

    format: Literal[1] = 1
    name: Name
    watchpoints: tuple[Watchpoint, ...]


class ActionTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Image of the table "actionpoints"."""

    format: Literal[1] = 1
    name: Name
    actionpoints: tuple[Actionpoint, ...]


Image = TypeVar("Image", WatchTable, ActionTable)

_encoder: Final = msgspec.msgpack.Encoder()
_watchpoints: Final = msgspec.msgpack.Decoder(WatchTable)
_actionpoints: Final = msgspec.msgpack.Decoder(ActionTable)


def encode(table: WatchTable | ActionTable) -> bytes:
    """The image of a table."""
    return _encoder.encode(table)


def decode_watchpoints(image: bytes) -> WatchTable:
    """A checked table from its image; raises ``TableError``."""
    table = _decoded(_watchpoints, image, "watchpoints")
    check_watchpoints(table)
    return table


def decode_actionpoints(image: bytes, watchpoints: WatchTable) -> ActionTable:
    """A checked table from its image, for these watchpoints; raises ``TableError``."""
    table = _decoded(_actionpoints, image, "actionpoints")
    check_actionpoints(table, watchpoints)
    return table


def check_watchpoints(table: WatchTable) -> None:
    """Everything that a type cannot say; raises ``TableError`` with the first fault and where it is."""
    _check_entries("watchpoint", table.watchpoints)
    for point in table.watchpoints:
        where = f"watchpoint {point.id} ({point.name})"
        if point.parameter not in PARAMETER_BY_NAME:
            raise TableError(f"{where}: parameter {point.parameter!r} is not in this dictionary")
        if point.parameter in IDENTITY:
            raise TableError(f"{where}: parameter {point.parameter!r} names a packet and cannot be watched")
        if point.quantity == "rate" and point.stale_s < RATE_STALE_MIN_S:
            raise TableError(f"{where}: stale_s = {point.stale_s:g}: a rate needs at least {RATE_STALE_MIN_S:g}")
        if not math.isfinite(point.trip) or not math.isfinite(point.clear or 0.0):
            raise TableError(f"{where}: trip and clear must be finite numbers")
        if point.clear is None:
            continue
        if point.operator not in UPPER | LOWER:
            raise TableError(f"{where}: clear has no meaning with {point.operator!r}, leave it out")
        if (point.clear > point.trip) if point.operator in UPPER else (point.clear < point.trip):
            side = "at most" if point.operator in UPPER else "at least"
            raise TableError(f"{where}: clear = {point.clear:g} must be {side} trip = {point.trip:g}")


def check_actionpoints(table: ActionTable, watchpoints: WatchTable) -> None:
    """Everything that a type cannot say; raises ``TableError`` with the first fault and where it is."""
    _check_entries("actionpoint", table.actionpoints)
    known = {point.id for point in watchpoints.watchpoints}
    for point in table.actionpoints:
        where = f"actionpoint {point.id} ({point.name})"
        _check_condition(where, point.condition, known)
        low, high = ARGUMENT_SPAN.get(point.response, (0.0, 0.0))
        if not low <= point.argument <= high:
            allowed = f"{low:g} to {high:g}" if high else "0, it takes none"
            raise TableError(f"{where}: argument = {point.argument:g}: {point.response} allows {allowed}")
        if point.response is Response.SEQUENCE and point.argument != int(point.argument):
            raise TableError(f"{where}: argument = {point.argument:g} is no number of a sequence")


def _check_entries(kind: str, entries: tuple[Watchpoint, ...] | tuple[Actionpoint, ...]) -> None:
    if len(entries) > ENTRIES_MAX:
        raise TableError(f"{len(entries)} {kind}s, at most {ENTRIES_MAX} are allowed")
    ids: set[int] = set()
    names: set[str] = set()
    for entry in entries:
        if entry.id in ids or entry.name in names:
            raise TableError(f"{kind} {entry.id} ({entry.name}): id and name must be unique")
        ids.add(entry.id)
        names.add(entry.name)


def _check_condition(where: str, condition: tuple[int | str, ...], known: set[int]) -> None:
    """Each operation finds its values, "stale" asks a watchpoint directly, and one value is left."""
    depth = 0
    before: int | str = ""
    for token in condition:
        if isinstance(token, int):
            if token not in known:
                raise TableError(f"{where}: condition names watchpoint {token}, which is not in the table")
            depth += 1
        elif token not in OPERATIONS:
            raise TableError(f"{where}: condition knows {', '.join(OPERATIONS)}, not {token!r}")
        elif depth < OPERATIONS[token]:
            raise TableError(f"{where}: condition: {token!r} lacks a value before it")
        elif token == "stale" and not isinstance(before, int):
            raise TableError(f'{where}: condition: "stale" stands right after a watchpoint')
        else:
            depth += 1 - OPERATIONS[token]
        before = token
    if depth != 1:
        raise TableError(f"{where}: condition leaves {depth} values, it must leave one")


def _decoded(decoder: msgspec.msgpack.Decoder[Image], image: bytes, what: str) -> Image:
    if len(image) > IMAGE_BYTES_MAX:
        raise TableError(f"image of {len(image)} bytes, at most {IMAGE_BYTES_MAX} are allowed")
    try:
        return decoder.decode(image)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TableError(f"is no image of {what}: {error}") from None
