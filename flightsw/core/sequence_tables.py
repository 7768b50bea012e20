"""Images of stored sequences: loading and clearing a slot, appending to an absolute sequence, dumps and status.

An image goes into a slot whole and only while its sequence is neither running nor waiting nor suspended; it starts
at its first step again. *Append* is the way to prolong an absolute sequence that runs: the steps of a validated
load are merged by time into the active image, which is then the image to store.

- The position stays: the next step is the one that was next, or an appended one before it. - Appended steps that
lie in the past are left out and counted as skipped, all at once; they never fire. - Passed steps are dropped as far
as nothing needs them (outcomes, arming), so a sequence can be prolonged for ever.
"""

import zlib
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from flightsw.link.dictionary import TELECOMMAND_BY_OPCODE
from flightsw.link.errors import TableError, TableInUseError
from flightsw.link.schema import FailureCode, Hazard
from flightsw.link.sequence import (
    ARM_WINDOW_DS,
    DS_PER_S,
    TAI_MAX_DS,
    Sequence,
    Status,
    Step,
    decode,
    encode,
    encode_status,
    merged,
)
from flightsw.link.tables import Table

from .correlation import State as Clock
from .events import Event, Fields
from .sequence import Ordered, Refusal, refused
from .sequence_life import NAMES, POSITION, TRANSITIONS, Slot, State, Trigger, put
from .table_handler import Handler

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle


def check(vehicle: "Vehicle", config: "Config", table: Table, image: bytes) -> str:
    """One line on what the image holds; raises ``TableError``."""
    sequence = _decode(table, image)
    count = len(sequence.steps)
    return f"{sequence.name}, {count} step{'s' * (count > 1)}, on failure {sequence.on_failure}"


def activate(
    vehicle: "Vehicle", config: "Config", table: Table, image: bytes | None, now_s: float
) -> tuple["Vehicle", tuple[Event, ...]]:
    """Put an image into its slot, or empty it; raises ``TableError`` while its sequence is under way."""
    state, position = vehicle.sequences, POSITION[table.name]
    slot = state.slots[position]
    trigger = Trigger.CLEAR if image is None else Trigger.LOAD
    if (slot.life, trigger) not in TRANSITIONS:
        raise TableInUseError(refused(position, slot, trigger).text)
    # The counter stays: command ids of this boot are used once.
    fresh = Slot(life=TRANSITIONS[slot.life, trigger], serial=slot.serial)
    if image is not None:
        fresh = replace(fresh, sequence=_decode(table, image), crc32=zlib.crc32(image))
    return replace(vehicle, sequences=put(state, position, fresh)), ()


def image(vehicle: "Vehicle", table: Table) -> bytes:
    """The active image of a sequence, "" in an empty slot."""
    sequence = vehicle.sequences.slots[POSITION[table.name]].sequence
    return b"" if sequence is None else encode(sequence)


def status(vehicle: "Vehicle", table: Table) -> bytes:
    """The table "sequence_status": one row for each loaded sequence."""
    rows = tuple(
        Status(
            sequence=NAMES[position],
            name=slot.sequence.name,
            state=slot.life.name,
            index=slot.index,
            steps=len(slot.sequence.steps),
            pending=len(slot.pending),
            dispatched=slot.dispatched,
            failed=slot.failed,
            skipped=slot.skipped,
        )
        for position, slot in enumerate(vehicle.sequences.slots)
        if slot.sequence is not None
    )
    return encode_status(rows)


HANDLER: Final = Handler(check=check, activate=activate, image=image)


def append(state: State, name: str, load: bytes, clock: Clock) -> Ordered:
    """Merge a validated load into an absolute sequence; ``image`` is then what to store."""
    position = POSITION[name]
    slot = state.slots[position]
    life = TRANSITIONS.get((slot.life, Trigger.APPEND))
    if life is None:
        return refused(position, slot, Trigger.APPEND)
    active, addition = slot.flown, decode(load)
    since_ds = active.steps[slot.index - 1].at_ds if slot.index else 0
    if clock.valid:
        since_ds = max(since_ds, int(clock.tai_s * DS_PER_S))
    coming = tuple(step for step in addition.steps if step.at_ds >= since_ds)
    if not coming:
        text = f"all {len(addition.steps)} steps lie in the past; nothing is appended"
        return Refusal(FailureCode.EXECUTION_FAILED, text)
    dropped = _droppable(slot, active)
    try:
        both = merged(
            replace(active, steps=active.steps[dropped:]),
            replace(addition, steps=coming),
        )
    except TableError as error:
        return Refusal(FailureCode.INVALID_TABLE, f"merged: {error}")
    passed = len(addition.steps) - len(coming)
    slot = replace(
        slot,
        life=life,
        sequence=both,
        crc32=zlib.crc32(encode(both)),
        index=slot.index - dropped,
        reserved=slot.index - dropped,
        pending=tuple(each._replace(step=each.step - dropped) for each in slot.pending),
        skipped=slot.skipped + passed,
    )
    fields: Fields = {"sequence": name, "added": len(coming), "passed": passed, "steps": len(both.steps)}
    state = replace(put(state, position, slot), skipped=state.skipped + passed)
    return state, (Event("SEQUENCE_APPENDED", fields),)


def _decode(table: Table, octets: bytes) -> Sequence:
    sequence = decode(octets)
    if sequence.kind != table.kind:
        raise TableError(f"is of kind {sequence.kind}, {table.name} holds {table.kind} ones")
    return sequence


def _droppable(slot: Slot, active: Sequence) -> int:
    """How many passed steps may go: not the last, none whose outcome is awaited, no arming that still counts."""
    steps = active.steps
    keep = max(0, min([slot.index, *(pending.step for pending in slot.pending)]) - 1)
    hazards_ds = [step.at_ds for step in steps[keep:] if _is_hazardous(step)]
    next_hazard_ds = hazards_ds[0] if hazards_ds else TAI_MAX_DS
    while keep > 0:
        if steps[keep - 1].at_ds < next_hazard_ds - ARM_WINDOW_DS:
            return keep
        keep -= 1
        if _is_hazardous(steps[keep]):
            next_hazard_ds = steps[keep].at_ds
    return 0


def _is_hazardous(step: Step) -> bool:
    # A step that went bad in memory may have any opcode; the check of the merged image finds it.
    command = TELECOMMAND_BY_OPCODE.get(step.op)
    return command is not None and command.hazard is Hazard.HAZARDOUS
