"""Fault detection, isolation and recovery: what is done about the watchpoints' results.

*Conditions* are evaluated in Kleene's three-valued logic: a watchpoint that is STALE is neither true nor false,
and so is what depends on it; ``"stale"`` asks for just that. With FALSE < UNKNOWN < TRUE, "and" is the smaller
value, "or" the larger, "not" the mirror image.

*Time.* A condition must have been true for ``persistence_s`` before anything is done, and false for ``release_s``
before a standing response ends. UNKNOWN is no time of either: what was counted is held, what stands goes on
standing, and neither goes on until the value is known again. All timers are machine time.

*Responses* are values (``Orders``) that the executive applies in the same frame. Some stand while their
actionpoint is tripped: THROTTLE and PAUSE (the lowest ceiling of the duty wins) and SAFE (a cause of SAFE, by
domain). The others are done once, when it trips; those of one frame in the order of their level.

*State.* An active actionpoint acts. A passive one says what it would have done. A disabled one is not looked at.
A "once" that has acted is spent, and passive until the ground re-arms it; what stands of it goes on standing.
Changing the state by telecommand begins the actionpoint anew, and ends what stands of it.

An actionpoint is reported at most every ``REPORT_S``, so that one which flaps cannot fill the downlink; the count
in its next report tells. Frames in which no result changes and no timer runs cost nothing.
"""

from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.limit_tables import Actionpoint, ActionTable, Response

from . import watchpoints
from .events import Event, Fields
from .limits import NEVER, TIMER_SLACK_S
from .watchpoints import Result

if TYPE_CHECKING:
    from .vehicle import Vehicle

REPORT_S: Final = 10.0
"""Least machine time between two reports of one actionpoint, and between two reports of stale watchpoints."""
NAMES_MAX: Final = 6
"""Stale watchpoints that one report names; the count tells of all."""


@unique
class Truth(IntEnum):
    """Value of a condition, ordered so that "and" is the minimum and "or" the maximum."""

    FALSE = 0
    UNKNOWN = 1
    TRUE = 2


TRUTH_OF: Final = {Result.CLEAR: Truth.FALSE, Result.TRIPPED: Truth.TRUE, Result.STALE: Truth.UNKNOWN}
SAFE_FACTS: Final = {"power": "limit_power", "thermal": "limit_thermal"}
"""Cause of SAFE by the domain of the actionpoint; every other domain is "limit", left by telecommand only."""
STANDING: Final = frozenset((Response.THROTTLE, Response.PAUSE, Response.SAFE))
"""Responses that stand while their actionpoint is tripped; every other is done once."""
Switch = Literal["active", "passive", "disabled"]


class Orders(Struct, frozen=True, kw_only=True):
    """What the executive does in this frame.

    ``ceiling`` (0 to 1) bounds the duty; the texts name the actionpoint that keeps SAFE, by cause; ``impulses`` are
    the responses that are done once, mildest first.
    """

    ceiling: float = 1.0
    limit_power: str = ""
    limit_thermal: str = ""
    limit: str = ""
    impulses: tuple[Actionpoint, ...] = ()


class Standing(Struct, frozen=True, kw_only=True):
    """Memory of one actionpoint.

    ``since_s`` is when ``truth`` began, ``held_s`` what was counted before that towards persistence, or, while
    ``tripped``, towards release. ``acting`` says that its response was done, and stands if it is a standing one.
    """

    switch: Switch
    spent: bool = False
    truth: Truth = Truth.UNKNOWN
    since_s: float = NEVER
    held_s: float = 0.0
    tripped: bool = False
    acting: bool = False
    count: int = 0
    reported_s: float = NEVER
    reported: bool = False

    @property
    def live(self) -> bool:
        """Whether it would act."""
        return self.switch == "active" and not self.spent


class State(Struct, frozen=True, kw_only=True):
    """Memory of all actionpoints, in the order of the table.

    ``results`` are those that were looked at last; ``running`` says that a timer runs. ``orders`` are the standing
    responses. ``tripped`` counts actionpoints, ``level`` is the highest that acts, ``responses`` counts since the
    table's activation. ``lost`` names watchpoints that went stale and were not reported yet.
    """

    table: ActionTable
    standing: tuple[Standing, ...]
    results: tuple[Result, ...] | None = None
    running: bool = False
    orders: Orders = Orders()
    tripped: int = 0
    level: int = 0
    responses: int = 0
    lost: tuple[str, ...] = ()
    lost_reported_s: float = NEVER


