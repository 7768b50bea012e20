"""Stored sequences as operators write them, compiled to images and back.

    [sequence]
    name = "night pass"
    kind = "relative"            # or "absolute"
    reference = "dispatch"       # relative only: delays count from dispatch or from completion of the step before
    on_failure = "abort"         # or "continue"
    wait_for_time = false        # relative only: wait with the first step until the onboard time is valid

    [[step]]
    after = "10 s"               # relative; absolute has  at = "2026-11-23T04:00:00Z"  or  at_tai = "…"
    command = "mode.set"
    mode = "SAFE"                # arguments stand beside: choices by name, seconds also as "5 min"

Every rule about a sequence is in ``flightsw.link.sequence``; here is only how it is written. ``arm`` takes the name
of the command to arm for its opcode.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from flightsw.link import sequence
from flightsw.link.arguments import enum_codes
from flightsw.link.dictionary import TELECOMMAND_BY_NAME, TELECOMMAND_BY_OPCODE
from flightsw.link.errors import ArgumentError, TableError
from flightsw.link.schema import Argument, ArgumentType, Telecommand
from flightsw.link.sequence import ARM_OPCODE, Sequence, Step

from .moments import duration_ds, duration_s, duration_text, tai_ds, utc_ds, utc_text
from .names import likely
from .source import Source
from .source_fields import convert
from .toml_text import block_text, document_text

HEAD: Final = ("name", "kind", "reference", "on_failure", "wait_for_time")
TIMES: Final[dict[str, dict[str, Callable[[Any], int]]]] = {
    "relative": {"after": duration_ds},
    "absolute": {"at": utc_ds, "at_tai": tai_ds},
}
"""How the time of a step is written, by the kind of its sequence."""
STEP_KEYS: Final = frozenset(("after", "at", "at_tai", "command"))
ARM: Final = TELECOMMAND_BY_OPCODE[ARM_OPCODE].name


def compile_sequence(source: Source) -> Sequence:
    """The checked sequence of a source; raises ``GroundError`` with file, line and step."""
    source.only(source.data, ("sequence", "step"), "a sequence")
    head = source.table("sequence")
    source.only(head, HEAD, "[sequence]", "sequence")
    if head.get("kind") == "absolute":  # Nothing else is allowed there, so nothing need be said.
        head = {"reference": "dispatch", "wait_for_time": True} | head
    head = {"wait_for_time": False} | head
    # Everything but the steps first: how their times are written depends on it.
    made = convert(source, {**head, "steps": ()}, Sequence, "[sequence]", "sequence")
    steps = tuple(_step(source, made.kind, number, entry) for number, entry in enumerate(source.entries("step")))
    made = msgspec.structs.replace(made, steps=steps)
    try:
        sequence.check(made)
    except TableError as error:
        # The one check says which step; here its line is put in front.
        found = re.match(r"step (\d+): ", str(error))
        place = ("step", int(found[1]) - 1) if found else ("sequence", str(error).partition(" ")[0])
        raise source.fault(str(error), *place) from None
    return made


def sequence_text(made: Sequence, comment: str = "") -> str:
    """The source of a sequence; raises ``TableError`` for a step that this dictionary does not know."""
    head: dict[str, Any] = {"name": made.name, "kind": made.kind, "on_failure": made.on_failure}
    if made.kind == "relative":
        head |= {"reference": made.reference, "wait_for_time": made.wait_for_time}
    blocks = [block_text("[sequence]", head)]
    for number, step in enumerate(made.steps, 1):
        try:
            command, arguments = sequence.command_of(step)
        except TableError as error:
            raise TableError(f"step {number}: {error}") from None
        time = {"after": duration_text(step.at_ds)} if made.kind == "relative" else {"at": utc_text(step.at_ds)}
        blocks.append(block_text("[[step]]", {**time, "command": command.name, **written(command, arguments)}))
    return document_text(comment, blocks)


def written(command: Telecommand, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a source has them: choices by name, octets in hexadecimal, what is armed by its name."""
    return {argument.name: _written(command, argument, arguments[argument.name]) for argument in command.arguments}


def _step(source: Source, kind: str, number: int, entry: dict[str, Any]) -> Step:
    where = f"step {number + 1}"
    at_ds = _time(source, kind, number, entry)
    name = entry.get("command")
    if name is None:
        raise source.fault(f"{where}: command is missing", "step", number)
    command = TELECOMMAND_BY_NAME.get(name) if isinstance(name, str) else None
    if command is None:
        raise source.fault(
            f"{where}: no command {name!r}{likely(str(name), TELECOMMAND_BY_NAME)}", "step", number, "command"
        )
    known = [argument.name for argument in command.arguments]
    given = {key: value for key, value in entry.items() if key not in STEP_KEYS}
    source.only(given, known, f"{where}: {name}", "step", number)
    try:
        values = {
            argument.name: _read(command, argument, given[argument.name])
            for argument in command.arguments
            if argument.name in given
        }
        return sequence.make_step(at_ds, command, values)
    except (ArgumentError, ValueError) as error:
        wrong = next((key for key in given if re.search(rf"\b{re.escape(key)}\b", str(error))), "command")
        raise source.fault(f"{where}: {error}", "step", number, wrong) from None


def _time(source: Source, kind: str, number: int, entry: dict[str, Any]) -> int:
    where, allowed = f"step {number + 1}", TIMES[kind]
    given = [key for reader in TIMES.values() for key in reader if key in entry]
    if len(given) != 1 or given[0] not in allowed:
        said = " and ".join(given) or "no time"
        raise source.fault(
            f"{where}: {said}: a step of a sequence of kind {kind} has {' or '.join(allowed)}",
            "step",
            number,
            *given[-1:],
        )
    try:
        return allowed[given[0]](entry[given[0]])
    except ValueError as error:
        raise source.fault(f"{where}: {given[0]} = {error}", "step", number, given[0]) from None


def _read(command: Telecommand, argument: Argument, value: Any) -> Any:
    """A value as the dictionary takes it; what is wrong with it the dictionary says."""
    if command.name == ARM and isinstance(value, str):
        if value not in TELECOMMAND_BY_NAME:
            raise ValueError(f"{command.name}: opcode: no command {value!r}{likely(value, TELECOMMAND_BY_NAME)}")
        return TELECOMMAND_BY_NAME[value].opcode
    if argument.unit == "s" and isinstance(value, str):
        try:
            seconds = duration_s(value)
        except ValueError as error:
            raise ValueError(f"{command.name}: {argument.name} = {error}") from None
        return int(seconds) if argument.type is ArgumentType.INT and seconds.denominator == 1 else float(seconds)
    return value


def _written(command: Telecommand, argument: Argument, value: Any) -> Any:
    if command.name == ARM and value in TELECOMMAND_BY_OPCODE:
        return TELECOMMAND_BY_OPCODE[value].name
    if argument.type is ArgumentType.ENUM:
        return next((name for name, code in enum_codes(argument).items() if code == value), value)
    return value.hex() if isinstance(value, bytes) else value
