"""What one call of the core collects: effects in their order, telemetry packets, and the gates of the events.

Subsystems say what happened with values: an ``Event``, a ``Verification``, a reply, a ``Pong`` or an effect for the
shell. ``Frame`` routes them: events pass the rate limit and the severity filter and become packets, reports become
packets, everything else goes to the shell as it is. The order in which they were said is the order of the effects.

A ``Frame`` and its packer are mutable, and live within one call, between two frozen vehicles. What they gathered
goes into the next vehicle (``events``, ``packer.closed``), so the call as a whole stays pure.
"""

from msgspec.structs import replace

from flightsw.link.dictionary import EVENT_BY_NAME

from . import correlation, downlink, events, recording
from .commanding import Verification
from .downlink import Packer
from .effects import Effect
from .events import Event
from .execution_row import Outcome, Pong
from .inputs import RequestReply
from .tables import Piece
from .vehicle import Config, Vehicle


class Frame:
    """The collection of one call: ``take`` what was said, then read ``packer.effects`` and ``events``."""

    def __init__(self, vehicle: Vehicle, config: Config, stamp: downlink.Stamp, now_s: float) -> None:
        link = downlink.funded(vehicle.downlink, config.downlink, now_s)
        self.packer = Packer(link, stamp, recording.filters(vehicle.recording, config.recorder))
        self.events = vehicle.events
        self._config = config.events
        self._now_s = now_s

    def take(self, outcomes: tuple[Outcome | Verification | RequestReply | Piece, ...]) -> None:
        """Route what a subsystem said: events through their gates, reports into packets, effects to the shell."""
        for outcome in outcomes:
            match outcome:
                case Event():
                    report = EVENT_BY_NAME[outcome.name]
                    self.events, admitted = events.admit(self.events, self._config, report, self._now_s)
                    if admitted:
                        self.packer.event(outcome)
                case Verification():
                    self.packer.verification(outcome)
                case RequestReply():
                    self.packer.reply(outcome)
                case Piece():
                    self.packer.table(outcome)
                case Pong():
                    self.packer.ping()
                case _:
                    self.packer.effects.append(outcome)


def report(
    vehicle: Vehicle, config: Config, outcomes: tuple[Outcome | Verification | RequestReply, ...], now_s: float
) -> tuple[Vehicle, tuple[Effect, ...]]:
    """The vehicle and the effects after a call outside the minor frame that said ``outcomes``."""
    clock = correlation.carried(vehicle.correlation, now_s)
    stamp = downlink.stamp(vehicle.boot_count, clock, vehicle.sense)
    frame = Frame(vehicle, config, stamp, now_s)
    frame.take(outcomes)
    link = frame.packer.closed(vehicle.downlink)
    return replace(vehicle, correlation=clock, events=frame.events, downlink=link), tuple(frame.packer.effects)
