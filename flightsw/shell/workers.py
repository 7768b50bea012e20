"""Workers and the probe: which child belongs to which job, and their messages in the core's words.

The core decides about jobs (``StartWorker``, ``KillWorker``, ``SetPace`` …); this module finds the child and
tells it, and turns what children say into the inputs of the next frame. A job has at most one child. After
``close`` none is started.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from flightsw.core import inputs
from flightsw.gpu import protocol

from .children import Child, Exit
from .clock import now_s

REPORTS_PER_JOB_MAX: Final = 16
PROBE_SILENCE_MIN_S: Final = 10.0
WORKER_COMMAND: Final = (sys.executable, "-m", "flightsw.gpu.worker")
PROBE_COMMAND: Final = (sys.executable, "-m", "flightsw.gpu.probe")

_log: Final = logging.getLogger("flightd.probe")


class ProbeError(Exception):
    """The probe ended or said that it cannot go on."""


class Workers:
    """The children of the configured jobs, as tasks of ``group``."""

    def __init__(
        self, specs: Sequence[protocol.JobSpec], command: Sequence[str], niceness: int, group: asyncio.TaskGroup
    ) -> None:
        self._specs: Mapping[str, protocol.JobSpec] = {spec.id: spec for spec in specs}
        self._command = tuple(command) or WORKER_COMMAND
        self._niceness = niceness
        self._group = group
        self._children: dict[str, Child] = {}
        self._closed = False

    def start(self, job: str) -> None:
        """Exec the worker of a job that has none."""
        if job in self._children or self._closed:
            return
        child = self._children[job] = Child(job, self._command, self._specs[job], self._niceness)
        self._group.create_task(child.run(), name=f"worker {job}")

    def tell(self, job: str, message: protocol.ToChild) -> bool:
        """Send to a worker; False when there is none or when it does not read."""
        child = self._children.get(job)
        return child is not None and child.send(message)

    def kill(self, job: str, reason: str) -> None:
        """SIGKILL a worker, if there is one; its exit is reported when it is reaped."""
        if child := self._children.get(job):
            child.kill(reason)

    def take(self) -> tuple[inputs.Report, ...]:
        """Reports for one frame, bounded by ``inputs.REPORTS_PER_FRAME_MAX``; each job gets its share."""
        reports: list[inputs.Report] = []
        for job, child in tuple(self._children.items()):
            room = min(REPORTS_PER_JOB_MAX, inputs.REPORTS_PER_FRAME_MAX - len(reports))
            for message in child.take(room):
                if isinstance(message, Exit):
                    del self._children[job]
                if (report := as_report(job, message)) is not None:
                    reports.append(report)
        if len(self._children) > 1:
            # The first of this frame is the last of the next, so that no job starves another.
            first = next(iter(self._children))
            self._children[first] = self._children.pop(first)
        return tuple(reports)

    def close(self) -> None:
        """From now on no worker is started."""
        self._closed = True

    @property
    def running(self) -> tuple[str, ...]:
        """Jobs whose child has not been reported as ended."""
        return tuple(self._children)


class Probe:
    """The probe as an adapter: ``run`` serves one process and raises ``ProbeError`` at its end.

    A fault that it reports (a lost card) is for the log, since it goes on by itself; a reading that hangs shows
    as silence, and a probe that is silent for ``silence_s`` is killed.
    """

    def __init__(self, spec: protocol.ProbeSpec, command: Sequence[str]) -> None:
        self._spec = spec
        self._command = tuple(command) or PROBE_COMMAND
        self._child: Child | None = None
        self._heard_s = 0.0
        self._samples = 0
        self._fault = ""

    async def run(self) -> None:
        """Start the probe and wait for its end."""
        self._heard_s = now_s()
        child = self._child = Child("probe", self._command, self._spec)
        end = await child.run()
        raise ProbeError(end.reason)

    def take(self) -> inputs.GpuSample | None:
        """The newest sample since the last call, or None."""
        newest = None
        for message in self._child.take(REPORTS_PER_JOB_MAX) if self._child else ():
            if isinstance(message, protocol.Sample):
                newest = message
                self._samples += 1
            elif isinstance(message, protocol.Fault) and message.reason != self._fault:
                self._fault = message.reason
                _log.warning("%s: %s", message.code, message.reason)
        if newest is not None:
            self._heard_s = now_s()
            return as_sample(newest)
        if self._child and self._child.pid and now_s() - self._heard_s > self.silence_s:
            self._child.kill(f"silent for {self.silence_s:g} s")
        return None

    @property
    def silence_s(self) -> float:
        """Longest time between two samples of a sound probe, its start included."""
        return max(PROBE_SILENCE_MIN_S, 5.0 * self._spec.interval_s)

    @property
    def executions(self) -> int:
        """Samples taken since boot."""
        return self._samples


def as_sample(message: protocol.Sample) -> inputs.GpuSample:
    """A reading of the probe as an input."""
    return inputs.GpuSample(
        sequence=message.sequence,
        source=message.source,
        card=message.card,
        power_w=message.power_w,
        die_degc=message.die_degc,
        memory_degc=message.memory_degc,
        energy_j=message.energy_j,
        utilisation_fraction=message.utilisation_fraction,
        ecc_corrected=message.ecc_corrected,
        ecc_uncorrected=message.ecc_uncorrected,
        throttle_reasons=message.throttle_reasons,
        xids=message.xids,
        xid_count=message.xid_count,
        unsupported=message.unsupported,
        power_average_w=message.power_average_w,
        power_limit_w=message.power_limit_w,
        power_limit_enforced_w=message.power_limit_enforced_w,
        slowdown_margin_k=message.slowdown_margin_k,
        readings=message.readings,
    )


def as_report(job: str, message: protocol.FromChild | Exit) -> inputs.Report | None:
    """A worker's message as an input; None for one that a worker has no business to send."""
    match message:
        case Exit(returncode, reason):
            return inputs.WorkerExited(job=job, returncode=returncode, reason=reason)
        case protocol.Ready():
            return inputs.WorkerReady(
                job=job, pid=message.pid, device=message.device, step=message.step, generation=message.generation
            )
        case protocol.Heartbeat():
            return inputs.WorkerProgress(
                job=job,
                progress=message.progress,
                step=message.step,
                loss=message.loss,
                tokens=message.tokens,
                busy_s=message.busy_s,
                micro_batch_s=message.micro_batch_s,
                pending=message.pending,
            )
        case protocol.Committed():
            return inputs.CheckpointCommitted(
                job=job,
                generation=message.generation,
                step=message.step,
                digest=message.digest,
                size_bytes=message.size_bytes,
                stall_s=message.stall_s,
                total_s=message.total_s,
            )
        case protocol.Rejected(generation=generation, reason=reason):
            return inputs.CheckpointRejected(job=job, generation=generation, reason=reason)
        case protocol.SaveFailed(reason=reason):
            return inputs.CheckpointFailed(job=job, reason=reason)
        case protocol.Swapped(generation=generation, step=step):
            return inputs.ModelSwapped(job=job, generation=generation, step=step)
        case protocol.Reply():
            return inputs.RequestReply(
                job=job,
                request=message.request,
                text=message.text,
                tokens=message.tokens,
                finish=message.finish,
                generation=message.generation,
                duration_s=message.duration_s,
            )
        case protocol.IntegrityReport():
            return inputs.WorkerIntegrity(
                job=job,
                level=message.level,
                checks=message.checks,
                detected=message.detected,
                repaired=message.repaired,
                recomputed=message.recomputed,
                contained=message.contained,
                open=message.open,
                scrubs=message.scrubs,
                last_detector=message.last_detector,
                last_where=message.last_where,
            )
        case protocol.Fault(code=code, reason=reason):
            return inputs.WorkerFault(job=job, code=code, reason=reason)
        case protocol.Sample() | protocol.Applied():
            return None