def start(table: ActionTable) -> State:
    """State after activation."""
    return State(table=table, standing=tuple(Standing(switch=point.state) for point in table.actionpoints))


def activate(state: State, table: ActionTable) -> State:
    """State after another table was activated; an actionpoint that is the same in both keeps its memory."""
    known = {point: standing for point, standing in zip(state.table.actionpoints, state.standing, strict=True)}
    fresh = start(table)
    standing = tuple(known.get(p, new) for p, new in zip(table.actionpoints, fresh.standing, strict=True))
    return summed(replace(state, table=table, standing=standing, results=None))


def switched(state: State, index: int, switch: Switch) -> State:
    """The ground switches an actionpoint; it begins anew, and what stood of it has ended."""
    before = state.standing[index]
    return _put(state, index, Standing(switch=switch, count=before.count))


def rearmed(state: State, index: int) -> State:
    """The ground re-arms an actionpoint: a spent one may act again, counts are 0, what stood of it has ended."""
    return _put(state, index, Standing(switch=state.standing[index].switch))


def step(
    state: State, watch: watchpoints.State, vehicle: "Vehicle", now_s: float
) -> tuple[State, Orders, tuple[Event, ...]]:
    """Look at the results of this frame; the orders hold for it."""
    found: tuple[Event, ...] = ()
    if watch.lost or state.lost:
        state, found = _told_stale(state, watch, now_s)
    if watch.results is state.results and not state.running:
        return state, state.orders, found
    acts: list[Actionpoint] = []
    standing: list[Standing] = []
    events: list[Event] = []
    index, results = watch.program.index, watch.results
    for point, old in zip(state.table.actionpoints, state.standing, strict=True):
        if old.switch == "disabled":
            standing.append(old)
            continue
        new = _timed(old, evaluate(point.condition, index, results), now_s)
        counted_s = new.held_s + (now_s - new.since_s) + TIMER_SLACK_S
        if not new.tripped and new.truth is Truth.TRUE and counted_s >= point.persistence_s:
            if new.live:
                acts.append(point)
            new, said = _trip(point, new, described(point, watch, vehicle), now_s)
            events += said
        elif new.tripped and new.truth is Truth.FALSE and counted_s >= point.release_s:
            new, said = _release(point, new, now_s)
            events += said
        standing.append(new)
    state = replace(state, standing=tuple(standing), results=watch.results, responses=state.responses + len(acts))
    state = summed(state)
    impulses = sorted((p for p in acts if p.response not in STANDING), key=lambda p: p.level)
    orders = replace(state.orders, impulses=tuple(impulses)) if impulses else state.orders
    return state, orders, (*found, *events)


def evaluate(condition: tuple[int | str, ...], index: dict[int, int], results: tuple[Result, ...]) -> Truth:
    """Value of a checked condition over these results; ``index`` gives the place of each watchpoint id."""
    stack: list[Truth] = []
    before = 0
    for token in condition:
        if isinstance(token, int):
            before = index[token]
            stack.append(TRUTH_OF[results[before]])
        elif token == "and":
            right = stack.pop()
            stack[-1] = min(stack[-1], right)
        elif token == "or":
            right = stack.pop()
            stack[-1] = max(stack[-1], right)
        elif token == "not":
            stack[-1] = Truth(Truth.TRUE - stack[-1])
        else:
            stack[-1] = Truth.TRUE if results[before] is Result.STALE else Truth.FALSE
    return stack[0]


def described(point: Actionpoint, watch: watchpoints.State, vehicle: "Vehicle") -> str:
    """The condition in words, each watchpoint with its value."""
    words: list[str] = []
    for token in point.condition:
        if isinstance(token, str):
            words.append(token)
            continue
        words.append(limit_text(watch, watch.program.index[token], vehicle))
    return " ".join(words)


