"""Opening the station's end of the radio wire, of the kind that the endpoint names.

An operator who names a missing device or a port in use wants to be told at once, so opening raises ``GroundError``
with one line. After that a wire never raises: see ``wire``.
"""

from flightsw.link.endpoint import Endpoint, SerialEndpoint, UdpEndpoint

from .serial_wire import SerialWire
from .udp_wire import UdpWire
from .wire import Wire, WireStatus, nonzero


def open_wire(endpoint: Endpoint) -> Wire:
    """Open the wire; raises ``GroundError`` for a missing device, a port in use or a lack of permission."""
    match endpoint:
        case SerialEndpoint():
            return SerialWire(endpoint)
        case UdpEndpoint():
            return UdpWire(endpoint)
        case None:
            return NoWire()


class NoWire:
    """Endpoint ``none``: nothing is plugged in. The archive and the control socket still work."""

    def __init__(self) -> None:
        self._unsent = 0

    def fileno(self) -> int:
        return -1

    @property
    def wants_write(self) -> bool:
        return False

    def receive(self) -> list[bytes]:
        return []

    def send(self, unit: bytes) -> bool:
        del unit
        self._unsent += 1
        return False

    def service(self, now_s: float) -> None:
        del now_s

    def status(self) -> WireStatus:
        return WireStatus(
            endpoint="none",
            up=False,
            fault="no radio is configured",
            reopened=0,
            bytes_in=0,
            bytes_out=0,
            units_in=0,
            units_out=0,
            dropped=nonzero(unsent=self._unsent),
        )

    def close(self) -> None:
        pass
