"""Answers on their way out: the release gate of ``release``, with sequences in it and replies behind it.

Every request gets exactly one ``Reply``. What the gate sends back is kept in ``again``, in the order in which it
came, and is admitted before anything that waits: at most one batch and the held answers, so it needs no bound of
its own. Tokens, not texts, are held, and they are held against their seal once more before they leave.
"""

import time
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from flightsw.gpu import protocol
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.scrub import Mark
from flightsw.gpu.protocol import Generate
from flightsw.gpu.workloads import release, seal
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.release import Event, Gate, Leaving, Stage, Ticket
from flightsw.gpu.workloads.sequence import REQUEST_DAMAGED, Sequence
from flightsw.gpu.workloads.served import Model

NOT_FINITE: Final = "the model gave logits that are not finite"


class Marks(Protocol):
    """Who scrubs the weights that the answers come from."""

    @property
    def watching(self) -> bool:
        """Whether there is a gate at all."""

    def mark(self) -> Mark:
        """This moment."""

    def clean_since(self, mark: Mark) -> bool:
        """Whether all weights were looked at after ``mark`` and found good."""


class Asked(msgspec.Struct, frozen=True):
    """A request without a row: new, or to be computed again."""

    request: Generate
    arrived_s: float
    request_seal: int
    ticket: Ticket = Ticket()

    @property
    def damaged(self) -> bool:
        """Whether it is another request than came."""
        return seal.of_request(self.request) != self.request_seal


class Answer(msgspec.Struct, frozen=True):
    """A sequence and the model that it is of."""

    sequence: Sequence
    model: Model


class Answers:
    """What has no row any more. ``finished`` and ``scrubbed`` are called by the server, in its thread."""

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._gate: Gate[Answer, Mark] = Gate()
        self.again: deque[Asked] = deque()

    @property
    def held(self) -> int:
        """Answers that wait for their pass over the weights."""
        return len(self._gate)

    @property
    def sequences(self) -> list[Sequence]:
        """Those held, oldest first."""
        return [answer.sequence for answer in self._gate.items]

    @property
    def full(self) -> bool:
        """Nothing more is to be computed before some of them have left."""
        return self._gate.full

    @property
    def newest(self) -> Mark | None:
        """Mark of the answer that was held last; a pass that began after it frees all."""
        return self._gate.newest

    def waited_s(self, now_s: float) -> float:
        """How long the oldest held answer has waited."""
        return self._gate.waited_s(now_s)

    def finished(self, sequences: Iterable[Sequence], model: Model, marks: Marks) -> None:
        """Sequences that the batch has given back: hold them, compute them again, or answer."""
        for sequence in sequences:
            answer = Answer(sequence, model)
            event, reason = _outcome(sequence, marks.watching)
            if event is Event.FINISHED:
                self._gate.hold(answer, sequence.ticket, marks.mark(), time.monotonic())
            else:
                self._leave(Leaving(answer, release.step(sequence.ticket, event, reason)))

    def scrubbed(self, marks: Marks) -> None:
        """Let those go that a pass over the weights has freed."""
        if self.held:
            for leaving in self._gate.clean(marks.clean_since, lambda answer: answer.sequence.tokens_flaw):
                self._leave(leaving)

    def spoiled(self, running: Iterable[Sequence], model: Model, reason: str) -> None:
        """Whatever was computed and has not left came from damaged weights."""
        for leaving in self._gate.empty(Event.DAMAGED, reason):
            self._leave(leaving)
        for sequence in running:
            ticket = release.step(sequence.ticket, Event.DAMAGED, reason)
            self._leave(Leaving(Answer(sequence, model), ticket))

    def disowned(self, running: Iterable[Sequence], model: Model) -> None:
        """What runs begins anew, without blame."""
        for sequence in running:
            ticket = release.step(sequence.ticket, Event.DISOWNED)
            self._leave(Leaving(Answer(sequence, model), ticket))

    def stopped(self, running: Iterable[Sequence], model: Model | None, reason: str) -> None:
        """Fail whatever has not left: held, running and waiting to be computed again."""
        for leaving in self._gate.empty(Event.STOPPED, reason):
            self._leave(leaving)
        for sequence in running:
            self.failed(sequence.request, sequence.arrived_s, model, reason)
        while self.again:
            asked = self.again.popleft()
            self.failed(asked.request, asked.arrived_s, model, reason)

    def failed(self, request: Generate, arrived_s: float, model: Model | None, reason: str) -> None:
        """Answer a request with a reason instead of a text."""
        self._reply(request, arrived_s, model, text=reason, tokens=0, finish="failed")

    def _leave(self, leaving: Leaving[Answer]) -> None:
        sequence, model, ticket = leaving.item.sequence, leaving.item.model, leaving.ticket
        if ticket.stage is Stage.RELEASED:
            text = model.engine.text(sequence.generated)
            self._reply(
                sequence.request,
                sequence.arrived_s,
                model,
                text=text,
                tokens=len(sequence.generated),
                finish=sequence.finish,
            )
            return
        if ticket.damages > sequence.ticket.damages:
            self._report(
                Finding(
                    detector="replay",
                    outcome="recomputed" if ticket.stage is Stage.AGAIN else "contained",
                    where=f"answer to request {sequence.request.request}",
                    detail=ticket.reason,
                )
            )
        if ticket.stage is Stage.AGAIN:
            self.again.append(Asked(sequence.request, sequence.arrived_s, sequence.request_seal, ticket))
        else:
            self.failed(sequence.request, sequence.arrived_s, model, ticket.reason)

    def _reply(
        self, request: Generate, arrived_s: float, model: Model | None, *, text: str, tokens: int, finish: str
    ) -> None:
        self._job.progress.step += 1
        self._job.send(
            protocol.Reply(
                request=request.request,
                text=text,
                tokens=tokens,
                finish=finish,
                generation=model.generation if model else -1,
                duration_s=time.monotonic() - arrived_s,
            )
        )


def _outcome(sequence: Sequence, watching: bool) -> tuple[Event, str]:
    """What has happened to a sequence that left its row, and why."""
    if sequence.damage == REQUEST_DAMAGED:
        return Event.REFUSED, REQUEST_DAMAGED
    if sequence.damage:
        return Event.DAMAGED, sequence.damage
    if sequence.finish == "failed":
        # Watched, it may be damage that is mended by now; unwatched, nobody will mend it.
        return (Event.DAMAGED, NOT_FINITE) if watching else (Event.REFUSED, sequence.failure)
    return (Event.FINISHED, "") if watching else (Event.UNWATCHED, "")
