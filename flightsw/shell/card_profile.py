"""Card profiles in files, read and written: by name those that are shipped, by path any other.

``load_profile`` finds every mistake of a file and tells each in one line: file, field, what stands there, what is
allowed. The format is ``link.card.Profile``.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from flightsw.link.card import PROFILE_BYTES_MAX, Profile

from .typed_toml import examine

SHIPPED: Final = "h100-sxm"
"""The profile of a mission that names none."""
PROFILES: Final = Path(__file__).parents[1] / "profiles"


class ProfileError(ValueError):
    """The profile is unusable; ``lines`` holds one sentence for each mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


def shipped() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.toml")))


def load_profile(name: str, base: Path = Path()) -> Profile:
    """The profile of a shipped name or of a path (it ends in .toml; relative ones start at ``base``).

    Raises ``ProfileError``.
    """
    if name.endswith(".toml"):
        path = base / name
    elif name in shipped():
        path = PROFILES / f"{name}.toml"
    else:
        known = ", ".join(shipped())
        raise ProfileError(
            [f"card profile {name!r}: no such name; allowed are {known}, or the path of a .toml file"]
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ProfileError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(raw) > PROFILE_BYTES_MAX:
        raise ProfileError([f"{path}: {len(raw)} bytes, a card profile has at most {PROFILE_BYTES_MAX}"])
    try:
        table = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ProfileError([f"{path}: byte {error.start} is not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError([f"{path}: is no TOML: {error}"]) from None
    if complaints := examine(table, Profile, ""):
        raise ProfileError([f"{path}: {c.where}: {c.text}" for c in complaints])
    try:
        return msgspec.convert(table, Profile)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        raise ProfileError([f"{path}: {where.rstrip('`') or 'profile'}: {reason}"]) from None


def render(profile: Profile, remark: str = "") -> str:
    """The profile as TOML that ``load_profile`` reads back; ``remark`` becomes a comment above it."""
    head = "".join(f"# {line}\n" for line in remark.splitlines())
    return head + "\n".join(_tables(msgspec.to_builtins(profile), ""))


def _tables(table: dict[str, Any], where: str) -> list[str]:
    """Lines of one table: its own keys first, then the tables below it."""
    lines = [
        f"{key} = {_value(value)}" for key, value in table.items() if not _is_table(value) and value is not None
    ]
    for key, value in table.items():
        path = f"{where}.{key}" if where else key
        if isinstance(value, dict):
            lines += ["", f"[{path}]", *_tables(value, path)]
        elif _is_table(value):
            for row in value:
                lines += ["", f"[[{path}]]", *_tables(row, path)]
    return lines if where else [*lines, ""]


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value))


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's texts and numbers are TOML's too, except one control character.
    text = repr(value) if isinstance(value, float) else msgspec.json.encode(value).decode()
    return text.replace("\x7f", "\\u007f")
