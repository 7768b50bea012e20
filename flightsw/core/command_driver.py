"""Command driver: what was accepted is begun, what was begun is ended, and each stage is reported once.

A telecommand passes three stages (PUS service 1): acceptance, start, completion. ``commanding`` judges acceptance
and keeps the commands in flight, ``execution`` says how each begins and when it has ended; here they are driven
through the frame, after all subsystems:

    in flight   → ended, failed, past its deadline, or not yet
    accepted    → the mode still allows it → begun, or refused
    just come   → accepted and begun in the same frame

Stored commands go the same way; ``sequence_driver`` accepts and begins them.

A command sees only reports of frames after the one it began in: what came earlier says nothing about it. Deadlines
are machine time.
"""

from msgspec.structs import replace

from flightsw.link.schema import FailureCode, Stage

from . import commanding
from .commanding import Command
from .execution import EXECUTIONS
from .execution_row import DONE, Failure
from .frame import Frame
from .inputs import Report
from .vehicle import Config, Vehicle


def drive(
    vehicle: Vehicle,
    config: Config,
    telecommands: tuple[bytes, ...],
    reports: tuple[Report, ...],
    frame: Frame,
    now_s: float,
) -> Vehicle:
    """End what has ended, begin what was accepted, accept and begin what has come."""
    for command in vehicle.commanding.in_flight:
        vehicle = advance(vehicle, config, command, reports, frame, now_s)
    for packet in telecommands:
        state, outcomes = commanding.accept(vehicle.commanding, config.commanding, packet, vehicle.mode.mode, now_s)
        frame.take(outcomes)
        vehicle = replace(vehicle, commanding=state)
        for command in state.in_flight:
            if not command.started:
                vehicle = advance(vehicle, config, command, (), frame, now_s)
    return vehicle


def advance(
    vehicle: Vehicle,
    config: Config,
    command: Command,
    reports: tuple[Report, ...],
    frame: Frame,
    now_s: float,
) -> Vehicle:
    """One command: begin it if it is new, end it if it has ended or is past its deadline."""
    execution = EXECUTIONS[command.spec.name]
    if not command.started:
        # What came before the command began says nothing about it.
        reports = ()
        if vehicle.mode.mode not in command.spec.modes:
            refusal = Failure(FailureCode.MODE_FORBIDS, f"the mode became {vehicle.mode.mode.name} meanwhile")
            return _conclude(vehicle, command, Stage.START, refusal, frame)
        # The filter that a command sets, and the rest of the events so far, are one state.
        vehicle = replace(vehicle, events=frame.events)
        begun = execution.begin(vehicle, config, command, now_s)
        if isinstance(begun, Failure):
            return _conclude(vehicle, command, Stage.START, begun, frame)
        vehicle, outcomes = begun
        frame.events = vehicle.events
        vehicle = _conclude(vehicle, command, Stage.START, DONE, frame)
        frame.take(outcomes)
    ending = DONE if execution.ended is None else execution.ended(vehicle, config, command, reports)
    if ending is None and now_s >= command.deadline_s:
        ending = Failure(FailureCode.TIMEOUT, f"not complete within {command.spec.timeout_s:g} s")
    return vehicle if ending is None else _conclude(vehicle, command, Stage.COMPLETION, ending, frame)


def _conclude(vehicle: Vehicle, command: Command, stage: Stage, ending: Failure, frame: Frame) -> Vehicle:
    state, outcomes = commanding.report(vehicle.commanding, command, stage, ending.code, ending.text)
    frame.take(outcomes)
    return replace(vehicle, commanding=state)
