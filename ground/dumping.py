"""Dumping a table: one telecommand, then its pieces from the archive, put together when the last one has come.

Pieces travel like all telemetry: those that the link loses come again by playback, and the station files each once.
So there is nothing to ask for twice; the dump waits until the archive has the image whole. An older dump of the
same table is told apart by mission time: what was made before the telecommand is none of its pieces, except as the
same octets of an image of the same size and CRC. What the archive had before is no news either. Mission time may be
set back during a dump: then it tells nothing, and what is news is what the archive did not have.
"""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

from flightsw.link.tables import TABLE_BY_NAME

from .connection import ANSWER_S, Connection
from .errors import ExitCode, GroundError, outcome_error
from .protocol import SendRequest, Snapshot, SnapshotRequest, StageLine
from .reader import ArchiveReader
from .table_reader import Dump

TIMEOUT_S: Final = 120.0
"""Time for the whole dump, playback of what was lost included."""
POLL_S: Final = 0.05


def dump_table(
    socket_path: Path,
    name: str,
    *,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[int, int], None] = lambda received, total: None,
) -> bytes:
    """The image of a table or status as it is on board now, "" for an empty one.

    ``progress`` is told octets that have come, and of how many. Raises ``GroundError`` with the spacecraft's reason
    when it refuses, and when the image is not whole in time.
    """
    connection = Connection(socket_path)
    stages: list[StageLine] = []
    deadline_s = time.monotonic() + timeout_s
    try:
        before = _snapshot(connection)
        with ArchiveReader(Path(before.status.archive)) as reader:
            known = max(((d.boot, d.sequence) for d in reader.dumps(TABLE_BY_NAME[name].code)), default=(0, 0))
        connection.put_command(SendRequest(name="table.dump", arguments={"table": name}, timeout_s=timeout_s))
        result = connection.take_result(stages.append)
        if not result.ok:
            raise outcome_error(result, name)
        after = _snapshot(connection)
    finally:
        connection.close()
    made_s = [stage.world_s for stage in stages]
    if before.status.world_s is not None:
        made_s.insert(0, before.status.world_s)
    set_back = any(later_s < earlier_s for earlier_s, later_s in pairwise(made_s))
    since_s = -math.inf if set_back else made_s[0]
    with ArchiveReader(Path(after.status.archive)) as reader:
        while True:
            dump = _newest(reader, name, known, after.status.boot, since_s)
            if dump is not None:
                progress(dump.received, dump.total)
                if dump.image is not None:
                    return dump.image
            if time.monotonic() > deadline_s:
                come = f"{dump.received} of {dump.total} octets" if dump else "nothing"
                raise GroundError(f"{name}: {come} of the dump came in {timeout_s:g} s", ExitCode.NO_CONTACT)
            time.sleep(POLL_S)


def _newest(
    reader: ArchiveReader, name: str, known: tuple[int, int], boot: int | None, since_s: float
) -> Dump | None:
    """The image whose newest piece was made last: news, of this boot, and not from before the telecommand."""
    dumps = [
        d
        for d in reader.dumps(TABLE_BY_NAME[name].code)
        if d.boot == boot and d.world_s >= since_s and (d.boot, d.sequence) > known
    ]
    return dumps[-1] if dumps else None


def _snapshot(connection: Connection) -> Snapshot:
    answer = connection.ask(SnapshotRequest(), ANSWER_S)
    assert isinstance(answer, Snapshot)
    return answer
