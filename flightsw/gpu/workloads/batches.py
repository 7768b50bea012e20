"""Where training windows come from: an order of its own, and a corpus that is held twice.

A batch is drawn by a generator that nothing else uses, so that the order of the data does not depend on dropout.

*Checked.* What a batch holds goes straight into the weights, and no check of the arithmetic sees a wrong byte in
the corpus or a wrong start of a window. So a checked draw is done twice from the same state of the generator, and
its windows are gathered from two copies of the corpus, which lie in different memory (on a card: one in its
memory, one in the host's). Both must agree, and the batch at hand must still agree with the second copy whenever
a part of it is used. The corpus' own digest says which copy was hit; it is written again from the other one.
"""

import torch
import xxhash
from torch import Tensor

from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.workloads.corpus import Corpus

CORPUS_ON_DEVICE_MAX = 256 << 20
ATTEMPTS_MAX = 3
"""Draws of one batch until two in a row agree."""

Batch = tuple[Tensor, Tensor]
"""Windows and their targets, int64 (rows, context) each."""


class BadCorpus(Exception):
    """Both copies of the corpus are damaged; only the file has it now."""


class Batches:
    """Draws of ``rows`` windows of ``context`` tokens; ``order`` is the generator, state of the training."""

    def __init__(self, corpus: Corpus, device: torch.device, context: int, rows: int, seed: int) -> None:
        self.order = torch.Generator().manual_seed(seed)
        self._corpus = corpus
        self._device = device
        self._context = context
        self._rows = rows
        on_device = corpus.tokens.numel() <= CORPUS_ON_DEVICE_MAX
        self.tokens = corpus.tokens.to(device) if on_device else corpus.tokens
        """uint8 (size,): what batches are gathered from."""
        self._second: Tensor | None = None
        self._starts = torch.empty(0, dtype=torch.int64)

    def draw(self) -> Batch:
        """The next batch, on the device."""
        return self._gather(self.tokens, self._draw())

    def draw_checked(self, report: Report) -> Batch:
        """The next batch, drawn twice and gathered twice. Raises ``BadCorpus``."""
        self._starts = self._draw_twice(report)
        batch = self._gather(self.tokens, self._starts)
        if self.agrees(batch):
            return batch
        self._mend(report)
        return self._gather(self.tokens, self._starts)

    def agrees(self, batch: Batch) -> bool:
        """Whether the batch of the last checked draw is still what the second copy says."""
        second = self._gather(self._second_copy(), self._starts)
        return all(torch.equal(one, other) for one, other in zip(batch, second, strict=True))

    def first(self) -> Batch:
        """Windows of the corpus' beginning, which change no generator: one row, to be expanded."""
        return self._gather(self.tokens, torch.zeros(1, dtype=torch.int64))

    def _draw(self) -> Tensor:
        return torch.randint(len(self.tokens) - self._context, (self._rows,), generator=self.order)

    def _draw_twice(self, report: Report) -> Tensor:
        before = self.order.get_state()
        starts, after = self._draw(), self.order.get_state()
        for attempt in range(ATTEMPTS_MAX):
            self.order.set_state(before)
            again, after_again = self._draw(), self.order.get_state()
            if torch.equal(starts, again) and torch.equal(after, after_again):
                if attempt:
                    report(Finding(detector="repeat", outcome="recomputed", where="data order"))
                break
            starts, after = again, after_again
        return starts

    def _gather(self, tokens: Tensor, starts: Tensor) -> Batch:
        windows = tokens.unfold(0, self._context + 1, 1)  # A view: (positions, context + 1).
        window = windows[starts.to(tokens.device)].to(self._device).long()
        return window[:, :-1], window[:, 1:]

    def _second_copy(self) -> Tensor:
        if self._second is None:
            self._second = self._corpus.tokens.clone()
        return self._second

    def _mend(self, report: Report) -> None:
        """Write the copy of the corpus that was hit again from the other one."""
        first, second = self.tokens, self._second_copy()
        copies = {"corpus": first, "second copy of the corpus": second}
        good = [name for name, copy in copies.items() if _digest(copy) == self._corpus.digest]
        if not good:
            raise BadCorpus("both copies of the corpus are damaged")
        for name, copy in copies.items():
            if name not in good:
                copy.copy_(copies[good[0]])
                report(Finding(detector="digest", outcome="repaired", where=name, detail="from its other copy"))


def _digest(tokens: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tokens.cpu().numpy().data)
