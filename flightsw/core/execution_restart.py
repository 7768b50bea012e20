"""Execution of the telecommands on restarts: the rungs of the ladder, and the record of past resets.

ladder.set       clears or raises the counter of one rung: task (failures of a job), daemon (restarts by the
                 ladder), crash_loop (unclean boots in a row, kept by the shell's boot record)
reset.report     one event report for each of the last resets, oldest first
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.schema import FailureCode
from flightsw.link.telecommands import LADDER_RUNGS

from . import ladder, payload
from .commanding import Command
from .effects import CountUncleanBoots
from .events import Event, Fields
from .execution_row import Begun, Execution, Failure
from .vehicle import Config, Vehicle

TASK, DAEMON, CRASH_LOOP = (LADDER_RUNGS.index(name) for name in ("task", "daemon", "crash_loop"))


def _ladder_set(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    rung, job, value = (command.arguments[name] for name in ("rung", "job", "value"))
    if rung == TASK:
        return _task(vehicle, config, job, value, now_s)
    if job:
        return Failure(FailureCode.BAD_ARGUMENT, f"rung {LADDER_RUNGS[rung]} has no job; leave job out")
    if rung == DAEMON:
        return replace(vehicle, ladder=ladder.State(restarts=value)), ()
    return vehicle, (CountUncleanBoots(value),)


def _task(vehicle: Vehicle, config: Config, job: str, value: int, now_s: float) -> Begun:
    if value > config.payload.restarts_max:
        most = f"payload.restarts_max = {config.payload.restarts_max}: the next failure then leads to quarantine"
        return Failure(FailureCode.BAD_ARGUMENT, f"value = {value} is over {most}")
    known = [spec.id for spec in config.jobs]
    if job and job not in known:
        names = ", ".join(known) or "none"
        return Failure(FailureCode.UNKNOWN_TARGET, f"no job {job!r}, configured are: {names}")
    state = vehicle.payload
    for index, name in enumerate(known):
        if job in ("", name):
            state = payload.count_failures(state, index, value, now_s)
    return replace(vehicle, payload=state), ()


def _reset_report(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    reports = []
    for reset in vehicle.resets[-command.arguments["count"] :]:
        fields: Fields = {
            "boot": reset.boot,
            "cause": reset.cause,
            "uptime_s": reset.uptime_s,
            "mode": reset.mode or "unknown",
            "safe_cause": reset.safe_cause or "none",
            "tai_s": reset.tai_s,
            "reason": reset.reason or "none",
        }
        reports.append(Event("RESET_RECORD", fields))
    return vehicle, tuple(reports)


ROWS: Final[dict[str, Execution]] = {
    "ladder.set": Execution(_ladder_set),
    "reset.report": Execution(_reset_report),
}
