"""Stored command sequences: the image of an absolute (ATS) or a relative (RTS) time-tagged sequence, and its check.

    image = msgpack map {format, kind, name, on_failure, reference, wait_for_time, steps}
    step  = msgpack array [at_ds, opcode, arguments, crc]

Times are tenths of a second. In a *relative* sequence ``at_ds`` is the delay after the step before it, counted
from its dispatch or from its completion, as ``reference`` says: there is no default, because users of other systems
could not tell which they got. In an *absolute* one it is TAI since 1958-01-01, in ascending order; UTC and its leap
seconds stay on the ground.

``arguments`` is the msgpack map of a telecommand body, and ``crc`` the CRC-32 over the step's other three values:
a step that went bad in memory is found before it is dispatched, whatever became of the rest.

``check`` runs on the ground when a sequence is compiled and on board when it is validated.
"""

import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from .arguments import check_arguments
from .bodies import unpack_arguments
from .dictionary import TELECOMMAND_BY_OPCODE
from .errors import ArgumentError, BodyError, TableError
from .schema import Hazard, Telecommand
from .tables import IMAGE_BYTES_MAX

FORMAT: Final = 1
STEPS_MAX: Final = 1000
DS_PER_S: Final = 10
DELAY_MAX_DS: Final = 30 * 86_400 * DS_PER_S
"""Longest delay of a relative step, 30 days."""
TAI_MAX_DS: Final = 2**32 * DS_PER_S
"""End of the four octets of CUC seconds, in 2094."""
ARM_OPCODE: Final = 0x02
ARM_WINDOW_DS: Final = 60 * DS_PER_S


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One stored telecommand; ``args`` is the msgpack map of its arguments, codes for names."""

    at_ds: Annotated[int, Meta(ge=0)]
    op: Annotated[int, Meta(ge=1, le=0xFFFF)]
    args: bytes
    crc: Annotated[int, Meta(ge=0, lt=2**32)]


class Sequence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole sequence. A failed or refused step ends it ("abort") or not ("continue").

    ``wait_for_time``: the first step waits until the onboard time is valid; an absolute sequence always does.
    """

    format: Literal[1] = 1
    kind: Literal["absolute", "relative"]
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}$")]
    on_failure: Literal["abort", "continue"]
    reference: Literal["dispatch", "completion"]
    wait_for_time: bool
    steps: tuple[Step, ...]


class Status(msgspec.Struct, frozen=True, array_like=True):
    """One row of the table "sequence_status": a loaded sequence, its state, and the counts of its latest run.

    ``index`` is the next step, from 0; ``pending`` are dispatched steps whose outcome is not known yet.
    """

    sequence: str
    name: str
    state: str
    index: int
    steps: int
    pending: int
    dispatched: int
    failed: int
    skipped: int


_encoder: Final = msgspec.msgpack.Encoder()
_image: Final = msgspec.msgpack.Decoder(Sequence)
_status: Final = msgspec.msgpack.Decoder(tuple[Status, ...])


def make_step(at_ds: int, command: Telecommand, arguments: Mapping[str, Any]) -> Step:
    """A step with checked arguments and its CRC; raises ``ArgumentError``."""
    args = _encoder.encode(check_arguments(command, arguments))
    return Step(at_ds, command.opcode, args, _crc(at_ds, command.opcode, args))


def is_whole(step: Step) -> bool:
    """Whether the CRC of a step holds."""
    return step.crc == _crc(step.at_ds, step.op, step.args)


def command_of(step: Step) -> tuple[Telecommand, dict[str, Any]]:
    """Telecommand and checked arguments of a step; raises ``TableError``."""
    if not is_whole(step):
        raise TableError("its CRC does not hold")
    command = TELECOMMAND_BY_OPCODE.get(step.op)
    if command is None:
        raise TableError(f"opcode 0x{step.op:02X} is not in this dictionary")
    try:
        return command, check_arguments(command, unpack_arguments(step.args))
    except BodyError as error:
        raise TableError(f"{command.name}: {error}") from None
    except ArgumentError as error:
        raise TableError(str(error)) from None


def encode(sequence: Sequence) -> bytes:
    """The image of a sequence."""
    return _encoder.encode(sequence)


def decode(image: bytes) -> Sequence:
    """A sequence from its image, checked; raises ``TableError`` with the first fault and where it is."""
    if len(image) > IMAGE_BYTES_MAX:
        raise TableError(f"image of {len(image)} bytes, at most {IMAGE_BYTES_MAX} are allowed")
    try:
        sequence = _image.decode(image)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TableError(f"is no image of a sequence: {error}") from None
    check(sequence)
    return sequence


def encode_status(rows: tuple[Status, ...]) -> bytes:
    """The table "sequence_status"."""
    return _encoder.encode(rows)


def decode_status(image: bytes) -> tuple[Status, ...]:
    """Inverse of ``encode_status``; raises ``TableError``."""
    try:
        return _status.decode(image)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TableError(f"is no status of sequences: {error}") from None


def check(sequence: Sequence) -> None:
    """Everything that a type cannot say; raises ``TableError`` with the first fault and where it is."""
    absolute = sequence.kind == "absolute"
    if not 1 <= len(sequence.steps) <= STEPS_MAX:
        raise TableError(f"{len(sequence.steps)} steps, allowed are 1 to {STEPS_MAX}")
    if absolute and sequence.reference != "dispatch":
        raise TableError('reference = "completion": an absolute sequence knows only "dispatch"')
    if absolute and not sequence.wait_for_time:
        raise TableError("wait_for_time = false: an absolute sequence always waits for valid time")
    latest = TAI_MAX_DS if absolute else DELAY_MAX_DS
    before_ds = elapsed_ds = 0
    armed: dict[int, int] = {}
    for number, step in enumerate(sequence.steps, 1):
        where = f"step {number}"
        if step.at_ds > latest:
            raise TableError(
                f"{where}: time {step.at_ds / DS_PER_S:g} s, at most {latest / DS_PER_S:g} s is allowed"
            )
        if absolute and step.at_ds < before_ds:
            raise TableError(f"{where}: earlier than the step before it")
        before_ds = step.at_ds
        elapsed_ds = step.at_ds if absolute else elapsed_ds + step.at_ds
        try:
            command, arguments = command_of(step)
        except TableError as error:
            raise TableError(f"{where}: {error}") from None
        if command.opcode == ARM_OPCODE:
            armed[arguments["opcode"]] = elapsed_ds
        elif (
            command.hazard is Hazard.HAZARDOUS and elapsed_ds - armed.pop(command.opcode, -(10**12)) > ARM_WINDOW_DS
        ):
            raise TableError(
                f"{where}: {command.name} is hazardous: put arm opcode={command.opcode} at most"
                f" {ARM_WINDOW_DS / DS_PER_S:g} s before it"
            )


def merged(active: Sequence, addition: Sequence) -> Sequence:
    """An absolute sequence with the steps of another one added in order of time; raises ``TableError``."""
    steps = tuple(sorted((*active.steps, *addition.steps), key=lambda step: step.at_ds))
    both = msgspec.structs.replace(active, steps=steps)
    check(both)
    return both


def _crc(at_ds: int, op: int, args: bytes) -> int:
    return zlib.crc32(_encoder.encode((at_ds, op, args)))
