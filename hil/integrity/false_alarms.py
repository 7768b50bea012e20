"""False alarms: undisturbed passes at level storm, each on other data, until so many checks have passed.

The bounds of the checks depend on the data, so every pass has windows of its own, and training moves the weights,
too. A *check* is one verdict: a product against the sums of its operands, a repeated operation against the first, a
result against its digest, a block of resident state against its sums. Any finding is a false alarm, whatever became
of it: also one that was "recomputed" or "repaired".
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.protect import Guard, protect
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, Cache
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.link.integrity import Level

from .measurements import FalseAlarms
from .subjects import LEARNING_RATE, SMALL, copy_of, gradients, update, windows

ROWS: Final = 8
DECODE_ROWS: Final = 4
SAID_MAX: Final = 5
SEEDS: Final = 10_000_019
"""Windows of pass p of a workload come from seed · this + p: none are those that a model was trained on."""
TURN: Final = 20
"""Passes of one workload before the next has its turn."""

Pass = Callable[[int], None]
Make = Callable[[GPT, Corpus, int], tuple[nn.Module, Pass, Callable[[Guard], None]]]


def measure(
    model: GPT, corpus: Corpus, seed: int, checks: int, tell: Callable[[int, float], None] = lambda done, left: None
) -> FalseAlarms:
    """At least ``checks`` verdicts, all workloads in turn. ``tell`` gets the checks so far and the seconds left."""
    findings: list[Finding] = []
    workloads = {name: _Workload(made, findings) for name, made in _workloads(model, corpus, seed)}
    began_s = time.monotonic()
    passes = 0
    try:
        while (done := sum(workload.checks for workload in workloads.values())) < checks:
            tell(done, (time.monotonic() - began_s) * (checks - done) / done if done else 0.0)
            for workload in workloads.values():
                for _ in range(TURN):
                    workload.run(passes)
                    passes += 1
    finally:
        for workload in workloads.values():
            workload.guard.close()
    by_subject = {name: workload.checks for name, workload in workloads.items()}
    return FalseAlarms(
        checks=sum(by_subject.values()),
        alarms=len(findings) + sum(workload.unsettled for workload in workloads.values()),
        passes=passes,
        by_subject=by_subject,
        said=tuple(f"{f.detector} {f.outcome} {f.where}: {f.detail}" for f in findings[:SAID_MAX]),
    )


class _Workload:
    """One guarded workload; ``after`` is what follows a settled pass."""

    def __init__(self, made: tuple[nn.Module, Pass, Callable[[Guard], None]], findings: list[Finding]) -> None:
        module, self._pass, self._after = made
        self.guard = protect(module, level=Level.STORM, report=findings.append)
        self.unsettled = 0
        self._blocks = 0

    @property
    def checks(self) -> int:
        """Verdicts so far: of the compute path and of resident blocks."""
        return self.guard.tally.checks + self._blocks

    def run(self, number: int) -> None:
        """One pass, settled, with the state verified after it."""
        with self.guard.running():
            self._pass(number)
        self.unsettled += not self.guard.settle()
        self.unsettled += not self.guard.before_update()
        self._blocks += self.guard.resident.blocks
        self._after(self.guard)


def _workloads(
    model: GPT, corpus: Corpus, seed: int
) -> Iterator[tuple[str, tuple[nn.Module, Pass, Callable[[Guard], None]]]]:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield f"gpt-{name}", _forward(model, corpus, seed, dtype)
        yield f"decode-{name}", _decoding(model, corpus, seed, dtype)
    yield "train-float32", _training(model, corpus, seed, mixed=False)
    yield "train-mixed", _training(model, corpus, seed, mixed=True)


def _fresh(corpus: Corpus, seed: int, number: int, rows: int) -> Tensor:
    return windows(corpus, rows, SMALL.context + 1, seed * SEEDS + number)


def _forward(
    model: GPT, corpus: Corpus, seed: int, dtype: torch.dtype
) -> tuple[nn.Module, Pass, Callable[[Guard], None]]:
    module = copy_of(model).to(dtype).eval().requires_grad_(False)

    def run(number: int) -> None:
        batch = _fresh(corpus, seed, number, ROWS)
        module(batch[:, :-1], batch[:, 1:])

    return module, run, _nothing


def _decoding(
    model: GPT, corpus: Corpus, seed: int, dtype: torch.dtype
) -> tuple[nn.Module, Pass, Callable[[Guard], None]]:
    module = copy_of(model).to(dtype).eval().requires_grad_(False)
    cache = Cache(module.config, DECODE_ROWS, dtype=dtype)

    def run(number: int) -> None:
        # A prompt of its own, then one token more: a chunk and a decoding step.
        batch = _fresh(corpus, seed, number, DECODE_ROWS)[:, : SMALL.context // 2]
        positions = torch.arange(batch.shape[1]).expand(len(batch), -1)
        with torch.no_grad():
            module.forward_cached(batch[:, :-1], cache, positions[:, :-1])
            module.forward_cached(batch[:, -1:], cache, positions[:, -1:])

    return module, run, _nothing


def _training(
    model: GPT, corpus: Corpus, seed: int, *, mixed: bool
) -> tuple[nn.Module, Pass, Callable[[Guard], None]]:
    module = copy_of(model).train()
    optimiser = AdamW(module)
    norms: list[Tensor] = []

    def run(number: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            norms.append(gradients(module, optimiser, _fresh(corpus, seed, number, ROWS)))

    def after(guard: Guard) -> None:
        update(optimiser, norms.pop(), LEARNING_RATE)
        guard.after_update()

    return module, run, after


def _nothing(guard: Guard) -> None:
    """Nothing changes after a forward pass."""
