"""What the exploration walks over: a small vehicle, what the world may do to it in a frame, and what of it counts.

*Choices.* A frame has a world (power and heat good, at a limit or beyond it, sensors there, silent or without a
value, contact), what the worker tells, a telecommand, and a length: far shorter than every timer, longer than every
timer but two, or longer than all of them. So each timer may have run out, or not. A telecommand's frame is followed
by a second one, because orders are obeyed in the frame after them, in a world that may have changed (``then``).
Beside frames there are boots: the daemon dies and comes up again with its durable facts, alone or as the end of a
crash loop. A restart that the executive asks for is such a boot too.

What cannot be is not tried: a job without a process tells nothing, and only a starting worker becomes ready.

*FDIR.* Actionpoints are taken by what they do, not by what they watch: one for each response, and for SAFE one for
each domain that is a cause of its own. Each watches its own value of one free parameter, so the walk trips and ends
every one of them in every state it reaches. What acts once has acted by then; what stands may go on standing and go
blind (no value), as states of their own.

*Walks.* Each has a part of the whole: the limits of two sensors, the ground, the rail, the tables of limits
(``WALKS``), so that each stays small while what belongs together is together. States multiply where two things are
walked together that meet nowhere but in a third; to walk each of them with the third proves the same. So:

- readings meet in the cause of SAFE and in the deepest rung asked for, which take the worst of what is there: each
  hard limit has one walk, the two that one unit shares have theirs together;
- what the operator may do to a job, a rail, a restart each has one walk: they are joined in the permit, which is
  one value;
- SAFE by telecommand is one of those that wait for the operator. All of these have the same rows; where it is left
  out, another of them is in;
- the mild rungs of load shedding bound the duty and nothing else. They are stood on for a time in one walk, and
  passed in one frame in the others;
- a report that comes in the frame in which SAFE begins, or after a silence, is told in the walks of the limits.

Every row of every table has to be taken by some walk (``exploration_coverage``), so nothing falls between two.

*Essence.* Of a vehicle only what decides about mode, rail and payload is compared; two vehicles of one essence
behave alike. ``exploration.explore`` holds that against the vehicles themselves, by sample.
"""

import math
from typing import Any, Final, Literal

import msgspec

from flightsw.core import responses
from flightsw.core.fdir import STANDING
from flightsw.core.lifecycle import Life
from flightsw.link.limit_tables import Actionpoint, Response, Watchpoint

SHORT_S: Final = 0.001
LONG_S: Final = 31.0
VERY_LONG_S: Final = 4000.0
"""Longer than the silence of the ground that is allowed here; no path of long frames adds up to it."""

WORLDS: Final[dict[str, dict[str, Any] | None]] = {
    "good": {},
    "contact": {"radio_lock": True},
    "silent": None,
    "soc low": {"soc_fraction": 0.70},
    "GPU hot": {"gpu_temp_degc": 85.0},
    "soc low and GPU hot": {"soc_fraction": 0.70, "gpu_temp_degc": 85.0},
    "bus low": {"bus_voltage_v": 20.0},
    "radiator hot": {"radiator_temp_degc": 65.0},
    "between": {"soc_fraction": 0.72, "gpu_temp_degc": 75.0},
    "bus between": {"bus_voltage_v": 23.0},
    "radiator between": {"radiator_temp_degc": 55.0},
    "no value": {"soc_fraction": math.nan},
}
"""Sensor frames by name; None is none. A world
"between" lies in every hysteresis of its readings: it trips nothing and clears nothing."""
REPORTS: Final = {
    Life.STARTING: ("ready", "killed", "done", "fault"),
    Life.RUNNING: ("beat", "progress", "killed", "done", "fault"),
    Life.STOPPING: ("ready", "progress", "killed", "done", "fault"),
}
"""What a worker can tell, by the state of its job; the others have none."""
ORDERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "SAFE": ("mode.set", {"mode": "SAFE"}),
    "NOMINAL": ("mode.set", {"mode": "NOMINAL"}),
    "start": ("job.start", {"job": "job"}),
    "stop": ("job.stop", {"job": "job"}),
    "rail off": ("gpu.rail", {"on": False}),
    "rail on": ("gpu.rail", {"on": True}),
    "restart": ("daemon.restart", {}),
    "ping": ("ping", {}),
}


