"""What the satellite remembers of itself: its last resets (``ground resets``), and its ring of events
(``ground events --replay``).

The resets are dumped like a table. Events of the ring come as the old packets themselves, marked as playback: the
archive keeps the ones that it lacked, and knows the others already.
"""

import math
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from flightsw.link import leap
from flightsw.link.bodies import Scalar

from .cli_onboard import fetch
from .client import StationClient
from .errors import GroundError, outcome_error
from .locations import socket_path
from .options import Json, Socket
from .screen import clip, print_json, table

RESETS_MAX: Final = 20
WAIT_S: Final = 5.0
POLL_S: Final = 0.05
_resets: Final = msgspec.msgpack.Decoder(list[dict[str, Scalar]])


def resets(
    last: Annotated[int, typer.Option("--last", min=1, max=RESETS_MAX, help="Newest resets only.")] = RESETS_MAX,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show the last resets: when, why, and what the satellite did before each."""
    with StationClient(socket_path(socket)) as client:
        image = fetch(client, "resets")
    try:
        records = _resets.decode(image)[-last:]
    except (msgspec.MsgspecError, ValueError) as error:
        raise GroundError(f"resets: cannot be read with this dictionary: {error}") from None
    if as_json:
        print_json(records)
    elif not records:
        print("no reset is recorded")
    else:
        header = ("boot", "UTC before", "cause", "uptime s", "mode", "SAFE cause", "last words")
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
    """Text of a field; "–" where there is none."""
    return clip(str(fields.get(name) or "–"), 60)


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) and math.isfinite(value) else "–"


def _utc(tai_s: Any) -> str:
    """UTC of a reset; "–" where the onboard time was not known."""
    if not isinstance(tai_s, int | float) or not 0.0 < tai_s < 2.0**32:
        return "–"
    return leap.utc_text(float(tai_s), 0)
