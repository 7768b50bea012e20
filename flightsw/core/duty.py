"""Duty of the jobs: who gets how much of it, and the progress that is owed for it.

*Split.* The governor's duty is split among the jobs that have work, by their configured shares; an idle inference
job gives its share away. A job's part under ``duty_min`` becomes 0, because a worker cannot pace that finely. A
set-point is sent when it changes, and again every ``pace_refresh_s``.

*Hang.* A heartbeat says that a thread lives, ``progress`` says that the work advances. The worker owes progress
while it may work: the integral of duty over time since the last progress is the full-duty time it was given, and
that is limited, so a throttled worker gets proportionally longer and one at duty 0 owes nothing. An inference job
owes progress only while requests wait. No heartbeat at all is a hang too. A fifth of each limit is a missed cycle
(``supervision``): after 3 of them the worker is reported late, after 5 it is killed.

The integral is kept in two parts: ``Job.owed_s`` up to the last set-point, and the duty since then
(``Job.owed_from_s``). All timers are machine time.
"""

from msgspec.structs import replace

from .effects import SetPace
from .events import Event
from .job import Config, Job, JobConfig, Outcome, fire
from .lifecycle import Life, Trigger
from .supervision import FAULT_CYCLES, WARN_CYCLES


def has_work(job: Job, spec: JobConfig) -> bool:
    """Whether the job can use duty: training always, inference while requests wait."""
    return spec.kind == "train" or bool(job.requests)


def owed_s(job: Job, spec: JobConfig, now_s: float) -> float:
    """Time at full duty, in seconds, that the job was given since its last progress."""
    return job.owed_s + job.duty * (now_s - job.owed_from_s) if has_work(job, spec) else 0.0


def checked_for_hang(job: Job, config: Config, spec: JobConfig, now_s: float, out: list[Outcome]) -> Job:
    """The running job, reported or on its way to be killed when it owes progress or is silent for too long."""
    silent_s = now_s - job.heartbeat_s
    silent = silent_s / config.heartbeat_timeout_s
    missed = max(silent, owed_s(job, spec, now_s) / config.hang_timeout_s)
    if missed <= WARN_CYCLES / FAULT_CYCLES:
        return replace(job, late=False) if job.late else job
    age_s = silent_s if silent >= missed else now_s - job.progressed_s
    if missed <= 1.0:
        if job.late:
            return job
        out.append(Event("WORKER_LATE", {"job": spec.id, "age_s": age_s}))
        return replace(job, late=True, lates=job.lates + 1)
    out.append(Event("WORKER_HUNG", {"job": spec.id, "age_s": age_s}))
    return fire(
        replace(job, hangs=job.hangs + 1), spec, Trigger.HUNG, "no progress", now_s, out, broken="no progress"
    )


def split(
    current: list[Job],
    config: Config,
    jobs: tuple[JobConfig, ...],
    duty: float,
    now_s: float,
    out: list[Outcome],
    micro_batch_s: float = 0.0,
) -> None:
    """Split the duty (0 to 1) by share among the running jobs with work; send what changed.

    ``current`` holds the jobs in the order of ``jobs`` and is changed in place. ``micro_batch_s`` goes along with a
    set-point.
    """
    total_share = 0.0
    for job, spec in zip(current, jobs, strict=True):
        if job.life is Life.RUNNING and has_work(job, spec):
            total_share += spec.share
    for index, (job, spec) in enumerate(zip(current, jobs, strict=True)):
        if job.life is not Life.RUNNING:
            continue
        part = duty * spec.share / total_share if has_work(job, spec) else 0.0
        part = 0.0 if part < config.duty_min else part
        changed = abs(part - job.duty) >= config.duty_step or (part == 0.0) != (job.duty == 0.0)
        if not changed and now_s - job.paced_s < config.pace_refresh_s:
            continue
        out.append(SetPace(spec.id, part, micro_batch_s))
        current[index] = replace(job, duty=part, paced_s=now_s, owed_s=owed_s(job, spec, now_s), owed_from_s=now_s)
