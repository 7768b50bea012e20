"""What of the actionpoints outlives a restart: how the ground has switched them, and which are spent.

Both are decisions. A response that the ground switched off because it did harm must not come back with the next
boot, and a "once" that restarts the daemon must not do so after each restart. So what differs from the table is a
durable fact, written in the frame in which it changes, which is seldom: by telecommand, and when a "once" acts.
Counts, timers and what stands begin anew with the daemon.

The fact belongs to actionpoints by id and name, whatever table they stand in; an entry that no table knows is
forgotten. Activating a table from the ground makes a fresh decision for each actionpoint that it changes.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.limit_tables import ENTRIES_MAX

from . import fdir
from .effects import Persist
from .events import Event
from .fdir import State, Switch

KEY: Final = "fdir"


class Kept(Struct, frozen=True, array_like=True):
    """One actionpoint that differs from its table."""

    id: Annotated[int, Meta(ge=1, le=9999)]
    name: Annotated[str, Meta(max_length=40)]
    switch: Switch
    spent: bool


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[tuple[Kept, ...]]] = msgspec.msgpack.Decoder(
    Annotated[tuple[Kept, ...], Meta(max_length=ENTRIES_MAX)]
)


def kept(state: State) -> tuple[Kept, ...]:
    """What is durable of this state."""
    return tuple(
        Kept(point.id, point.name, standing.switch, standing.spent)
        for point, standing in zip(state.table.actionpoints, state.standing, strict=True)
        if standing.switch != point.state or standing.spent
    )


def changes(before: State, after: State) -> tuple[Persist, ...]:
    """The write that these states ask for."""
    if before.standing is after.standing:
        return ()
    fact = kept(after)
    return () if fact == kept(before) else (Persist(KEY, _encoder.encode(fact)),)


def restored(state: State, payload: bytes | None) -> tuple[State, tuple[Event, ...]]:
    """The state at boot with what the store held; what does not decode is told, and the table stands as it is."""
    if not payload:
        return state, ()
    try:
        return _with(state, _decoder.decode(payload)), ()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return state, (Event("DURABLE_REFUSED", {"key": KEY, "reason": str(error)}),)


def carried(before: State, after: State) -> State:
    """The state with the decisions of the one before it, where it knows the actionpoints."""
    return _with(after, kept(before))


def _with(state: State, decisions: tuple[Kept, ...]) -> State:
    if not decisions:
        return state
    facts = {(fact.id, fact.name): fact for fact in decisions}
    standing = list(state.standing)
    for index, point in enumerate(state.table.actionpoints):
        fact = facts.get((point.id, point.name))
        if fact is not None:
            standing[index] = replace(standing[index], switch=fact.switch, spent=fact.spent)
    return fdir.summed(replace(state, standing=tuple(standing)))
