"""Continuous batching: sequences of different ages decode together, and each ends as if it had been alone.

A ``Batch`` has as many rows as may decode together. A request takes a row as soon as one is free, its prompt is
fed in chunks of at most ``FILL_TOKENS_MAX`` tokens, and then every micro-batch feeds one token of every row and
draws the next. A finished row is free for the next micro-batch. So one micro-batch is one forward pass of bounded
size: either a chunk of prompts or one decode step. Prompts go first, because a filled row makes the steps that
follow worth more.

**Independence.** What a sequence becomes depends on its request and the weights: it has its own random generator,
seeded by the request, which draws once per token; temperature and top-k are applied to its own logits. Batch
mates change the shapes of matrix products and so their rounding, but nothing else.

**Context.** A model sees at most ``context`` tokens. When a sequence has filled it, its window starts anew with
its last ``context // 2`` tokens, fed again from position 0; a prompt that does not fit starts the same way. The
window thus depends on the length of the sequence only, and feeding again costs one pass per half context.

**Non-finite logits** mean that weights or arithmetic are broken. Such an answer is not released: it fails, whole.

**Watched passes.** A pass is the forward pass and the draws that follow it, as one function of what is fed: the
random numbers are drawn before it, and nothing is changed by it but the cache. So a ``Watch`` may run it under its
guard, take it back and run it again. A sequence of which a pass, its row of the cache or its own tokens were
damaged leaves the batch with ``damage`` set; what becomes of it is ``release``'s matter.
"""

import math
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Final, Protocol

import msgspec
import numpy as np
from torch import Tensor

from flightsw.gpu.protocol import Generate
from flightsw.gpu.workloads.draws import Choice, Draw, picks
from flightsw.gpu.workloads.release import Ticket
from flightsw.gpu.workloads.sequence import Sequence

REQUEST_TOKENS_MAX: Final = 4096
SEED_MAX: Final = 2**63 - 1


class Engine(Protocol):
    """A model with a key-value cache of ``rows`` rows. All logits are float32 on the host, (rows fed,
    vocabulary)."""

    context: int
    """Longest window in tokens."""
    fill_rows_max: int
    """Rows whose prompts can be fed in one pass."""
    stop_tokens: frozenset[int]
    """Tokens that end an answer; they are no part of it."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt, at least one."""

    def text(self, tokens: Many[int]) -> str:
        """Text of an answer; bytes that are no UTF-8 become U+FFFD."""

    def fill(self, rows: Many[int], starts: Many[int], chunks: Many[Many[int]]) -> Tensor:
        """Feed each row its next prompt tokens; start 0 gives the row to a new sequence. Logits after the last."""

    def step(self, rows: Many[int], positions: Many[int], tokens: Many[int]) -> Tensor:
        """Feed one token to each of these rows, which are all that are in use and filled. Logits after it."""

    def undo(self) -> None:
        """Take the last ``fill`` or ``step`` back: the same call gives the same again."""

    def release(self, row: int) -> None:
        """The row is free."""


class Drawn(msgspec.Struct, frozen=True):
    """What one pass gave. ``tokens`` has None where the window is not complete yet, or the logits not finite."""

    logits: Tensor
    """float32 (rows fed, vocabulary), on the host."""
    finite: list[bool]
    tokens: list[int | None]


class Watch(Protocol):
    """Who looks at passes and rows. A reason that is not empty spoils what it is given for."""

    @property
    def watching(self) -> bool:
        """Whether answers are checked at all."""

    def passed(
        self, run: Callable[[], Drawn], undo: Callable[[], None], *, decode: bool, tokens: int
    ) -> tuple[Drawn, str]:
        """Run a pass, once or more, with ``undo`` before it is run again; its result and what was wrong with it.

        ``decode`` says that it is a step of one token a row, not a chunk of prompts; ``tokens`` how many it feeds.
        """

    def chosen(self, choose: Callable[[], Choice]) -> Choice | None:
        """What a choice from logits comes to; None when that cannot be told."""

    def row(self, row: int, length: int) -> str:
        """What is wrong with the first ``length`` slots of a cache row; empty when nothing is."""


class Unwatched:
    """Nobody looks."""

    watching = False

    def passed(
        self, run: Callable[[], Drawn], undo: Callable[[], None], *, decode: bool, tokens: int
    ) -> tuple[Drawn, str]:
        """Once, as it is."""
        return run(), ""

    def chosen(self, choose: Callable[[], Choice]) -> Choice | None:
        """Made once."""
        return choose()

    def row(self, row: int, length: int) -> str:
        """Nothing is known."""
        return ""


