"""The wire for an endpoint: the one place that knows which kinds there are."""

from flightsw.link.endpoint import Endpoint, SerialEndpoint, UdpEndpoint

from .serial_wire import SerialWire
from .udp_wire import UdpWire
from .wire import NoWire, Receive, Wire


def make_wire(endpoint: Endpoint, receive: Receive, unit_bytes_max: int) -> Wire:
    """The wire for an endpoint. Nothing is opened yet."""
    match endpoint:
        case SerialEndpoint():
            return SerialWire(endpoint, receive, unit_bytes_max)
        case UdpEndpoint():
            return UdpWire(endpoint, receive, unit_bytes_max)
        case None:
            return NoWire(receive, unit_bytes_max)
