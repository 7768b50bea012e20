"""Values as TOML text, for what is dumped: the inverse of reading a source.

Only what sources hold: text, numbers, true and false, and flat lists of them.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}


def value_text(value: Any) -> str:
    """One value. A float always shows that it is one; numbers that are not finite have TOML's own words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return f'"{"".join(map(_escaped, str(value)))}"'


def key_text(key: str) -> str:
    """A key, quoted where it has to be: a dot in it would make a table."""
    return key if _BARE.fullmatch(key) else value_text(key)


def block_text(header: str, values: Mapping[str, Any]) -> str:
    """One table under its header, such as ``[sequence]`` or ``[[step]]``."""
    return "\n".join((header, *(f"{key_text(key)} = {value_text(value)}" for key, value in values.items()))) + "\n"


def document_text(comment: str, blocks: Iterable[str]) -> str:
    """Blocks with a line of comment above them."""
    heading = "".join(f"# {line}\n" for line in comment.splitlines())
    return "\n".join(part for part in (heading, *blocks) if part)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character < " " or character == "\x7f":
        return f"\\u{ord(character):04x}"
    return character
