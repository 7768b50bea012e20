"""Execution of the telecommands on integrity levels: complete at once; the workers are told in the next frame.

What the workers then say stands in the parameter integrity.level.
"""

import math
from typing import Final

from msgspec.structs import replace

from flightsw.link.integrity import Level

from . import integrity
from .commanding import Command
from .execution_row import Begun, Execution
from .vehicle import Config, Vehicle

AUTO: Final = 0
"""Code of AUTO in ``integrity.level``; the others are the levels' own numbers."""


def _level(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    code, hold_s = command.arguments["level"], command.arguments["hold_s"]
    if code == AUTO:
        state, found = integrity.release(vehicle.integrity, "telecommand")
        return replace(vehicle, integrity=state), found
    return _held(vehicle, Level(code), hold_s)


def _off(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    return _held(vehicle, Level.OFF, command.arguments["hold_s"])


def _held(vehicle: Vehicle, level: Level, hold_s: float) -> Begun:
    until_s = vehicle.correlation.elapsed_world_s + hold_s if hold_s else math.inf
    span = f"for {hold_s:g} s" if hold_s else "until it is released"
    state, found = integrity.hold(vehicle.integrity, level, until_s, span)
    return replace(vehicle, integrity=state), found


ROWS: Final[dict[str, Execution]] = {
    "integrity.level": Execution(_level),
    "integrity.off": Execution(_off),
}
