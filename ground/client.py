"""What programs use of the ground: command a running station, read an archive. The bench uses nothing else.

client = StationClient(Path("out/ground/station.sock"))
result = client.send("job.infer", {"job": "talk", "prompt": "Once"}, wait="completion", timeout_s=60)
if result.outcome == "completed": ...
series = ArchiveReader(Path("out/ground/archive.sqlite")).series("eps.soc_fraction")
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flightsw.link.dictionary import TELECOMMAND_BY_NAME

from .commanding import validate, written_arguments
from .connection import ANSWER_S, Connection
from .dumping import TIMEOUT_S, dump_table
from .errors import ExitCode, GroundError
from .loading import PATIENCE_S, LoadProgress, LoadResult, load_table
from .packet_reader import Identity, PacketRow
from .protocol import (
    CommandResult,
    Done,
    SendRequest,
    Snapshot,
    SnapshotRequest,
    StageLine,
    StationStatus,
    StopRequest,
    Value,
    Wait,
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
    "LoadProgress",
    "LoadResult",
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


class StationClient:
    """A connection to a running station, opened on first use. Not shared between threads.

    Every method raises ``GroundError`` when no station answers at the path.
    """

    def __init__(self, socket_path: Path) -> None:
        self.path = Path(socket_path)
        self._connection = Connection(self.path)

    def __enter__(self) -> "StationClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; a later call opens another."""
        self._connection.close()

    def snapshot(self) -> Snapshot:
        """Status, newest values, newest events, alarms and commands."""
        answer = self._connection.ask(SnapshotRequest(), ANSWER_S)
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

    def load_table(
        self,
        name: str,
        image: bytes,
        *,
        activate: str = "table.activate",
        progress: Callable[[LoadProgress], None] = lambda progress: None,
        patience_s: float = PATIENCE_S,
    ) -> LoadResult:
        """Load an image, have it validated, then activate it or append it; see ``loading.load_table``."""
        return load_table(self.path, name, image, activate=activate, progress=progress, patience_s=patience_s)

    def dump_table(
        self,
        name: str,
        *,
        timeout_s: float = TIMEOUT_S,
        progress: Callable[[int, int], None] = lambda received, total: None,
    ) -> bytes:
        """The image of a table or status as it is on board now; see ``dumping.dump_table``."""
        return dump_table(self.path, name, timeout_s=timeout_s, progress=progress)

    def stop(self) -> None:
        """Ask the station to commit and leave."""
        answer = self._connection.ask(StopRequest(), ANSWER_S)
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
        request = SendRequest(name=name, arguments=written_arguments(arguments), wait=wait, timeout_s=timeout_s)
        self._connection.put_command(request)
        return self._connection.take_result(on_stage)