MODE_ORDERS: Final = ("SAFE", "NOMINAL", "rail on")
"""Telecommands whose second frame may find a world that has gone bad."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, or one boot when ``boot`` says why."""

    world: str = "good"
    report: str = ""
    order: str = ""
    then: str = ""
    frame_s: float = SHORT_S
    boot: str = ""
    free: float = 0.0
    ends: bool = False
    """Whether the free parameter is good again in a second frame."""

    def __str__(self) -> str:
        if self.boot:
            return f"boot: {self.boot}"
        order = self.order and f"order: {self.order}, then {self.then}"
        parts = [self.world, self.report and f"worker: {self.report}", order]
        if self.free != 0.0:
            parts.append(f"free parameter {self.free:g}{', then 0' if self.ends else ''}")
        return f"{self.frame_s:g} s of {', '.join(part for part in parts if part)}"


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the space: the job and its restart policy, worlds beyond a limit, telecommands, boots, FDIR."""

    name: str
    kind: str
    retries: bool
    """Whether a dead worker is started again at once, or goes to quarantine."""
    hard: tuple[str, ...]
    orders: tuple[str, ...]
    boots: tuple[str, ...] = ("killed",)
    worlds: tuple[str, ...]
    silence: bool = False
    rungs: bool = False
    """Whether load shedding is left rung by rung, each with its time, or passes the mild rungs in one frame."""
    told: tuple[str, ...] = ()
    """Worlds beside the good one in which a worker tells something; silence in a long frame, the others in a short.
    The first hard one also follows telecommands."""
    responses: frozenset[Response] = frozenset()


WALKS: Final = (
    Walk(
        name="battery and GPU node",
        kind="train",
        retries=True,
        hard=("soc low", "GPU hot", "soc low and GPU hot"),
        worlds=("good", "silent", "between"),
        orders=("SAFE", "NOMINAL"),
        told=("soc low",),
    ),
    Walk(
        name="bus and rail",
        kind="infer",
        retries=True,
        hard=("bus low",),
        worlds=("good", "silent", "bus between"),
        orders=("NOMINAL", "rail off", "rail on"),
        told=("bus low",),
    ),
    Walk(
        name="job and contact",
        kind="train",
        retries=False,
        hard=("soc low",),
        worlds=("good", "contact", "silent"),
        orders=("SAFE", "NOMINAL", "start", "stop"),
        told=("soc low",),
    ),
    Walk(
        name="radiator and sensors",
        kind="infer",
        retries=True,
        hard=("radiator hot",),
        worlds=("good", "silent", "no value", "radiator between"),
        orders=("NOMINAL",),
        told=("silent", "radiator hot"),
    ),
    Walk(
        name="load shedding",
        kind="train",
        retries=True,
        hard=("bus low",),
        worlds=("good", "silent", "bus between"),
        orders=("NOMINAL",),
        rungs=True,
    ),
    Walk(
        name="ground and restarts",
        kind="train",
        retries=False,
        hard=("soc low",),
        worlds=("good", "silent"),
        orders=("NOMINAL", "restart", "ping"),
        boots=("killed", "crash loop"),
        silence=True,
    ),
    Walk(
        name="limits that stand",
        kind="infer",
        retries=True,
        hard=("soc low",),
        worlds=("good", "silent"),
        orders=("NOMINAL",),
        responses=STANDING,
    ),
    Walk(
        name="limits that act once",
        kind="train",
        retries=True,
        hard=("GPU hot",),
        worlds=("good", "silent"),
        orders=("NOMINAL", "start", "stop", "rail on"),
        responses=frozenset(responses.ROWS) - {Response.RESTART},
    ),
    Walk(
        name="restart ladder",
        kind="infer",
        retries=True,
        hard=("soc low",),
        worlds=("good", "silent"),
        orders=("NOMINAL",),
        responses=frozenset((Response.RESTART,)),
    ),
)
Domain = Literal["power", "thermal", "gpu"]
OTHER: Final[Domain] = "gpu"
POWER: Final[Domain] = "power"
HEAT: Final[Domain] = "thermal"
ACTIONS: Final = tuple(
    Actionpoint(
        id=number,
        name=f"action{number}",
        condition=(number,),
        release_s=0.0,
        response=response,
        argument={Response.THROTTLE: 0.5, Response.POWER_CYCLE: 5.0, Response.SEQUENCE: 1.0}.get(response, 0.0),
        domain=domain,
    )
    for number, (response, domain) in enumerate(
        (*((r, OTHER) for r in Response), (Response.SAFE, POWER), (Response.SAFE, HEAT)), start=1
    )
)
"""One actionpoint for everything that a table can order."""
WATCHES: Final = tuple(
    Watchpoint(id=point.id, name=f"watch{point.id}", parameter="daemon.disk_free_mb", operator="==", trip=point.id)
    for point in ACTIONS
)


def choices(walk: Walk) -> dict[Life, tuple[Choice, ...]]:
    """What may happen to a vehicle, by the state of its job."""
    always = [Choice(world=world) for world in (*walk.worlds, *walk.hard)]
    # Beyond a limit nothing else happens in a long frame than in silence: what tripped stays tripped.
    always += [Choice(world=world, frame_s=LONG_S) for world in walk.worlds if world not in ("contact", "no value")]
    always += [Choice(order=order, then="good") for order in walk.orders]
    if walk.hard[0] in walk.told:
        always += [Choice(order=order, then=walk.hard[0]) for order in walk.orders if order in MODE_ORDERS]
    always += [Choice(boot=boot) for boot in walk.boots]
    if walk.silence:
        always.append(Choice(frame_s=VERY_LONG_S))
    if walk.responses:
        # What acts once is done with when it has acted; what stands is a state of its own until it ends.
        points = [
            (point.id, point.response not in STANDING) for point in ACTIONS if point.response in walk.responses
        ]
        always += [Choice(free=float(number), ends=once) for number, once in points]
        if walk.responses & STANDING:
            always += [Choice(free=math.nan, frame_s=frame_s) for frame_s in (SHORT_S, LONG_S)]
    made: dict[Life, tuple[Choice, ...]] = {}
    moments = [("good", SHORT_S), ("good", LONG_S)]
    moments += [(world, LONG_S if world == "silent" else SHORT_S) for world in walk.told]
    for life in Life:
        told = [
            Choice(world=world, report=report, frame_s=frame_s)
            for report in REPORTS.get(life, ())
            for world, frame_s in moments
        ]
        made[life] = (*always, *told)
    return made
