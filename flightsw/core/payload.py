"""Payload: all GPU jobs of the vehicle, moved on once a frame under what the vehicle permits.

A frame takes in what the workers told (``worker_reports``), then moves every job along its life by time, wish and
permission (the table ``lifecycle.LIFECYCLE``), then splits the duty (``duty``). The order matters: a worker that is
ready in this frame is paced in this frame, and one that may no longer run gets nothing.

Permission comes first: a job that the vehicle forbids is stopped or cut before its own deadlines are looked at.

All timers are machine time.
"""

from enum import Enum, auto, unique
from operator import is_
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from .duty import checked_for_hang, split
from .effects import SubmitRequest
from .inputs import Report
from .job import Config, Job, JobConfig, Outcome, fire
from .lifecycle import WITH_PROCESS, Life, Trigger
from .worker_reports import told

REQUESTS_MAX: Final = 64
"""Inference requests outstanding per job; one more is refused as BUSY."""


@unique
class Permit(Enum):
    """What the vehicle allows its payload: RUN, STOP in good order, or CUT (the rail is going: kill)."""

    RUN = auto()
    STOP = auto()
    CUT = auto()


class State(Struct, frozen=True, kw_only=True):
    """Jobs in the order of the configuration."""

    jobs: tuple[Job, ...]

    @property
    def wanted(self) -> bool:
        """Whether at least one job wants to run."""
        return any(job.wanted for job in self.jobs)

    @property
    def off(self) -> bool:
        """Whether no worker process exists."""
        return not any(job.life in WITH_PROCESS for job in self.jobs)


def start(jobs: tuple[JobConfig, ...], now_s: float) -> State:
    """State at boot."""
    return State(jobs=tuple(Job(wanted=job.autostart, since_s=now_s) for job in jobs))


def index_of(jobs: tuple[JobConfig, ...], job_id: str) -> int | None:
    """Position of a configured job, None when there is none of this id."""
    return next((i for i, job in enumerate(jobs) if job.id == job_id), None)


def want(state: State, index: int, wanted: bool) -> State:
    """The operator wants a job, or no longer; wanting it anew ends its quarantine."""
    job = state.jobs[index]
    if wanted and job.life in (Life.FAILED, Life.QUARANTINED):
        job = replace(job, failures=(), retry_s=0.0, quarantines=0)
    return _put(state, index, replace(job, wanted=wanted))


def count_failures(state: State, index: int, count: int, now_s: float) -> State:
    """Say that a job has failed ``count`` times just now; 0 ends its quarantine at once."""
    job = state.jobs[index]
    retry_s = job.retry_s if count else 0.0
    return _put(state, index, replace(job, failures=(now_s,) * count, quarantines=0, retry_s=retry_s))


def request(state: State, index: int, submit: SubmitRequest) -> tuple[State, tuple[SubmitRequest]]:
    """Hand a request to a running inference worker."""
    job = state.jobs[index]
    return _put(state, index, replace(job, requests=(*job.requests, submit.request))), (submit,)


def kill(state: State, jobs: tuple[JobConfig, ...], reason: str, now_s: float) -> tuple[State, tuple[Outcome, ...]]:
    """Kill every worker; those that were to run count as failed, and are restored by the restart policy."""
    out: list[Outcome] = []
    killed = tuple(
        fire(job, spec, Trigger.KILL_ORDERED, reason, now_s, out, "" if job.life is Life.STOPPING else reason)
        if job.has_process
        else job
        for job, spec in zip(state.jobs, jobs, strict=True)
    )
    return State(jobs=killed), tuple(out)


def rest(
    state: State, config: Config, jobs: tuple[JobConfig, ...], now_s: float
) -> tuple[State, tuple[Outcome, ...]]:
    """Park every running worker at once, between two frames; the next frame's duty decides on."""
    out: list[Outcome] = []
    current = list(state.jobs)
    split(current, config, jobs, 0.0, now_s, out)
    return State(jobs=tuple(current)), tuple(out)


def step(
    state: State,
    config: Config,
    jobs: tuple[JobConfig, ...],
    permit: Permit,
    duty: float,
    reports: tuple[Report, ...],
    now_s: float,
    micro_batch_s: float = 0.0,
) -> tuple[State, tuple[Outcome, ...]]:
    """Take in what the workers tell, move every job along its life, split the duty."""
    out: list[Outcome] = []
    current = list(state.jobs)
    for report in reports:
        index = index_of(jobs, report.job)
        if index is not None:
            current[index] = told(current[index], config, jobs[index], report, now_s, out)
    for index, spec in enumerate(jobs):
        current[index] = _move(current[index], config, spec, permit, now_s, out)
    split(current, config, jobs, duty if permit is Permit.RUN else 0.0, now_s, out, micro_batch_s)
    # Most frames change nothing; the same state object then says so.
    if all(map(is_, current, state.jobs)):
        return state, tuple(out)
    return State(jobs=tuple(current)), tuple(out)


def _put(state: State, index: int, job: Job) -> State:
    return State(jobs=(*state.jobs[:index], job, *state.jobs[index + 1 :]))


def _move(job: Job, config: Config, spec: JobConfig, permit: Permit, now_s: float, out: list[Outcome]) -> Job:
    """Everything that time and permission alone can cause."""
    match job.life:
        case Life.OFF:
            if job.wanted and permit is Permit.RUN:
                return fire(job, spec, Trigger.START, "wanted", now_s, out)
        case Life.STARTING | Life.RUNNING:
            if permit is Permit.CUT:
                return fire(job, spec, Trigger.CUT, "power rail off", now_s, out)
            if permit is Permit.STOP:
                return fire(job, spec, Trigger.STOP, "mode forbids payload", now_s, out)
            if not job.wanted:
                return fire(job, spec, Trigger.STOP, "not wanted", now_s, out)
            if job.life is Life.STARTING:
                if now_s - job.since_s > config.start_timeout_s:
                    late = f"not ready within {config.start_timeout_s:g} s"
                    return fire(job, spec, Trigger.START_OVERDUE, late, now_s, out, broken=late)
            else:
                if job.quarantines and now_s - job.since_s >= config.restart_window_s:
                    job = replace(job, quarantines=0)
                return checked_for_hang(job, config, spec, now_s, out)
        case Life.STOPPING:
            if permit is Permit.CUT and not job.killed:
                return fire(job, spec, Trigger.CUT, "power rail off", now_s, out)
            patience_s = config.kill_timeout_s if job.killed else config.stop_timeout_s
            if now_s - job.acted_s > patience_s:
                return fire(job, spec, Trigger.STOP_OVERDUE, "did not stop in time", now_s, out)
        case Life.FAILED | Life.QUARANTINED:  # pragma: no branch - no life is left that has no case.
            if not job.wanted:
                return fire(job, spec, Trigger.STOP, "not wanted", now_s, out)
            if permit is Permit.RUN and now_s >= job.retry_s:
                restarted = replace(job, restarts=job.restarts + 1)
                return fire(restarted, spec, Trigger.RETRY, f"restart {restarted.restarts}", now_s, out)
    return job
