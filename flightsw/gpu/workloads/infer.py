"""The inference job: requests in, texts out, one paced micro-batch at a time.

Requests wait in one queue of at most ``queue_max``; one more is refused at once. They take rows of the batch in
the order in which they came (``generation`` says how a batch runs). Every request gets exactly one ``Reply``:
"length" or "stop" with its text, or "failed" with a reason instead of one.

**Hot swap.** When a newer verified checkpoint is ready, no request is admitted any more until the running ones
have finished on the weights that they began with; then the new weights serve. An answer thus is of one
generation, the one it names, and its beginning is never thrown away. Answers are short (a bounded number of
tokens), so a swap is near.

**Nothing to serve yet.** Requests wait in the queue, for at most ``MODEL_WAIT_MAX_S``; then they fail and say so.

``duration_s`` of a reply counts from the request's arrival here, waiting and resting included. An idle pass
of the loop counts as progress, because a server without requests is alive, too.
"""

import os
import time
from collections import deque
from pathlib import Path
from typing import Final, Protocol

import torch

from flightsw.gpu import protocol
from flightsw.gpu.actuators.pieces import pieces_for
from flightsw.gpu.checkpoint.ring import Rejection
from flightsw.gpu.protocol import Generate, InferSpec
from flightsw.gpu.workloads.generation import Batch, Sequence, refusal
from flightsw.gpu.workloads.job import Job, JobFault, pick_device
from flightsw.gpu.workloads.served import Model, RingSource

IDLE_S: Final = 0.5
"""Longest sleep of an idle server."""
POLL_S: Final = 1.0
"""Time between two looks for a newer checkpoint."""
MODEL_WAIT_MAX_S: Final = 240.0
"""How long a request waits for a first model. Below the timeout of the telecommand that brought it."""


class Source(Protocol):
    """Where models come from."""

    def first(self) -> Model | None:
        """The model to begin with, waiting for it; None when there is none yet."""

    def newer(self) -> Model | None:
        """A newer model when one is ready; never waits."""

    def close(self) -> None:
        """Let go of threads and files."""


