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
"""

import math
from collections.abc import Sequence as Many
from typing import Final, Protocol

import torch
from torch import Tensor

from flightsw.gpu.protocol import Generate

FILL_TOKENS_MAX: Final = 64
"""Prompt tokens fed per row in one micro-batch."""
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

    def release(self, row: int) -> None:
        """The row is free."""


class Sequence:
    """One request on its way: all tokens so far, and how much of its window the engine has seen."""

    def __init__(self, request: Generate, prompt: list[int], context: int, arrived_s: float) -> None:
        self.request = request
        self.arrived_s = arrived_s
        self.generated: list[int] = []
        self.finish = ""
        """Empty while it runs; then "length", "stop" or "failed"."""
        self.failure = ""
        self._context = context
        self._generator = torch.Generator().manual_seed(request.seed)
        self._window = prompt if len(prompt) <= context else prompt[-(context // 2) :]
        self.fed = 0

    @property
    def chunk(self) -> list[int]:
        """The next tokens of the window to feed."""
        return self._window[self.fed : self.fed + FILL_TOKENS_MAX]

    @property
    def filling(self) -> bool:
        """Whether more than the token drawn last must be fed before another can be drawn."""
        return self.fed == 0 or len(self._window) - self.fed > 1

    def feed(self, count: int, logits: Tensor, finite: bool, stop_tokens: frozenset[int]) -> None:
        """``count`` tokens were fed, ``logits`` (vocabulary,) followed; draw when the window is complete."""
        self.fed += count
        if self.fed < len(self._window):
            return
        if not finite:
            self.fail("the model gave logits that are not finite; no answer is released")
            return
        token = draw(logits, self.request.temperature, self.request.top_k, self._generator)
        if token in stop_tokens:
            self.finish = "stop"
            return
        self.generated.append(token)
        self._window.append(token)
        if len(self.generated) >= self.request.max_tokens:
            self.finish = "length"
        elif len(self._window) > self._context:
            self._window = self._window[-(self._context // 2) :]
            self.fed = 0

    def fail(self, reason: str) -> None:
        """End it without an answer."""
        self.finish, self.failure = "failed", reason


class Batch:
    """The rows of one engine. ``admit`` while ``free``, then ``advance`` once per micro-batch."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self.engine = engine
        self._rows: list[Sequence | None] = [None] * rows

    @property
    def free(self) -> int:
        """Rows that can take a request."""
        return self._rows.count(None)

    @property
    def running(self) -> int:
        """Sequences on their way."""
        return len(self._rows) - self.free

    def admit(self, request: Generate, arrived_s: float) -> None:
        """Give the request a row; there must be a free one."""
        prompt = self.engine.encode(request.prompt)
        self._rows[self._rows.index(None)] = Sequence(request, prompt, self.engine.context, arrived_s)

    def advance(self) -> tuple[int, list[Sequence]]:
        """One micro-batch: the number of tokens drawn, and the sequences that are finished."""
        used = [(row, sequence) for row, sequence in enumerate(self._rows) if sequence is not None]
        filling = [(row, sequence) for row, sequence in used if sequence.filling][: self.engine.fill_rows_max]
        turn = filling or used
        if not turn:
            return 0, []
        rows = [row for row, _ in turn]
        starts = [sequence.fed for _, sequence in turn]
        chunks = [sequence.chunk for _, sequence in turn]
        if filling:
            logits = self.engine.fill(rows, starts, chunks)
        else:
            logits = self.engine.step(rows, starts, [chunk[0] for chunk in chunks])
        before = sum(len(sequence.generated) for _, sequence in turn)
        finite = torch.isfinite(logits).all(dim=1).tolist()
        for (_, sequence), chunk, row_logits, row_finite in zip(turn, chunks, logits, finite, strict=True):
            sequence.feed(len(chunk), row_logits, row_finite, self.engine.stop_tokens)
        drawn = sum(len(sequence.generated) for _, sequence in turn) - before
        return drawn, self._reap()

    def drop_all(self, reason: str) -> list[Sequence]:
        """Fail whatever runs and return it."""
        for sequence in self._rows:
            if sequence is not None:
                sequence.fail(reason)
        return self._reap()

    def _reap(self) -> list[Sequence]:
        finished = []
        for row, sequence in enumerate(self._rows):
            if sequence is not None and sequence.finish:
                finished.append(sequence)
                self.engine.release(row)
                self._rows[row] = None
        return finished


def draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """One token from finite float32 logits (vocabulary,): the likeliest at temperature 0, else one at random.

    Inverse transform sampling in float64, one uniform number per token, so that equal seeds give equal texts on
    every device. ``top_k`` 0 is the whole vocabulary.
    """
    if temperature <= 0.0:
        return int(logits.argmax())
    indices = None
    if 0 < top_k < logits.numel():
        logits, indices = logits.topk(top_k)
    logits = logits.double()
    weights = torch.exp((logits - logits.max()) / temperature).cumsum(0)
    threshold = torch.rand((), dtype=torch.float64, generator=generator) * weights[-1]
    place = min(int(torch.searchsorted(weights, threshold, right=True)), weights.numel() - 1)
    return place if indices is None else int(indices[place])


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
