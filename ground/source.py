"""A source that an operator wrote: a TOML file with a place for every complaint.

A complaint is one line, ``FILE:LINE: what is wrong``, and exit code 2: nothing was sent. Names that are not known
get the likely ones beside them.
"""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from flightsw.link.render import printable

from .errors import ExitCode, GroundError
from .names import likely
from .toml_lines import Key, key_lines, line_of

SOURCE_BYTES_MAX: Final = 4 << 20
"""A full sequence of 1,000 steps is about 100 kB."""


class Source:
    """One file, read and parsed. ``data`` is what ``tomllib`` made of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data, self._lines = _read(path)

    def fault(self, message: str, *key: str | int) -> GroundError:
        """The complaint about what stands at ``key``."""
        return GroundError(f"{self.path}:{line_of(self._lines, key)}: {printable(message)}", ExitCode.USAGE)

    def table(self, name: str, required: bool = True) -> dict[str, Any]:
        """The table ``[name]``."""
        value = self.data.get(name)
        if value is None and not required:
            return {}
        if not isinstance(value, dict):
            raise self.fault(f"[{name}] is missing" if value is None else f"{name} must be a table: [{name}]", name)
        return value

    def entries(self, name: str) -> list[dict[str, Any]]:
        """The elements of ``[[name]]``, none when there is none."""
        value = self.data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.fault(f"{name} must be an array of tables: [[{name}]]", name)
        return value

    def only(self, found: Mapping[str, Any], allowed: Collection[str], what: str, *key: str | int) -> None:
        """Complain about the first key of ``found`` that is not allowed."""
        for name in found:
            if name not in allowed:
                raise self.fault(f"{what}: unknown key {name!r}{likely(name, allowed)}", *key, name)


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    try:
        with path.open("rb") as file:
            octets = file.read(SOURCE_BYTES_MAX + 1)
    except OSError as error:
        raise GroundError(f"{path}: {error.strerror}", ExitCode.USAGE) from None
    if len(octets) > SOURCE_BYTES_MAX:
        raise GroundError(f"{path}: over {SOURCE_BYTES_MAX} bytes, that is no source", ExitCode.USAGE)
    try:
        text = octets.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise GroundError(f"{path}:{line}: is not UTF-8 text", ExitCode.USAGE) from None
    try:
        return tomllib.loads(text), key_lines(text)
    except tomllib.TOMLDecodeError as error:
        raise GroundError(f"{path}:{_syntax(str(error), text)}", ExitCode.USAGE) from None
    except RecursionError:
        raise GroundError(f"{path}:1: nested too deeply", ExitCode.USAGE) from None


def _syntax(message: str, text: str) -> str:
    """``tomllib``'s words with the place in front: "… (at line 3, column 5)" or "(at end of document)"."""
    words, _, place = message.rpartition(" (at ")
    numbers = [int(word.strip(",)")) for word in place.split() if word.strip(",)").isdigit()]
    line = numbers[0] if numbers else text.count("\n") + 1
    return f"{line}: {words or message}" + (f" (column {numbers[1]})" if len(numbers) > 1 else "")
