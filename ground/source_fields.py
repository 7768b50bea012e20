"""From the keys of a source to one of the typed records of ``flightsw.link``, with a complaint that names the key.

The record's own type holds the rules: what is missing, of a wrong type, out of its range or none of the choices.
Here its verdict is put into an operator's words and given its line.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from .source import Source

Record = TypeVar("Record", bound=msgspec.Struct)
_FIELD: Final = re.compile(r"\$\.(\w+)|required field `(\w+)`")
_NAME_RULES: Final = {
    r"^[a-z][a-z0-9_.]{0,39}$": "a name is a to z first, then a to z, 0 to 9, _ and ., at most 40 characters",
    r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}$": "a name is letters, digits, spaces and _.-, at most 40 characters,"
    " a letter or digit first",
}
"""What the patterns of ``flightsw.link`` mean; another one is shown as it is."""


def convert(source: Source, values: Mapping[str, Any], kind: type[Record], where: str, *place: str | int) -> Record:
    """The record of these values, which stand at ``place``; raises ``GroundError`` that begins with ``where``."""
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        field = (found[1] or found[2]) if found else ""
        if field not in values:
            raise source.fault(f"{where}: {field} is missing", *place) from None
        words = _words(kind, field, values[field], str(error))
        raise source.fault(f"{where}: {field} = {shown(values[field])}: {words}", *place, field) from None


def shown(value: Any) -> str:
    """A value of a source as a complaint repeats it."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _words(kind: type[msgspec.Struct], field: str, value: Any, verdict: str) -> str:
    hint = get_type_hints(kind, include_extras=True)[field]
    if get_origin(hint) is Literal:
        return f"allowed are {', '.join(map(str, get_args(hint)))}"
    match inspect.type_info(hint):
        case inspect.EnumType(cls=cls):
            return f"allowed are {', '.join(str(member.value) for member in cls)}"
        case inspect.StrType(pattern=str(pattern)) if isinstance(value, str):
            return _NAME_RULES.get(pattern, f"it must match {pattern}")
    return verdict.partition(" - at ")[0].replace("`", "").replace("Expected", "expected", 1)
