"""The avionics adapter: the newest sensor frame for the core, the actuator frame to the bus.

Between two minor frames several samples may come; only the newest matters, because the core works on the
present and the bus repeats itself. But each is handed to ``heard`` as it comes: an alarm does not wait. What does
not decode is counted and forgotten.
"""

from collections.abc import Callable

from flightsw.core.effects import Actuate
from flightsw.link.avionics import SENSOR_FRAME_BYTES_MAX, ActuatorFrame, SensorFrame, decode, encode
from flightsw.link.endpoint import Endpoint
from flightsw.link.errors import LinkError

from .make_wire import make_wire


class Avionics:
    """One wire, the newest sample, and counters."""

    def __init__(self, endpoint: Endpoint, heard: Callable[[SensorFrame], None]) -> None:
        self._heard = heard
        self.wire = make_wire(endpoint, self._receive, SENSOR_FRAME_BYTES_MAX)
        self._newest: SensorFrame | None = None
        self._sequence = 0
        self._undecodable = 0

    def take(self) -> SensorFrame | None:
        """The newest sensor frame since the last call, or None."""
        newest, self._newest = self._newest, None
        return newest

    def actuate(self, effect: Actuate) -> bool:
        """Send the actuator frame; False when the wire did not take it."""
        self._sequence += 1
        return self.wire.send(
            encode(
                ActuatorFrame(
                    sequence=self._sequence,
                    frame_count=effect.frame_count,
                    gpu_rail_on=effect.gpu_rail_on,
                    transmitter_on=effect.transmitter_on,
                )
            )
        )

    def _receive(self, unit: bytes) -> None:
        try:
            message = decode(unit)
        except LinkError:
            self._undecodable += 1
            return
        if isinstance(message, SensorFrame):
            self._newest = message
            self._heard(message)
        else:
            self._undecodable += 1

    @property
    def frames_bad(self) -> int:
        """Frames that were no unit, and units that were no sensor frame."""
        return self.wire.statistics().bad + self._undecodable
