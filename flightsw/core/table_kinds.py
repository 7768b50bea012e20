"""The kinds of tables: which handler each has. A service adds its row here and has loading, storing and dumping."""

from typing import TYPE_CHECKING, Final

import msgspec

from flightsw.link.tables import Kind, Table

from . import fdir_tables, parameter_set, sequence_tables
from .table_handler import Handler, Image

if TYPE_CHECKING:
    from .vehicle import Vehicle

_encoder: Final = msgspec.msgpack.Encoder()

HANDLERS: Final[dict[Kind, Handler]] = {
    Kind.PARAMETERS: parameter_set.HANDLER,
    Kind.ABSOLUTE: sequence_tables.HANDLER,
    Kind.RELATIVE: sequence_tables.HANDLER,
    **fdir_tables.HANDLERS,
}
"""Tables that can be loaded, by kind."""
STATUSES: Final[dict[str, Image]] = {
    "sequence_status": sequence_tables.status,
    "resets": lambda vehicle, table: _encoder.encode(vehicle.resets),
    "fdir_status": fdir_tables.status,
}
"""Tables that can only be dumped, by name."""


def handler_of(table: Table) -> Handler | None:
    """The handler of a table; None when nothing on board holds such a table."""
    return HANDLERS.get(table.kind)


def image_of(vehicle: "Vehicle", table: Table) -> bytes | None:
    """The active image of a table, or a status; None when nothing on board holds such a table."""
    if table.kind is Kind.STATUS:
        status = STATUSES.get(table.name)
        return None if status is None else status(vehicle, table)
    handler = handler_of(table)
    return None if handler is None else handler.image(vehicle, table)
