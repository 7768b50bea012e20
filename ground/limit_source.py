"""Limit tables as operators write them, compiled to images and back.

    [limits]
    name = "night"

    [[watchpoint]]
    id = 3
    name = "gpu.hot"
    parameter = "thermal.gpu_degc"
    operator = ">="
    trip = 78.0
    clear = 74.0
    samples = 3
    stale_s = "5 s"

    [[actionpoint]]
    id = 3
    name = "gpu.throttle"
    when = "gpu.hot and not stale(gpu.die)"     # or  condition = [3, 4, "stale", "not", "and"]
    response = "throttle"
    argument = 0.5
    domain = "thermal"

One file may hold both tables; what is loaded is the one that is named. The fields, their defaults and every rule
about them are in ``flightsw.link.limit_tables``.
"""

import re
from typing import Any, Final, TypeVar

import msgspec

from flightsw.link.dictionary import PARAMETER_BY_NAME
from flightsw.link.errors import TableError
from flightsw.link.limit_tables import (
    ARGUMENT_SPAN,
    TOKENS_MAX,
    Actionpoint,
    ActionTable,
    Watchpoint,
    WatchTable,
    check_actionpoints,
    check_watchpoints,
)

from .condition import ConditionError, compile_condition, condition_text
from .moments import duration_s
from .names import likely
from .source import Source
from .source_fields import convert, shown
from .toml_text import block_text, document_text

TABLES: Final = ("limits", "watchpoint", "actionpoint")
WATCH_KEYS: Final = Watchpoint.__struct_fields__
ACTION_KEYS: Final = ("id", "name", "when", *Actionpoint.__struct_fields__[2:])
Entry = TypeVar("Entry", Watchpoint, Actionpoint)


def compile_watchpoints(source: Source) -> WatchTable:
    """The checked table of a source; raises ``GroundError`` with file, line and watchpoint."""
    name = _name(source)
    points = tuple(
        _entry(source, Watchpoint, "watchpoint", number, entry, WATCH_KEYS)
        for number, entry in enumerate(_present(source, "watchpoint"))
    )
    for number, point in enumerate(points):
        if point.parameter not in PARAMETER_BY_NAME:
            raise source.fault(
                f"watchpoint {point.id} ({point.name}): parameter {point.parameter!r} is not in this"
                f" dictionary{likely(point.parameter, PARAMETER_BY_NAME)}",
                *("watchpoint", number, "parameter"),
            )
    table = WatchTable(name=name, watchpoints=points)
    try:
        check_watchpoints(table)
    except TableError as error:
        raise _placed(source, "watchpoint", points, error) from None
    return table


def compile_actionpoints(source: Source, watchpoints: WatchTable | None) -> ActionTable:
    """The checked table of a source, for these watchpoints.

    Raises ``GroundError`` with file, line and actionpoint, also when no watchpoints are known.
    """
    name = _name(source)
    entries = _present(source, "actionpoint")
    if watchpoints is None:
        raise source.fault(
            "no watchpoints for these actionpoints: put them into this file, or name theirs with --watchpoints",
            *("actionpoint", 0),
        )
    ids = {point.name: point.id for point in watchpoints.watchpoints}
    points = tuple(
        _entry(source, Actionpoint, "actionpoint", number, _with_condition(source, number, entry, ids), ACTION_KEYS)
        for number, entry in enumerate(entries)
    )
    table = ActionTable(name=name, actionpoints=points)
    try:
        check_actionpoints(table, watchpoints)
    except TableError as error:
        raise _placed(source, "actionpoint", points, error) from None
    return table


def watchpoints_text(table: WatchTable, comment: str = "") -> str:
    """The source of a table of watchpoints."""
    blocks = [block_text("[limits]", {"name": table.name})]
    for point in table.watchpoints:
        fields = {name: value for name, value in msgspec.structs.asdict(point).items() if value is not None}
        blocks.append(block_text("[[watchpoint]]", fields))
    return document_text(comment, blocks)


def actionpoints_text(table: ActionTable, watchpoints: WatchTable, comment: str = "") -> str:
    """The source of a table of actionpoints for these watchpoints."""
    names = {point.id: point.name for point in watchpoints.watchpoints}
    blocks = [block_text("[limits]", {"name": table.name})]
    for point in table.actionpoints:
        fields = msgspec.structs.asdict(point)
        fields["condition"] = condition_text(point.condition, names)
        if point.response not in ARGUMENT_SPAN:
            del fields["argument"]
        renamed = {"when" if name == "condition" else name: value for name, value in fields.items()}
        blocks.append(block_text("[[actionpoint]]", renamed))
    return document_text(comment, blocks)


def _name(source: Source) -> str:
    source.only(source.data, TABLES, "a limit table")
    head = source.table("limits")
    source.only(head, ("name",), "[limits]", "limits")
    return convert(source, {**head, "watchpoints": ()}, WatchTable, "[limits]", "limits").name


def _present(source: Source, kind: str) -> list[dict[str, Any]]:
    """Entries of a kind; a file without any must say that it means an empty table."""
    entries = source.entries(kind)
    if not entries and kind not in source.data:
        raise source.fault(f"there is no [[{kind}]] in this file (an empty table is written {kind} = [])")
    return entries


def _with_condition(source: Source, number: int, entry: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """The entry with its readable condition compiled."""
    where = f"actionpoint {entry.get('name', number + 1)}"
    if ("when" in entry) == ("condition" in entry):
        both = "when and condition: give one of them" if "when" in entry else "when is missing"
        raise source.fault(f"{where}: {both}", "actionpoint", number, "when")
    if "when" not in entry:
        return entry
    text = entry["when"]
    if not isinstance(text, str):
        raise source.fault(f"{where}: when = {shown(text)} is no text", "actionpoint", number, "when")
    try:
        condition = compile_condition(text, ids)
        if len(condition) > TOKENS_MAX:
            raise source.fault(
                f"{where}: when: {len(condition)} watchpoints and operations, at most {TOKENS_MAX} are allowed",
                *("actionpoint", number, "when"),
            )
    except ConditionError as error:
        raise source.fault(f"{where}: when: {error}", "actionpoint", number, "when") from None
    return {key: value for key, value in entry.items() if key != "when"} | {"condition": condition}


def _entry(
    source: Source, kind: type[Entry], what: str, number: int, entry: dict[str, Any], keys: tuple[str, ...]
) -> Entry:
    where = f"{what} {entry.get('name', number + 1)}"
    source.only(entry, (*keys, "condition") if what == "actionpoint" else keys, where, what, number)
    read = dict(entry)
    for key, value in entry.items():
        if key.endswith("_s") and isinstance(value, str):
            try:
                read[key] = float(duration_s(value))
            except ValueError as error:
                raise source.fault(f"{where}: {key} = {error}", what, number, key) from None
    return convert(source, read, kind, where, what, number)


def _placed(
    source: Source, what: str, points: tuple[Watchpoint, ...] | tuple[Actionpoint, ...], error: TableError
) -> Exception:
    """The one check's complaint with the place of the entry that it names, the last of that id."""
    found = re.match(rf"{what} (\d+) ", str(error))
    ids = [point.id for point in points]
    numbers = [number for number, id in enumerate(ids) if found and id == int(found[1])]
    words = re.findall(r"\w+", str(error).rpartition("): ")[2])
    field = next((word for word in words if word in (*ACTION_KEYS, *WATCH_KEYS)), "id")
    if not numbers:
        return source.fault(str(error), what)
    if field == "condition" and "when" in source.entries(what)[numbers[-1]]:
        field = "when"
    return source.fault(str(error), what, numbers[-1], field)
