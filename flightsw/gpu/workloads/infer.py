"""The inference job: requests in, texts out, one paced micro-batch at a time.

Requests wait in one queue of at most ``queue_max``; one more is refused at once. They take rows of the batch in
the order in which they came (``generation`` says how a batch runs). Every request gets exactly one ``Reply``:
"length" or "stop" with its text, or "failed" with a reason instead of one.

**Hot swap.** When a newer verified checkpoint is ready, no request is admitted any more until the running ones
have finished on the weights that they began with; then the new weights serve. An answer thus is of one
generation, the one it names, and its beginning is never thrown away. Answers are short (a bounded number of
tokens), so a swap is near.

**Nothing to serve yet.** Requests wait in the queue, for at most ``MODEL_WAIT_MAX_S``; then they fail and say so.

**Integrity.** Above level off a ``ModelWatch`` looks at every pass, cache row and weight, and finished answers are
held by the release gate (``release``, ``answers``) until a pass of the scrubber frees them. Scrubbing is work: it
is paced, metered and cut into pieces like any other. Damage in the weights is repaired in place where that can be
done; else the model is loaded again from where it came. Either way every answer that has not left is computed
again. An idle server does not scrub: it would heat for nothing, and what it missed is found before the next answer
leaves.

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
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.tally import LEVELS, Tally, starting_level
from flightsw.gpu.protocol import Generate, InferSpec
from flightsw.gpu.workloads import release, seal
from flightsw.gpu.workloads.answers import Answers, Asked
from flightsw.gpu.workloads.generation import Batch, refusal
from flightsw.gpu.workloads.job import Job, JobFault, pick_device
from flightsw.gpu.workloads.model_watch import ModelWatch
from flightsw.gpu.workloads.release import Event, Situation, Stage
from flightsw.gpu.workloads.sequence import Sequence
from flightsw.gpu.workloads.served import Model, RingSource
from flightsw.gpu.workloads.warm_up import warm_up
from flightsw.link.integrity import Level

IDLE_S: Final = 0.5
"""Longest sleep of an idle server."""
POLL_S: Final = 1.0
"""Time between two looks for a newer checkpoint."""
MODEL_WAIT_MAX_S: Final = 240.0
"""How long a request waits for a first model. Below the timeout of the telecommand that brought it."""


RELOADS_MAX: Final = 3
"""Attempts to get a model into memory as its source has it."""
SCRUB_S: Final = 0.05
"""Longest piece of a hurried scrub pass."""


class Source(Protocol):
    """Where models come from."""

    def first(self) -> Model | None:
        """The model to begin with, waiting for it; None when there is none yet."""

    def newer(self) -> Model | None:
        """A newer model when one is ready; never waits."""

    def again(self) -> Model | None:
        """The model anew from its source, waiting for it, because the one at hand is damaged; None when there is
        none to be had now. Raises ``JobFault`` when there never will be."""

    def close(self) -> None:
        """Let go of threads and files."""


def run(spec: InferSpec, job: Job) -> None:
    """Serve until stopped. Raises ``JobFault`` when the model can never be served here."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    warm_up()
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
    """Queue, batch, gate and the model at hand. ``turn`` is one pass of the job's loop."""

    def __init__(self, spec: InferSpec, job: Job, source: Source) -> None:
        self._spec = spec
        self._job = job
        self._source = source
        self._level = starting_level(spec.integrity)
        # A job that begins at off computes as torch does, bit for bit; the level does not change how it computes.
        self._wide = False if self._level is Level.OFF else None
        self._tally = Tally(self._level)
        self._answers = Answers(job, self._tally.add)
        self._waiting: deque[Asked] = deque()
        self._model: Model | None = None
        self._next: Model | None = None
        self._batch: Batch | None = None
        self._watch: ModelWatch | None = None
        self._looked_at_s = time.monotonic()

    @property
    def sequences(self) -> list[Sequence]:
        """All that has a row or is held: what a fault in host memory can hit."""
        return [*(self._batch.sequences if self._batch else []), *self._answers.sequences]

    @property
    def model(self) -> Model | None:
        """The model at hand."""
        return self._model

    def begin(self, device: torch.device) -> None:
        """Load what there is and report ready; generation −1 says that there is no checkpoint to serve yet."""
        self._next = self._source.first()
        self._swap(announce=False)
        generation, step = (self._model.generation, self._model.step) if self._model else (-1, 0)
        self._job.ready(pid=os.getpid(), device=device, step=step, generation=generation)

    def turn(self) -> None:
        """Take in messages, swap models when possible, then run one micro-batch, a piece of scrubbing, or sleep."""
        for message in self._job.messages():
            if isinstance(message, Generate):
                self._accept(message)
            elif isinstance(message, protocol.Vigilance):
                self._set_level(LEVELS[message.level])
        self._look_for_newer()
        self._expire()
        self._tell()
        if self._batch is None or self._watch is None or not self._pending:
            self._job.progress.progress += 1
            self._job.wait(IDLE_S)
        elif self._job.pacer.wait_turn():
            if release.hurried(self._situation(self._batch, self._watch), self._level):
                self._scrub(self._watch)
            else:
                self._micro_batch(self._batch, self._watch)

    def fail_all(self, reason: str) -> None:
        """Answer everything that waits, runs or is held with a failure; a held answer is not released."""
        running = self._batch.recall() if self._batch else []
        self._answers.stopped(running, self._model, reason)
        while self._waiting:
            self._refuse(self._waiting.popleft(), reason)
        self._count()
        self._job.send(self._tally.report)

    @property
    def _pending(self) -> int:
        running = self._batch.running if self._batch else 0
        return len(self._waiting) + len(self._answers.again) + self._answers.held + running

    def _situation(self, batch: Batch, watch: ModelWatch) -> Situation:
        admissible = self._next is None and (self._waiting or self._answers.again)
        return Situation(
            held=self._answers.held,
            waited_s=self._answers.waited_s(time.monotonic()),
            pass_s=watch.pass_s,
            idle=not (batch.running or admissible),
            full=self._answers.full,
            swap=self._next is not None and not batch.running,
        )

    def _scrub(self, watch: ModelWatch) -> None:
        """A piece of the pass that held answers wait for."""
        mark = self._answers.newest
        assert mark is not None, "a pass is hurried for held answers only"
        with self._job.micro_batch():
            watch.hurry(min(SCRUB_S, self._job.micro_batch_bound_s or SCRUB_S), mark)
        self._after(watch)

    def _micro_batch(self, batch: Batch, watch: ModelWatch) -> None:
        rows = self._rows_wanted(batch)
        while batch.running < rows and self._next is None and (asked := self._next_asked()):
            batch.admit(asked.request, asked.arrived_s, asked.ticket, asked.request_seal)
        with self._job.micro_batch():
            began_s = time.monotonic()
            tokens, finished = batch.advance()
            watch.scrub(time.monotonic() - began_s)
        self._job.progress.tokens += tokens
        assert self._model is not None
        self._answers.finished(finished, self._model, watch)
        self._after(watch)

    def _after(self, watch: ModelWatch) -> None:
        """Act on what the watch has found in the weights, then let go what it has freed."""
        assert self._model is not None
        assert self._batch is not None
        if trouble := watch.trouble():
            self._answers.spoiled(self._batch.recall(), self._model, trouble)
        if watch.broken:
            self._reload()
        else:
            self._answers.scrubbed(watch)
        self._count()

    def _next_asked(self) -> Asked | None:
        """What takes the next row: first what must be computed again, then what waits."""
        if self._answers.again:
            asked = self._answers.again.popleft()
            assert asked.ticket.stage is Stage.AGAIN
            return Asked(
                asked.request, asked.arrived_s, asked.request_seal, release.step(asked.ticket, Event.STARTED)
            )
        return self._waiting.popleft() if self._waiting else None

    def _rows_wanted(self, batch: Batch) -> int:
        """Rows that may decode together: fewer when their passes take longer than is wanted. What runs goes on."""
        rows = max(1, batch.running)
        pieces = pieces_for(self._job.micro_batch_last_s, self._job.micro_batch_bound_s, rows)
        return self._spec.batch_max if pieces == 1 else max(1, rows // pieces)

    def _accept(self, request: Generate) -> None:
        asked = Asked(request, time.monotonic(), seal.of_request(request))
        reason = refusal(request)
        if not reason and len(self._waiting) >= self._spec.queue_max:
            reason = f"the queue is full: {self._spec.queue_max} requests wait already; ask again later"
        if reason:
            self._refuse(asked, reason)
        else:
            self._waiting.append(asked)
        self._count()

    def _set_level(self, level: Level) -> None:
        """From the next pass on. A rise from off looks at all weights first and begins anew what runs."""
        rises = self._level is Level.OFF and level is not Level.OFF
        self._level = self._tally.level = level
        if self._watch is None:
            return
        self._watch.level = level
        if rises and self._batch is not None and self._model is not None:
            self._answers.disowned(self._batch.recall(), self._model)
            self._watch.look_at_all()
            self._after(self._watch)

    def _look_for_newer(self) -> None:
        now_s = time.monotonic()
        if self._next is None and now_s - self._looked_at_s >= POLL_S:
            self._looked_at_s = now_s
            self._next = self._source.newer()
        self._swap(announce=True)

    def _swap(self, *, announce: bool) -> None:
        """Serve the next model once nothing runs on the old one and nothing of it is held."""
        if self._next is None or self._answers.held or (self._batch is not None and self._batch.running):
            return
        before = self._model.generation if self._model else -1
        model, self._next = self._next, None
        self._install(model)
        if announce:
            self._announce(before)

    def _announce(self, before: int) -> None:
        """Say which generation serves, when it is another one than before."""
        if self._model is not None and self._model.generation != before:
            self._job.send(protocol.Swapped(generation=self._model.generation, step=self._model.step))

    def _drop(self) -> None:
        """There is no model, nor anything that belongs to one."""
        self._model = self._batch = self._watch = self._next = None

    def _reload(self) -> None:
        """Get the model again from its source; without one, requests wait as at the start."""
        before = self._model.generation if self._model else -1
        self._drop()
        model = self._source.again()
        if model is not None:
            self._install(model)
        self._announce(before)

    def _install(self, model: Model) -> None:
        """Put a model under watch: digests of what is in memory, then the memory against its source.

        Raises ``JobFault`` when it cannot be got into memory unchanged.
        """
        for _ in range(RELOADS_MAX):
            watch = ModelWatch(model.engine, self._level, self._tally, self._wide)
            flaw = model.flaw()
            if not flaw:
                self._model, self._watch = model, watch
                self._batch = Batch(model.engine, self._spec.batch_max, watch)
                return
            self._tally.add(Finding(detector="digest", outcome="contained", where="loaded weights", detail=flaw))
            again = self._source.again()
            if again is None:
                return
            model = again
        raise JobFault(
            "memory", f"{self._spec.model} was loaded {RELOADS_MAX} times and never as its source has it: {flaw}"
        )

    def _expire(self) -> None:
        """Without any model, requests fail in the order in which they came."""
        oldest_s = time.monotonic() - MODEL_WAIT_MAX_S
        for queue in (self._answers.again, self._waiting):
            while self._model is None and queue and queue[0].arrived_s <= oldest_s:
                self._refuse(queue.popleft(), f"{self._spec.model} has no verified checkpoint to serve yet")
                self._count()

    def _refuse(self, asked: Asked, reason: str) -> None:
        self._answers.failed(asked.request, asked.arrived_s, self._model, reason)

    def _tell(self) -> None:
        if self._watch is not None:
            self._tally.scrubbed(self._watch.scrubs)
        if report := self._tally.due(time.monotonic()):
            self._job.send(report)

    def _count(self) -> None:
        self._job.progress.pending = self._pending
