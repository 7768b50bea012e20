"""Rows of the shipped tables in one line each: the notation in which the modules ``fdir_power`` to ``fdir_task``
are written.

Ids: the hundreds are the domain, the tens a fault, the units of an actionpoint its rung. An actionpoint's level
says how hard it bites, the same in all domains:

    1 report    2 checkpoint    3 throttle    4 pause    5 kill    6 power cycle    7 power off, restart    8 SAFE
"""

from typing import Final, Literal

from msgspec import Struct

from flightsw.link.limit_tables import Actionpoint, Response, Watchpoint

LEVELS: Final[dict[Response, int]] = {
    Response.REPORT: 1,
    Response.CHECKPOINT: 2,
    Response.THROTTLE: 3,
    Response.SEQUENCE: 3,
    Response.PAUSE: 4,
    Response.KILL: 5,
    Response.POWER_CYCLE: 6,
    Response.POWER_OFF: 7,
    Response.RESTART: 7,
    Response.SAFE: 8,
}
"""Level of each response in the shipped table."""
Domain = Literal["power", "thermal", "gpu", "link", "storage", "task"]
Operator = Literal["<", "<=", ">", ">=", "==", "!="]


class Rows(Struct, frozen=True):
    """What a domain adds to the shipped tables."""

    watchpoints: tuple[Watchpoint, ...]
    actionpoints: tuple[Actionpoint, ...]


def watch(
    id: int,
    name: str,
    parameter: str,
    operator: Operator,
    trip: float,
    clear: float | None = None,
    *,
    samples: int = 1,
    stale_s: float = 5.0,
    rate: bool = False,
) -> Watchpoint:
    """A limit; ``rate`` watches the change per second of mission time."""
    return Watchpoint(
        id=id,
        name=name,
        parameter=parameter,
        quantity="rate" if rate else "value",
        operator=operator,
        trip=round(trip, 6),
        clear=None if clear is None else round(clear, 6),
        samples=samples,
        stale_s=stale_s,
    )


class Act(Struct, frozen=True):
    """Makes the actionpoints of one domain."""

    domain: Domain

    def __call__(
        self,
        id: int,
        name: str,
        condition: int | tuple[int | str, ...],
        response: Response,
        argument: float = 0.0,
        *,
        after_s: float = 0.0,
        release_s: float = 10.0,
        once: bool = False,
    ) -> Actionpoint:
        """A rung: what is done ``after_s`` of the condition, a watchpoint or several in reverse Polish notation."""
        return Actionpoint(
            id=id,
            name=name,
            condition=(condition,) if isinstance(condition, int) else condition,
            persistence_s=after_s,
            release_s=release_s,
            response=response,
            argument=argument,
            level=LEVELS[response],
            domain=self.domain,
            repeat="once" if once else "repeating",
        )
