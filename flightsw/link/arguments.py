"""Arguments of telecommands: one check for the operator's keyboard and for the wire.

The same function runs on the ground before a command is sent and on board before it is accepted, so both refuse
for the same reasons in the same words. A refusal is one sentence: command, argument, value, what is allowed, unit.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from .errors import ArgumentError
from .schema import Argument, ArgumentType, Telecommand

VALUE_CHARACTERS_MAX = 40
"""As much of a bad value as an error message repeats."""

_TRUE = frozenset(("true", "on", "yes", "1"))
_FALSE = frozenset(("false", "off", "no", "0"))


def check_arguments(command: Telecommand, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they go into the body, in the order of the dictionary, defaults filled in.

    An ENUM may be given by name or by code and becomes its code. Raises ``ArgumentError`` for the first that is
    unknown, missing, of another type or out of its range; NaN and infinity are never in range, and
    a bool is no number.
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
    match argument.type:
        case ArgumentType.BOOL:
            if isinstance(value, bool):
                return value
        case ArgumentType.INT:
            if isinstance(value, int) and not isinstance(value, bool) and _in_range(argument, value):
                return int(value)
        case ArgumentType.FLOAT:
            if isinstance(value, int | float) and not isinstance(value, bool) and _in_range(argument, value):
                return float(value)
        case ArgumentType.TEXT:
            if isinstance(value, str) and _in_range(argument, len(value)) and _encodable(value):
                return value
        case ArgumentType.ENUM:
            codes = enum_codes(argument)
            if isinstance(value, str) and value in codes:
                return codes[value]
            if isinstance(value, int) and not isinstance(value, bool) and value in codes.values():
                return int(value)
    _refuse(argument, value)


def parse_argument_text(argument: Argument, text: str) -> Any:
    """Value of an argument as typed on a command line, checked; raises ``ArgumentError``.

    BOOL takes true/false, on/off, yes/no, 1/0; INT also 0x and 0b; ENUM its name in any case, or its code.
    """
    value: Any = text
    try:
        match argument.type:
            case ArgumentType.BOOL:
                folded = text.strip().casefold()
                value = True if folded in _TRUE else False if folded in _FALSE else text
            case ArgumentType.INT:
                value = int(text, 0)
            case ArgumentType.FLOAT:
                value = float(text)
            case ArgumentType.ENUM:
                folded = text.strip().casefold()
                value = next((name for name in argument.choices if name.casefold() == folded), None)
                value = int(text, 0) if value is None else value
            case ArgumentType.TEXT:
                pass
    except ValueError:
        _refuse(argument, text)
    return check_argument(argument, value)


def enum_codes(argument: Argument) -> dict[str, int]:
    """Code of each choice of an ENUM."""
    codes = argument.codes or tuple(range(len(argument.choices)))
    return {name: int(code) for name, code in zip(argument.choices, codes, strict=True)}


def describe(argument: Argument) -> str:
    """What is allowed, in words: "a number from 0 to 2000 W"."""
    unit = f" {argument.unit}" if argument.unit else ""
    span = _span(argument)
    match argument.type:
        case ArgumentType.BOOL:
            return "true or false"
        case ArgumentType.INT:
            return f"a whole number{span}{unit}"
        case ArgumentType.FLOAT:
            return f"a number{span}{unit}"
        case ArgumentType.TEXT:
            return f"text{span.replace(' from ', ' of ')} characters" if span else "text"
        case ArgumentType.ENUM:
            return "one of " + ", ".join(f"{name} ({code})" for name, code in enum_codes(argument).items())


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


def _encodable(text: str) -> bool:
    """Lone surrogates, as a terminal in a wrong encoding makes them, have no UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def _refuse(argument: Argument, value: Any) -> NoReturn:
    raise ArgumentError(f"{argument.name} = {_shown(value)} is not {describe(argument)}")
