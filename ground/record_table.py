"""Records of an archive as rows: the columns that a terminal shows of packets, events, reports and commands."""

from typing import Any

import msgspec

from .display import event_line
from .monitor import stream_name
from .report import command_text
from .screen import clip, table, utc_text


def record_table(what: str, rows: list[Any]) -> str:
    """Records of one kind, aligned for a terminal; ``what`` is one of ``reference.RECORDS``."""
    match what:
        case "packets":
            return table(
                ("mission s", "received UTC", "boot", "stream", "sequence", "type", "bytes", "how"),
                [
                    (
                        f"{r.world_s:.3f}",
                        utc_text(r.received_utc_s),
                        str(r.boot),
                        stream_name(r.apid),
                        str(r.sequence),
                        f"{r.service},{r.subtype}",
                        str(r.bytes),
                        "playback" if r.playback else "live",
                    )
                    for r in rows
                ],
                frozenset((0, 2, 4, 6)),
            )
        case "events":
            return "\n".join(map(event_line, rows))
        case "verifications":
            return table(
                ("mission s", "command", "id", "stage", "result"),
                [
                    (
                        f"{r.world_s:.3f}",
                        r.name,
                        str(r.command),
                        r.stage,
                        f"{r.code}: {clip(r.text, 200)}" if r.code else "ok",
                    )
                    for r in rows
                ],
                frozenset((0,)),
            )
        case "replies":
            return table(
                ("mission s", "job", "generation", "tokens", "s", "finish", "text"),
                [
                    (
                        f"{r.world_s:.3f}",
                        clip(r.job, 32),
                        str(r.generation),
                        str(r.tokens),
                        f"{r.duration_s:.2f}",
                        clip(r.finish, 16),
                        clip(r.text, 400) + ("" if r.complete else " [parts missing]"),
                    )
                    for r in rows
                ],
                frozenset((0, 2, 3, 4)),
            )
        case _:
            return table(
                ("sent UTC", "operator", "outcome", "s", "sent", "command"),
                [
                    (
                        utc_text(r.sent_utc_s),
                        r.operator,
                        r.outcome,
                        "–" if r.answered_utc_s is None else f"{r.answered_utc_s - r.sent_utc_s:.3f}",
                        f"{r.transmissions}×",
                        clip(command_text(r), 200),
                    )
                    for r in rows
                ],
                frozenset((3, 4)),
            )


def record_cell(value: Any) -> str:
    """One field of a record in one cell of a CSV row."""
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return "" if value is None else str(value)
