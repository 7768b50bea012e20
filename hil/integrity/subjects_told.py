"""Cached passes as the server runs them: operations are handed over, cache and attention are watched.

``Decode`` (``subjects_moving``) is seen operation by operation, as a foreign model would be. Here the pass is in
inference mode and the guard is told (``told``). Stores into the cache are left to the digests of its rows (``kv``),
the attention of steps to a log of it. What was kept so is looked at when a run has ended, as before an answer
leaves; if it is not as it was made, the run is made again, once.

    steps   a token of every row a pass, the first ones given, then what was drawn
    chunks  a few tokens of some rows a pass, of which the shorter one is padded at its end; all given

A run begins with an empty cache. It is judged by the logits of all tokens that were fed, though a server uses the
last ones of a row only; a loss is that of the undisturbed run's tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.kv import Rows
from flightsw.gpu.integrity.kv_caches import gpt_rows
from flightsw.gpu.integrity.protect import Guard
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, PADDING, Cache

from .judging import Observation, observe
from .subjects import Around, Base, copy_of, windows
from .targets import Subject, key_value_cache

Work = Literal["steps", "chunks"]
ROWS: Final = 4
GIVEN_STEPS: Final = 3
STEPS: Final = 8
"""Passes of a run; the first ``GIVEN_STEPS`` are told what they are fed."""
CHUNK_ROWS: Final = (2, 0)
"""Rows that take part, out of order: keys and values are gathered."""
CHUNK_TOKENS: Final = 8
CHUNKS: Final = 3
SHORT_BY: Final = 3
"""Tokens that the last chunk of the second row is short of."""


class Feed(NamedTuple):
    """What one pass is given."""

    tokens: list[list[int]]
    positions: list[list[int]]
    rows: list[int] | None


class Told(Base):
    """``steps`` or ``chunks``, float32: other types are seen. ``weights`` and ``kv_cache`` can be hit as well."""

    moves = True

    def __init__(self, model: GPT, corpus: Corpus, seed: int, work: Work) -> None:
        self._model = copy_of(model).eval().requires_grad_(False)
        self._cache = Cache(self._model.config, ROWS)
        self._given = windows(corpus, ROWS, CHUNKS * CHUNK_TOKENS, seed).tolist()
        self._feed: Callable[[int, Tensor | None], Feed] = self._step if work == "steps" else self._chunk
        self.passes = STEPS if work == "steps" else CHUNKS
        self._guard: Guard | None = None
        self._report: Report | None = None
        self._rows: Rows | None = None
        self._twin_tokens: Tensor | None = None
        subject = Subject(
            name=f"{work}-told", module=self._model, cache=lambda: key_value_cache(self._cache), told=True
        )
        super().__init__(subject, "float32")
        twin = self.run()
        self._twin_tokens = torch.frombuffer(bytearray(twin.tokens), dtype=torch.int64)
        self.restore()

    def under(self, guard: Guard, report: Report) -> None:
        """See ``Base``."""
        self._guard, self._report = guard, report
        guard.mode.leave((*self._cache.keys, *self._cache.values))

    def begin(self, *, looking: bool) -> None:
        """See ``Base``. Digests and log are new ones: they remember what was wrong."""
        assert self._guard is not None, "runs under a guard come after it"
        assert self._report is not None, "it came with the guard"
        self._rows = gpt_rows(self._cache, self._report)
        self._rows.watching = looking
        assert self._rows.log is not None, "float32 on the host has one"
        self._guard.mode.hand_over(self._rows.log)

    def sound(self) -> bool:
        """See ``Base``."""
        if self._rows is None or not self._rows.watching:
            return True
        lengths: dict[int, int] = {}
        for number in range(self.passes):
            feed = self._feed(number, None)
            for row, places in zip(feed.rows or range(ROWS), feed.positions, strict=True):
                lengths[row] = max(places) + 1
        return all(
            [self._rows.verify(row, length) for row, length in lengths.items()]
        )  # Of each row, the findings.

    @torch.inference_mode()
    def first_pass(self) -> None:
        """See ``Testee``."""
        self._logits(self._feed(0, None))

    def _all(self) -> list[tuple[str, Tensor]]:
        return [*super()._all(), *((f"cache {name}", tensor) for name, tensor in key_value_cache(self._cache))]

    def _step(self, number: int, last: Tensor | None) -> Feed:
        if number < GIVEN_STEPS or last is None:
            tokens = [[row[number]] for row in self._given]
        else:
            tokens = last.argmax(dim=-1, keepdim=True).tolist()
        return Feed(tokens, [[number]] * ROWS, None)

    def _chunk(self, number: int, last: Tensor | None) -> Feed:
        places = range(number * CHUNK_TOKENS, (number + 1) * CHUNK_TOKENS)
        positions = [list(places) for _ in CHUNK_ROWS]
        if number == CHUNKS - 1:
            positions[1][-SHORT_BY:] = [PADDING] * SHORT_BY
        return Feed([[self._given[row][place] for place in places] for row in CHUNK_ROWS], positions, [*CHUNK_ROWS])

    def _logits(self, feed: Feed) -> Tensor:
        return self._model.forward_cached(feed.tokens, self._cache, feed.positions, feed.rows)

    @torch.inference_mode()
    def _run(self, around: Around) -> Observation:
        logits = self._twice(partial(self._answer, around), around.sound)
        wanted = logits.argmax(dim=-1) if self._twin_tokens is None else self._twin_tokens
        return observe(logits, float(F.cross_entropy(logits, wanted)))

    def _answer(self, around: Around) -> Tensor:
        """Logits of all tokens that are no padding, (tokens, vocabulary)."""
        seen: list[Tensor] = []
        for number in range(self.passes):
            feed = self._feed(number, seen[-1] if seen else None)
            logits = self._pass(around, partial(self._logits, feed))
            seen.append(logits[torch.tensor(feed.positions) != PADDING])
        return torch.cat(seen)
