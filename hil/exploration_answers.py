"""What every fault has to lead to, in every state that the walk has reached, and how every SAFE ends.

``ANSWERS`` is a table: a fault as frames that go on until its deadline, the states in which it can be, and what has
to be seen by then. It is tried in every reached state that it fits, so "every fault has a response" holds for the
whole space and not for chosen cases. A fault of the tables of limits is one row for each response (``_ordered``).

``leaves`` holds the exit rule of every SAFE: once the world is good, power, heat and sensor causes end by
themselves; every other one ends with the operator's telecommand.
"""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from flightsw.core import executive
from flightsw.core.effects import Actuate, KillWorker, SaveCheckpoint, StartWorker
from flightsw.core.executive import Vehicle
from flightsw.core.fdir import Truth
from flightsw.core.lifecycle import WITH_PROCESS
from flightsw.link.limit_tables import Actionpoint, Response
from flightsw.link.schema import Mode

from .exploration_model import Moment, Node, after, said
from .exploration_rules import AUTOMATIC
from .exploration_states import (
    alive,
    always,
    asked,
    at_work,
    awake,
    hard_at_work,
    has_process,
    may_restart,
    rail_on,
    starting,
    stopping,
)
from .exploration_walks import ACTIONS, LONG_S, VERY_LONG_S, Choice, Walk

Seen = Callable[[list[Moment]], bool]
Fly = Callable[[Node, Choice], Node]
"""The node that a choice leads to."""
REPORT_S: Final = 10.0


class Answer(msgspec.Struct, frozen=True):
    """One row: the fault, when it can be, its frames, and what is seen within them."""

    fault: str
    fits: Callable[[Vehicle], bool]
    frames: tuple[Choice, ...]
    seen: Seen
    text: str

    @property
    def boots(self) -> bool:
        """Whether it begins with a boot, which sees only the store: one state for each store is enough."""
        return bool(self.frames[0].boot)


def answers(walk: Walk) -> tuple[Answer, ...]:
    """The rows of a walk."""
    rows = [
        Answer(f"{world}", awake, (Choice(world=world),), _safe, "SAFE in the same frame") for world in walk.hard
    ]
    rows += [
        Answer("sensors silent", awake, (Choice(world="silent", frame_s=LONG_S),) * 2, _safe, "SAFE when blind"),
        Answer("no heartbeat", at_work, (Choice(frame_s=LONG_S),), _kills, "killed"),
        Answer("no progress", hard_at_work, (Choice(report="beat", frame_s=LONG_S),), _kills, "killed"),
        Answer("never ready", starting, (Choice(frame_s=LONG_S),), _kills, "killed"),
        Answer("does not stop", stopping, (Choice(world="silent", frame_s=LONG_S),) * 2, _kills, "killed"),
        Answer("fault report", has_process, (Choice(report="fault"),), _event("WORKER_FAULT"), "reported"),
        Answer("worker died", alive, (Choice(report="killed"),), _event("WORKER_DIED"), "reported"),
        Answer(
            "worker died, and may run",
            may_restart,
            (Choice(report="killed"), Choice(), Choice(frame_s=LONG_S)),
            _starts,
            "another one is started",
        ),
        Answer("computer died", lambda v: True, (Choice(boot="killed"), Choice()), _as_before, "BOOT, SAFE kept"),
    ]
    if walk.silence:
        lost = (Choice(frame_s=VERY_LONG_S),)
        rows.append(Answer("ground silent", awake, lost, _safe, "SAFE"))
    if "rail off" in walk.orders:
        off = (Choice(order="rail off", then="good"),)
        rows.append(Answer("rail ordered off", rail_on, off, _rail_goes, "off in the next frame, workers killed"))
    if walk.responses:
        rows += [_ordered(point) for point in ACTIONS if point.response in walk.responses]
    return tuple(rows)


def flown(row: Answer, node: Node, config: executive.Config) -> list[Moment]:
    """This state, and every frame of the fault in it."""
    moments = [Moment(node, ())]
    for choice in row.frames:
        moments += after(moments[-1].node, config, choice)
    return moments


def leaves(node: Node, fly: Fly) -> Iterator[str]:
    """What is wrong with the end of the SAFE that this node is in; nothing when it is no SAFE.

    That no other SAFE ends by itself is a rule of every frame (``exploration_rules``).
    """
    if node.vehicle.mode.mode is not Mode.SAFE:
        return
    cause = node.vehicle.mode.cause or ""
    if cause in AUTOMATIC:
        node = _flown(node, fly, (Choice(), *(Choice(frame_s=LONG_S),) * 4))
        # A silent ground and a stricter cause rightly hold it, until the operator ends it.
        held = node.vehicle.contact_loss.lost or node.vehicle.mode.cause != cause
        if node.vehicle.mode.mode is Mode.SAFE and not held:
            yield f"SAFE by {cause} does not end though its cause is gone"
            return
    orders = (Choice(), Choice(), Choice(order="ping", then="good"), Choice(order="NOMINAL", then="good"), Choice())
    if _flown(node, fly, orders).vehicle.mode.mode is Mode.SAFE:
        yield f"SAFE by {cause} cannot be ended by telecommand"


