"""What a worker tells, and what it means for its job.

Heartbeats carry the progress, the loss and the token count; ``tokens_per_s`` is smoothed over a few of them.
A request belongs to the worker that got it: it ends with a reply, or with the worker.

*Restart policy.* A worker that was asked to stop and goes leaves its job OFF, a training job that ends by itself
with status 0 is done. Every other exit is a failure: the n-th within ``restart_window_s`` is mended after
``backoff_s`` · 2^(n−1), at most ``backoff_max_s``; after more than ``restarts_max`` the job is in quarantine and is
tried every ``quarantine_retry_s``, one failure each, until it has worked for a whole window. All of it is machine
time.
"""

from msgspec.structs import replace

from . import anomaly
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
from .job import Config, Job, JobConfig, Outcome, fire
from .lifecycle import Life, Trigger


def told(job: Job, config: Config, spec: JobConfig, report: Report, now_s: float, out: list[Outcome]) -> Job:
    """The job after a report of its worker; events and replies go to ``out``."""
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
        busy_s=report.busy_s,
        baseline=anomaly.step(job.baseline, report.micro_batch_s, report.loss) if moved else job.baseline,
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
    ready = fire(job, spec, Trigger.READY, f"ready on {report.device}", now_s, out)
    return replace(
        ready,
        heartbeat_s=now_s,
        progress=-1,
        owed_s=0.0,
        owed_from_s=now_s,
        progressed_s=now_s,
        late=False,
        # Never paced: the set-point goes out in this frame.
        paced_s=float("-inf"),
        step=report.step,
        generation=report.generation,
        tokens_per_s=float("nan"),
        busy_s=0.0,
        baseline=anomaly.NEW,
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
        return fire(job, spec, Trigger.EXIT_AS_ASKED, "worker is gone", now_s, out)
    if spec.kind == "train" and job.life in (Life.STARTING, Life.RUNNING) and report.returncode == 0:
        done = fire(job, spec, Trigger.EXIT_DONE, "ended by itself with status 0", now_s, out)
        return replace(done, wanted=False)
    if not job.has_process:
        return job
    reason = job.broken or report.reason
    died: Fields = {"job": spec.id, "returncode": report.returncode, "reason": reason}
    out.append(Event("WORKER_DIED", died))
    recent = (*(t for t in job.failures if now_s - t < config.restart_window_s), now_s)
    if len(recent) > config.restarts_max or job.quarantines:
        quarantine: Fields = {
            "job": spec.id,
            "restarts": len(recent) - 1,
            "window_s": config.restart_window_s,
            "retry_s": config.quarantine_retry_s,
        }
        out.append(Event("WORKER_QUARANTINED", quarantine))
        held = fire(job, spec, Trigger.EXIT_TOO_OFTEN, reason, now_s, out)
        # The oldest failures fall out of the window by themselves; the bound keeps the tuple short.
        return replace(
            held,
            failures=recent[-config.restarts_max - 1 :],
            retry_s=now_s + config.quarantine_retry_s,
            quarantines=job.quarantines + 1,
        )
    pause_s = min(config.backoff_max_s, config.backoff_s * 2.0 ** (len(recent) - 1))
    failed = fire(job, spec, Trigger.EXIT_FAILED, reason, now_s, out)
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
