"""Parameter sets as operators write them, compiled to images and back.

    [parameters]
    name = "night"                     # of the set; a parameter's own name always has a dot
    "eps.soc_safe" = 0.71
    "checkpoint.interval_world_s" = "20 min"

Keys may also stand without quotes or under ``[parameters.eps]``. A set is whole: what it does not name has the
value of the satellite's configuration file. Names, types and ranges are those of ``flightsw.link.settings``.
"""

from collections.abc import Iterator
from typing import Any, Final

from flightsw.link import settings
from flightsw.link.errors import TableError
from flightsw.link.settings import SETTING_BY_NAME, Number, ParameterSet

from .moments import duration_s
from .names import likely
from .source import Source
from .source_fields import convert, shown
from .toml_lines import Key
from .toml_text import block_text, document_text

UNNAMED: Final = "unnamed"
INTEGER_MAX: Final = 2**63 - 1
"""Largest integer of an image."""


def compile_parameters(source: Source) -> ParameterSet:
    """The checked set of a source; raises ``GroundError`` with file and line."""
    source.only(source.data, ("parameters",), "a parameter set")
    table = source.table("parameters")
    values: dict[str, Number] = {}
    for name, value, key in _flat(table, ("parameters",)):
        if name == "name":
            continue
        if name in values:
            raise source.fault(f"{name} is given twice", *key)
        values[name] = _value(source, name, value, key)
    name = table.get("name", UNNAMED)
    return convert(source, {"name": name, "values": values}, ParameterSet, "[parameters]", "parameters")


def parameters_text(made: ParameterSet, comment: str = "") -> str:
    """The source of a set."""
    return document_text(comment, [block_text("[parameters]", {"name": made.name, **made.values})])


def check_value(name: str, value: Any) -> Number:
    """A value that may be sent for a parameter; raises ``TableError`` that says what is allowed."""
    setting = SETTING_BY_NAME.get(name)
    if setting is None:
        raise TableError(f"no parameter {name!r} that can be changed in flight{likely(name, SETTING_BY_NAME)}")
    if setting.unit == "s" and isinstance(value, str):
        try:
            value = float(duration_s(value))
        except ValueError as error:
            raise TableError(f"{name} = {error}") from None
    if not isinstance(value, int | float) or abs(value) > INTEGER_MAX:
        raise TableError(f"{name} = {shown(value)} is not {settings.describe(setting)}")
    settings.check({name: value})
    return value


def _value(source: Source, name: str, value: Any, key: Key) -> Number:
    try:
        return check_value(name, value)
    except TableError as error:
        raise source.fault(str(error), *key) from None


def _flat(table: dict[str, Any], key: Key) -> Iterator[tuple[str, Any, Key]]:
    """(name with dots, value, place) of every value, whether its dots were quoted or made tables."""
    for part, value in table.items():
        place = (*key, part)
        if isinstance(value, dict) and len(key) == 1 and value:
            for inner, number in value.items():
                yield f"{part}.{inner}", number, (*place, inner)
        else:
            yield part, value, place
