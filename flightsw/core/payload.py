"""Payload: the life of each GPU job, its share of the duty, and whether its work really advances.

Life is the table ``LIFECYCLE``: (state, trigger) → (next state, action). A trigger without a row for the state
means nothing there.

    OFF ─start→ STARTING ─ready→ RUNNING ─stop→ STOPPING ─exit→ OFF
                   └────exit, time-out, hang: killed, reaped────→ FAILED ─back-off→ STARTING
                                       too often → QUARANTINED ─slow retry→ STARTING

Only a reaped worker counts as gone: a kill leads to STOPPING, the exit report out of it, so no job ever has
two processes.

*Hang.* A heartbeat says that a thread lives, ``progress`` says that the work advances. The worker owes progress
while it may work: the integral of duty over time since the last progress is the full-duty time it was given, and
that is limited, so a throttled worker gets proportionally longer and one at duty 0 owes nothing. An inference job
owes progress only while requests wait. No heartbeat at all is a hang too.

*Duty.* The governor's duty is split among the jobs that have work, by their configured shares; an idle inference
job gives its share away. A job's part under ``duty_min`` becomes 0, because a worker cannot pace that finely.

All timers are machine time.
"""

from enum import Enum, IntEnum, auto, unique
from operator import is_
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.dictionary import JOB_STATES

from .effects import KillWorker, SetPace, StartWorker, StopWorker, SubmitRequest
from .events import Event, Fields
from .inputs import (
    ModelSwapped,
    Report,
    RequestReply,
    WorkerExited,
    WorkerFault,
    WorkerProgress,
    WorkerReady,
)

REQUESTS_MAX: Final = 64
"""Inference requests outstanding per job; one more is refused as BUSY."""


@unique
class Life(IntEnum):
    """State of a job; codes of ``JOB_STATES``."""

    OFF = JOB_STATES.index("OFF")
    STARTING = JOB_STATES.index("STARTING")
    RUNNING = JOB_STATES.index("RUNNING")
    STOPPING = JOB_STATES.index("STOPPING")
    FAILED = JOB_STATES.index("FAILED")
    QUARANTINED = JOB_STATES.index("QUARANTINED")


@unique
class Trigger(Enum):
    """What moves a job from one state to the next."""

    START = auto()
    READY = auto()
    STOP = auto()
    CUT = auto()
    EXIT_AS_ASKED = auto()
    EXIT_DONE = auto()
    EXIT_FAILED = auto()
    EXIT_TOO_OFTEN = auto()
    START_OVERDUE = auto()
    STOP_OVERDUE = auto()
    HUNG = auto()
    RETRY = auto()


@unique
class Action(Enum):
    """What is asked of the shell on a transition."""

    NONE = auto()
    START = auto()
    STOP = auto()
    KILL = auto()


@unique
class Permit(Enum):
    """What the vehicle allows its payload: RUN, STOP in good order, or CUT (the rail is going: kill)."""

    RUN = auto()
    STOP = auto()
    CUT = auto()


