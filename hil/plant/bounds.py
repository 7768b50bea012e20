"""What the plant may be: the range of orbits, and one clear line for the first value that is not allowed.

A struct made in code is not checked when it is made; ``within_bounds`` checks it as if it had been read from a
file.
"""

from math import isfinite
from typing import Any, Final, TypeVar

import msgspec

# Heights over the equatorial radius that a LEO bench makes sense for, which is where the radiation grid ends, too.
ALTITUDE_MIN_KM: Final = 250.0
ALTITUDE_MAX_KM: Final = 1200.0

T = TypeVar("T", bound=msgspec.Struct)


def within_bounds(config: T, name: str) -> T:
    """The same configuration, or ``ValueError`` with the path of the first value that is not allowed."""
    plain: Any = msgspec.to_builtins(config)
    _refuse_non_finite(plain, name, name)
    try:
        return msgspec.convert(plain, type(config))
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `$")
        value = plain
        for key in path.strip("`.").split("."):
            value = value.get(key) if isinstance(value, dict) else value
        raise ValueError(f"{name} configuration: {path.strip('`.')} = {value!r}: {rule}") from None


def _refuse_non_finite(value: Any, path: str, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{path}.{key}", name)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_non_finite(item, f"{path}[{index}]", name)
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{name} configuration: {path} is {value}, a finite number is needed")
