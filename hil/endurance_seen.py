"""What one frame of the flight showed, seen from outside: effects, events, and the mode as the ground reads it.

Nothing here asks the executive. The mode is read from the housekeeping packets at its place in their fixed layout,
which is cheaper than to decode them and as independent of the sender.
"""

from struct import unpack_from
from typing import Final

from flightsw.core.effects import (
    Actuate,
    Announce,
    Effect,
    KickWatchdog,
    KillWorker,
    SetPace,
    StartWorker,
    StopWorker,
    Telemetry,
)
from flightsw.link.dictionary import GROUP_BY_NAME
from flightsw.link.schema import Mode

_MODE_AT: Final = {
    GROUP_BY_NAME[name].apid: -(2 + 9 * (len(parameters) - parameters.index("mode")) - 1)
    for name in ("fast", "main")
    for parameters in (GROUP_BY_NAME[name].parameters,)
}
"""Where a housekeeping packet has its mode, from its end: a checksum of two bytes behind values of nine each."""


class Seen:
    """One frame from outside. ``mode`` and the switches keep their last value, the rest is of this frame."""

    def __init__(self) -> None:
        self.mode = Mode.BOOT.name
        self.rail_on, self.transmitter_on = True, False
        self.clear()

    def clear(self) -> None:
        """Begin a frame."""
        self.events: list[tuple[str, str]] = []
        self.started: set[str] = set()
        self.stopped: set[str] = set()
        self.killed: set[str] = set()
        self.paced: dict[str, float] = {}
        self.kicked = self.booted = False

    def take(self, effect: Effect) -> None:
        """Note one effect."""
        match effect:
            case Telemetry():
                if (at := _MODE_AT.get(effect.apid)) is not None:
                    self.mode = Mode(int(unpack_from(">d", effect.packet, len(effect.packet) + at)[0])).name
            case SetPace():
                self.paced[effect.job] = effect.duty
            case Announce():
                self.events.append((effect.name, effect.text))
            case Actuate():
                self.rail_on, self.transmitter_on = effect.gpu_rail_on, effect.transmitter_on
            case KickWatchdog():
                self.kicked = True
            case StartWorker():
                self.started.add(effect.job)
            case StopWorker():
                self.stopped.add(effect.job)
            case KillWorker():
                self.killed.add(effect.job)
            case _:
                pass
