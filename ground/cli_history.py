"""What the satellite remembers of itself: its last resets (``ground resets``), and its ring of events
(``ground events --replay``).

Both are asked for with a telecommand and come as event reports. Those of the ring are the old packets themselves,
marked as playback: the archive keeps the ones that it lacked, and knows the others already.
"""

import math
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from flightsw.link import leap

from .client import ArchiveReader, StationClient
from .errors import outcome_error
from .locations import socket_path
from .options import Json, Socket
from .protocol import EventLine, StageLine
from .screen import clip, print_json, table

RESETS_MAX: Final = 20
SETTLE_S: Final = 0.5
"""Reports of one answer follow each other closely; after this long without another one, all have come."""
WAIT_S: Final = 5.0
POLL_S: Final = 0.05


def resets(
    last: Annotated[int, typer.Option("--last", min=1, max=RESETS_MAX, help="Newest resets only.")] = RESETS_MAX,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Ask for the last resets: when, why, after how long, and in which mode."""
    with StationClient(socket_path(socket)) as client:
        rows = _reported(client, "reset.report", {"count": last}, "RESET_RECORD")
    records = [row.fields for row in rows]
    if as_json:
        print_json(records)
    elif not records:
        print("no reset is recorded")
    else:
        header = ("boot", "UTC", "cause", "uptime s", "mode", "SAFE cause", "reason")
        print(table(header, map(_reset_row, records), frozenset((0, 3))))


def replay(socket: Path | None, count: int, severity: str) -> str:
    """Have the ring of events sent again; returns the satellite's words."""
    with StationClient(socket_path(socket)) as client:
        result = client.send("event.replay", {"count": count, "severity": severity})
        if result.outcome != "completed":
            raise outcome_error(result, "events --replay")
        # The report came after the events, but a commit may still be due.
        deadline_s = time.monotonic() + WAIT_S
        while client.status().archive_pending and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
    return clip(result.stages[-1].text, 200) if result.stages else ""


def _reported(client: StationClient, name: str, arguments: dict[str, Any], event: str) -> list[EventLine]:
    """The event reports that a telecommand made, once no more come; raises ``GroundError`` when it fails."""
    before = client.status()
    stages: list[StageLine] = []
    result = client.send(name, arguments, on_stage=stages.append)
    if result.outcome != "completed":
        raise outcome_error(result, name.partition(".")[0])
    after = client.status()
    since_s = min([stage.world_s for stage in stages] + ([before.world_s] if before.world_s is not None else []))
    with ArchiveReader(Path(after.archive)) as reader:
        found: list[EventLine] = []
        settled_s = deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < min(settled_s, deadline_s):
            rows = [e for e in reader.events(since=since_s) if e.name == event and e.boot == after.boot]
            if len(rows) > len(found):
                found, settled_s = rows, time.monotonic() + SETTLE_S
            time.sleep(POLL_S)
        return found


def _reset_row(fields: dict[str, Any]) -> tuple[str, ...]:
    return (
        _text(fields, "boot"),
        _utc(fields.get("tai_s")),
        _text(fields, "cause"),
        _number(fields.get("uptime_s")),
        _text(fields, "mode"),
        _text(fields, "safe_cause"),
        _text(fields, "reason"),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    return clip(str(fields.get(name, "–")), 60)


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) and math.isfinite(value) else "–"


def _utc(tai_s: Any) -> str:
    """UTC of a reset; "–" where the onboard time was not known."""
    if not isinstance(tai_s, int | float) or not 0.0 < tai_s < 2.0**32:
        return "–"
    return leap.utc_text(float(tai_s), 0)
