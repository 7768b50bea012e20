"""Execution of the telecommands on jobs.

job.start        complete when the worker is ready          failed when the job fails or is stopped meanwhile
job.stop         complete when no worker is left
job.checkpoint   complete when a generation is committed    failed when it could not be, or the worker ended
job.infer        complete with the reply                    failed when the worker says so, or ended
"""

from typing import Final

from msgspec.structs import replace

from flightsw.link.schema import FailureCode

from . import checkpoint, payload
from .commanding import Command
from .effects import SubmitRequest
from .execution_row import DONE, Begun, Execution, Failure, Reports
from .inputs import CheckpointCommitted, CheckpointFailed, RequestReply, WorkerExited
from .job import Job
from .lifecycle import Life
from .vehicle import Config, Vehicle

_BROKEN: Final = frozenset((Life.FAILED, Life.QUARANTINED))


def _job(config: Config, command: Command, kind: str | None = None) -> int | Failure:
    """Position of the commanded job, or why there is none of that kind."""
    job_id = command.arguments["job"]
    index = payload.index_of(config.jobs, job_id)
    if index is None:
        known = ", ".join(job.id for job in config.jobs) or "none"
        return Failure(FailureCode.UNKNOWN_TARGET, f"no job {job_id!r}, configured are: {known}")
    if kind is not None and config.jobs[index].kind != kind:
        have = config.jobs[index].kind
        return Failure(FailureCode.UNKNOWN_TARGET, f"job {job_id!r} is of kind {have}, not {kind}")
    return index


def _running(vehicle: Vehicle, config: Config, index: int) -> Failure | None:
    life = vehicle.payload.jobs[index].life
    if life is Life.RUNNING:
        return None
    return Failure(FailureCode.EXECUTION_FAILED, f"job {config.jobs[index].id} is {life.name}, not RUNNING")


def _job_start(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    index = _job(config, command)
    if isinstance(index, Failure):
        return index
    if not vehicle.eps.rail_on:
        return Failure(FailureCode.EXECUTION_FAILED, "the GPU rail is off")
    return replace(vehicle, payload=payload.want(vehicle.payload, index, True)), ()


def _job_start_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    job = _commanded(vehicle, config, command)
    if job.life is Life.RUNNING:
        return DONE
    if not job.wanted:
        return Failure(FailureCode.EXECUTION_FAILED, "the job was stopped meanwhile, or is complete")
    for report in reports:
        if isinstance(report, WorkerExited) and report.job == command.arguments["job"] and job.life in _BROKEN:
            return Failure(FailureCode.EXECUTION_FAILED, f"worker ended with {report.returncode}: {report.reason}")
    return None


def _job_stop(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    index = _job(config, command)
    if isinstance(index, Failure):
        return index
    return replace(vehicle, payload=payload.want(vehicle.payload, index, False)), ()


def _job_stop_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    job = _commanded(vehicle, config, command)
    if not job.has_process:
        return DONE
    return Failure(FailureCode.EXECUTION_FAILED, "the job was started meanwhile") if job.wanted else None


def _job_checkpoint(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    index = _job(config, command, "train")
    if isinstance(index, Failure):
        return index
    if (failure := _running(vehicle, config, index)) is not None:
        return failure
    rings, out = checkpoint.order(vehicle.checkpoint, index, config.jobs[index].id, "telecommand", now_s)
    return replace(vehicle, checkpoint=rings), out


def _job_checkpoint_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    for report in reports:
        if report.job != command.arguments["job"]:
            continue
        if isinstance(report, CheckpointCommitted):
            return Failure(FailureCode.NONE, f"generation {report.generation}, step {report.step}")
        if isinstance(report, CheckpointFailed):
            return Failure(FailureCode.EXECUTION_FAILED, report.reason)
        if isinstance(report, WorkerExited):
            return Failure(FailureCode.EXECUTION_FAILED, "the worker ended before it had committed")
    return None


def _job_infer(vehicle: Vehicle, config: Config, command: Command, now_s: float) -> Begun:
    index = _job(config, command, "infer")
    if isinstance(index, Failure):
        return index
    if (failure := _running(vehicle, config, index)) is not None:
        return failure
    if len(vehicle.payload.jobs[index].requests) >= payload.REQUESTS_MAX:
        return Failure(FailureCode.BUSY, f"{payload.REQUESTS_MAX} requests are waiting; send it again later")
    submit = SubmitRequest(request=command.id, **command.arguments)
    work, out = payload.request(vehicle.payload, index, submit)
    return replace(vehicle, payload=work), out


def _job_infer_ended(vehicle: Vehicle, config: Config, command: Command, reports: Reports) -> Failure | None:
    for report in reports:
        if isinstance(report, RequestReply) and report.request == command.id:
            if report.finish == "failed":
                return Failure(FailureCode.EXECUTION_FAILED, report.text)
            return Failure(FailureCode.NONE, f"{report.tokens} tokens")
        if isinstance(report, WorkerExited) and report.job == command.arguments["job"]:
            return Failure(FailureCode.EXECUTION_FAILED, "the worker ended before it had answered")
    return None


def _commanded(vehicle: Vehicle, config: Config, command: Command) -> Job:
    index = payload.index_of(config.jobs, command.arguments["job"])
    assert index is not None, "begin has checked the job"
    return vehicle.payload.jobs[index]


ROWS: Final[dict[str, Execution]] = {
    "job.start": Execution(_job_start, _job_start_ended),
    "job.stop": Execution(_job_stop, _job_stop_ended),
    "job.checkpoint": Execution(_job_checkpoint, _job_checkpoint_ended),
    "job.infer": Execution(_job_infer, _job_infer_ended),
}
