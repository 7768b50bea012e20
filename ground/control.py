"""The control socket: a unix stream socket, mode 0600, on which clients of this user ask the station.

Who asks is not what a client says but what the kernel says (``SO_PEERCRED``), so the archive's column
"operator" can be trusted. Requests and answers are JSON lines, both bounded; a client that sends nonsense gets
one refusal and is dropped, one that does not read its answers is dropped. The server never blocks the station:
it is driven by its selector.
"""

import contextlib
import os
import pwd
import selectors
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from .errors import ExitCode, GroundError
from .locations import socket_address
from .protocol import LINE_BYTES_MAX, REQUEST_BYTES_MAX, Answer, Refusal, Request, decode_request, encode

CLIENTS_MAX: Final = 32
OUTPUT_BYTES_MAX: Final = 4 * LINE_BYTES_MAX
_PEERCRED: Final = struct.Struct("3i")


class Client:
    """One connection. ``operator`` is the name of the user at its other end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.input = bytearray()
        self.output = bytearray()
        _, uid, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        try:
            self.operator = pwd.getpwuid(uid).pw_name
        except KeyError:
            self.operator = f"uid {uid}"
        self.uid = uid


class ControlServer:
    """Accepts clients and hands their requests to ``handle(client, request)``.

    ``gone(client)`` tells that a client left. Raises ``GroundError`` when the path cannot be used or a
    station answers on it already.
    """

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        handle: Callable[[Client, Request], None],
        gone: Callable[[Client], None],
    ) -> None:
        self.path = path
        self._selector = selector
        self._handle = handle
        self._gone = gone
        self._clients: dict[int, Client] = {}
        self._listener = _listen(path)
        self._inode = path.stat().st_ino
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def answer(self, client: Client, answer: Answer) -> None:
        """Send one line to a client; one that does not read is dropped."""
        if client.connection.fileno() < 0:
            return
        client.output += encode(answer) + b"\n"
        self._write(client)

    def close(self) -> None:
        """Drop all clients and remove the socket, unless another station has taken the path."""
        for client in list(self._clients.values()):
            with contextlib.suppress(OSError):
                client.connection.setblocking(True)
                client.connection.settimeout(0.2)
                client.connection.sendall(client.output)
            self._drop(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= CLIENTS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        client = Client(connection)
        if client.uid not in (0, os.getuid()):
            connection.close()
            return
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ, lambda mask: self._ready(client, mask))

    def _ready(self, client: Client, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write(client)
        if mask & selectors.EVENT_READ and client.connection.fileno() >= 0:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.connection.recv(REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.input += data
        while (end := client.input.find(b"\n")) >= 0:
            line = bytes(client.input[:end])
            del client.input[: end + 1]
            try:
                request = decode_request(line)
            except msgspec.MsgspecError as error:
                self._refuse(client, f"request: {error}")
                return
            self._handle(client, request)
            if client.connection.fileno() < 0:
                return
        if len(client.input) > REQUEST_BYTES_MAX:
            self._refuse(client, f"request: longer than {REQUEST_BYTES_MAX} bytes")

    def _refuse(self, client: Client, message: str) -> None:
        self.answer(client, Refusal(message, ExitCode.USAGE))
        self._drop(client)

    def _write(self, client: Client) -> None:
        try:
            sent = client.connection.send(client.output) if client.output else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        del client.output[:sent]
        if len(client.output) > OUTPUT_BYTES_MAX:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.output else 0)
        key = self._selector.get_key(client.connection)
        if key.events != events:
            self._selector.modify(client.connection, events, key.data)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.connection.fileno(), None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()
            self._gone(client)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket_address(path) as address:
            if path.is_socket():
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    try:
                        probe.connect(address)
                    except OSError:
                        path.unlink()
                    else:
                        raise GroundError(
                            f"control socket {path}: a station answers there already; watch it with ground watch,"
                            " stop it, or name another socket with --socket"
                        )
            before = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(before)
        listener.listen(CLIENTS_MAX)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise GroundError(f"control socket {path}: {error.strerror}; name another with --socket") from None
    except GroundError:
        listener.close()
        raise
    return listener
