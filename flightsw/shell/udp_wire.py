"""A UDP socket as a wire: one unit per datagram, to and from one peer.

The socket is bound and not connected: a connected one reports the peer's absence as an error of the next send, and
a station that is not listening yet is no fault of ours.
"""

import asyncio
import socket
from typing import Final

from flightsw.link.endpoint import UdpEndpoint

from .wire import Receive, Wire, WireError

DATAGRAM_BYTES_MAX: Final = 2048


class UdpWire(Wire):
    """One unit per datagram between a bound socket and one peer; datagrams from elsewhere are counted as bad."""

    def __init__(self, endpoint: UdpEndpoint, receive: Receive, unit_bytes_max: int) -> None:
        super().__init__(receive, unit_bytes_max)
        self._endpoint = endpoint
        self._socket: socket.socket | None = None
        self._peer: tuple[str, int] = ("", 0)

    async def _open(self) -> None:
        where = self._endpoint
        loop = asyncio.get_running_loop()
        try:
            bind, peer = [
                (await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM))[0][4]
                for host, port in ((where.bind_host, where.bind_port), (where.peer_host, where.peer_port))
            ]
        except OSError as error:
            raise WireError(f"{where}: unknown host: {error.strerror}") from None
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        try:
            opened.bind(bind)
        except OSError as error:
            opened.close()
            raise WireError(
                f"cannot bind {where.bind_host}:{where.bind_port}: {error.strerror};"
                " stop the program that uses it or choose another port"
            ) from None
        self._socket, self._peer = opened, (str(peer[0]), int(peer[1]))

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _watch(self, reading: bool) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            if reading:
                loop.add_reader(self._socket, self._on_readable)
            else:
                loop.remove_reader(self._socket)

    def _on_readable(self) -> None:
        while self._reading and self._socket is not None:
            try:
                unit, sender = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except OSError:
                # Nothing more to read, or an ICMP error about something sent earlier: both pass.
                return
            if sender == self._peer and 0 < len(unit) <= self._unit_bytes_max:
                self._take(unit)
            else:
                self._bad += 1
            # An empty datagram costs time as well.
            self._spend(len(unit) + 1)

    def send(self, unit: bytes) -> bool:
        try:
            if self._socket is None or not 0 < len(unit) <= self._unit_bytes_max:
                raise OSError
            self._socket.sendto(unit, self._peer)
        except OSError:
            self._dropped += 1
            return False
        self._sent += 1
        return True