def run(spec: InferSpec, job: Job) -> None:
    """Serve until stopped. Raises ``JobFault`` when the model can never be served here."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = pick_device(spec.device)
    source = open_source(spec, device, job)
    server = Server(spec, job, source)
    try:
        server.begin(device)
        while not job.stopping:
            server.turn()
    finally:
        server.fail_all("the inference job was stopped before this request was answered")
        source.close()


def open_source(spec: InferSpec, device: torch.device, job: Job) -> Source:
    """The source that ``spec.model`` names. Raises ``JobFault``."""
    scheme, _, name = spec.model.partition(":")
    if scheme == "job" and name:
        if not spec.checkpoint_dir:
            raise JobFault("spec", f'model "{spec.model}" needs checkpoint_dir, the ring of that job')

        def report(rejection: Rejection) -> None:
            job.send(protocol.Rejected(generation=rejection.generation, reason=rejection.reason))

        return RingSource(Path(spec.checkpoint_dir), spec.batch_max, device, report)
    if scheme == "hf" and name:
        from flightsw.gpu.workloads.llm import LlmSource

        return LlmSource(name, spec.batch_max, device)
    raise JobFault("spec", f'model is "{spec.model}"; "job:ID", "hf:DIRECTORY", "hf:FILE.gguf" are allowed')


class Server:
    """Queue, batch and the model at hand. ``turn`` is one pass of the job's loop."""

    def __init__(self, spec: InferSpec, job: Job, source: Source) -> None:
        self._spec = spec
        self._job = job
        self._source = source
        self._waiting: deque[tuple[Generate, float]] = deque()
        self._model: Model | None = None
        self._next: Model | None = None
        self._batch: Batch | None = None
        self._looked_at_s = time.monotonic()

    def begin(self, device: torch.device) -> None:
        """Load what there is and report ready; generation −1 says that there is no checkpoint to serve yet."""
        self._next = self._source.first()
        self._swap(announce=False)
        generation, step = (self._model.generation, self._model.step) if self._model else (-1, 0)
        self._job.ready(pid=os.getpid(), device=device, step=step, generation=generation)

    def turn(self) -> None:
        """Take in messages, swap models when possible, then run one micro-batch or sleep."""
        for message in self._job.messages():
            if isinstance(message, Generate):
                self._accept(message)
        self._look_for_newer()
        self._expire()
        if self._batch is None or not (self._batch.running or self._waiting):
            self._job.progress.progress += 1
            self._job.wait(IDLE_S)
        elif self._job.pacer.wait_turn():
            self._micro_batch(self._batch)

    def fail_all(self, reason: str) -> None:
        """Answer everything that waits or runs with a failure."""
        for sequence in self._batch.drop_all(reason) if self._batch else []:
            self._answer(sequence)
        while self._waiting:
            self._refuse(*self._waiting.popleft(), reason)
        self._count()

    def _micro_batch(self, batch: Batch) -> None:
        rows = self._rows_wanted(batch)
        while self._waiting and batch.running < rows and self._next is None:
            batch.admit(*self._waiting.popleft())
        with self._job.micro_batch():
            tokens, finished = batch.advance()
        self._job.progress.tokens += tokens
        for sequence in finished:
            self._answer(sequence)
        self._count()

    def _rows_wanted(self, batch: Batch) -> int:
        """Rows that may decode together: fewer when their passes take longer than is wanted. What runs goes on."""
        rows = max(1, batch.running)
        pieces = pieces_for(self._job.micro_batch_last_s, self._job.micro_batch_bound_s, rows)
        return self._spec.batch_max if pieces == 1 else max(1, rows // pieces)

    def _accept(self, request: Generate) -> None:
        now_s = time.monotonic()
        reason = refusal(request)
        if not reason and len(self._waiting) >= self._spec.queue_max:
            reason = f"the queue is full: {self._spec.queue_max} requests wait already; ask again later"
        if reason:
            self._refuse(request, now_s, reason)
        else:
            self._waiting.append((request, now_s))
        self._count()

    def _look_for_newer(self) -> None:
        now_s = time.monotonic()
        if self._next is None and now_s - self._looked_at_s >= POLL_S:
            self._looked_at_s = now_s
            self._next = self._source.newer()
        self._swap(announce=True)

    def _swap(self, *, announce: bool) -> None:
        if self._next is None or (self._batch is not None and self._batch.running):
            return
        self._model, self._next = self._next, None
        self._batch = Batch(self._model.engine, self._spec.batch_max)
        if announce:
            self._job.send(protocol.Swapped(generation=self._model.generation, step=self._model.step))

    def _expire(self) -> None:
        """Without any model, requests fail in the order in which they came."""
        oldest_s = time.monotonic() - MODEL_WAIT_MAX_S
        while self._model is None and self._waiting and self._waiting[0][1] <= oldest_s:
            self._refuse(*self._waiting.popleft(), f"{self._spec.model} has no verified checkpoint to serve yet")
            self._count()

    def _answer(self, sequence: Sequence) -> None:
        assert self._model is not None
        failed = sequence.finish == "failed"
        self._reply(
            sequence.request,
            sequence.arrived_s,
            text=sequence.failure if failed else self._model.engine.text(sequence.generated),
            tokens=0 if failed else len(sequence.generated),
            finish=sequence.finish,
        )

    def _refuse(self, request: Generate, arrived_s: float, reason: str) -> None:
        self._reply(request, arrived_s, text=reason, tokens=0, finish="failed")

    def _reply(self, request: Generate, arrived_s: float, *, text: str, tokens: int, finish: str) -> None:
        self._job.progress.step += 1
        self._job.send(
            protocol.Reply(
                request=request.request,
                text=text,
                tokens=tokens,
                finish=finish,
                generation=self._model.generation if self._model else -1,
                duration_s=time.monotonic() - arrived_s,
            )
        )

    def _count(self) -> None:
        self._job.progress.pending = len(self._waiting) + (self._batch.running if self._batch else 0)
