"""The inference job: requests in, texts out, one paced micro-batch at a time.

Requests wait in one queue of at most ``queue_max``; one more is refused at once. They take rows of the batch in
the order in which they came (``generation`` says how a batch runs). Every request gets exactly one ``Reply``:
"length" or "stop" with its text, or "failed" with a reason instead of one.

**Hot swap.** When a newer verified checkpoint is ready, no request is admitted any more until the running ones
have finished on the weights that they began with; then the new weights serve (``model_at_hand``). An answer thus
is of one generation, and its beginning is never thrown away. Answers are short (a bounded number of tokens), so a
swap is near.

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
from typing import Final

import torch

from flightsw.gpu import protocol
from flightsw.gpu.actuators.pieces import pieces_for
from flightsw.gpu.integrity.tally import LEVELS, Tally, starting_level
from flightsw.gpu.protocol import Generate, InferSpec
from flightsw.gpu.workloads import release, seal
from flightsw.gpu.workloads.answers import Answers, Asked
from flightsw.gpu.workloads.generation import Batch, refusal
from flightsw.gpu.workloads.job import Job, pick_device
from flightsw.gpu.workloads.model_at_hand import ModelAtHand, Serving
from flightsw.gpu.workloads.release import Event, Situation, Stage
from flightsw.gpu.workloads.sequence import Sequence
from flightsw.gpu.workloads.served import Model
from flightsw.gpu.workloads.sources import Source, open_source
from flightsw.gpu.workloads.warm_up import warm_up
from flightsw.link.integrity import Level

IDLE_S: Final = 0.5
"""Longest sleep of an idle server."""
MODEL_WAIT_MAX_S: Final = 240.0
"""How long a request waits for a first model. Below the timeout of the telecommand that brought it."""

SCRUB_S: Final = 0.05
"""Longest piece of a hurried scrub pass."""


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


class Server:
    """Queue, batch, gate and the model at hand. ``turn`` is one pass of the job's loop."""

    def __init__(self, spec: InferSpec, job: Job, source: Source) -> None:
        self._spec = spec
        self._job = job
        self._tally = Tally(starting_level(spec.integrity))
        self._answers = Answers(job, self._tally.add)
        self._hand = ModelAtHand(spec, source, job, self._tally)
        self._waiting: deque[Asked] = deque()

    @property
    def sequences(self) -> list[Sequence]:
        """All that has a row or is held: what a fault in host memory can hit."""
        serving = self._hand.serving
        return [*(serving.batch.sequences if serving else []), *self._answers.sequences]

    @property
    def model(self) -> Model | None:
        """The model at hand."""
        return self._hand.model

    def begin(self, device: torch.device) -> None:
        """Load what there is and report ready; generation −1 says that there is no checkpoint to serve yet."""
        self._hand.begin()
        generation, step = (self.model.generation, self.model.step) if self.model else (-1, 0)
        self._job.ready(pid=os.getpid(), device=device, step=step, generation=generation)

    def turn(self) -> None:
        """Take in messages, swap models when possible, then run one micro-batch, a piece of scrubbing, or sleep."""
        for message in self._job.messages():
            if isinstance(message, Generate):
                self._accept(message)
            elif isinstance(message, protocol.Vigilance):
                self._set_level(LEVELS[message.level])
        self._hand.look_for_newer(held=self._answers.held)
        self._expire()
        self._tell()
        serving = self._hand.serving
        if serving is None or not self._pending:
            self._job.progress.progress += 1
            self._job.wait(IDLE_S)
        elif self._job.pacer.wait_turn():
            if release.hurried(self._situation(serving), self._tally.level):
                self._scrub(serving)
            else:
                self._micro_batch(serving)

    def fail_all(self, reason: str) -> None:
        """Answer everything that waits, runs or is held with a failure; a held answer is not released."""
        serving = self._hand.serving
        self._answers.stopped(serving.batch.recall() if serving else [], self.model, reason)
        while self._waiting:
            self._refuse(self._waiting.popleft(), reason)
        self._count()
        self._job.send(self._tally.report)

    @property
    def _pending(self) -> int:
        return len(self._waiting) + len(self._answers.again) + self._answers.held + self._hand.running

    def _situation(self, serving: Serving) -> Situation:
        running, waits = serving.batch.running, self._hand.waits
        admissible = not waits and (self._waiting or self._answers.again)
        return Situation(
            held=self._answers.held,
            waited_s=self._answers.waited_s(time.monotonic()),
            pass_s=serving.watch.pass_s,
            idle=not (running or admissible),
            full=self._answers.full,
            swap=waits and not running,
        )

    def _scrub(self, serving: Serving) -> None:
        """A piece of the pass that held answers wait for."""
        mark = self._answers.newest
        assert mark is not None, "a pass is hurried for held answers only"
        with self._job.micro_batch():
            serving.watch.hurry(min(SCRUB_S, self._job.micro_batch_bound_s or SCRUB_S), mark)
        self._after(serving)

    def _micro_batch(self, serving: Serving) -> None:
        model, batch, watch = serving
        rows = self._rows_wanted(batch)
        while batch.running < rows and not self._hand.waits and (asked := self._next_asked()):
            batch.admit(asked.request, asked.arrived_s, asked.ticket, asked.request_seal)
        with self._job.micro_batch():
            began_s = time.monotonic()
            tokens, finished = batch.advance()
            watch.scrub(time.monotonic() - began_s)
        self._job.progress.tokens += tokens
        self._answers.finished(finished, model, watch)
        self._after(serving)

    def _after(self, serving: Serving) -> None:
        """Act on what the watch has found in the weights, then let go what it has freed."""
        model, batch, watch = serving
        if trouble := watch.trouble():
            self._answers.spoiled(batch.recall(), model, trouble)
        if watch.broken:
            self._hand.reload()
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
        rises = self._tally.level is Level.OFF and level is not Level.OFF
        self._tally.level = level
        serving = self._hand.serving
        if serving is None:
            return
        serving.watch.level = level
        if rises:
            self._answers.disowned(serving.batch.recall(), serving.model)
            serving.watch.look_at_all()
            self._after(serving)

    def _expire(self) -> None:
        """Without any model, requests fail in the order in which they came."""
        if self.model is not None:
            return
        oldest_s = time.monotonic() - MODEL_WAIT_MAX_S
        for queue in (self._answers.again, self._waiting):
            while queue and queue[0].arrived_s <= oldest_s:
                self._refuse(queue.popleft(), f"{self._spec.model} has no verified checkpoint to serve yet")
                self._count()

    def _refuse(self, asked: Asked, reason: str) -> None:
        self._answers.failed(asked.request, asked.arrived_s, self.model, reason)

    def _tell(self) -> None:
        if self._hand.serving is not None:
            self._tally.scrubbed(self._hand.serving.watch.scrubs)
        if report := self._tally.due(time.monotonic()):
            self._job.send(report)

    def _count(self) -> None:
        self._job.progress.pending = self._pending
