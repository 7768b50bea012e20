"""Execution of the telecommands on limits. Each is complete at once; the final report tells what is so now.

action.state    ACTIVE, PASSIVE or DISABLED; it begins anew, and what stood of it has ended
action.reset    a spent "once" may act again, counts are 0; what stood of it has ended
watch.report    value, limit and result of one watchpoint
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.schema import FailureCode

from . import fdir, fdir_memory, watchpoints
from .commanding import Command
from .execution_row import Begun, Execution, Failure, Reports
from .fdir import Switch
from .vehicle import Config, Vehicle

SWITCHES: Final[tuple[Switch, ...]] = ("active", "passive", "disabled")
"""By the code of the argument "state"."""


def _index(vehicle: Vehicle, command: Command) -> int | Failure:
    wanted = command.arguments["action"]
    for index, point in enumerate(vehicle.fdir.table.actionpoints):
        if point.id == wanted:
            return index
    name = vehicle.fdir.table.name
    return Failure(FailureCode.UNKNOWN_TARGET, f"no actionpoint {wanted} in the active table {name!r}")


def _changed(vehicle: Vehicle, state: fdir.State) -> Begun:
    return replace(vehicle, fdir=state), fdir_memory.changes(vehicle.fdir, state)


def _state(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    index = _index(vehicle, command)
    if isinstance(index, Failure):
        return index
    return _changed(vehicle, fdir.switched(vehicle.fdir, index, SWITCHES[command.arguments["state"]]))


def _reset(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    index = _index(vehicle, command)
    return index if isinstance(index, Failure) else _changed(vehicle, fdir.rearmed(vehicle.fdir, index))


def _told(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    index = _index(vehicle, command)
    assert not isinstance(index, Failure), "begin has looked for it"
    point, standing = vehicle.fdir.table.actionpoints[index], vehicle.fdir.standing[index]
    tripped = f"tripped {standing.count} times"
    return Failure(FailureCode.NONE, f"{point.name} ({point.response}) is {standing.switch}, {tripped}")


def _report(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    wanted = command.arguments["watch"]
    if wanted not in vehicle.watch.program.index:
        name = vehicle.watch.table.name
        return Failure(FailureCode.UNKNOWN_TARGET, f"no watchpoint {wanted} in the active table {name!r}")
    return vehicle, ()


def _reported(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    watch = vehicle.watch
    index = watch.program.index[command.arguments["watch"]]
    age_s = watchpoints.age_s(watch, index, vehicle.now_s)
    since = f"{age_s:.1f} s ago" if age_s < float("inf") else "never"
    said = fdir.limit_text(watch, index, vehicle)
    return Failure(FailureCode.NONE, f"{watch.results[index].name}: {said}, valid {since}")


ROWS: Final[dict[str, Execution]] = {
    "action.state": Execution(_state, _told),
    "action.reset": Execution(_reset, _told),
    "watch.report": Execution(_report, _reported),
}
