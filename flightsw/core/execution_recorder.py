"""Execution of the telecommands on events and the recorder.

event.mute    complete at once    refused when ``MUTED_MAX`` events are muted
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.schema import FailureCode

from . import events
from .commanding import Command
from .execution_row import Begun, Execution, Failure
from .vehicle import Config, Vehicle


def _event_mute(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    muted = events.mute(vehicle.events, command.arguments["event"], command.arguments["on"])
    if muted is None:
        return Failure(FailureCode.EXECUTION_FAILED, f"{events.MUTED_MAX} events are muted; report one again first")
    return replace(vehicle, events=muted), ()


ROWS: Final[dict[str, Execution]] = {
    "event.mute": Execution(_event_mute),
}
