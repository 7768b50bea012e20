"""Loading a table: an image in pieces over a link that loses some, then validation, then activation.

    table.begin ─► table.data … table.data ─► table.validate ─► table.activate (or sequence.append)

A few pieces are under way at once, so that the link is never idle for a round trip. Each counts when the spacecraft
has reported that it holds it; one without a report is sent again, and while nothing is heard the load waits and
then goes on where it was. A spacecraft that has restarted knows nothing of the load any more: it is begun anew. All
of this is bounded by ``patience_s`` without any progress.

What is active on board does not change before the last step, and that one is a single telecommand.
"""

import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from flightsw.link.tables import PIECE_BYTES_MAX

from .commanding import validate, written_arguments
from .connection import ANSWER_S, Connection
from .errors import ExitCode, GroundError, outcome_error
from .protocol import CommandResult, SendRequest, Snapshot, SnapshotRequest

WINDOW: Final = 4
"""Pieces under way at once: more would only be repeated needlessly on a slow link."""
PIECE_TIMEOUT_S: Final = 20.0
PATIENCE_S: Final = 600.0
STARTS_MAX: Final = 3
PAUSE_S: Final = 0.25


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a load is: octets that the spacecraft holds, pieces sent again, and whether nothing is heard."""

    confirmed_bytes: int
    size_bytes: int
    resent: int
    silent: bool
    doing: str


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """A load that went well; ``validated`` and ``activated`` are the spacecraft's own words, "" when not asked."""

    table: str
    size_bytes: int
    crc32: int
    resent: int
    validated: str
    activated: str


class _Forgotten(Exception):
    """The spacecraft has no load of this table any more."""


def load_table(
    socket_path: Path,
    name: str,
    image: bytes,
    *,
    activate: str = "table.activate",
    progress: Callable[[LoadProgress], None] = lambda progress: None,
    patience_s: float = PATIENCE_S,
) -> LoadResult:
    """Load an image into a table and do what ``activate`` names with it; "" leaves it validated.

    Raises ``GroundError`` with the spacecraft's reason when it refuses, and after ``patience_s`` without progress.
    """
    load = _Load(socket_path, name, image, progress, patience_s)
    try:
        return load.run(activate)
    finally:
        load.close()


class _Load:
    def __init__(
        self,
        path: Path,
        name: str,
        image: bytes,
        progress: Callable[[LoadProgress], None],
        patience_s: float,
    ) -> None:
        self._asking = Connection(path)
        self._connections = [Connection(path) for _ in range(WINDOW)]
        self._name = name
        self._image = image
        self._report = progress
        self._patience_s = patience_s
        self._moved_s = time.monotonic()
        self._confirmed = 0
        self._resent = 0
        self._doing = ""

    def close(self) -> None:
        for connection in (self._asking, *self._connections):
            connection.close()

    def run(self, activate: str) -> LoadResult:
        crc32 = zlib.crc32(self._image)
        for _ in range(STARTS_MAX):
            self._confirmed = 0
            self._command("table.begin", size_bytes=len(self._image), crc32=crc32)
            try:
                self._pieces()
                validated = self._command("table.validate")
                activated = self._command(activate) if activate else ""
            except _Forgotten:
                continue
            return LoadResult(
                table=self._name,
                size_bytes=len(self._image),
                crc32=crc32,
                resent=self._resent,
                validated=validated,
                activated=activated,
            )
        raise GroundError(f"{self._name}: the spacecraft lost the load {STARTS_MAX} times", ExitCode.FAILED)

    def _pieces(self) -> None:
        waiting = deque(range(0, len(self._image), PIECE_BYTES_MAX))
        free = deque(self._connections)
        under_way: deque[tuple[Connection, int]] = deque()
        self._tell("table.data")
        while waiting or under_way:
            while waiting and free:
                connection, offset = free.popleft(), waiting.popleft()
                data = self._image[offset : offset + PIECE_BYTES_MAX]
                connection.put_command(self._request("table.data", PIECE_TIMEOUT_S, offset=offset, data=data))
                under_way.append((connection, offset))
            connection, offset = under_way.popleft()
            result = connection.take_result()
            free.append(connection)
            if result.outcome == "completed":
                self._confirmed += len(self._image[offset : offset + PIECE_BYTES_MAX])
                self._moved_s = time.monotonic()
                self._tell("table.data")
                continue
            try:
                self._try_again(result)
            except _Forgotten:
                # What is still under way is of the same image, so it does no harm to the next load.
                for connection, _ in under_way:
                    connection.close()
                raise
            waiting.append(offset)
            self._resent += 1

    def _command(self, name: str, **arguments: Any) -> str:
        """Send one telecommand on the table until its outcome is known; returns the spacecraft's words."""
        connection = self._connections[0]
        # Activating twice is not the same as once: its one id is repeated by the station for as long as it takes.
        timeout_s = PIECE_TIMEOUT_S if name in ("table.begin", "table.validate") else self._patience_s
        while True:
            self._tell(name)
            connection.put_command(self._request(name, timeout_s, **arguments))
            result = connection.take_result()
            if result.outcome == "completed":
                self._moved_s = time.monotonic()
                return result.stages[-1].text if result.stages else ""
            self._try_again(result)

    def _request(self, name: str, timeout_s: float, **arguments: Any) -> SendRequest:
        target = "sequence" if name.startswith("sequence.") else "table"
        _, checked = validate(name, {target: self._name, **arguments})
        return SendRequest(name=name, arguments=written_arguments(checked), timeout_s=timeout_s)

    def _try_again(self, result: CommandResult) -> None:
        """Return when the telecommand is worth sending again; else raise."""
        if result.code == "NOT_STAGED":
            raise _Forgotten
        if result.outcome != "timeout" and result.code != "BUSY":
            raise outcome_error(result, self._name)
        while time.monotonic() - self._moved_s < self._patience_s:
            if self._contact():
                if result.code == "BUSY":
                    time.sleep(PAUSE_S)
                return
            self._tell(result.name, silent=True)
            time.sleep(PAUSE_S)
        raise outcome_error(result, self._name)

    def _contact(self) -> bool:
        snapshot = self._asking.ask(SnapshotRequest(), ANSWER_S)
        assert isinstance(snapshot, Snapshot)
        return snapshot.status.contact

    def _tell(self, doing: str, silent: bool = False) -> None:
        self._report(
            LoadProgress(
                confirmed_bytes=self._confirmed,
                size_bytes=len(self._image),
                resent=self._resent,
                silent=silent,
                doing=doing,
            )
        )
