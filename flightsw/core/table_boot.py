"""Tables at boot: what the store held is checked as if the ground had just sent it, and activated; or refused.

The store gives the newest whole copy of each image (two copies, CRC, version). Whole is not the same as usable: an
image may be of an older dictionary, or contradict a configuration file that has changed since. Then the shipped
default stands, the ground is told, and the image stays in the store: a file that is put right brings it back.

An empty payload says that the ground has reset the table.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flightsw.link.errors import TableError
from flightsw.link.tables import LOADABLE

from .events import Event
from .parameter_set import flown
from .table_handler import Outcomes, activated
from .table_kinds import handler_of

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle


def restore_tables(
    vehicle: "Vehicle", config: "Config", payloads: Mapping[str, bytes], now_s: float
) -> tuple["Vehicle", Outcomes]:
    """The vehicle with every stored table that is usable, in the order of ``TABLES``: parameters come first.

    Refusals are told before what is in force: the rate of events must not swallow them behind seventy good tables.
    """
    refused: Outcomes = ()
    out: Outcomes = ()
    for table in LOADABLE:
        handler, image = handler_of(table), payloads.get(table.name, b"")
        if handler is None or not image:
            continue
        active = flown(vehicle, config)
        try:
            summary = handler.check(vehicle, active, table, image)
            vehicle, told = handler.activate(vehicle, active, table, image, now_s)
        except Exception as error:
            # A mistake of ours in a check would fail again at every boot: no table is worth the vehicle.
            reason = str(error) if isinstance(error, TableError) else f"{type(error).__name__}: {error}"
            refused += (Event("TABLE_REJECTED", {"table": table.name, "reason": reason}),)
        else:
            out += (activated(table, summary, image, "store"), *told)
    return vehicle, refused + out
