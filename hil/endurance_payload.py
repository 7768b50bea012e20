"""Workers that misbehave: what can go wrong in a child process, switched on by name.

``FaultyJob`` is a ``SimulatedJob`` with switches. A healthy one behaves exactly as its base does; the switches stay
until they are taken back, over restarts of the worker, because most real causes do.

    stuck       heartbeats come, the work does not advance
    mute        no heartbeat comes
    late        the worker never becomes ready
    deaf        a request to stop is ignored
    unwritable  a checkpoint cannot be written
    runaway     the pace is ignored: the card draws what it can
    rotten      the newest checkpoint is corrupt: the next start finds out and takes the one before
    frail       the worker dies as soon as it is ready
    diverging   the loss is far over what it was; a restored checkpoint is sound again
    slow        each micro-batch takes ten times as long
"""

from typing import Final

from msgspec.structs import replace

from flightsw.core.effects import Effect, SaveCheckpoint, StopWorker
from flightsw.core.inputs import (
    CheckpointFailed,
    CheckpointRejected,
    Report,
    WorkerExited,
    WorkerFault,
    WorkerProgress,
    WorkerReady,
)

from .inproc_payload import START_S, SimulatedJob

DIVERGENCE: Final = 10.0
SLOWER: Final = 10.0
SWITCHES: Final = ("stuck", "mute", "late", "deaf", "unwritable", "runaway", "rotten", "frail", "diverging", "slow")


class FaultyJob(SimulatedJob):
    """One job whose workers can misbehave; ``switches`` holds the names of ``SWITCHES`` that are on."""

    def __init__(self, job: str, trains: bool, seed: int) -> None:
        super().__init__(job, trains, seed)
        self.switches: set[str] = set()
        self.done = 0
        """Steps done, those that were lost to a kill included."""

    @property
    def alive(self) -> bool:
        """Whether a worker process exists, ready or not."""
        return self._alive

    def do(self, effect: Effect, now_s: float) -> list[Report]:
        """As the base, unless a switch forbids it."""
        if isinstance(effect, StopWorker) and "deaf" in self.switches:
            return []
        if isinstance(effect, SaveCheckpoint) and "unwritable" in self.switches and self.running:
            return [CheckpointFailed(job=self.job, reason="no space left on device")]
        return super().do(effect, now_s)

    def advance(self, dt_s: float, now_s: float) -> tuple[float, list[Report]]:
        """As the base, then what the switches make of it."""
        on = self.switches
        if not on:
            return super().advance(dt_s, now_s)
        if "late" in on and self._alive and self._ready_s is not None:
            self._ready_s = now_s + START_S
        if "runaway" in on and self.running:
            self._duty = 1.0
        busy, told = super().advance(dt_s, now_s)
        if "mute" in on:
            told = [report for report in told if not isinstance(report, WorkerProgress)]
        if on & {"diverging", "slow"}:
            told = [self._distorted(report) for report in told]
        if any(isinstance(report, WorkerReady) for report in told):
            on.discard("diverging")
            if "rotten" in on:
                on.discard("rotten")
                told = [*self._rejected(), *told]
            if "frail" in on:
                told += self.kill("killed by a fault")
        return busy, told

    def complain(self, code: str, reason: str) -> list[Report]:
        """The worker tells of a fault of its own and ends."""
        if not self._alive:
            return []
        self._alive = False
        return [
            WorkerFault(job=self.job, code=code, reason=reason),
            WorkerExited(job=self.job, returncode=1, reason=reason),
        ]

    def vanish(self) -> None:
        """The process is gone and nobody is left to be told: the daemon went with it."""
        self._alive = False

    def _distorted(self, report: Report) -> Report:
        if not isinstance(report, WorkerProgress):
            return report
        loss = report.loss + DIVERGENCE if "diverging" in self.switches else report.loss
        slower = SLOWER if "slow" in self.switches else 1.0
        return replace(report, loss=loss, micro_batch_s=slower * report.micro_batch_s)

    def _rejected(self) -> list[Report]:
        if self.generation < 0:
            return []
        bad = self.generation
        self.generation -= 1
        return [CheckpointRejected(job=self.job, generation=bad, reason="digest of a tensor differs")]

    def _train(self) -> None:
        if "stuck" in self.switches:
            self._work_s = 0.0
            return
        before = self.step
        super()._train()
        self.done += self.step - before

    def _serve(self, out: list[Report]) -> None:
        if "stuck" in self.switches:
            self._work_s = 0.0
        else:
            super()._serve(out)
