"""Execution of the telecommands on stored sequences.

sequence.start, suspend, resume, abort   complete at once         refused with WRONG_STATE
sequence.step                            complete when the step   failed when the sequence is no longer suspended
                                         has been dispatched
sequence.append                          complete at once         also refused like table.activate
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.schema import FailureCode
from flightsw.link.tables import TABLE_BY_CODE, TABLE_BY_NAME

from . import sequence, sequence_tables, tables
from .commanding import Command
from .effects import Persist
from .execution_row import DONE, Begun, Execution, Failure, Reports
from .sequence import Ordered, Refusal
from .sequence_life import ABSOLUTES, POSITION, Life
from .vehicle import Config, Vehicle


def _name(command: Command) -> str:
    return TABLE_BY_CODE[command.arguments["sequence"]].name


def _begun(vehicle: Vehicle, ordered: Ordered) -> Begun:
    if isinstance(ordered, Refusal):
        return Failure(ordered.code, ordered.text)
    state, found = ordered
    return replace(vehicle, sequences=state), found


def _start(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    name, state = _name(command), vehicle.sequences
    slot = state.slots[POSITION[name]]
    if any(pending.id == command.id for pending in slot.pending) and POSITION[name] not in ABSOLUTES:
        return replace(vehicle, sequences=sequence.restart(state, name)), ()
    by = "another sequence" if command.stored else "telecommand"
    return _begun(vehicle, sequence.start(state, name, vehicle.correlation, by))


def _suspend(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return _begun(vehicle, sequence.suspend(vehicle.sequences, _name(command), vehicle.correlation))


def _resume(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return _begun(vehicle, sequence.resume(vehicle.sequences, _name(command), vehicle.correlation))


def _abort(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    by = "a sequence" if command.stored else "telecommand"
    return _begun(vehicle, sequence.abort(vehicle.sequences, _name(command), by))


def _append(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    name = _name(command)
    load = tables.load_of(vehicle.tables, name)
    if load is None:
        return Failure(FailureCode.NOT_STAGED, f"no load of {name} is open; begin one first")
    if load.phase is not tables.Phase.VALIDATED:
        return Failure(FailureCode.NOT_VALIDATED, f"the load of {name} is not validated")
    # Memory may have gone bad since.
    if fault := tables.fault(load):
        return Failure(FailureCode.INVALID_TABLE, f"{name}: {fault}")
    begun = _begun(vehicle, sequence_tables.append(vehicle.sequences, name, load.image, vehicle.correlation))
    if isinstance(begun, Failure):
        return begun
    vehicle, found = begun
    vehicle = replace(vehicle, tables=tables.closed(vehicle.tables, name))
    return vehicle, (*found, Persist(name, sequence_tables.image(vehicle, TABLE_BY_NAME[name])))


def _step(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return _begun(vehicle, sequence.order_step(vehicle.sequences, _name(command), command.deadline_s))


def _step_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    slot = vehicle.sequences.slots[POSITION[_name(command)]]
    if slot.ordered_s is not None:
        return None
    if slot.life is Life.SUSPENDED or slot.index >= len(slot.flown.steps):
        return DONE
    return Failure(FailureCode.EXECUTION_FAILED, f"{_name(command)} is {slot.life.name} meanwhile")


ROWS: Final[dict[str, Execution]] = {
    "sequence.start": Execution(_start),
    "sequence.suspend": Execution(_suspend),
    "sequence.resume": Execution(_resume),
    "sequence.step": Execution(_step, _step_ended),
    "sequence.abort": Execution(_abort),
    "sequence.append": Execution(_append),
}