class Batch:
    """The rows of one engine. ``admit`` while ``free``, then ``advance`` once per micro-batch."""

    def __init__(self, engine: Engine, rows: int, watch: Watch | None = None) -> None:
        self.engine = engine
        self._watch = watch or Unwatched()
        self._rows: list[Sequence | None] = [None] * rows

    @property
    def free(self) -> int:
        """Rows that can take a request."""
        return self._rows.count(None)

    @property
    def running(self) -> int:
        """Sequences on their way."""
        return len(self.sequences)

    @property
    def sequences(self) -> list[Sequence]:
        """Those on their way, in order of their rows."""
        return [sequence for sequence in self._rows if sequence is not None]

    def admit(
        self,
        request: Generate,
        arrived_s: float,
        ticket: Ticket | None = None,
        request_seal: int | None = None,
    ) -> None:
        """Give the request a row; there must be a free one."""
        prompt = self.engine.encode(request.prompt)
        sequence = Sequence(request, prompt, self.engine.context, arrived_s, ticket, request_seal)
        self._rows[self._rows.index(None)] = sequence

    def advance(self) -> tuple[int, list[Sequence]]:
        """One micro-batch: the number of tokens drawn, and the sequences that are finished or damaged."""
        used = [(row, sequence) for row, sequence in enumerate(self._rows) if sequence is not None]
        filling = [(row, sequence) for row, sequence in used if sequence.filling][: self.engine.fill_rows_max]
        turn = filling or used
        if not turn:
            return 0, []
        sequences = [sequence for _, sequence in turn]
        rows = [row for row, _ in turn]
        starts = [sequence.fed for sequence in sequences]
        chunks = [sequence.chunk for sequence in sequences]
        numbers = [sequence.number(len(chunk)) for sequence, chunk in zip(sequences, chunks, strict=True)]

        def run() -> Drawn:
            if filling:
                logits = self.engine.fill(rows, starts, chunks)
            else:
                logits = self.engine.step(rows, starts, [chunk[0] for chunk in chunks])
            values = logits.numpy()

            def choose() -> tuple[list[bool], list[int | None]]:
                finite: list[bool] = np.isfinite(values).all(axis=1).tolist()
                draws = {
                    place: Draw(sequence.request.temperature, sequence.request.top_k, number)
                    for place, (sequence, number) in enumerate(zip(sequences, numbers, strict=True))
                    if number is not None and finite[place]
                }
                tokens: list[int | None] = [None] * len(rows)
                if draws:
                    some = values if len(draws) == len(rows) else values[list(draws)]
                    for place, token in zip(draws, picks(some, list(draws.values())), strict=True):
                        tokens[place] = token
                return finite, tokens

            # Of a choice that never comes out alike nothing is known: it counts as one from broken logits.
            chosen = self._watch.chosen(choose)
            return Drawn(logits, *(chosen or ([False] * len(rows), [None] * len(rows))))

        drawn, damage = self._watch.passed(
            run, lambda: self.engine.undo(), decode=not filling, tokens=sum(map(len, chunks))
        )
        before = sum(len(sequence.generated) for sequence in sequences)
        for sequence, chunk, token, finite in zip(sequences, chunks, drawn.tokens, drawn.finite, strict=True):
            sequence.damage = damage
            sequence.feed(chunk, token, finite, self.engine.stop_tokens)
        count = sum(len(sequence.generated) for sequence in sequences) - before
        for row, sequence in turn:
            if sequence.overfull:
                self._check(row, sequence)
                sequence.restart()
        return count, self._reap()

    def recall(self) -> list[Sequence]:
        """Take whatever runs out of the batch, unfinished."""
        return self._take(lambda sequence: True)

    def _check(self, row: int, sequence: Sequence) -> None:
        """Row, tokens and random numbers, before the row is given away."""
        if self._watch.watching and not sequence.damage:
            prompt = self.engine.encode(sequence.request.prompt)
            sequence.damage = self._watch.row(row, sequence.fed) or sequence.flaw(prompt)

    def _reap(self) -> list[Sequence]:
        for row, sequence in enumerate(self._rows):
            if sequence is not None and sequence.finish in ("length", "stop"):
                self._check(row, sequence)
        return self._take(lambda sequence: bool(sequence.finish or sequence.damage))

    def _take(self, leaves: Callable[[Sequence], bool]) -> list[Sequence]:
        taken = []
        for row, sequence in enumerate(self._rows):
            if sequence is not None and leaves(sequence):
                taken.append(sequence)
                self.engine.release(row)
                self._rows[row] = None
        return taken


def refusal(request: Generate) -> str:
    """Why this request cannot be run whatever the model; empty when it can."""
    if not 1 <= request.max_tokens <= REQUEST_TOKENS_MAX:
        return f"max_tokens is {request.max_tokens}; 1 to {REQUEST_TOKENS_MAX} are allowed"
    if not (math.isfinite(request.temperature) and request.temperature >= 0.0):
        return f"temperature is {request.temperature:g}; finite numbers from 0 are allowed"
    if request.top_k < 0:
        return f"top_k is {request.top_k}; 0 (all) and more are allowed"
    if not 0 <= request.seed <= SEED_MAX:
        return f"seed is {request.seed}; 0 to {SEED_MAX} are allowed"
    return ""
