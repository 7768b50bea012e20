"""Arguments of telecommands: one check for the operator's keyboard and for the wire.

The same function runs on the ground before a command is sent and on board before it is accepted, so both refuse
for the same reasons in the same words. A refusal is one sentence: command, argument, value, what is allowed, unit.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from .errors import ArgumentError
from .schema import Argument, ArgumentType, Telecommand

VALUE_CHARACTERS_MAX: Final = 40
"""As much of a bad value as an error message repeats."""
CHOICES_SHOWN: Final = 8
"""As many choices as a description names one by one."""


def check_arguments(command: Telecommand, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they go into the body, in the order of the dictionary, defaults filled in.

    An ENUM may be given by name or by code and becomes its code; BYTES may be given as hexadecimal text. Raises
    ``ArgumentError`` for the first that is unknown, missing, of another type or out of its range; NaN and infinity
    are never in range, and a bool is no number.
    """
    names = [argument.name for argument in command.arguments]
    for name in arguments:
        if name not in names:
            allowed = ", ".join(names) if names else "none"
            raise ArgumentError(f"{command.name}: unknown argument {_shown(name)}, allowed are {allowed}")
    checked = {}
    for argument in command.arguments:
        value = arguments.get(argument.name, argument.default)
        if value is None:
            raise ArgumentError(f"{command.name}: argument {argument.name} is missing, it is {describe(argument)}")
        try:
            checked[argument.name] = check_argument(argument, value)
        except ArgumentError as error:
            raise ArgumentError(f"{command.name}: {error}") from None
    return checked


def check_argument(argument: Argument, value: Any) -> Any:
    """One value as it goes into the body; raises ``ArgumentError``."""
    checked = _CHECK[argument.type](argument, value)
    if checked is None:
        raise ArgumentError(f"{argument.name} = {_shown(value)} is not {describe(argument)}")
    return checked


def parse_argument_text(argument: Argument, text: str) -> Any:
    """Value of an argument as typed on a command line, checked; raises ``ArgumentError``.

    BOOL takes true/false, on/off, yes/no, 1/0; INT also 0x and 0b; ENUM its name in any case, or its code;
    BYTES hexadecimal digits.
    """
    try:
        value = _PARSE[argument.type](argument, text)
    except ValueError:
        # Text that cannot be read is refused as the value it is not.
        value = text
    return check_argument(argument, value)


def enum_codes(argument: Argument) -> dict[str, int]:
    """Code of each choice of an ENUM."""
    codes = argument.codes or tuple(range(len(argument.choices)))
    return {name: int(code) for name, code in zip(argument.choices, codes, strict=True)}


def describe(argument: Argument, choices_max: int | None = CHOICES_SHOWN) -> str:
    """What is allowed, in words: "a number from 0 to 2000 W".

    Choices that count up are a span; of more than ``choices_max`` the first are named, of None all.
    """
    span, unit = _span(argument), f" {argument.unit}" if argument.unit else ""
    match argument.type:
        case ArgumentType.BOOL:
            return "true or false"
        case ArgumentType.INT:
            return f"a whole number{span}{unit}"
        case ArgumentType.FLOAT:
            return f"a number{span}{unit}"
        case ArgumentType.TEXT:
            return f"text{span.replace(' from ', ' of ')} characters" if span else "text"
        case ArgumentType.BYTES:
            return (
                f"octets as hexadecimal,{span.replace(' from ', ' ')} of them" if span else "octets as hexadecimal"
            )
    named = _spans(enum_codes(argument))
    if choices_max is not None and len(named) > choices_max:
        named[choices_max:] = [f"… {len(argument.choices)} in all"]
    return f"one of {', '.join(named)}"


