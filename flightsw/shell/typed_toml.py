"""From TOML tables to typed structs, with complaints that an operator can act on.

``msgspec`` validates, but it stops at the first mistake and speaks of types. An operator who edits a configuration
by hand wants every mistake at once, each as one line that says where, what stands there and what is
allowed. So this module walks a table beside the struct it should become: each leaf is converted on
its own, and the text of what is allowed is made from the same annotation that decides.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Final, get_args

import msgspec
from msgspec import inspect

VALUE_CHARACTERS_MAX: Final = 60
LIST_CHARACTERS_MAX: Final = 240
"""As much of the allowed keys as a complaint lists."""


class Complaint(msgspec.Struct, frozen=True):
    """One mistake: ``where`` is a dotted key path, ``text`` says what stands there and what is allowed."""

    where: str
    text: str


def examine(table: object, kind: type[msgspec.Struct], where: str) -> list[Complaint]:
    """Everything that keeps ``table`` from becoming ``kind``; an empty list when nothing does.

    The tag of a tagged struct is not looked at: who chose ``kind`` has read it.
    """
    if not isinstance(table, Mapping):
        return [Complaint(where, f"{shown(table)} is no table; write [{where}] and its keys below it")]
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    complaints: list[Complaint] = []
    for name, value in table.items():
        path = f"{where}.{name}" if where else str(name)
        if name == kind.__struct_config__.tag_field:
            continue
        if name not in fields:
            complaints.append(Complaint(path, f"unknown key{did_you_mean(name, fields)}"))
        elif (inner := struct_of(leaf := fields[name].type)) is not None:
            complaints += examine(value, inner, path)
        elif not convertible(value, leaf):
            complaints.append(Complaint(path, f"{shown(value)} is refused; allowed is {allowed(leaf)}"))
    complaints += [
        Complaint(f"{where}.{field.name}" if where else field.name, f"is missing; allowed is {allowed(field.type)}")
        for field in fields.values()
        if field.required and field.name not in table
    ]
    return complaints


def struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct class that an annotation is, or is when it is not None; None for one of a leaf."""
    members = (
        [member for member in get_args(kind) if member is not NoneType] if isinstance(kind, UnionType) else [kind]
    )
    only = members[0] if len(members) == 1 else None
    return only if isinstance(only, type) and issubclass(only, msgspec.Struct) else None


def convertible(value: object, kind: Any) -> bool:
    """True when ``value`` is a valid ``kind``. Infinite numbers never are: no range of ours means them."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, TypeError):
        return False
    return True


def shown(value: object) -> str:
    """A value as an operator would write it, cut to a bounded length."""
    try:
        text = msgspec.json.encode(value).decode() if not isinstance(value, float) else repr(value)
    except (TypeError, ValueError, msgspec.MsgspecError):
        text = repr(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``names``, or the list of them when none is near."""
    known = sorted(names)
    told = ", ".join(known)
    if len(told) > LIST_CHARACTERS_MAX:
        told = f"{told[:LIST_CHARACTERS_MAX].rpartition(', ')[0]} and others, {len(known)} in all"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed are {told}"


def allowed(kind: Any) -> str:
    """What an annotation allows, in words: "a number from 0 to 1", "one of "a", "b"", "true or false"."""
    return _allowed(inspect.type_info(kind))


def _allowed(info: inspect.Type) -> str:
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number" + _bounds(info)
        case inspect.FloatType():
            return "a number" + _bounds(info)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(shown(value) for value in values)
        case inspect.StrType(pattern=pattern, min_length=least):
            return "a text" + (f" that matches {pattern}" if pattern else " that is not empty" if least else "")
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return f"a list, each {_allowed(item)}"
        case inspect.DictType(value_type=value):
            return f"a table, each value {_allowed(value)}"
        case inspect.UnionType(types=types):
            return " or ".join(_allowed(member) for member in types)
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(shown(member.value) for member in cls)
        case inspect.StructType(cls=cls):
            return f"a table of {cls.__name__}"
        case inspect.NoneType():
            return "nothing"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)}: " + ", ".join(_allowed(item) for item in items)
    return type(info).__name__.removesuffix("Type").lower()


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    low, high = info.ge if info.ge is not None else info.gt, info.le if info.le is not None else info.lt
    over, under = info.gt is not None, info.lt is not None
    if low is not None and high is not None:
        if over or under:
            return f" {'over' if over else 'from'} {low:g} and {'under' if under else 'up to'} {_number(high)}"
        return f" from {_number(low)} to {_number(high)}"
    if low is not None:
        return f" {'over' if over else 'of at least'} {_number(low)}"
    return "" if high is None else f" {'under' if under else 'of at most'} {_number(high)}"


def _number(value: float) -> str:
    return f"{value:,}".replace(",", "_") if isinstance(value, int) else f"{value:g}"
