"""Tables at boot: what the store held is checked as if the ground had just sent it, and activated; or refused.

The store gives the newest whole copy of each image (two copies, CRC, version). Whole is not the same as usable: an
image may be of an older dictionary, or contradict a configuration file that has changed since. Then the shipped
default stands, the ground is told, and the image stays in the store: a file that is put right brings it back.

An empty payload says that the ground has reset the table.

In a crash loop no stored parameters and limits are flown: what was activated last is a suspect, and SAFE needs
none of it. The images stay in the store, and the next boot outside a crash loop takes them up again. Stored
sequences are loaded, but none starts by itself (``sequence_durable``).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from flightsw.link.errors import TableError
from flightsw.link.tables import LOADABLE, Kind

from .events import Event
from .parameter_set import flown
from .table_handler import Outcomes, activated
from .table_kinds import handler_of

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle

SUSPECTS: Final = frozenset((Kind.PARAMETERS, Kind.WATCHPOINTS, Kind.ACTIONPOINTS))
"""Kinds of tables that are not taken from the store in a crash loop: they act without being started."""


def restore_tables(
    vehicle: "Vehicle", config: "Config", payloads: Mapping[str, bytes], now_s: float, *, crash_loop: bool = False
) -> tuple["Vehicle", Outcomes]:
    """The vehicle with every stored table that is usable, in the order of ``TABLES``: parameters come first.

    Refusals are told before what is in force: the rate of events must not swallow them behind seventy good tables.
    """
    refused: Outcomes = ()
    out: Outcomes = ()
    aside: list[str] = []
    for table in LOADABLE:
        handler, image = handler_of(table), payloads.get(table.name, b"")
        if handler is None or not image:
            continue
        if crash_loop and table.kind in SUSPECTS:
            aside.append(table.name)
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
    if aside:
        refused += (Event("TABLES_SET_ASIDE", {"count": len(aside), "names": ", ".join(aside)}),)
    return vehicle, refused + out
