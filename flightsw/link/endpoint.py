"""Endpoints in text: where a wire is plugged in.

One grammar for the daemon, the ground and the bench, so that an operator learns it once:

    serial:PATH[@BAUD]                           serial:/dev/ttyUSB0@115200
    udp:BIND_HOST:BIND_PORT/PEER_HOST:PEER_PORT  udp:127.0.0.1:5001/127.0.0.1:5002
    none                                         nothing is plugged in

Parsing is pure; opening is the business of each program's own adapter.
"""

import re
from typing import Final

import msgspec

BAUD_DEFAULT: Final = 115_200
GRAMMAR: Final = "serial:PATH[@BAUD], udp:BIND_HOST:BIND_PORT/PEER_HOST:PEER_PORT or none"

_SERIAL: Final = re.compile(r"serial:(?P<path>[^@]+)(@(?P<baud>\d{1,8}))?")
_UDP: Final = re.compile(r"udp:(?P<bind>[^:/]+):(?P<bind_port>\d{1,5})/(?P<peer>[^:/]+):(?P<peer_port>\d{1,5})")


class SerialEndpoint(msgspec.Struct, frozen=True):
    """A serial device or pty; units are COBS-framed with a 0x00 delimiter."""

    path: str
    baud: int = BAUD_DEFAULT

    def __str__(self) -> str:
        return f"serial:{self.path}@{self.baud}"


class UdpEndpoint(msgspec.Struct, frozen=True):
    """A bound UDP socket with one peer; one unit per datagram. Datagrams from elsewhere are dropped."""

    bind_host: str
    bind_port: int
    peer_host: str
    peer_port: int

    def __str__(self) -> str:
        return f"udp:{self.bind_host}:{self.bind_port}/{self.peer_host}:{self.peer_port}"


Endpoint = SerialEndpoint | UdpEndpoint | None


def parse_endpoint(text: str) -> Endpoint:
    """Read an endpoint; raises ``ValueError`` that shows the grammar when the text is none."""
    if text == "none":
        return None
    if match := _SERIAL.fullmatch(text):
        return SerialEndpoint(match["path"], int(match["baud"] or BAUD_DEFAULT))
    if match := _UDP.fullmatch(text):
        bind_port, peer_port = int(match["bind_port"]), int(match["peer_port"])
        if max(bind_port, peer_port) <= 65535 and peer_port > 0:
            return UdpEndpoint(match["bind"], bind_port, match["peer"], peer_port)
    raise ValueError(f"{text!r} is no endpoint; write {GRAMMAR}")