def _flown(node: Node, fly: Fly, frames: tuple[Choice, ...]) -> Node:
    """The vehicle after these frames, with workers that go when asked, or as soon as it is in service."""
    for choice in frames:
        if node.vehicle.mode.mode not in (Mode.SAFE, Mode.BOOT):
            break
        if node.vehicle.payload.jobs[0].life in WITH_PROCESS:
            choice = replace(choice, report="done")
        node = fly(node, choice)
    return node


def _ordered(point: Actionpoint) -> Answer:
    """A limit of the tables that trips, by its response."""
    name = f"limit: {point.response} ({point.domain})"
    index = [action.id for action in ACTIONS if action.response is point.response].index(point.id)

    def fits(vehicle: Vehicle) -> bool:
        standing = [
            s
            for p, s in zip(vehicle.fdir.table.actionpoints, vehicle.fdir.standing, strict=True)
            if p.response is point.response
        ][index]
        ripe = (
            standing.truth is not Truth.TRUE
            and not standing.tripped
            and vehicle.now_s - standing.reported_s >= REPORT_S
        )
        return ripe and fit[point.response](vehicle)

    fit: dict[Response, Callable[[Vehicle], bool]] = dict.fromkeys(Response, always) | {
        Response.SAFE: awake,
        Response.KILL: has_process,
        Response.CHECKPOINT: lambda v: v.first_train is not None and at_work(v) and not asked(v),
        Response.POWER_CYCLE: rail_on,
        Response.POWER_OFF: rail_on,
    }
    seen: dict[Response, Seen] = dict.fromkeys(Response, _always_seen) | {
        Response.SAFE: _safe,
        Response.KILL: _kills,
        Response.CHECKPOINT: lambda m: _has(m, SaveCheckpoint),
        Response.POWER_CYCLE: _rail_goes,
        Response.POWER_OFF: _rail_goes,
        Response.PAUSE: lambda m: m[-1].node.vehicle.governor.duty == 0.0,
        Response.THROTTLE: lambda m: m[-1].node.vehicle.governor.duty <= point.argument,
        Response.RESTART: lambda m: m[-1].node.vehicle.restart is not None or _rebooted(m) or _safe(m),
    }

    def told(moments: list[Moment]) -> bool:
        return _event("FDIR_TRIPPED")(moments) and seen[point.response](moments)

    frames: tuple[Choice, ...] = (Choice(free=float(point.id)),)
    if point.response is Response.RESTART:
        frames += (Choice(),)  # The ladder decides in the next frame; the last rung is SAFE.
    return Answer(name, fits, frames, told, "reported, and done at once")


def _always_seen(moments: list[Moment]) -> bool:
    return True


def _has(moments: list[Moment], kind: type) -> bool:
    return any(isinstance(effect, kind) for moment in moments for effect in moment.effects)


def _safe(moments: list[Moment]) -> bool:
    return moments[-1].node.vehicle.mode.mode is Mode.SAFE


def _kills(moments: list[Moment]) -> bool:
    return _has(moments, KillWorker)


def _starts(moments: list[Moment]) -> bool:
    return _has(moments, StartWorker)


def _event(name: str) -> Seen:
    return lambda moments: any(name == given for moment in moments for given, _ in said(moment.effects))


def _rail_goes(moments: list[Moment]) -> bool:
    off = any(isinstance(e, Actuate) and not e.gpu_rail_on for m in moments for e in m.effects)
    job = moments[0].node.vehicle.payload.jobs[0]
    # A worker that was killed before is not killed again before its time.
    return off and (job.life not in WITH_PROCESS or job.killed or _kills(moments) or _rebooted(moments))


def _rebooted(moments: list[Moment]) -> bool:
    return moments[-1].node.vehicle.boot_count != moments[0].node.vehicle.boot_count


def _as_before(moments: list[Moment]) -> bool:
    """After a crash the vehicle is back, and in SAFE when it was in SAFE."""
    before, vehicle = moments[0].node.vehicle, moments[-1].node.vehicle
    if before.mode.mode is not Mode.SAFE:
        return _rebooted(moments) and vehicle.mode.mode is not Mode.BOOT
    return vehicle.mode.mode is Mode.SAFE and vehicle.mode.cause == before.mode.cause
