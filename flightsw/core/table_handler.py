"""Table handlers: what is different between the kinds of tables, behind one shape.

``tables`` brings images on board, ``execution_tables`` obeys the telecommands, ``table_boot`` brings back what was
stored; all three know of a table only its row here. The rows stand in ``table_kinds``.
"""

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from flightsw.link.tables import Table

from .effects import Effect
from .events import Event, Fields

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle

Outcomes = tuple[Event | Effect, ...]
Check = Callable[["Vehicle", "Config", Table, bytes], str]
"""One line on what the image holds; raises ``TableError`` with the first fault and where it is."""
Activate = Callable[["Vehicle", "Config", Table, bytes | None, float], tuple["Vehicle", Outcomes]]
"""Fly an image from now on, whole or not at all; None is the shipped default, or empty. Raises ``TableError``."""
Image = Callable[["Vehicle", Table], bytes]
"""The active image, or the status, for a dump; "" when there is nothing."""


class Handler(Struct, frozen=True):
    """One kind of table that can be loaded."""

    check: Check
    activate: Activate
    image: Image


def activated(table: Table, summary: str, image: bytes, source: str) -> Event:
    """The event of an activation; ``source`` is ground, store or default."""
    fields: Fields = {
        "table": table.name,
        "content": summary,
        "crc32": f"0x{zlib.crc32(image):08X}",
        "source": source,
    }
    return Event("TABLE_ACTIVATED", fields)
