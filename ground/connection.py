"""A connection to the station's control socket: put a request, take its answer.

A connection has one request under way at a time; who wants several at once opens several. Every mistake on the way
is a ``GroundError`` and closes the connection; the next request opens another.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

from .errors import ExitCode, GroundError
from .locations import socket_address
from .protocol import (
    LINE_BYTES_MAX,
    Answer,
    CommandResult,
    Refusal,
    Request,
    SendRequest,
    StageLine,
    decode_answer,
    encode,
)

TIMEVAL: Final = Struct("@ll")
"""Layout of ``struct timeval``: seconds, microseconds."""
ANSWER_S: Final = 10.0
"""Time for the station itself to answer; waiting for the spacecraft is bounded by the station."""


class Connection:
    """One client of a running station, opened on first use. Not shared between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._patience_s: float | None = None

    def close(self) -> None:
        """Drop the connection; a later request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer.clear()

    def ask(
        self, request: Request, patience_s: float | None, on_stage: Callable[[StageLine], None] | None = None
    ) -> Answer:
        """Put a request and take its answer."""
        self.put(request)
        return self.take(patience_s, on_stage)

    def put(self, request: Request) -> None:
        """Send a request; raises ``GroundError`` when no station answers at the path."""
        try:
            connection = self._connected()
            connection.settimeout(ANSWER_S)
            connection.sendall(encode(request) + b"\n")
        except OSError as error:
            raise self._lost(error) from None
        except BaseException:
            self.close()
            raise

    def take(self, patience_s: float | None, on_stage: Callable[[StageLine], None] | None = None) -> Answer:
        """The final answer to the request under way; ``on_stage`` sees each report before it."""
        try:
            connection = self._connected()
            connection.settimeout(patience_s)
            while True:
                answer = self._next_answer(connection)
                if isinstance(answer, Refusal):
                    raise GroundError(answer.message, ExitCode(answer.exit_code))
                if not isinstance(answer, StageLine):
                    return answer
                if on_stage is not None:
                    on_stage(answer)
        except (OSError, msgspec.MsgspecError) as error:
            raise self._lost(error) from None
        except BaseException:
            self.close()
            raise

    def put_command(self, request: SendRequest) -> None:
        """Send a telecommand; ``take_result`` then waits for what was asked for."""
        self.put(request)
        # The station ends the wait itself: at the latest by its bounds of acceptance and of the dictionary.
        self._patience_s = None if request.timeout_s is None else request.timeout_s + ANSWER_S

    def take_result(self, on_stage: Callable[[StageLine], None] | None = None) -> CommandResult:
        """What became of the telecommand under way."""
        answer = self.take(self._patience_s, on_stage)
        assert isinstance(answer, CommandResult)
        return answer

    def _lost(self, error: Exception) -> GroundError:
        self.close()
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        return GroundError(f"station at {self.path}: {reason}")

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # Python's own timeout would make a full backlog an error at once; the kernel's lets it wait.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(int(ANSWER_S), 0))
                with socket_address(self.path) as address:
                    connection.connect(address)
            except OSError:
                connection.close()
                raise GroundError(
                    f"no station at {self.path}: start one with ground listen --link ENDPOINT"
                ) from None
            self._socket = connection
        return self._socket

    def _next_answer(self, connection: socket.socket) -> Answer:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise GroundError(f"station at {self.path}: answer longer than {LINE_BYTES_MAX} bytes")
            data = connection.recv(65_536)
            if not data:
                raise GroundError(f"station at {self.path} went away")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        answer: Answer = decode_answer(line)
        return answer