LIFECYCLE: Final[dict[tuple[Life, Trigger], tuple[Life, Action]]] = {
    (Life.OFF, Trigger.START): (Life.STARTING, Action.START),
    (Life.STARTING, Trigger.READY): (Life.RUNNING, Action.NONE),
    (Life.STARTING, Trigger.STOP): (Life.STOPPING, Action.STOP),
    (Life.STARTING, Trigger.CUT): (Life.STOPPING, Action.KILL),
    (Life.STARTING, Trigger.START_OVERDUE): (Life.STOPPING, Action.KILL),
    (Life.STARTING, Trigger.EXIT_DONE): (Life.OFF, Action.NONE),
    (Life.STARTING, Trigger.EXIT_FAILED): (Life.FAILED, Action.NONE),
    (Life.STARTING, Trigger.EXIT_TOO_OFTEN): (Life.QUARANTINED, Action.NONE),
    (Life.RUNNING, Trigger.STOP): (Life.STOPPING, Action.STOP),
    (Life.RUNNING, Trigger.CUT): (Life.STOPPING, Action.KILL),
    (Life.RUNNING, Trigger.HUNG): (Life.STOPPING, Action.KILL),
    (Life.RUNNING, Trigger.EXIT_DONE): (Life.OFF, Action.NONE),
    (Life.RUNNING, Trigger.EXIT_FAILED): (Life.FAILED, Action.NONE),
    (Life.RUNNING, Trigger.EXIT_TOO_OFTEN): (Life.QUARANTINED, Action.NONE),
    (Life.STOPPING, Trigger.CUT): (Life.STOPPING, Action.KILL),
    (Life.STOPPING, Trigger.STOP_OVERDUE): (Life.STOPPING, Action.KILL),
    (Life.STOPPING, Trigger.EXIT_AS_ASKED): (Life.OFF, Action.NONE),
    (Life.STOPPING, Trigger.EXIT_FAILED): (Life.FAILED, Action.NONE),
    (Life.STOPPING, Trigger.EXIT_TOO_OFTEN): (Life.QUARANTINED, Action.NONE),
    (Life.FAILED, Trigger.RETRY): (Life.STARTING, Action.START),
    (Life.FAILED, Trigger.STOP): (Life.OFF, Action.NONE),
    (Life.QUARANTINED, Trigger.RETRY): (Life.STARTING, Action.START),
    (Life.QUARANTINED, Trigger.STOP): (Life.OFF, Action.NONE),
}

WITH_PROCESS: Final = frozenset((Life.STARTING, Life.RUNNING, Life.STOPPING))


class JobConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the core has to know of a job; everything else is its worker's business."""

    id: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    """Job id, as telecommands name it."""
    kind: Literal["train", "infer"]
    """Training works always; inference only while requests wait."""
    autostart: bool = True
    """Wanted from boot on."""
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Share of the duty while other jobs want it too."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deadlines and restart policy, on the machine clock."""

    start_timeout_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 600.0
    """A worker must be ready within this; a language model can take minutes to load on a small machine."""
    stop_timeout_s: Annotated[float, Meta(ge=0.5, le=600.0)] = 15.0
    """A worker that was asked to stop is killed after this."""
    kill_timeout_s: Annotated[float, Meta(ge=0.5, le=60.0)] = 5.0
    """A kill without an exit report is repeated after this."""
    heartbeat_timeout_s: Annotated[float, Meta(ge=2.0, le=600.0)] = 20.0
    """A worker without a heartbeat for this long hangs."""
    hang_timeout_s: Annotated[float, Meta(ge=1.0, le=600.0)] = 15.0
    """Time at full duty without progress that makes a hang; at duty d it lasts 1/d times as long."""
    backoff_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 1.0
    """Pause before the first restart; it doubles with each failure in the window."""
    backoff_max_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 30.0
    """Longest pause before a restart outside quarantine."""
    restarts_max: Annotated[int, Meta(ge=0, le=100)] = 3
    """Restarts within the window; the next failure leads to quarantine."""
    restart_window_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 600.0
    """Window of the restart count."""
    quarantine_retry_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0
    """Pause between two tries in quarantine."""
    duty_min: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.02
    """Smallest duty a worker is given; less becomes 0."""
    duty_step: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.005
    """A change of duty smaller than this waits for the refresh."""
    pace_refresh_s: Annotated[float, Meta(ge=0.1, le=60.0)] = 2.0
    """The set-point is sent again after this, changed or not."""


class Job(Struct, frozen=True, kw_only=True):
    """One job. ``since_s`` is when its state began, ``progress_s``/``owed_s``/``duty_s`` account for progress owed.

    ``step``, ``loss`` and ``tokens_total`` survive the worker; ``tokens`` is the worker's own count. ``acted_s``
    is the time of the last action; ``broken`` says why the worker is being killed, empty when it stops as asked.
    """

    wanted: bool
    life: Life = Life.OFF
    since_s: float = 0.0
    acted_s: float = 0.0
    retry_s: float = 0.0
    failures: tuple[float, ...] = ()
    broken: str = ""
    killed: bool = False
    # Set-point and progress.
    duty: float = 0.0
    paced_s: float = 0.0
    heartbeat_s: float = 0.0
    progress: int = -1
    owed_s: float = 0.0
    owed_from_s: float = 0.0
    progressed_s: float = 0.0
    # What it tells.
    step: int = 0
    loss: float = float("nan")
    tokens: int = 0
    tokens_before: int = 0
    tokens_per_s: float = float("nan")
    micro_batch_s: float = float("nan")
    generation: int = -1
    requests: tuple[int, ...] = ()
    replies: int = 0
    restarts: int = 0

    @property
    def has_process(self) -> bool:
        """Whether a worker process exists or may exist."""
        return self.life in WITH_PROCESS

    @property
    def tokens_total(self) -> int:
        """Tokens since boot, over all workers of the job."""
        return self.tokens_before + self.tokens


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


