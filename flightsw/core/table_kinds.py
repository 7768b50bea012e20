"""The kinds of tables: which handler each has. A service adds its row here and has loading, storing and dumping.

``put_in_force`` is the one way in which a table becomes active, from the ground, the store or its default. The
shipped limits follow from the configuration (``fdir_table``): where they stand, they are made anew when parameters
change.
"""

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from flightsw.link.tables import TABLE_BY_NAME, Kind, Table

from . import parameter_set, sequence_tables
from .parameter_set import flown
from .table_handler import Handler, Image, Outcomes

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle

HANDLERS: Final[dict[Kind, Handler]] = {
    Kind.PARAMETERS: parameter_set.HANDLER,
    Kind.ABSOLUTE: sequence_tables.HANDLER,
    Kind.RELATIVE: sequence_tables.HANDLER,
}
"""Tables that can be loaded, by kind."""
STATUSES: Final[dict[str, Image]] = {
    "sequence_status": sequence_tables.status,
}
"""Tables that can only be dumped, by name."""
FOLLOWERS: Final = (TABLE_BY_NAME["watchpoints"], TABLE_BY_NAME["actionpoints"])
"""Tables whose default follows from the configuration."""


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


def put_in_force(
    vehicle: "Vehicle", config: "Config", table: Table, image: bytes | None, now_s: float
) -> tuple["Vehicle", Outcomes]:
    """Activate an image, or the default for None; raises ``TableError``, and then nothing has changed."""
    before = flown(vehicle, config)
    vehicle, out = HANDLERS[table.kind].activate(vehicle, before, table, image, now_s)
    loaded = vehicle.tables.loaded - {table.name} if image is None else vehicle.tables.loaded | {table.name}
    vehicle = replace(vehicle, tables=replace(vehicle.tables, loaded=loaded))
    after = flown(vehicle, config)
    if after is before or after == before:
        return vehicle, out
    for follower in FOLLOWERS:
        handler = handler_of(follower)
        if handler is not None and follower.name not in loaded:
            renewed, told = handler.activate(vehicle, after, follower, None, now_s)
            if handler.image(renewed, follower) != handler.image(vehicle, follower):
                vehicle, out = renewed, (*out, *told)
    return vehicle, out
