"""Sequence driver: dispatches the steps that are due as telecommands, and learns what became of them.

A frame of the sequences, after the telecommands of the ground:

    outcomes → start at boot → time → up to ``dispatches_per_frame_max`` steps → durable position

A dispatched step is decoded with its CRC, accepted by the same checks as a telecommand from the ground, and begun
at once, so that a step may arm the next one. BUSY leaves it for the next frame, with its time base. A step *fails*
when it is not whole, when it is refused, when its execution fails or runs out of time; the sequence then ends or
goes on, as its image says. Outcomes are matched by command id: what belongs to an aborted or earlier run is
nobody's.

*Modes.* Sequences run in every mode; what a step may do in SAFE is what a telecommand may do there, so a step that
wants payload is refused. At boot they wait until BOOT is left, and after a crash loop nothing starts by itself.

``command_id`` = bit 63, 26 bits of the boot count, 7 bits of the slot, 30 bits of a counter.
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.dictionary import TELECOMMAND_BY_OPCODE
from flightsw.link.errors import TableError
from flightsw.link.schema import FailureCode, Mode, Stage
from flightsw.link.sequence import command_of

from . import commanding, sequence_durable
from .command_driver import advance
from .commanding import ONBOARD_ID_MIN, Verification
from .events import Event, Fields
from .frame import Frame
from .sequence import Refusal, abort, finish, start
from .sequence_life import ABSOLUTES, NAMES, POSITION, Life, Pending, put
from .sequence_time import Next, choose, elapsed_s, follow
from .vehicle import Config, Vehicle

_BOOT_BITS: Final = 26
_SLOT_BITS: Final = 7
_COUNTER_BITS: Final = 30


def command_id(boot_count: int, position: int, serial: int) -> int:
    """Id of the stored command number ``serial`` of a slot in a boot: no other boot and no ground uses it."""
    boot = boot_count % (1 << _BOOT_BITS)
    return ONBOARD_ID_MIN | ((boot << _SLOT_BITS) | position) << _COUNTER_BITS | serial % (1 << _COUNTER_BITS)


def position_of(identity: int) -> int:
    """Slot of a stored command."""
    return (identity >> _COUNTER_BITS) % (1 << _SLOT_BITS)


def run(vehicle: Vehicle, config: Config, frame: Frame, now_s: float) -> Vehicle:
    """The sequences in this minor frame; to be called while ``awake`` or when outcomes have come."""
    clock, limits = vehicle.correlation, config.sequence
    vehicle = _settle(vehicle, frame, fresh=False)
    if vehicle.sequences.closed:
        return vehicle
    if vehicle.sequences.at_boot and vehicle.mode.mode is not Mode.BOOT:
        vehicle = _start_at_boot(vehicle, frame)
    state, found = follow(vehicle.sequences, limits, clock, now_s)
    frame.take(found)
    for position in state.active:
        state, found = finish(state, position)
        frame.take(found)
    vehicle = replace(vehicle, sequences=state)
    for _ in range(limits.dispatches_per_frame_max):
        due = choose(vehicle.sequences, limits, clock)
        if due is None:
            # Everybody was served: the next frame begins with the first slot.
            vehicle = _next_turn(vehicle, 0)
            break
        dispatched = _dispatch(vehicle, config, due, frame, now_s)
        vehicle = dispatched or vehicle
        if due.position not in ABSOLUTES:
            vehicle = _next_turn(vehicle, due.position + (dispatched is not None))
        if dispatched is None:
            break
    state, written = sequence_durable.step(vehicle.sequences, clock, now_s)
    frame.take(written)
    return replace(vehicle, sequences=state)


def _next_turn(vehicle: Vehicle, position: int) -> Vehicle:
    state = vehicle.sequences
    return vehicle if state.turn == position else replace(vehicle, sequences=replace(state, turn=position))


def _start_at_boot(vehicle: Vehicle, frame: Frame) -> Vehicle:
    state, by = vehicle.sequences, "power-on" if vehicle.power_on else "warm reset"
    name = state.at_boot
    state = replace(state, at_boot="")
    if state.slots[POSITION[name]].life is Life.LOADED:
        ordered = start(state, name, vehicle.correlation, by)
        assert not isinstance(ordered, Refusal), "a loaded relative sequence can be started"
        state, found = ordered
        frame.take(found)
    return replace(vehicle, sequences=state)


def _dispatch(vehicle: Vehicle, config: Config, due: Next, frame: Frame, now_s: float) -> Vehicle | None:
    """Dispatch one step; None when there is no room for its command now."""
    state, position = vehicle.sequences, due.position
    slot = state.slots[position]
    step = slot.flown.steps[slot.index]
    identity = command_id(vehicle.boot_count, position, slot.serial)
    passed = replace(slot, index=slot.index + 1, serial=slot.serial + 1, base_s=due.due_s, ordered_s=None)
    try:
        spec, arguments = command_of(step)
    except TableError as error:
        refusal = Verification(identity, step.op, Stage.ACCEPTANCE, FailureCode.INVALID_TABLE, str(error))
        vehicle = replace(vehicle, sequences=put(state, position, passed))
        return _fail(vehicle, position, slot.index + 1, refusal, frame)
    desk, verdict = commanding.submit(
        vehicle.commanding,
        config.commanding,
        spec,
        arguments,
        identity,
        vehicle.mode.mode,
        now_s,
        config.sequence.in_flight_max,
    )
    if isinstance(verdict, Verification):
        if verdict.code is FailureCode.BUSY:
            return None
        vehicle = replace(vehicle, sequences=put(state, position, passed))
        return _fail(vehicle, position, slot.index + 1, verdict, frame)
    passed = replace(
        passed, pending=(*slot.pending, Pending(identity, slot.index + 1)), dispatched=slot.dispatched + 1
    )
    state = replace(put(state, position, passed), dispatched=state.dispatched + 1)
    vehicle = advance(replace(vehicle, commanding=desk, sequences=state), config, verdict, (), frame, now_s)
    return _settle(vehicle, frame, fresh=True)


def _settle(vehicle: Vehicle, frame: Frame, *, fresh: bool) -> Vehicle:
    """Take the outcomes of stored commands; ``fresh`` ones came in the frame of their dispatch."""
    outcomes = vehicle.commanding.outcomes
    if not outcomes:
        return vehicle
    vehicle = replace(vehicle, commanding=replace(vehicle.commanding, outcomes=()))
    for outcome in outcomes:
        position = position_of(outcome.id)
        slot = vehicle.sequences.slots[position]
        pending = next((each for each in slot.pending if each.id == outcome.id), None)
        if pending is None:
            continue
        slot = replace(slot, pending=tuple(each for each in slot.pending if each is not pending))
        if slot.flown.reference == "completion" and not fresh:
            slot = replace(slot, base_s=elapsed_s(slot, vehicle.correlation))
        vehicle = replace(vehicle, sequences=put(vehicle.sequences, position, slot))
        if outcome.code is FailureCode.NONE:
            vehicle = _finish(vehicle, position, frame)
        else:
            vehicle = _fail(vehicle, position, pending.step, outcome, frame)
    return vehicle


def _fail(vehicle: Vehicle, position: int, number: int, outcome: Verification, frame: Frame) -> Vehicle:
    """One step failed: count it, tell it, and end the sequence if its image says so."""
    state, name = vehicle.sequences, NAMES[position]
    slot = state.slots[position]
    spec = TELECOMMAND_BY_OPCODE.get(outcome.opcode)
    fields: Fields = {
        "sequence": name,
        "step": number,
        "command": f"0x{outcome.opcode:02X}" if spec is None else spec.name,
        "code": outcome.code.name,
        "reason": outcome.text,
    }
    frame.take((Event("SEQUENCE_STEP_FAILED", fields),))
    state = replace(put(state, position, replace(slot, failed=slot.failed + 1)), failed=state.failed + 1)
    vehicle = replace(vehicle, sequences=state)
    if slot.flown.on_failure == "continue":
        return _finish(vehicle, position, frame)
    aborted = abort(state, name, f"step {number} failed")
    assert not isinstance(aborted, Refusal), "steps fail in sequences that are on their way"
    state, found = aborted
    frame.take(found)
    return replace(vehicle, sequences=state)


def _finish(vehicle: Vehicle, position: int, frame: Frame) -> Vehicle:
    state, found = finish(vehicle.sequences, position)
    frame.take(found)
    return replace(vehicle, sequences=state)