Outcome = SetPace | StartWorker | StopWorker | KillWorker | SubmitRequest | Event | RequestReply


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
        job = replace(job, failures=(), retry_s=0.0)
    return _put(state, index, replace(job, wanted=wanted))


def request(state: State, index: int, submit: SubmitRequest) -> tuple[State, tuple[SubmitRequest]]:
    """Hand a request to a running inference worker."""
    job = state.jobs[index]
    return _put(state, index, replace(job, requests=(*job.requests, submit.request))), (submit,)


def step(
    state: State,
    config: Config,
    jobs: tuple[JobConfig, ...],
    permit: Permit,
    duty: float,
    reports: tuple[Report, ...],
    now_s: float,
) -> tuple[State, tuple[Outcome, ...]]:
    """Take in what the workers tell, move every job along its life, split the duty."""
    out: list[Outcome] = []
    current = list(state.jobs)
    for report in reports:
        index = index_of(jobs, report.job)
        if index is not None:
            current[index] = _told(current[index], config, jobs[index], report, now_s, out)
    for index, spec in enumerate(jobs):
        current[index] = _move(current[index], config, spec, permit, now_s, out)
    _pace(current, config, jobs, duty if permit is Permit.RUN else 0.0, now_s, out)
    # Most frames change nothing; the same state object then says so.
    if all(map(is_, current, state.jobs)):
        return state, tuple(out)
    return State(jobs=tuple(current)), tuple(out)


def _put(state: State, index: int, job: Job) -> State:
    return State(jobs=(*state.jobs[:index], job, *state.jobs[index + 1 :]))


def _fire(
    job: Job, spec: JobConfig, trigger: Trigger, reason: str, now_s: float, out: list[Outcome], broken: str = ""
) -> Job:
    """Take the row of the table for this trigger, if there is one."""
    row = LIFECYCLE.get((job.life, trigger))
    if row is None:
        return job
    target, action = row
    match action:
        case Action.START:
            out.append(StartWorker(spec.id))
        case Action.STOP:
            out.append(StopWorker(spec.id))
        case Action.KILL:
            out.append(KillWorker(spec.id, reason))
        case Action.NONE:
            pass
    if target is not job.life:
        fields: Fields = {
            "job": spec.id,
            "old": job.life.name,
            "new": target.name,
            "reason": reason,
        }
        out.append(Event("JOB_STATE", fields))
    since_s = now_s if target is not job.life else job.since_s
    return replace(
        job,
        life=target,
        since_s=since_s,
        acted_s=now_s,
        broken=broken or job.broken,
        # Every way into a new process passes through START.
        killed=action is Action.KILL or (job.killed and action is not Action.START),
        duty=0.0,
    )


def _move(job: Job, config: Config, spec: JobConfig, permit: Permit, now_s: float, out: list[Outcome]) -> Job:
    """Everything that time and permission alone can cause."""
    match job.life:
        case Life.OFF:
            if job.wanted and permit is Permit.RUN:
                return _fire(job, spec, Trigger.START, "wanted", now_s, out)
        case Life.STARTING | Life.RUNNING:
            if permit is Permit.CUT:
                return _fire(job, spec, Trigger.CUT, "power rail off", now_s, out)
            if permit is Permit.STOP:
                return _fire(job, spec, Trigger.STOP, "mode forbids payload", now_s, out)
            if not job.wanted:
                return _fire(job, spec, Trigger.STOP, "not wanted", now_s, out)
            if job.life is Life.STARTING:
                if now_s - job.since_s > config.start_timeout_s:
                    late = f"not ready within {config.start_timeout_s:g} s"
                    return _fire(job, spec, Trigger.START_OVERDUE, late, now_s, out, broken=late)
            else:
                return _checked_for_hang(job, config, spec, now_s, out)
        case Life.STOPPING:
            if permit is Permit.CUT and not job.killed:
                return _fire(job, spec, Trigger.CUT, "power rail off", now_s, out)
            patience_s = config.kill_timeout_s if job.killed else config.stop_timeout_s
            if now_s - job.acted_s > patience_s:
                return _fire(job, spec, Trigger.STOP_OVERDUE, "did not stop in time", now_s, out)
        case Life.FAILED | Life.QUARANTINED:
            if not job.wanted:
                return _fire(job, spec, Trigger.STOP, "not wanted", now_s, out)
            if permit is Permit.RUN and now_s >= job.retry_s:
                restarted = replace(job, restarts=job.restarts + 1, broken="")
                return _fire(restarted, spec, Trigger.RETRY, f"restart {restarted.restarts}", now_s, out)
    return job


