"""What programs use of the ground: command a running station, read an archive. The bench uses nothing else.

client = StationClient(Path("out/ground/station.sock"))
result = client.send("job.infer", {"job": "talk", "prompt": "Once"}, wait="completion", timeout_s=60)
if result.outcome == "completed": ...
series = ArchiveReader(Path("out/ground/archive.sqlite")).series("eps.soc_fraction")
"""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Any, Final

import msgspec

from flightsw.link.dictionary import TELECOMMAND_BY_NAME

from .commanding import validate
from .errors import ExitCode, GroundError
from .locations import socket_address
from .packet_reader import Identity, PacketRow
from .protocol import (
    LINE_BYTES_MAX,
    Answer,
    CommandResult,
    Done,
    Refusal,
    Request,
    SendRequest,
    Snapshot,
    SnapshotRequest,
    StageLine,
    StationStatus,
    StopRequest,
    Value,
    Wait,
    decode_answer,
    encode,
)
from .reader import ArchiveReader
from .record_reader import CommandRow, ReplyRow, VerificationRow
from .series_reader import Series

__all__ = [
    "ArchiveReader",
    "CommandResult",
    "CommandRow",
    "ExitCode",
    "GroundError",
    "Identity",
    "PacketRow",
    "ReplyRow",
    "Series",
    "Snapshot",
    "StageLine",
    "StationClient",
    "StationStatus",
    "Value",
    "VerificationRow",
]

TIMEVAL: Final = Struct("@ll")
"""Layout of ``struct timeval``: seconds, microseconds."""
ANSWER_S: Final = 10.0
"""Time for the station itself to answer; waiting for the spacecraft is bounded by the station."""


class StationClient:
    """A connection to a running station, opened on first use. Not shared between threads.

    Every method raises ``GroundError`` when no station answers at the path.
    """

    def __init__(self, socket_path: Path) -> None:
        self.path = Path(socket_path)
        self._connection: socket.socket | None = None
        self._buffer = bytearray()

    def __enter__(self) -> "StationClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; a later call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._buffer.clear()

    def snapshot(self) -> Snapshot:
        """Status, newest values, newest events, alarms and commands."""
        answer = self._ask(SnapshotRequest(), ANSWER_S)
        assert isinstance(answer, Snapshot)
        return answer

    def status(self) -> StationStatus:
        """The station at a glance."""
        return self.snapshot().status

    def latest(self) -> dict[str, Value]:
        """Newest value of every parameter that has come, by name."""
        return self.snapshot().latest

    def send(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        wait: Wait = "completion",
        timeout_s: float | None = None,
        *,
        arm: bool = False,
        on_stage: Callable[[StageLine], None] | None = None,
    ) -> CommandResult:
        """Send a telecommand and wait for its reports.

        Arguments are checked against the dictionary before anything is sent: a mistake is a ``GroundError``
        with ``ExitCode.USAGE``. Refusal, failure and timeout are outcomes, not exceptions. ``timeout_s`` bounds
        the time from sending to the outcome; None takes the dictionary's bounds. ``arm`` arms a hazardous
        command first; when that does not complete, its result is returned. ``on_stage`` sees each report as it
        comes.
        """
        validate(name, dict(arguments or {}))
        if arm:
            armed = self._send(
                "arm", {"opcode": TELECOMMAND_BY_NAME[name].opcode}, "completion", timeout_s, on_stage
            )
            if armed.outcome != "completed":
                return armed
        return self._send(name, dict(arguments or {}), wait, timeout_s, on_stage)

    def stop(self) -> None:
        """Ask the station to commit and leave."""
        answer = self._ask(StopRequest(), ANSWER_S)
        assert isinstance(answer, Done)
        self.close()

    def _send(
        self,
        name: str,
        arguments: dict[str, Any],
        wait: Wait,
        timeout_s: float | None,
        on_stage: Callable[[StageLine], None] | None,
    ) -> CommandResult:
        request = SendRequest(name=name, arguments=arguments, wait=wait, timeout_s=timeout_s)
        # The station ends the wait itself: at the latest by its bounds of acceptance and of the dictionary.
        patience_s = None if timeout_s is None else timeout_s + ANSWER_S
        answer = self._ask(request, patience_s, on_stage)
        assert isinstance(answer, CommandResult)
        return answer

    def _ask(
        self, request: Request, patience_s: float | None, on_stage: Callable[[StageLine], None] | None = None
    ) -> Answer:
        try:
            connection = self._connected()
            connection.settimeout(ANSWER_S)
            connection.sendall(encode(request) + b"\n")
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
            self.close()
            raise GroundError(f"station at {self.path}: {_reason(error)}") from None
        except BaseException:
            self.close()
            raise

    def _connected(self) -> socket.socket:
        if self._connection is None:
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
            self._connection = connection
        return self._connection

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


def _reason(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)
