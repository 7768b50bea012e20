"""The radio wire over UDP: one unit per datagram between a bound socket and its one peer.

Datagrams from anybody else are counted and dropped. There is no line that could hang up: a peer that is not there
shows as silence, and a send that fails is as lost as any datagram.
"""

import errno
import socket
from typing import Any, Final

from flightsw.link.endpoint import UdpEndpoint
from flightsw.link.frame import UNIT_BYTES_MAX

from .errors import GroundError
from .wire import WireStatus, nonzero, reason

DATAGRAMS_PER_CALL_MAX: Final = 256
RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""Kernel buffer that holds datagrams while the archive commits."""


class UdpWire:
    """One unit per datagram between a bound socket and its one peer."""

    def __init__(self, endpoint: UdpEndpoint) -> None:
        self._endpoint = endpoint
        self._bytes_in = self._bytes_out = self._units_in = self._units_out = 0
        self._stranger = self._oversize = self._unsent = 0
        self._fault = ""
        try:
            family, _, _, _, peer = socket.getaddrinfo(
                endpoint.peer_host, endpoint.peer_port, type=socket.SOCK_DGRAM
            )[0]
            self._peer: tuple[Any, ...] = peer
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise GroundError(f"radio {endpoint}: peer {endpoint.peer_host}: {reason(error)}") from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((endpoint.bind_host, endpoint.bind_port))
        except OSError as error:
            self._socket.close()
            raise GroundError(_udp_trouble(endpoint, error)) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        return False

    def receive(self) -> list[bytes]:
        units: list[bytes] = []
        for _ in range(DATAGRAMS_PER_CALL_MAX):
            try:
                data, peer = self._socket.recvfrom(UNIT_BYTES_MAX + 1)
            except BlockingIOError:
                break
            except OSError as error:
                self._fault = reason(error)
                break
            self._bytes_in += len(data)
            if peer[:2] != self._peer[:2]:
                self._stranger += 1
            elif len(data) > UNIT_BYTES_MAX:
                self._oversize += 1
            else:
                self._units_in += 1
                units.append(data)
        if units:
            self._fault = ""
        return units

    def send(self, unit: bytes) -> bool:
        try:
            self._socket.sendto(unit, self._peer)
        except OSError as error:  # A full buffer or no route: as lost as any datagram.
            self._unsent += 1
            self._fault = reason(error)
            return False
        self._bytes_out += len(unit)
        self._units_out += 1
        return True

    def service(self, now_s: float) -> None:
        del now_s

    def status(self) -> WireStatus:
        return WireStatus(
            endpoint=str(self._endpoint),
            up=True,
            fault=self._fault,
            reopened=0,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            units_in=self._units_in,
            units_out=self._units_out,
            dropped=nonzero(stranger=self._stranger, oversize=self._oversize, unsent=self._unsent),
        )

    def close(self) -> None:
        self._socket.close()


def _udp_trouble(endpoint: UdpEndpoint, error: OSError) -> str:
    where = f"radio UDP port {endpoint.bind_host}:{endpoint.bind_port}"
    match error.errno:
        case errno.EADDRINUSE:
            hint = "in use: is another station running? Stop it, or bind another port"
        case errno.EADDRNOTAVAIL | socket.EAI_NONAME:
            hint = "this machine has no such address"
        case errno.EACCES:
            hint = "permission denied: ports under 1024 need privileges"
        case _:
            hint = reason(error)
    return f"{where}: {hint}"
