"""Tables of limits in flight: loading, the shipped default, and what keeps the two tables a pair.

An actionpoint names watchpoints by their id, so the two tables fit each other or they do not. Each is checked
against the other *active* one: actionpoints may only name watchpoints that are there, and a table of watchpoints
that lacks one which an active actionpoint names is refused. To exchange both, load a table of watchpoints with
the old and the new ones first, then the actionpoints.

*Shipped tables* are made for the configuration. When it changes (parameters were activated in flight), those that
are shipped are made anew; what is the same in both keeps its memory. *At boot* a stored table of watchpoints may
belong to stored actionpoints that are not back yet, so the pair is checked as a whole before the first frame; a
pair that does not fit is refused, and both shipped tables stand.
"""

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.errors import TableError
from flightsw.link.limit_status import ActionStatus, LimitStatus, WatchStatus, encode_status
from flightsw.link.limit_tables import (
    ActionTable,
    WatchTable,
    check_actionpoints,
    decode_actionpoints,
    decode_watchpoints,
    encode,
)
from flightsw.link.tables import Kind, Table

from . import fdir, fdir_memory, watchpoints
from .events import Event
from .fdir_table import shipped
from .table_handler import Handler, Outcomes

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle


WATCHPOINTS: Final = "watchpoints"
ACTIONPOINTS: Final = "actionpoints"


class State(Struct, frozen=True, kw_only=True):
    """Tables that are not the shipped ones, and the configuration that the pair was made and checked for.

    Without a configuration the next frame makes and checks the pair.
    """

    loaded: frozenset[str] = frozenset()
    config: "Config | None" = None


def settled(vehicle: "Vehicle", config: "Config") -> tuple["Vehicle", tuple[Event, ...]]:
    """The vehicle with a pair of tables for this configuration; nothing happens while it stays the same object."""
    state = vehicle.limit_tables
    if state.config is config:
        return vehicle, ()
    found: tuple[Event, ...] = ()
    watch, action = shipped(config)
    loaded = state.loaded
    flown_watch = vehicle.watch.table if WATCHPOINTS in loaded else watch
    flown_action = vehicle.fdir.table if ACTIONPOINTS in loaded else action
    try:
        check_actionpoints(flown_action, flown_watch)
    except TableError as error:
        refused = WATCHPOINTS if WATCHPOINTS in loaded else ACTIONPOINTS
        found = (Event("TABLE_REJECTED", {"table": refused, "reason": f"no pair: {error}"}),)
        flown_watch, flown_action, loaded = watch, action, frozenset()
    settled_for = State(loaded=loaded, config=config)
    after = _flown(replace(vehicle, limit_tables=settled_for), flown_watch, flown_action)
    # Made anew is not loaded anew: what the ground has decided stands.
    return replace(after, fdir=fdir_memory.carried(vehicle.fdir, after.fdir)), found


def _flown(vehicle: "Vehicle", watch: WatchTable, action: ActionTable) -> "Vehicle":
    limits, answer = vehicle.watch, vehicle.fdir
    if watch != limits.table:
        limits = watchpoints.activate(limits, watch)
    if action != answer.table:
        answer = fdir.activate(answer, action)
    # Results stand in the order of the table: the next frame looks at all of them.
    return replace(vehicle, watch=limits, fdir=replace(answer, results=None))


def _check_watchpoints(vehicle: "Vehicle", config: "Config", table: Table, image: bytes) -> str:
    watch = decode_watchpoints(image)
    # Before the first frame the other table may still be on its way from the store (``settled``).
    if vehicle.frame_count:
        try:
            check_actionpoints(vehicle.fdir.table, watch)
        except TableError as error:
            raise TableError(f"the active actionpoints need more than this table has: {error}") from None
    return f"{watch.name}, {len(watch.watchpoints)} watchpoints"


def _check_actionpoints(vehicle: "Vehicle", config: "Config", table: Table, image: bytes) -> str:
    action = decode_actionpoints(image, vehicle.watch.table)
    return f"{action.name}, {len(action.actionpoints)} actionpoints"


def _activate_watchpoints(
    vehicle: "Vehicle", config: "Config", table: Table, image: bytes | None, now_s: float
) -> tuple["Vehicle", Outcomes]:
    watch = shipped(config)[0] if image is None else decode_watchpoints(image)
    _check_watchpoints(vehicle, config, table, encode(watch))
    state = _loaded(vehicle, config, WATCHPOINTS, image)
    return replace(_flown(vehicle, watch, vehicle.fdir.table), limit_tables=state), ()


def _activate_actionpoints(
    vehicle: "Vehicle", config: "Config", table: Table, image: bytes | None, now_s: float
) -> tuple["Vehicle", Outcomes]:
    action = shipped(config)[1] if image is None else decode_actionpoints(image, vehicle.watch.table)
    check_actionpoints(action, vehicle.watch.table)
    state = _loaded(vehicle, config, ACTIONPOINTS, image)
    after = replace(_flown(vehicle, vehicle.watch.table, action), limit_tables=state)
    # What the store keeps of a table that is on its way from there comes after it (``fdir_memory.restored``).
    return after, fdir_memory.changes(vehicle.fdir, after.fdir) if vehicle.frame_count else ()


def _loaded(vehicle: "Vehicle", config: "Config", name: str, image: bytes | None) -> State:
    loaded = vehicle.limit_tables.loaded - {name} if image is None else vehicle.limit_tables.loaded | {name}
    return State(loaded=loaded, config=config if vehicle.frame_count else None)


def _image_watchpoints(vehicle: "Vehicle", table: Table) -> bytes:
    return encode(vehicle.watch.table)


def _image_actionpoints(vehicle: "Vehicle", table: Table) -> bytes:
    return encode(vehicle.fdir.table)


def status(vehicle: "Vehicle", table: Table) -> bytes:
    """The table fdir_status: result and value of each watchpoint, switch and count of each actionpoint."""
    watch, answer, now_s = vehicle.watch, vehicle.fdir, vehicle.now_s
    return encode_status(
        LimitStatus(
            watch=tuple(
                WatchStatus(
                    id=point.id,
                    name=point.name,
                    result=watch.results[index].name,
                    value=watchpoints.reading(watch, index, vehicle),
                    age_s=watchpoints.age_s(watch, index, now_s),
                )
                for index, point in enumerate(watch.program.points)
            ),
            action=tuple(
                ActionStatus(
                    id=point.id,
                    name=point.name,
                    switch=standing.switch,
                    spent=standing.spent,
                    condition=standing.truth.name,
                    tripped=standing.tripped,
                    acting=standing.acting,
                    count=standing.count,
                )
                for point, standing in zip(answer.table.actionpoints, answer.standing, strict=True)
            ),
        )
    )


HANDLERS: Final = {
    Kind.WATCHPOINTS: Handler(_check_watchpoints, _activate_watchpoints, _image_watchpoints),
    Kind.ACTIONPOINTS: Handler(_check_actionpoints, _activate_actionpoints, _image_actionpoints),
}
"""Both tables, by kind."""
