"""Where in a TOML text each key stands, so that a complaint can name the line.

``tomllib`` tells values but not their places. This scanner only runs over text that ``tomllib`` has accepted, so it
need not judge: it follows headers, keys, strings, comments and brackets, and notes the line at which each table,
each element of an array of tables and each key begins.
"""

import re
from typing import Final

Key = tuple[str | int, ...]
"""Path of a value: ("step", 2, "mode") is key ``mode`` of the third ``[[step]]``."""

_PART: Final = r"(?:[A-Za-z0-9_-]+|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*')"
_DOTTED: Final = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_STATEMENT: Final = re.compile(
    rf"[ \t]*(?:\[\[[ \t]*(?P<element>{_DOTTED})[ \t]*\]\]|\[[ \t]*(?P<table>{_DOTTED})[ \t]*\]"
    rf"|(?P<key>{_DOTTED})[ \t]*=)"
)
_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[{]|[\]}]|\n|[^"\'#\[\]{}\n]+',
    re.DOTALL,
)


def key_lines(text: str) -> dict[Key, int]:
    """Line, from 1, of every table, element and key of a valid TOML text; inline tables count as their key."""
    lines: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    position, line = 0, 1
    while position < len(text):
        if statement := _STATEMENT.match(text, position):
            path = _path(statement["element"] or statement["table"] or statement["key"])
            if statement["key"] is not None:
                path = table + path
            else:
                path = _inside(path, counts)
                if statement["element"] is not None:
                    counts[path] = counts.get(path, 0) + 1
                    path = (*path, counts[path] - 1)
                table = path
            lines.setdefault(path, line)
            position = statement.end()
        position, line = _rest(text, position, line)
    return lines


def line_of(lines: dict[Key, int], key: Key) -> int:
    """Line of a key, or of the nearest thing around it that the text names; 1 for the whole file."""
    while key:
        # A table that only dotted keys make has no line of its own, but theirs.
        found = [line for path, line in lines.items() if path[: len(key)] == key]
        if found:
            return lines.get(key, min(found))
        key = key[:-1]
    return 1


def _rest(text: str, position: int, line: int) -> tuple[int, int]:
    """Start and line of the statement after the one at ``position``: past the line end outside all brackets."""
    depth = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        assert token is not None, f"no TOML at {position}"
        position = token.end()
        line += token[0].count("\n")
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and depth <= 0:
            break
    return position, line


def _path(dotted: str) -> Key:
    """Parts of a dotted key; a quoted part loses its quotes, and its escapes stay as they are."""
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in re.findall(_PART, dotted))


def _inside(path: Key, counts: dict[Key, int]) -> Key:
    """The path of a header with the number of the current element after every array of tables on its way."""
    found: Key = ()
    for part in path[:-1]:
        found = (*found, part)
        if found in counts:
            found = (*found, counts[found] - 1)
    return (*found, path[-1])