def _spans(codes: Mapping[str, int]) -> list[str]:
    """ "name (code)" of each choice; three or more that count up in name and code are "first (1) to last (9)"."""
    runs: list[list[tuple[str, int]]] = []
    for name, code in codes.items():
        if runs and _follows(runs[-1][-1], (name, code)):
            runs[-1].append((name, code))
        else:
            runs.append([(name, code)])
    named = []
    for run in runs:
        each = [f"{name} ({code})" for name, code in run]
        named += [f"{each[0]} to {each[-1]}"] if len(each) > 2 else each
    return named


def _follows(before: tuple[str, int], choice: tuple[str, int]) -> bool:
    """Whether a choice has the stem of the one before it, the next number, and the next code."""
    stem, number = _numbered(before[0])
    return number >= 0 and (stem, number + 1) == _numbered(choice[0]) and before[1] + 1 == choice[1]


def _numbered(name: str) -> tuple[str, int]:
    """Stem and number of a name that ends in one; number −1 for one that does not."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or -1)


def _span(argument: Argument) -> str:
    low, high = argument.minimum, argument.maximum
    if low is not None and high is not None:
        return f" from {low:.16g} to {high:.16g}"
    if low is not None:
        return f" of at least {low:.16g}"
    return f" of at most {high:.16g}" if high is not None else ""


def _in_range(argument: Argument, value: float) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (argument.minimum is None or value >= argument.minimum) and (
        argument.maximum is None or value <= argument.maximum
    )


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


# One check and one parser for each type. A check gives the value of the body, or None to refuse.


def _check_bool(argument: Argument, value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _check_int(argument: Argument, value: Any) -> int | None:
    return int(value) if _is_number(value, int) and _in_range(argument, value) else None


def _check_float(argument: Argument, value: Any) -> float | None:
    return float(value) if _is_number(value, int | float) and _in_range(argument, value) else None


def _check_text(argument: Argument, value: Any) -> str | None:
    # Lone surrogates, as a terminal in a wrong encoding makes them, have no UTF-8.
    whole = isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    return value if whole and _in_range(argument, len(value)) else None


def _check_enum(argument: Argument, value: Any) -> int | None:
    codes = enum_codes(argument)
    if isinstance(value, str):
        return codes.get(value)
    return int(value) if _is_number(value, int) and value in codes.values() else None


def _check_bytes(argument: Argument, value: Any) -> bytes | None:
    if isinstance(value, str):
        try:
            value = bytes.fromhex(value)
        except ValueError:
            return None
    return bytes(value) if isinstance(value, bytes) and _in_range(argument, len(value)) else None


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _parse_bool(argument: Argument, text: str) -> Any:
    return _BOOL_WORDS.get(text.strip().casefold(), text)


def _parse_int(argument: Argument, text: str) -> int:
    return int(text, 0)


def _parse_float(argument: Argument, text: str) -> float:
    return float(text)


def _parse_text(argument: Argument, text: str) -> str:
    return text


def _parse_enum(argument: Argument, text: str) -> str | int:
    folded = text.strip().casefold()
    name = next((name for name in argument.choices if name.casefold() == folded), None)
    return int(text, 0) if name is None else name


_BOOL_WORDS: Final = {
    **dict.fromkeys(("true", "on", "yes", "1"), True),
    **dict.fromkeys(("false", "off", "no", "0"), False),
}
_CHECK: Final[dict[ArgumentType, Callable[[Argument, Any], Any]]] = {
    ArgumentType.BOOL: _check_bool,
    ArgumentType.INT: _check_int,
    ArgumentType.FLOAT: _check_float,
    ArgumentType.TEXT: _check_text,
    ArgumentType.ENUM: _check_enum,
    ArgumentType.BYTES: _check_bytes,
}
_PARSE: Final[dict[ArgumentType, Callable[[Argument, str], Any]]] = {
    ArgumentType.BOOL: _parse_bool,
    ArgumentType.INT: _parse_int,
    ArgumentType.FLOAT: _parse_float,
    ArgumentType.TEXT: _parse_text,
    ArgumentType.ENUM: _parse_enum,
    ArgumentType.BYTES: _parse_text,
}