def limit_text(watch: watchpoints.State, index: int, vehicle: "Vehicle") -> str:
    """A watchpoint in words, with its value: ``die.hot (gpu.die_degc 91.2 > 87)``."""
    limit, value = watch.program.points[index], watchpoints.reading(watch, index, vehicle)
    what = f"rate of {limit.parameter}" if limit.quantity == "rate" else limit.parameter
    return f"{limit.name} ({what} {value:.6g} {limit.operator} {limit.trip:g})"


def _timed(old: Standing, truth: Truth, now_s: float) -> Standing:
    """The actionpoint with this value of its condition: what was counted is held, or begins anew."""
    if truth is old.truth:
        return old
    counting = Truth.FALSE if old.tripped else Truth.TRUE
    if truth not in (counting, Truth.UNKNOWN):
        held_s = 0.0
    elif old.truth is counting:
        held_s = old.held_s + now_s - old.since_s
    else:
        held_s = old.held_s
    return replace(old, truth=truth, since_s=now_s, held_s=held_s)


def _trip(point: Actionpoint, old: Standing, condition: str, now_s: float) -> tuple[Standing, tuple[Event, ...]]:
    reported = now_s - old.reported_s >= REPORT_S
    new = replace(
        old,
        tripped=True,
        acting=old.live,
        spent=old.spent or (old.live and point.repeat == "once"),
        since_s=now_s,
        held_s=0.0,
        count=old.count + 1,
        reported=reported,
        reported_s=now_s if reported else old.reported_s,
    )
    if not reported:
        return new, ()
    doing = point.response + (f" {point.argument:g}" if point.argument else "")
    fields: Fields = {
        "action": point.id,
        "name": point.name,
        "level": point.level,
        "response": doing if new.acting else f"{doing} not done, passive",
        "count": new.count,
        "condition": condition,
    }
    return new, (Event("FDIR_TRIPPED", fields),)


def _release(point: Actionpoint, old: Standing, now_s: float) -> tuple[Standing, tuple[Event, ...]]:
    new = replace(old, tripped=False, acting=False, since_s=now_s, held_s=0.0, reported=False)
    if not old.reported:
        return new, ()
    return new, (Event("FDIR_RELEASED", {"action": point.id, "name": point.name, "response": str(point.response)}),)


def summed(state: State) -> State:
    """The state with what follows from its actionpoints: orders that stand, and figures for telemetry."""
    ceiling, level, tripped, running = 1.0, 0, 0, False
    holds: dict[str, str] = {}
    for point, standing in zip(state.table.actionpoints, state.standing, strict=True):
        tripped += standing.tripped
        running = running or standing.truth is (Truth.FALSE if standing.tripped else Truth.TRUE)
        if not standing.acting:
            continue
        level = max(level, point.level)
        if point.response is Response.THROTTLE:
            ceiling = min(ceiling, point.argument)
        elif point.response is Response.PAUSE:
            ceiling = 0.0
        elif point.response is Response.SAFE:
            holds.setdefault(SAFE_FACTS.get(point.domain, "limit"), f"actionpoint {point.id} ({point.name})")
    orders = Orders(
        ceiling=ceiling,
        limit_power=holds.get("limit_power", ""),
        limit_thermal=holds.get("limit_thermal", ""),
        limit=holds.get("limit", ""),
    )
    return replace(state, orders=orders, running=running, tripped=tripped, level=level)


def _put(state: State, index: int, standing: Standing) -> State:
    every = (*state.standing[:index], standing, *state.standing[index + 1 :])
    # Without results that were looked at, the next frame looks at all of them.
    return summed(replace(state, standing=every, results=None))


def _told_stale(state: State, watch: watchpoints.State, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Remember what went stale, and report it when the last report is long enough ago."""
    names = (watch.program.points[index].name for index in watch.lost)
    lost = tuple(dict.fromkeys((*state.lost, *names)))
    if now_s - state.lost_reported_s < REPORT_S:
        return replace(state, lost=lost), ()
    more = ", …" if len(lost) > NAMES_MAX else ""
    fields: Fields = {"count": len(lost), "names": ", ".join(lost[:NAMES_MAX]) + more}
    return replace(state, lost=(), lost_reported_s=now_s), (Event("FDIR_STALE", fields),)
