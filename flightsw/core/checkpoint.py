"""Checkpoints: when a training job commits one, and what is known of the newest verified generation.

Reasons to ask are rows of a table in order of urgency: an eclipse is forecast within ``eclipse_lead_s`` (the GPU
is about to be throttled and the vehicle is at its most vulnerable), or the last commit is ``interval_world_s``
old. Both are mission time, because they belong to the orbit. An order by telecommand goes straight to the worker.
At most one request is outstanding per job; one that is not answered within ``answer_timeout_s`` of the machine
clock is forgotten.

How a checkpoint is made durable and verified is the worker's business; only verified generations are reported.
"""

from operator import is_
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from . import payload
from .effects import SaveCheckpoint
from .events import Event, Fields
from .inputs import CheckpointCommitted, CheckpointFailed, CheckpointRejected, Report, WorkerExited, WorkerReady
from .job import JobConfig
from .lifecycle import Life


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to commit."""

    interval_world_s: Annotated[float, Meta(ge=1.0, le=1e7)] = 600.0
    """Mission time between two checkpoints."""
    before_eclipse: bool = True
    """Also commit before each forecast eclipse."""
    eclipse_lead_s: Annotated[float, Meta(ge=0.0, le=1e5)] = 120.0
    """How long before the entry (mission time)."""
    answer_timeout_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 60.0
    """A request without an answer is given up after this (machine clock)."""


class Ring(Struct, frozen=True, kw_only=True):
    """One job's checkpoints. ``generation`` −1 is none; ``base_world_s`` is when the interval began.

    ``eclipse_done`` is true from the commit before an eclipse until that eclipse has begun.
    """

    generation: int = -1
    step: int = 0
    committed_world_s: float | None = None
    base_world_s: float = 0.0
    asked_s: float | None = None
    eclipse_done: bool = False
    committed: int = 0
    rejected: int = 0
    failed: int = 0
    stall_s: float = float("nan")


class State(Struct, frozen=True, kw_only=True):
    """Rings in the order of the configured jobs; those of inference jobs stay empty."""

    rings: tuple[Ring, ...]


Outcome = SaveCheckpoint | Event


def start(jobs: tuple[JobConfig, ...]) -> State:
    """State at boot."""
    return State(rings=tuple(Ring() for _ in jobs))


class Outlook(Struct, frozen=True):
    """Mission time, and the forecast of the arc: whether it is dark, and when it ends."""

    world_s: float
    eclipse: bool
    arc_remaining_s: float


def step(
    state: State,
    config: Config,
    jobs: tuple[JobConfig, ...],
    work: payload.State,
    outlook: Outlook,
    reports: tuple[Report, ...],
    now_s: float,
) -> tuple[State, tuple[Outcome, ...]]:
    """Take in what was committed, ask for what is due."""
    out: list[Outcome] = []
    rings = list(state.rings)
    for report in reports:
        index = payload.index_of(jobs, report.job)
        if index is not None:
            rings[index] = _told(rings[index], jobs[index], report, outlook.world_s, out)
    for index, (spec, job) in enumerate(zip(jobs, work.jobs, strict=True)):
        if spec.kind == "train" and job.life is Life.RUNNING:
            rings[index] = _due(rings[index], config, spec, outlook, now_s, out)
    if all(map(is_, rings, state.rings)):
        return state, tuple(out)
    return State(rings=tuple(rings)), tuple(out)


def order(state: State, index: int, job_id: str, reason: str, now_s: float) -> tuple[State, tuple[Outcome, ...]]:
    """A checkpoint asked for by telecommand."""
    ring = replace(state.rings[index], asked_s=now_s)
    rings = (*state.rings[:index], ring, *state.rings[index + 1 :])
    return State(rings=rings), (SaveCheckpoint(job_id, reason),)


def order_all(
    state: State, jobs: tuple[JobConfig, ...], work: payload.State, reason: str, now_s: float
) -> tuple[State, tuple[Outcome, ...]]:
    """A checkpoint of every running training job that was not asked for one already."""
    out: list[Outcome] = []
    for index, (spec, job) in enumerate(zip(jobs, work.jobs, strict=True)):
        if spec.kind == "train" and job.life is Life.RUNNING and state.rings[index].asked_s is None:
            state, asked = order(state, index, spec.id, reason, now_s)
            out += asked
    return state, tuple(out)


def _due(ring: Ring, config: Config, spec: JobConfig, outlook: Outlook, now_s: float, out: list[Outcome]) -> Ring:
    if ring.eclipse_done and (outlook.eclipse or outlook.arc_remaining_s > config.eclipse_lead_s):
        ring = replace(ring, eclipse_done=False)
    if ring.asked_s is not None:
        if now_s - ring.asked_s <= config.answer_timeout_s:
            return ring
        ring = replace(ring, asked_s=None)
    near = not outlook.eclipse and 0.0 < outlook.arc_remaining_s <= config.eclipse_lead_s
    if config.before_eclipse and near and not ring.eclipse_done:
        out.append(SaveCheckpoint(spec.id, "eclipse ahead"))
        return replace(ring, asked_s=now_s, eclipse_done=True)
    if outlook.world_s - ring.base_world_s >= config.interval_world_s:
        out.append(SaveCheckpoint(spec.id, "interval"))
        return replace(ring, asked_s=now_s)
    return ring


def _told(ring: Ring, spec: JobConfig, report: Report, world_s: float, out: list[Outcome]) -> Ring:
    fields: Fields
    match report:
        case CheckpointCommitted():
            fields = {
                "job": spec.id,
                "generation": report.generation,
                "step": report.step,
                "digest": report.digest,
                "stall_ms": report.stall_s * 1e3,
            }
            out.append(Event("CHECKPOINT_COMMITTED", fields))
            return replace(
                ring,
                generation=report.generation,
                step=report.step,
                committed_world_s=world_s,
                base_world_s=world_s,
                asked_s=None,
                committed=ring.committed + 1,
                stall_s=report.stall_s,
            )
        case CheckpointRejected():
            fields = {"job": spec.id, "generation": report.generation, "reason": report.reason}
            out.append(Event("CHECKPOINT_REJECTED", fields))
            return replace(ring, rejected=ring.rejected + 1)
        case CheckpointFailed():
            out.append(Event("CHECKPOINT_FAILED", {"job": spec.id, "reason": report.reason}))
            # The interval begins anew, so that a full disk is not hammered once per frame.
            return replace(ring, failed=ring.failed + 1, asked_s=None, base_world_s=world_s)
        case WorkerReady() if spec.kind == "train":
            resumed = replace(ring, base_world_s=world_s, asked_s=None)
            return (
                replace(resumed, generation=report.generation, step=report.step)
                if report.generation >= 0
                else resumed
            )
        case WorkerExited():
            return replace(ring, asked_s=None)
        case _:
            return ring
