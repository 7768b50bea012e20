"""Faults of the payload: workers that die, hang, never start or never stop, checkpoints that fail, a silent probe.

The answer to a dead or hung worker is another one; only a worker that dies again and again is left alone for a
while.
"""

# ruff: noqa: E501 - the table has one fact per line.

from collections.abc import Callable
from random import Random
from typing import Any, Final

from .endurance_fault import (
    ENTERED_SAFE,
    SERVING,
    Condition,
    Fault,
    also,
    event,
    gone,
    killed,
    running,
    started,
)
from .endurance_world import World

HARD_AT_WORK: Final = 0.3
"""Least duty at which a worker that makes no progress is found out in time; a third of it is left for the other job,
and at the worst in the dark."""


def switch(job: str, name: str, *, kill: bool = False) -> tuple[Any, Any]:
    """Begin and end of a worker's misbehaviour; with ``kill`` the worker before it is killed first."""

    def begin(world: World, random: Random) -> None:
        world.jobs[job].switches.add(name)
        if kill:
            world.reports += world.jobs[job].kill("killed by a fault")

    def end(world: World) -> None:
        world.jobs[job].switches.discard(name)

    return begin, end


def _row(
    job: str,
    name: str,
    text: str,
    switches: tuple[Any, Any],
    span_s: tuple[float, float],
    deadline_s: float,
    *answers: Condition,
    **more: Any,
) -> Fault:
    begin, end = switches
    return Fault(
        name=f"{name}_{job}",
        text=f"{job}: {text}",
        begin=begin,
        end=end,
        span_s=span_s,
        deadline_s=deadline_s,
        answers=answers,
        forbidden=(ENTERED_SAFE,),
        **more,
    )


def _kill(job: str) -> Callable[[World, Random], None]:
    def begin(world: World, random: Random) -> None:
        world.reports += world.jobs[job].kill("killed by a fault")

    return begin


def _complain(job: str) -> Callable[[World, Random], None]:
    def begin(world: World, random: Random) -> None:
        world.reports += world.jobs[job].complain("OUT_OF_MEMORY", "the card has no memory left")

    return begin


def _none(world: World) -> None:
    pass


def _of(job: str) -> tuple[Fault, ...]:
    """What can happen to the workers of any job."""
    return (
        _row(job, "worker_killed", "the worker is killed", (_kill(job), _none), (1.0, 1.0), 45.0,
             event("WORKER_DIED", job), started(job)),
        _row(job, "worker_mute", "no heartbeat comes", switch(job, "mute"), (60.0, 90.0), 40.0,
             event("WORKER_HUNG", job), killed(job), recovery_s=300.0),
        _row(job, "worker_late", "a new worker never becomes ready", switch(job, "late", kill=True), (100.0, 120.0), 100.0,
             event("WORKER_DIED", job), killed(job), event("JOB_STATE", "not ready within"), recovery_s=300.0),
        _row(job, "worker_complains", "the worker reports a fault and ends", (_complain(job), _none), (1.0, 1.0), 45.0,
             event("WORKER_FAULT", job), started(job)),
        _row(job, "worker_deaf", "the worker does not stop when asked", switch(job, "deaf"), (60.0, 70.0), 50.0,
             killed(job), gone(job),
             steps=((1.0, lambda world: world.send("job.stop", job=job)), (55.0, lambda world: world.send("job.start", job=job)))),
        _row(job, "worker_frail", "every new worker dies", switch(job, "frail", kill=True), (60.0, 120.0), 60.0,
             event("WORKER_QUARANTINED", job), recovery_s=300.0),
    )  # fmt: skip


def _ask_checkpoint(world: World) -> None:
    world.send("job.checkpoint", job="train")


_UNWRITABLE_BEGIN, _UNWRITABLE_END = switch("train", "unwritable")


def _writable_again(world: World) -> None:
    _UNWRITABLE_END(world)
    _ask_checkpoint(world)


def _stuck_infer(world: World, random: Random) -> None:
    world.jobs["infer"].switches.add("stuck")
    world.send("job.infer", job="infer", prompt="Where are we?", max_tokens=64)


def _silent(world: World, random: Random) -> None:
    world.probe_silent = True


def _answering(world: World) -> None:
    world.probe_silent = False


_BUSY: Final = also(SERVING, "hard at work", lambda world: world.pace.get("train", 0.0) >= HARD_AT_WORK)

ROWS: Final = (
    *_of("train"),
    *_of("infer"),
    _row("train", "worker_stuck", "heartbeats without progress", switch("train", "stuck"), (100.0, 130.0), 90.0,
         event("WORKER_HUNG", "train"), killed("train"), started("train"), ready=_BUSY, recovery_s=300.0),
    _row("infer", "worker_stuck", "a request that is never answered", (_stuck_infer, switch("infer", "stuck")[1]),
         (410.0, 430.0), 400.0, event("WORKER_HUNG", "infer"), killed("infer"), started("infer"), ready=_BUSY, recovery_s=300.0),
    _row("train", "checkpoint_corrupt", "the newest checkpoint is corrupt", switch("train", "rotten", kill=True), (30.0, 60.0), 60.0,
         event("CHECKPOINT_REJECTED", "train"), running("train"),
         ready=also(SERVING, "two generations", lambda world: world.jobs["train"].generation >= 1)),
    _row("train", "checkpoint_unwritable", "the disk takes no checkpoint", (_UNWRITABLE_BEGIN, _writable_again), (30.0, 60.0), 20.0,
         event("CHECKPOINT_FAILED", "train"), steps=((1.0, _ask_checkpoint),),
         recovered=(SERVING, event("CHECKPOINT_COMMITTED", "train"))),
    _row("gpu", "probe_silent", "the probe does not answer", (_silent, _answering), (20.0, 90.0), 15.0,
         event("PROBE_SILENT"), recovered=(SERVING, event("PROBE_RECOVERED"))),
)  # fmt: skip
