"""A payload for virtual time: jobs whose work is proportional to the duty they are given.

This models the worker *processes*, not the flight code: it is part of the world that ``inproc`` puts around the
executive, as the plant is. A training job needs ``MICRO_BATCH_S`` of busy time for a step; an inference job
``TOKEN_S`` for a token, and works only while it has requests. Workers start, beat, commit checkpoints and stop in
the times below; a killed one loses everything since its last committed checkpoint.

State is a function of (seed, job, step), so the digest of a step is the same however often the job was
interrupted before it, as it is for real bit-identical resumption.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

import xxhash

from flightsw.core.effects import (
    Effect,
    KillWorker,
    SaveCheckpoint,
    SetPace,
    SetVigilance,
    StartWorker,
    StopWorker,
    SubmitRequest,
)
from flightsw.core.inputs import (
    CheckpointCommitted,
    Report,
    RequestReply,
    WorkerExited,
    WorkerIntegrity,
    WorkerProgress,
    WorkerReady,
)

START_S: Final = 3.0
STOP_S: Final = 0.5
COMMIT_S: Final = 1.0
HEARTBEAT_S: Final = 1.0
MICRO_BATCH_S: Final = 0.1
TOKEN_S: Final = 0.02
TOKENS_PER_STEP: Final = 4096
CHECKPOINT_BYTES: Final = 120_000_000
STALL_S: Final = 0.02
FIRST_PID: Final = 1000
_TICK_S: Final = 1e-9  # Sums of frame lengths fall short of their target by rounding.


class SimulatedJob:
    """One job and, while it has one, its worker."""

    def __init__(self, job: str, trains: bool, seed: int) -> None:
        self.job, self.trains = job, trains
        self.committed_step, self.generation = 0, -1
        self.starts = self.kills = 0
        self.step = self.tokens = self.progress = 0
        self.busy_s = 0.0
        self._seed = seed
        self._alive = False
        self._clear(0.0)

    @property
    def running(self) -> bool:
        """Whether a worker exists that has become ready."""
        return self._alive and self._ready_s is None

    def _clear(self, now_s: float) -> None:
        """What a new process begins with."""
        self.step, self.tokens, self.progress, self.busy_s = self.committed_step, 0, 0, 0.0
        self._duty, self._work_s = 0.0, 0.0
        self._ready_s: float | None = now_s + START_S
        self._beat_s = now_s + START_S
        self._stop_s: float | None = None
        self._commit: tuple[float, int] | None = None
        self._requests: deque[SubmitRequest] = deque()

    def do(self, effect: Effect, now_s: float) -> list[Report]:
        """Take in an effect that names this job; what it causes at once comes back."""
        match effect:
            case StartWorker() if not self._alive:
                self._alive = True
                self.starts += 1
                self._clear(now_s)
            case StopWorker() if self._alive and self._stop_s is None:
                self._stop_s = now_s + STOP_S
            case KillWorker():
                return self.kill(effect.reason)
            case SetPace():
                self._duty = effect.duty
            case SetVigilance() if self.running:
                return [WorkerIntegrity(job=self.job, level=effect.level)]
            case SaveCheckpoint() if self.running and self._commit is None:
                self._commit = (now_s + COMMIT_S, self.step)
            case SubmitRequest() if self.running:
                self._requests.append(effect)
        return []

    def kill(self, reason: str) -> list[Report]:
        """SIGKILL: gone at once, with everything since the last committed checkpoint."""
        if not self._alive:
            return []
        self._alive = False
        self.kills += 1
        return [WorkerExited(job=self.job, returncode=-9, reason=reason)]

    def advance(self, dt_s: float, now_s: float) -> tuple[float, list[Report]]:
        """Work for ``dt_s`` up to ``now_s``; returns the busy share of the interval and what is to tell."""
        if not self._alive:
            return 0.0, []
        out: list[Report] = []
        if self._stop_s is not None and now_s >= self._stop_s - _TICK_S:
            return 0.0, self._leave()
        if self._ready_s is not None:
            if now_s < self._ready_s - _TICK_S:
                return 0.0, out
            self._ready_s = None
            out.append(
                WorkerReady(
                    job=self.job,
                    pid=FIRST_PID + self.starts,
                    device="simulated",
                    step=self.step,
                    generation=self.generation if self.trains else -1,
                )
            )
            return 0.0, out
        busy_s = self._duty * dt_s if self._stop_s is None and (self.trains or self._requests) else 0.0
        self.busy_s += busy_s
        self._work_s += busy_s
        if self.trains:
            self._train()
        else:
            self._serve(out)
        if self._commit is not None and now_s >= self._commit[0] - _TICK_S:
            out.append(self._committed(self._commit[1]))
        if now_s >= self._beat_s - _TICK_S:
            self._beat_s = now_s + HEARTBEAT_S
            out.append(self._heartbeat())
        return busy_s / dt_s, out

    def digest(self, step: int) -> str:
        """Digest of the weights after ``step`` optimiser steps."""
        return xxhash.xxh3_128_hexdigest(f"{self._seed}/{self.job}/{step}".encode())

    def _train(self) -> None:
        steps = int((self._work_s + _TICK_S) / MICRO_BATCH_S)
        if steps:
            self._work_s -= steps * MICRO_BATCH_S
            self.step += steps
            self.progress += steps
            self.tokens += steps * TOKENS_PER_STEP

    def _serve(self, out: list[Report]) -> None:
        while self._requests:
            request = self._requests[0]
            need_s = request.max_tokens * TOKEN_S
            if self._work_s < need_s - _TICK_S:
                # Every whole token counts as progress, also of an answer that is not finished.
                return
            self._work_s -= need_s
            self._requests.popleft()
            self.progress += request.max_tokens
            self.tokens += request.max_tokens
            out.append(
                RequestReply(
                    job=self.job,
                    request=request.request,
                    text=self.digest(request.request)[: request.max_tokens],
                    tokens=request.max_tokens,
                    finish="length",
                    generation=-1,
                    duration_s=need_s,
                )
            )
        self._work_s = 0.0

    def _heartbeat(self) -> WorkerProgress:
        partial = 0 if self.trains else int(self._work_s / TOKEN_S)
        return WorkerProgress(
            job=self.job,
            progress=self.progress + partial,
            step=self.step,
            loss=1.6 + 2.6 * math.exp(-self.step / 2000.0) if self.trains else math.nan,
            tokens=self.tokens,
            busy_s=self.busy_s,
            micro_batch_s=MICRO_BATCH_S if self.trains else TOKEN_S,
            pending=len(self._requests),
        )

    def _committed(self, step: int) -> CheckpointCommitted:
        self._commit = None
        self.generation += 1
        self.committed_step = step
        return CheckpointCommitted(
            job=self.job,
            generation=self.generation,
            step=step,
            digest=self.digest(step),
            size_bytes=CHECKPOINT_BYTES,
            stall_s=STALL_S,
            total_s=COMMIT_S,
        )

    def _leave(self) -> list[Report]:
        """Asked to stop: checkpoint, fail what is queued, go."""
        out: list[Report] = []
        if self.trains and self._ready_s is None:
            out.append(self._committed(self.step))
        out += [
            RequestReply(
                job=self.job,
                request=request.request,
                text="the worker stops",
                tokens=0,
                finish="failed",
                generation=-1,
                duration_s=0.0,
            )
            for request in self._requests
        ]
        self._alive = False
        out.append(WorkerExited(job=self.job, returncode=0, reason="asked to stop"))
        return out


class Payload:
    """All jobs of a satellite."""

    def __init__(self, jobs: Iterable[SimulatedJob]) -> None:
        self.jobs = {job.job: job for job in jobs}

    def do(self, effect: Effect, job: str, now_s: float) -> list[Report]:
        """Route an effect to its job; one that is unknown has no process and says nothing."""
        return self.jobs[job].do(effect, now_s) if job in self.jobs else []

    def advance(self, dt_s: float, now_s: float) -> tuple[float, list[Report]]:
        """Busy share of the card, at most 1, and what all workers tell."""
        busy, out = 0.0, []
        for job in self.jobs.values():
            share, told = job.advance(dt_s, now_s)
            busy += share
            out += told
        return min(1.0, busy), out
