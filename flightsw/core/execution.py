"""Execution: what each telecommand does, and how it is known that it is done.

``EXECUTIONS`` has one row per telecommand of the dictionary: *begin* changes the vehicle and returns effects, or
refuses; *ended* says in each later frame whether the command is complete or has failed. A row without *ended* is
complete at once. Begin runs in the frame after acceptance, after all subsystems, so orders to a subsystem take
effect in its next step.

    mode.set         complete when the mode is reached
    gpu.rail         complete when the rail is switched
    job.…            ``execution_jobs``
    table.…          ``execution_tables``, with parameter.…
    sequence.…       ``execution_sequences``
    event.…, recorder.…  ``execution_recorder``
    integrity.…      ``execution_integrity``
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.dictionary import HOUSEKEEPING, TELECOMMAND_BY_OPCODE
from flightsw.link.schema import FailureCode, Hazard, HousekeepingGroup, Mode

from . import (
    commanding,
    eps,
    execution_fdir,
    execution_integrity,
    execution_jobs,
    execution_recorder,
    execution_restart,
    execution_sequences,
    execution_tables,
    housekeeping,
    mode,
)
from .commanding import Command
from .effects import Acknowledge
from .execution_row import DONE, Begun, Execution, Failure, Pong, Reports
from .vehicle import Config, Vehicle, order_restart


def _ping(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return vehicle, (Pong(),)


def _arm(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    opcode = command.arguments["opcode"]
    spec = TELECOMMAND_BY_OPCODE.get(opcode)
    if spec is None or spec.hazard is not Hazard.HAZARDOUS:
        return Failure(FailureCode.UNKNOWN_TARGET, f"opcode 0x{opcode:02X} is no hazardous command")
    armed = commanding.arm(vehicle.commanding, config.commanding, opcode, now_s)
    return replace(vehicle, commanding=armed), ()


def _mode_set(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    wanted = Mode(command.arguments["mode"])
    if wanted is Mode.NOMINAL:
        if vehicle.mode.mode is not Mode.SAFE:
            return Failure(FailureCode.EXECUTION_FAILED, f"not in SAFE but in {vehicle.mode.mode.name}")
        if causes := mode.active_causes(facts(vehicle, config, now_s)):
            return Failure(FailureCode.EXECUTION_FAILED, f"SAFE is held by: {', '.join(causes)}")
    return replace(vehicle, mode=replace(vehicle.mode, requested=wanted)), ()


def _mode_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    wanted = Mode(command.arguments["mode"])
    if wanted is Mode.SAFE:
        return DONE if vehicle.mode.mode is Mode.SAFE and vehicle.mode.requested is None else None
    if vehicle.mode.mode is not Mode.SAFE:
        return DONE
    if vehicle.mode.requested is None:
        return Failure(FailureCode.EXECUTION_FAILED, "a cause of SAFE came up meanwhile")
    return None


def _governor_cap(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    cap_w = command.arguments["power_cap_w"]
    # A cap over the card's maximum caps nothing: that is how it is taken back.
    cap = None if cap_w >= config.governor.gpu_max_w else cap_w
    return replace(vehicle, governor=replace(vehicle.governor, power_cap_w=cap)), ()


def _gpu_rail(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    # Switched by the next frame, before payload is permitted anything: no worker starts on a rail that goes off.
    return replace(vehicle, eps=eps.command_rail(vehicle.eps, command.arguments["on"], "telecommand")), ()


def _gpu_rail_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    if vehicle.eps.rail_on == command.arguments["on"]:
        return DONE
    if vehicle.eps.rail_commanded and mode.sheds_rail(vehicle.mode, facts(vehicle, config, vehicle.now_s)):
        return Failure(FailureCode.EXECUTION_FAILED, "SAFE sheds the rail; it will be on afterwards")
    if vehicle.eps.rail_commanded and vehicle.shedding.rail_off:
        return Failure(FailureCode.EXECUTION_FAILED, "load shedding holds the rail; it will be on afterwards")
    return None


def _group(command: Command) -> HousekeepingGroup:
    index: int = command.arguments["group"]
    return HOUSEKEEPING[index]


def _hk_enable(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    state = housekeeping.enable(vehicle.housekeeping, _group(command).name, True, now_s)
    return replace(vehicle, housekeeping=state), ()


def _hk_disable(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    state = housekeeping.enable(vehicle.housekeeping, _group(command).name, False, now_s)
    return replace(vehicle, housekeeping=state), ()


def _hk_request(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    state = housekeeping.request(vehicle.housekeeping, _group(command).name)
    return replace(vehicle, housekeeping=state), ()


def _hk_interval(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    group, interval_s = _group(command), command.arguments["interval_s"]
    longest_s = command.arguments["max_interval_s"]
    if span := housekeeping.interval_refused(group, interval_s):
        return Failure(FailureCode.BAD_ARGUMENT, f"interval_s = {interval_s:g}: group {group.name} allows {span}")
    if span := housekeeping.max_interval_refused(group, interval_s, longest_s):
        why = f"max_interval_s = {longest_s:g}: group {group.name} allows 0 (periodic) or {span}"
        return Failure(FailureCode.BAD_ARGUMENT, why)
    state = housekeeping.set_interval(vehicle.housekeeping, group.name, interval_s, longest_s, now_s)
    return replace(vehicle, housekeeping=state), ()


def _event_filter(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return replace(vehicle, events=replace(vehicle.events, severity_min=command.arguments["severity"])), ()


def _acknowledge(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    a = command.arguments
    if a["last"] < a["first"]:
        return Failure(FailureCode.BAD_ARGUMENT, f"last = {a['last']} is before first = {a['first']}")
    return vehicle, (Acknowledge(a["boot"], a["apid"], a["first"], a["last"]),)


def _restart(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return order_restart(vehicle, "telecommand", now_s, by_ladder=False), ()


EXECUTIONS: Final[dict[str, Execution]] = {
    **execution_jobs.ROWS,
    **execution_fdir.ROWS,
    **execution_integrity.ROWS,
    **execution_tables.ROWS,
    **execution_restart.ROWS,
    **execution_recorder.ROWS,
    **execution_sequences.ROWS,
    "ping": Execution(_ping),
    "arm": Execution(_arm),
    "mode.set": Execution(_mode_set, _mode_ended),
    "governor.cap": Execution(_governor_cap),
    "gpu.rail": Execution(_gpu_rail, _gpu_rail_ended),
    "hk.enable": Execution(_hk_enable),
    "hk.disable": Execution(_hk_disable),
    "hk.request": Execution(_hk_request),
    "hk.interval": Execution(_hk_interval),
    "event.filter": Execution(_event_filter),
    "recorder.acknowledge": Execution(_acknowledge),
    "daemon.restart": Execution(_restart),
}


def facts(vehicle: Vehicle, config: Config, now_s: float) -> mode.Facts:
    """What the mode's transition table looks at, from the states of the other subsystems."""
    sensed = vehicle.sense
    return mode.Facts(
        ready=sensed.fresh,
        blind=sensed.age_s(now_s) > config.mode.stale_safe_s,
        soc_low=vehicle.eps.soc_low.active,
        undervoltage=vehicle.eps.undervoltage.active,
        gpu_hot=vehicle.thermal.gpu_hot.active,
        radiator_hot=vehicle.thermal.radiator_hot.active,
        limit_power=vehicle.fdir.orders.limit_power,
        limit_thermal=vehicle.fdir.orders.limit_thermal,
        limit=vehicle.fdir.orders.limit,
        shed=vehicle.shedding.safe,
        ladder_exhausted=vehicle.ladder.exhausted,
        contact_lost=vehicle.contact_loss.silence_s >= config.mode.loss_of_contact_s,
        jobs_wanted=vehicle.payload.wanted,
        contact=sensed.contact,
    )
