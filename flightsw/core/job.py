"""One GPU job: what is configured of it, what is remembered of it, and its one way from state to state.

``Job`` is the memory of one job between two frames; the parts of the payload return changed copies of it.
``JobConfig`` is the job as the core sees it, ``Config`` the deadlines and the restart policy of all jobs (section
``[payload]`` of the configuration).

``fire`` is the only place where a job changes its state: it takes the row of ``LIFECYCLE`` for a trigger, asks the
shell for the row's action and reports the change. All timers are machine time.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from . import anomaly
from .anomaly import Baseline
from .effects import KillWorker, SetPace, StartWorker, StopWorker, SubmitRequest
from .events import Event, Fields
from .inputs import RequestReply
from .lifecycle import LIFECYCLE, WITH_PROCESS, Action, Life, Trigger


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
    integrity: Literal["auto", "off", "watch", "standard", "storm"] = "auto"
    """Integrity level that is kept; "auto" follows orbit and card."""


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
    duty_min: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.005
    """Smallest duty a worker is given; less becomes 0."""
    duty_step: Annotated[float, Meta(ge=0.0, le=0.5)] = 0.005
    """A change of duty smaller than this waits for the refresh."""
    pace_refresh_s: Annotated[float, Meta(ge=0.1, le=60.0)] = 2.0
    """The set-point is sent again after this, changed or not."""


class Job(Struct, frozen=True, kw_only=True):
    """One job. ``since_s`` is when its state began, ``progress_s``/``owed_s``/``duty_s`` account for progress owed.

    ``step``, ``loss`` and ``tokens_total`` survive the worker; ``tokens`` is the worker's own count. ``acted_s``
    is the time of the last action; ``broken`` says why the worker is being killed, empty when it stops as asked.
    ``quarantines`` counts how often it came into quarantine since it last worked for a whole ``restart_window_s``;
    ``lates`` and ``hangs`` how often since boot its progress was late, and was given up.
    """

    wanted: bool
    life: Life = Life.OFF
    since_s: float = 0.0
    acted_s: float = 0.0
    retry_s: float = 0.0
    failures: tuple[float, ...] = ()
    broken: str = ""
    killed: bool = False
    quarantines: int = 0
    late: bool = False
    lates: int = 0
    hangs: int = 0
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
    busy_s: float = 0.0
    baseline: Baseline = anomaly.NEW
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


Outcome = SetPace | StartWorker | StopWorker | KillWorker | SubmitRequest | Event | RequestReply
"""What the payload says in one frame: effects, events, and the replies of workers for the ground."""


def fire(
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
        case _:
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
        # A new process begins with a clean record, however the one before it ended.
        broken="" if action is Action.START else broken or job.broken,
        # Every way into a new process passes through START.
        killed=action is Action.KILL or (job.killed and action is not Action.START),
        duty=0.0,
    )
