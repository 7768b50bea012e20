"""Roster whose state moves while they run: decoding with a cache, and training.

Both are caught in the middle of their work: the cache of ``Decode`` holds a prompt and the first tokens, the
moments of ``Train`` hold the past of its training. From there a run goes on for a few passes, with the fault or
without. ``Decode`` feeds what it has drawn, so one wrong token makes all that follow wrong, as in service.
``Train`` is judged on windows that it does not train on, after its last step.
"""

from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, Cache, GPTConfig
from flightsw.gpu.workloads.optimiser import AdamW

from .judging import Observation, observe
from .subjects import LEARNING_RATE, ROWS, Around, Base, copy_of, dtype_name, gradients, update, windows
from .targets import Named, Subject, key_value_cache

DECODE_ROWS: Final = 4
PROMPT_TOKENS: Final = 12
HELD_TOKENS: Final = 4
"""Tokens that are decoded before the run begins."""
DECODED_TOKENS: Final = 8
"""Passes of a run."""
TRAIN_ROWS: Final = 8
STEPS: Final = 2
"""Optimiser steps of a run."""
PAST_STEPS: Final = 30
"""Steps that filled the moments."""


class Decode(Base):
    """Greedy decoding of a few rows, one token of each a pass. ``weights`` and ``kv_cache`` can be hit between."""

    passes = DECODED_TOKENS
    moves = True

    def __init__(self, model: GPT, corpus: Corpus, seed: int, dtype: torch.dtype) -> None:
        self.model = copy_of(model).to(dtype).eval().requires_grad_(False)
        self.cache = Cache(self.model.config, DECODE_ROWS, dtype=dtype)
        self._used = PROMPT_TOKENS + HELD_TOKENS
        self._begin = windows(corpus, DECODE_ROWS, PROMPT_TOKENS, seed)
        self._twin_tokens: Tensor | None = None
        with torch.no_grad():
            self._begin = self._feed(self._begin, 0)
            for place in range(PROMPT_TOKENS, self._used):
                self._begin = self._feed(self._begin, place)
        subject = Subject(name=f"decode-{dtype_name(dtype)}", module=self.model, cache=self._in_use)
        super().__init__(subject, dtype_name(dtype))
        twin = self.run()
        self._twin_tokens = torch.frombuffer(bytearray(twin.tokens), dtype=torch.int64)
        self.restore()

    def _in_use(self) -> Named:
        return key_value_cache(self.cache, used=lambda: self._used)

    def _all(self) -> list[tuple[str, Tensor]]:
        return [*super()._all(), *((f"cache {name}", tensor) for name, tensor in key_value_cache(self.cache))]

    @torch.no_grad()
    def _feed(self, tokens: Tensor, place: int) -> Tensor:
        """Feed tokens (rows, T) at positions from ``place``; the next one of each row (rows, 1)."""
        return self._next(tokens, place).argmax(dim=-1, keepdim=True)

    def _next(self, tokens: Tensor, place: int) -> Tensor:
        positions = torch.arange(place, place + tokens.shape[1]).expand(tokens.shape[0], -1)
        return self.model.forward_cached(tokens, self.cache, positions)[:, -1]

    @torch.no_grad()
    def first_pass(self) -> None:
        """See ``Testee``."""
        self._next(self._begin, self._used)

    @torch.no_grad()
    def _run(self, around: Around) -> Observation:
        tokens, seen = self._begin, []
        for place in range(self._used, self._used + DECODED_TOKENS):
            logits = self._pass(around, partial(self._next, tokens, place))
            tokens = logits.argmax(dim=-1, keepdim=True)
            seen.append(logits)
        logits = torch.stack(seen)
        wanted = logits.argmax(dim=-1) if self._twin_tokens is None else self._twin_tokens.view(logits.shape[:-1])
        return observe(logits, float(F.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten())))


class Train(Base):
    """A few steps of training in float32, or *mixed*: float32 weights under a bfloat16 autocast.

    ``weights``, ``optimiser``, ``input_data`` and ``random_state`` can be hit between."""

    passes = STEPS
    moves = True

    def __init__(
        self,
        model: GPT,
        corpus: Corpus,
        seed: int,
        *,
        dropout: float = 0.0,
        mixed: bool = False,
    ) -> None:
        kind = "mixed" if mixed else "dropout" if dropout else "float32"
        config = GPTConfig(
            layers=model.config.layers,
            heads=model.config.heads,
            width=model.config.width,
            context=model.config.context,
            dropout=dropout,
        )
        self.model = GPT(config)
        self.model.load_state_dict(model.state_dict())
        self.model.train()
        self.optimiser = AdamW(self.model)
        self._mixed = mixed
        self._batches = [
            windows(corpus, TRAIN_ROWS, config.context + 1, seed + step) for step in range(PAST_STEPS + STEPS)
        ]
        self._judged = windows(corpus, ROWS, config.context + 1, seed - 1)
        torch.manual_seed(seed)
        for batch in self._batches[:PAST_STEPS]:
            update(self.optimiser, self._gradients(batch), LEARNING_RATE)
        self._batches = self._batches[PAST_STEPS:]
        self._random = torch.get_rng_state()
        subject = Subject(
            name=f"train-{kind}",
            module=self.model,
            optimiser=self.optimiser.state,
            inputs=lambda: [(f"batch {number}", batch) for number, batch in enumerate(self._batches)],
            generators=(lambda: {"host": torch.default_generator}) if dropout else dict,
        )
        super().__init__(subject, "bfloat16" if mixed else "float32")

    def restore(self) -> None:
        """See ``Testee``; the random generator and the gradients belong to it."""
        super().restore()
        self.optimiser.zero_gradients()
        torch.set_rng_state(self._random)

    def _all(self) -> list[tuple[str, Tensor]]:
        return [*super()._all(), *((f"moment {name}", tensor) for name, tensor in self.optimiser.state())]

    def _gradients(self, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._mixed):
            return gradients(self.model, self.optimiser, batch)

    def _back(self, random: Tensor) -> None:
        self.optimiser.zero_gradients()
        torch.set_rng_state(random)

    def first_pass(self) -> None:
        """See ``Testee``."""
        self._gradients(self._batches[0])

    def _run(self, around: Around) -> Observation:
        for batch in self._batches:
            random = torch.get_rng_state()
            norm = self._pass(around, partial(self._gradients, batch), partial(self._back, random))
            with around.updating():
                update(self.optimiser, norm, LEARNING_RATE)
        with torch.no_grad():
            logits, loss = self.model(self._judged[:, :-1], self._judged[:, 1:])
        return observe(logits, float(loss))