def _checked_for_hang(job: Job, config: Config, spec: JobConfig, now_s: float, out: list[Outcome]) -> Job:
    silent_s = now_s - job.heartbeat_s
    owed_s = job.owed_s + job.duty * (now_s - job.owed_from_s) if _has_work(job, spec) else 0.0
    if silent_s <= config.heartbeat_timeout_s and owed_s <= config.hang_timeout_s:
        return job
    age_s = silent_s if silent_s > config.heartbeat_timeout_s else now_s - job.progressed_s
    out.append(Event("WORKER_HUNG", {"job": spec.id, "age_s": age_s}))
    return _fire(job, spec, Trigger.HUNG, "no progress", now_s, out, broken="no progress")


def _has_work(job: Job, spec: JobConfig) -> bool:
    return spec.kind == "train" or bool(job.requests)


def _told(job: Job, config: Config, spec: JobConfig, report: Report, now_s: float, out: list[Outcome]) -> Job:
    """A worker's report."""
    match report:
        case WorkerProgress():
            return _progressed(job, report, now_s)
        case WorkerReady():
            return _ready(job, spec, report, now_s, out)
        case WorkerExited():
            return _exited(job, config, spec, report, now_s, out)
        case WorkerFault():
            out.append(Event("WORKER_FAULT", {"job": spec.id, "code": report.code, "reason": report.reason}))
        case ModelSwapped():
            fields: Fields = {"job": spec.id, "generation": report.generation, "step": report.step}
            out.append(Event("MODEL_SWAPPED", fields))
            return replace(job, generation=report.generation)
        case RequestReply():
            return _replied(job, spec, report, now_s, out)
        case _:
            pass  # Checkpoints are the business of ``checkpoint``.
    return job


def _progressed(job: Job, report: WorkerProgress, now_s: float) -> Job:
    if job.life not in (Life.RUNNING, Life.STOPPING):
        return job
    moved = report.progress != job.progress
    elapsed_s = now_s - job.heartbeat_s
    rate = max(0, report.tokens - job.tokens) / elapsed_s if elapsed_s > 0.0 else job.tokens_per_s
    if job.progress < 0:
        rate = float("nan")  # The first heartbeat tells a total, not a difference.
    return replace(
        job,
        heartbeat_s=now_s,
        progress=report.progress,
        owed_s=0.0 if moved else job.owed_s,
        owed_from_s=now_s if moved else job.owed_from_s,
        progressed_s=now_s if moved else job.progressed_s,
        step=report.step,
        loss=report.loss,
        tokens=report.tokens,
        # Smoothed over a few heartbeats; the first one has nothing to smooth with.
        tokens_per_s=rate if job.tokens_per_s != job.tokens_per_s else 0.7 * job.tokens_per_s + 0.3 * rate,
        micro_batch_s=report.micro_batch_s,
    )


def _ready(job: Job, spec: JobConfig, report: WorkerReady, now_s: float, out: list[Outcome]) -> Job:
    fields: Fields = {
        "job": spec.id,
        "pid": report.pid,
        "device": report.device,
        "step": report.step,
        "generation": report.generation,
    }
    out.append(Event("WORKER_READY", fields))
    ready = _fire(job, spec, Trigger.READY, f"ready on {report.device}", now_s, out)
    return replace(
        ready,
        heartbeat_s=now_s,
        progress=-1,
        owed_s=0.0,
        owed_from_s=now_s,
        progressed_s=now_s,
        # Never paced: the set-point goes out in this frame.
        paced_s=float("-inf"),
        step=report.step,
        generation=report.generation,
        tokens_per_s=float("nan"),
    )


