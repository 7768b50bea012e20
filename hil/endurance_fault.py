"""What a fault of the long mission is, and the words in which its answer is written.

A ``Fault`` is a row of a table: how it begins and ends, how long it lasts, when it makes sense at all, what has
to be seen as its answer and until when, what must never be seen while it lasts, and what has to be true again
after its end. A ``Condition`` is one such observation: a predicate over the ``World`` and what it showed in this
frame, with a text for the report. None of them asks the executive: events and effects are what it did, the rest
is the truth.

A *latched* condition is an occurrence: having been seen once is enough. The others are states: all of a row's
states have to hold in the same frame.
"""

from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from .endurance_world import World

IN_SERVICE: Final = frozenset(("NOMINAL", "COMPUTE", "DOWNLINK"))
LIT: Final = 0.98


class Condition(msgspec.Struct, frozen=True):
    """Something that can be seen from outside."""

    text: str
    seen: Callable[[World], bool]
    latched: bool = False


def event(name: str, part: str = "") -> Condition:
    """An event report of this name whose text contains ``part``."""
    return Condition(
        f"event {name}" + (f" ({part})" if part else ""),
        lambda world: any(name == said and part in text for said, text in world.seen.events),
        latched=True,
    )


def mode(name: str) -> Condition:
    """The vehicle's mode, as the ground reads it."""
    return Condition(f"mode {name}", lambda world: world.seen.mode == name)


def running(job: str) -> Condition:
    """The job has a worker that is ready."""
    return Condition(f"{job} runs", lambda world: world.jobs[job].running)


def gone(job: str) -> Condition:
    """The job has no worker."""
    return Condition(f"{job} has no worker", lambda world: not world.jobs[job].alive)


def started(job: str) -> Condition:
    """A worker of the job was asked for."""
    return Condition(f"{job} started", lambda world: job in world.seen.started, latched=True)


def killed(job: str) -> Condition:
    """The job's worker was killed by the executive."""
    return Condition(f"{job} killed", lambda world: job in world.seen.killed, latched=True)


SAFE: Final = mode("SAFE")
ENTERED_SAFE: Final = event("SAFE_ENTERED")
NEEDLESS_SAFE: Final = Condition(
    "SAFE while every true value keeps its limit",
    lambda world: ENTERED_SAFE.seen(world) and not world.at_limit,
    latched=True,
)
LEFT_SAFE: Final = event("MODE_CHANGED", "SAFE →")
IDLE: Final = Condition("the card is idle", lambda world: world.busy == 0.0)
RAIL_OFF: Final = Condition("the rail is off", lambda world: not world.plant.truth().gpu_rail_on)
RAIL_ON: Final = Condition("the rail is on", lambda world: world.plant.truth().gpu_rail_on)
BOOTED: Final = Condition("a boot", lambda world: world.seen.booted, latched=True)
KICKED: Final = Condition("the watchdog is kicked", lambda world: world.seen.kicked)
NOT_KICKED: Final = Condition("the watchdog is not kicked", lambda world: not world.seen.kicked)
PAYLOAD_OFF: Final = Condition(
    "payload off", lambda world: world.busy == 0.0 and not any(job.alive for job in world.jobs.values())
)
SERVING: Final = Condition(
    "in service, rail on, every job runs",
    lambda world: (
        world.seen.mode in IN_SERVICE
        and world.plant.truth().gpu_rail_on
        and all(job.running for job in world.jobs.values())
    ),
)
ANY_KILLED: Final = Condition("a worker killed", lambda world: bool(world.seen.killed), latched=True)


def nothing(world: World) -> None:
    """An end that needs no act."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Times are seconds; ``deadline_s`` counts from the beginning, ``recovery_s`` from the end.

    ``steps`` are acts between beginning and end, each at its time after the beginning.
    """

    name: str
    text: str
    span_s: tuple[float, float]
    begin: Callable[[World, Random], None]
    end: Callable[[World], None] = nothing
    steps: tuple[tuple[float, Callable[[World], None]], ...] = ()
    ready: Condition = SERVING
    answers: tuple[Condition, ...] = ()
    deadline_s: float = 30.0
    forbidden: tuple[Condition, ...] = ()
    recovered: tuple[Condition, ...] = (SERVING,)
    recovery_s: float = 60.0


def also(base: Condition, text: str, more: Callable[[World], bool]) -> Condition:
    """Both."""
    return Condition(f"{base.text}, {text}", lambda world: base.seen(world) and more(world))


def lit(world: World) -> bool:
    """In full sun."""
    return world.plant.truth().sun_fraction > LIT


def in_pass(world: World) -> bool:
    """A station sees the satellite."""
    return world.plant.truth().in_contact
