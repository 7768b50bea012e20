"""One request on its way: its tokens, its window, its random numbers, and the seals over them.

A sequence draws one random number per token from a generator of its own, seeded by the request, so it becomes the
same whoever decodes beside it, and the same again when it is begun anew. ``generation`` says how its window moves;
``flaw`` says whether what host memory holds is still what was made.
"""

from typing import Final

import torch

from flightsw.gpu.protocol import Generate
from flightsw.gpu.workloads import seal
from flightsw.gpu.workloads.release import Ticket

FILL_TOKENS_MAX: Final = 64
"""Prompt tokens fed per row in one micro-batch."""
REQUEST_DAMAGED: Final = "the request itself changed in host memory; send it again"


class Sequence:
    """One request on its way: all tokens so far, and how much of its window the engine has seen."""

    def __init__(
        self,
        request: Generate,
        prompt: list[int],
        context: int,
        arrived_s: float,
        ticket: Ticket | None = None,
        request_seal: int | None = None,
    ) -> None:
        self.request = request
        self.arrived_s = arrived_s
        self.ticket = ticket or Ticket()
        self.request_seal = seal.of_request(request) if request_seal is None else request_seal
        self.generated: list[int] = []
        self.finish = ""
        """Empty while it runs; then "length", "stop" or "failed"."""
        self.failure = ""
        self.damage = ""
        """Why it cannot be used as it is; empty while nothing is known against it."""
        self._context = context
        self.generator = torch.Generator().manual_seed(request.seed)
        self.window = list(prompt if len(prompt) <= context else prompt[-(context // 2) :])
        self.fed = 0
        self._uniforms: list[float] = []
        self._tokens_seal = seal.EMPTY
        self._fed_seal = seal.EMPTY

    @property
    def chunk(self) -> list[int]:
        """The next tokens of the window to feed."""
        return self.window[self.fed : self.fed + FILL_TOKENS_MAX]

    @property
    def filling(self) -> bool:
        """Whether more than the token drawn last must be fed before another can be drawn."""
        return self.fed == 0 or len(self.window) - self.fed > 1

    @property
    def overfull(self) -> bool:
        """Whether the window has outgrown the context, so that it must start anew."""
        return not self.finish and len(self.window) > self._context

    def number(self, fed: int) -> float | None:
        """The random number for the token after ``fed`` more tokens; None when none is drawn then."""
        if self.fed + fed < len(self.window):
            return None
        number = uniform(self.request.temperature, self.generator)
        if number is None:
            return 0.0
        self._uniforms.append(number)
        return number

    def feed(self, chunk: list[int], token: int | None, finite: bool, stop_tokens: frozenset[int]) -> None:
        """``chunk`` was fed; ``token`` followed when that completed the window."""
        self.fed += len(chunk)
        self._fed_seal = seal.grown(self._fed_seal, chunk)
        if self.fed < len(self.window):
            return
        if token is None or not finite:
            self.fail("the model gave logits that are not finite; no answer is released")
            return
        if token in stop_tokens:
            self.finish = "stop"
            return
        self.generated.append(token)
        self._tokens_seal = seal.grown(self._tokens_seal, (token,))
        self.window.append(token)
        if len(self.generated) >= self.request.max_tokens:
            self.finish = "length"

    def restart(self) -> None:
        """A new window with the last half context, to be fed from position 0."""
        self.window = self.window[-(self._context // 2) :]
        self.fed = 0
        self._fed_seal = seal.EMPTY

    def fail(self, reason: str) -> None:
        """End it without an answer."""
        self.finish, self.failure = "failed", reason

    def flaw(self, prompt: list[int]) -> str:
        """What in host memory is not as it was made; ``prompt`` is the request's prompt, encoded once more.

        The window must be the end of prompt and answer, and what was fed must be the window: so a damaged window,
        a token that was fed twice or left out and a damaged prompt all show.
        """
        if self.request_flaw:
            return self.request_flaw
        if self.tokens_flaw:
            return self.tokens_flaw
        whole = [*prompt, *self.generated]
        window = whole[-len(self.window) :]
        if window != self.window or seal.grown(seal.EMPTY, window[: self.fed]) != self._fed_seal:
            return "tokens changed in host memory on their way to the model"
        if self._uniforms != seal.uniforms(self.request.seed, len(self._uniforms)):
            return "the random generator changed"
        return ""

    @property
    def tokens_flaw(self) -> str:
        """Whether the answer's tokens are not those that were drawn."""
        good = seal.grown(seal.EMPTY, self.generated) == self._tokens_seal
        return "" if good else "tokens of the answer changed in host memory"

    @property
    def request_flaw(self) -> str:
        """Whether the request is another one than came; then it cannot be done again, either."""
        return "" if seal.of_request(self.request) == self.request_seal else REQUEST_DAMAGED


def uniform(temperature: float, generator: torch.Generator) -> float | None:
    """The number in [0, 1) that the next draw needs; None when it needs none, at temperature 0."""
    if temperature <= 0.0:
        return None
    return float(torch.rand((), dtype=torch.float64, generator=generator))