def _exited(
    job: Job, config: Config, spec: JobConfig, report: WorkerExited, now_s: float, out: list[Outcome]
) -> Job:
    for number in job.requests:
        fields: Fields = {"job": spec.id, "request": number, "reason": "the worker ended"}
        out.append(Event("REQUEST_FAILED", fields))
    before = job.tokens_total if spec.kind == "infer" else 0
    job = replace(job, requests=(), tokens_before=before, tokens=0, tokens_per_s=float("nan"))
    if job.life is Life.STOPPING and not job.broken:
        return _fire(job, spec, Trigger.EXIT_AS_ASKED, "worker is gone", now_s, out)
    if spec.kind == "train" and job.life in (Life.STARTING, Life.RUNNING) and report.returncode == 0:
        done = _fire(job, spec, Trigger.EXIT_DONE, "ended by itself with status 0", now_s, out)
        return replace(done, wanted=False)
    if not job.has_process:
        return job
    reason = job.broken or report.reason
    died: Fields = {"job": spec.id, "returncode": report.returncode, "reason": reason}
    out.append(Event("WORKER_DIED", died))
    recent = (*(t for t in job.failures if now_s - t < config.restart_window_s), now_s)
    if len(recent) > config.restarts_max:
        quarantine: Fields = {
            "job": spec.id,
            "restarts": len(recent) - 1,
            "window_s": config.restart_window_s,
            "retry_s": config.quarantine_retry_s,
        }
        out.append(Event("WORKER_QUARANTINED", quarantine))
        held = _fire(job, spec, Trigger.EXIT_TOO_OFTEN, reason, now_s, out)
        # The oldest failures fall out of the window by themselves; the bound keeps the tuple short.
        return replace(held, failures=recent[-config.restarts_max - 1 :], retry_s=now_s + config.quarantine_retry_s)
    pause_s = min(config.backoff_max_s, config.backoff_s * 2.0 ** (len(recent) - 1))
    failed = _fire(job, spec, Trigger.EXIT_FAILED, reason, now_s, out)
    return replace(failed, failures=recent, retry_s=now_s + pause_s)


def _replied(job: Job, spec: JobConfig, report: RequestReply, now_s: float, out: list[Outcome]) -> Job:
    if report.request not in job.requests:
        return job  # Not ours any more: a worker that was given up is still talking.
    requests = tuple(number for number in job.requests if number != report.request)
    if report.finish == "failed":
        fields: Fields = {"job": spec.id, "request": report.request, "reason": report.text}
        out.append(Event("REQUEST_FAILED", fields))
        return replace(job, requests=requests)
    out.append(report)  # To the ground: the request id is the telecommand's id.
    return replace(job, requests=requests, replies=job.replies + 1, owed_s=0.0, owed_from_s=now_s)


def _pace(
    current: list[Job],
    config: Config,
    jobs: tuple[JobConfig, ...],
    duty: float,
    now_s: float,
    out: list[Outcome],
) -> None:
    """Split the duty by share among the running jobs with work; send what changed."""
    total_share = 0.0
    for job, spec in zip(current, jobs, strict=True):
        if job.life is Life.RUNNING and _has_work(job, spec):
            total_share += spec.share
    for index, (job, spec) in enumerate(zip(current, jobs, strict=True)):
        if job.life is not Life.RUNNING:
            continue
        part = duty * spec.share / total_share if _has_work(job, spec) else 0.0
        part = 0.0 if part < config.duty_min else part
        changed = abs(part - job.duty) >= config.duty_step or (part == 0.0) != (job.duty == 0.0)
        if not changed and now_s - job.paced_s < config.pace_refresh_s:
            continue
        out.append(SetPace(spec.id, part))
        owed_s = job.owed_s + job.duty * (now_s - job.owed_from_s) if _has_work(job, spec) else 0.0
        current[index] = replace(job, duty=part, paced_s=now_s, owed_s=owed_s, owed_from_s=now_s)
