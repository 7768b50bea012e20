"""The shipped tables of limits, made for a configuration: what is watched, and what is done about it, rung by
rung.

Thresholds follow from the configuration wherever it has the fact already (SAFE of the battery, limits of the
nodes, the card's maximum); what no other subsystem knows stands in ``Config``. So each fact stands once, and the
tables move with it.

Under these tables lies a floor in code (``eps``, ``thermal``, ``mode``) that no table can unload; the tables are
the staged answers before it, and all that the floor does not know.
"""

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.limit_tables import Actionpoint, ActionTable, Response, Watchpoint, WatchTable

if TYPE_CHECKING:
    from .vehicle import Config as CoreConfig

NAME: Final = "shipped"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the shipped tables that belong to no other subsystem."""

    die_limit_degc: Annotated[float, Meta(ge=0.0, le=150.0)] = 87.0
    """Highest temperature of the GPU's die as the card reports it."""


def shipped(config: "CoreConfig") -> tuple[WatchTable, ActionTable]:
    """Watchpoints and actionpoints for this configuration."""
    limit = config.fdir.die_limit_degc
    watch = (
        Watchpoint(
            id=1,
            name="gpu.die_hot",
            parameter="gpu.die_degc",
            operator=">",
            trip=limit,
            clear=limit - 5.0,
            samples=3,
        ),
    )
    actions = (
        Actionpoint(
            id=1, name="gpu.die_throttle", condition=(1,), response=Response.THROTTLE, argument=0.5, domain="gpu"
        ),
    )
    return WatchTable(name=NAME, watchpoints=watch), ActionTable(name=NAME, actionpoints=actions)
