"""Text for operators from what travelled: event reports in their template's words.

The template comes from this side's dictionary, the fields from the wire, and the two may be of different
age. So rendering never fails: a missing field shows as "{name}?", a value that does not suit its format is
shown as it is, an unknown event as its id and fields. Control characters become escapes, because the text ends in
somebody's terminal.
"""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from .bodies import EventBody
from .dictionary import EVENT_BY_ID


class _TolerantFormatter(string.Formatter):
    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(str(key), _Missing(str(key)))

    def format_field(self, value: Any, format_spec: str) -> str:
        try:
            return str(format(value, format_spec))
        except (TypeError, ValueError):
            return str(value)


class _Missing:
    """Stands for a field that did not travel."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return f"{{{self._name}}}?"


_formatter = _TolerantFormatter()


def event_text(body: EventBody) -> str:
    """One line for an event report, whatever its fields are."""
    event = EVENT_BY_ID.get(body.id)
    if event is None:
        fields = ", ".join(f"{name}={value}" for name, value in body.fields.items())
        return printable(f"event 0x{body.id:02X} is not in this dictionary: {fields or 'no fields'}")
    try:
        text = event.template.format_map(body.fields)
    except (KeyError, TypeError, ValueError):
        # Rare and ten times slower: fields of another age.
        text = _formatter.vformat(event.template, (), body.fields)
    return printable(text)


def printable(text: str) -> str:
    """The text with everything a terminal would act on written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
