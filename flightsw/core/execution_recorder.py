"""Execution of the telecommands on events and the recorder.

event.mute        complete at once    refused when ``MUTED_MAX`` events are muted
event.replay      complete when the last packet was handed to the radio; refused while another one runs
recorder.filter   complete at once    refused when it would keep more than all
recorder.quota    complete at once
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.schema import FailureCode, Severity

from . import events, recording
from .commanding import Command
from .effects import Replay
from .execution_row import Begun, Execution, Failure, Reports
from .vehicle import Config, Vehicle


def _event_mute(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    muted = events.mute(vehicle.events, command.arguments["event"], command.arguments["on"])
    if muted is None:
        return Failure(FailureCode.EXECUTION_FAILED, f"{events.MUTED_MAX} events are muted; report one again first")
    return replace(vehicle, events=muted), ()


def _event_replay(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    others = (c for c in vehicle.commanding.in_flight if c.spec is command.spec and c.started)
    if (other := next(others, None)) is not None:
        return Failure(FailureCode.BUSY, f"the replay of command {other.id} is not complete")
    a = command.arguments
    return vehicle, (Replay(command.id, a["count"], Severity(a["severity"])),)


def _event_replay_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    if vehicle.recorder.replayed != command.id:
        return None
    return Failure(FailureCode.NONE, f"{vehicle.recorder.replayed_count} events")


def _recorder_filter(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    group, keep, of = (command.arguments[name] for name in ("group", "keep", "of"))
    if keep > of:
        return Failure(FailureCode.BAD_ARGUMENT, f"keep = {keep} is more than of = {of}")
    return replace(vehicle, recording=recording.set_filter(vehicle.recording, group, keep, of)), ()


def _recorder_quota(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    state = recording.set_share(vehicle.recording, command.arguments["group"], command.arguments["share"])
    return replace(vehicle, recording=state), ()


ROWS: Final[dict[str, Execution]] = {
    "event.mute": Execution(_event_mute),
    "event.replay": Execution(_event_replay, _event_replay_ended),
    "recorder.filter": Execution(_recorder_filter),
    "recorder.quota": Execution(_recorder_quota),
}
