"""What runs when integrity's cost is measured: the flying jobs themselves, a trainer and a server without a daemon.

Each has a guarded form, at any level, and a plain one: a trainer that nobody guards, a server at level off, in
which no pass is entered and nothing is digested or held. Both do the same work on the same data.

Work is done in *pieces*, so that contestants can take turns within a unit: a micro-batch of training, which takes
about a second where it counts, or all answers of a unit of serving. What a unit has once, as the update of a step,
belongs to its last piece.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec
import torch

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.tally import NAMES
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import Generate, InferSpec, IntegrityReport, Reply, TrainSpec, Vigilance
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, PRESETS
from flightsw.gpu.workloads.infer import Server
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.preparation import guard
from flightsw.gpu.workloads.sequence import FILL_TOKENS_MAX
from flightsw.gpu.workloads.served import GptEngine, Model
from flightsw.gpu.workloads.sources import Source
from flightsw.gpu.workloads.trainer import Trainer
from flightsw.gpu.workloads.warm_up import warm_up
from flightsw.link.integrity import Level

SEED: Final = 1


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A workload: a preset, and how much of it makes one unit of work."""

    name: str
    kind: str
    """train or infer."""
    preset: str
    rows: int
    """Sequences of a micro-batch, or that decode together."""
    micro_batches: int = 1
    """Of an optimiser step, which is a unit of training."""
    prompt: int = 0
    """Bytes of each prompt; ``rows`` answers are a unit of inference."""
    tokens: int = 0
    """Of each answer."""
    small: bool = False
    """Shown beside the figure, and not the figure itself."""

    @property
    def passes(self) -> int:
        """Of one unit, of the kind that it has fewest of: chunks of prompts and decode steps are counted apart."""
        if self.kind == "train":
            return self.micro_batches
        return min(self.tokens, -(-self.prompt // FILL_TOKENS_MAX))


class Contestant(Protocol):
    """One copy of a workload."""

    def set_level(self, level: Level) -> None:
        """From the next unit on."""

    def pieces(self, units: int) -> Iterator[float]:
        """So many units, a piece at a time; seconds of each."""

    def run(self, units: int) -> float:
        """Seconds for so many units."""


def contestant(shape: Shape, corpus: Corpus, device: torch.device, *, guarded: bool) -> Contestant:
    """A copy of the workload, guarded or plain, in a process that is warm as a worker is."""
    warm_up()
    if shape.kind == "train":
        return Training(shape, corpus, device, guarded=guarded)
    return Serving(shape, One(shape.preset, shape.rows, device), device)


def spent_s(device: torch.device, work: Callable[[], None]) -> float:
    """Processor time of this process; on a card wall time between two synchronisations, as the host's own is not
    what the work costs."""
    if device.type != "cuda":
        began_s = time.process_time()
        work()
        return time.process_time() - began_s
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began_s


class Training:
    """Optimiser steps, as the training job makes them."""

    def __init__(self, shape: Shape, corpus: Corpus, device: torch.device, *, guarded: bool) -> None:
        spec = TrainSpec(
            preset=shape.preset, batch_size=shape.rows, micro_batches=shape.micro_batches, seed=SEED, threads=0
        )
        self._device = device
        self._trainer = Trainer(spec, corpus, device)
        self._guarded = guard(self._trainer, spec, Level.OFF, refuse) if guarded else None

    def set_level(self, level: Level) -> None:
        if self._guarded is not None:
            self._guarded.level = level

    def pieces(self, units: int) -> Iterator[float]:
        done = 0

        def piece() -> None:
            nonlocal done
            done += self._trainer.micro_batch() if self._guarded is None else self._guarded.turn()

        while done < units:
            yield spent_s(self._device, piece)

    def run(self, units: int) -> float:
        return sum(self.pieces(units))


class One:
    """A source of one fresh model of a preset."""

    def __init__(self, preset: str, rows: int, device: torch.device) -> None:
        torch.manual_seed(SEED)
        self._model = Model(GptEngine(GPT(PRESETS[preset].model), rows, device), 1, 1)

    def first(self) -> Model:
        return self._model

    def again(self) -> None:
        return None

    def newer(self) -> None:
        return None

    def close(self) -> None:
        pass


class Serving:
    """Answers, from all requests at once to the last released reply."""

    def __init__(self, shape: Shape, source: Source, device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._sent: list[object] = []
        self._job = Job(self._sent.append, Pacer(1.0), Meter())
        spec = InferSpec(model="bench", batch_max=shape.rows, queue_max=4096, integrity="off")
        self._server = Server(spec, self._job, source)
        self._server.begin(device)
        self.latency_s = 0.0
        """Mean of the last unit's answers."""

    def set_level(self, level: Level) -> None:
        self._job.post(Vigilance(level=NAMES[level]))
        self._server.turn()

    def pieces(self, units: int) -> Iterator[float]:
        for _ in range(units):
            yield spent_s(self._device, self._unit)

    def run(self, units: int) -> float:
        return sum(self.pieces(units))

    def _unit(self) -> None:
        shape = self._shape
        prompt = ("the satellite crosses the belt; " * (shape.prompt // 32 + 1))[: shape.prompt]
        self._sent.clear()
        for number in range(shape.rows):
            request = Generate(
                request=number, prompt=prompt, max_tokens=shape.tokens, temperature=0.8, top_k=0, seed=number
            )
            self._job.post(request)
        replies: list[Reply] = []
        while len(replies) < shape.rows:
            self._server.turn()
            replies = [message for message in self._sent if isinstance(message, Reply)]
            for message in self._sent:
                assert not isinstance(message, IntegrityReport) or not message.detected, message
        assert {reply.finish for reply in replies} <= {"length", "stop"}, replies
        self.latency_s = sum(reply.duration_s for reply in replies) / len(replies)


def refuse(finding: Finding) -> None:
    """Nothing is injected, so nothing may be found. Raises ``AssertionError``."""
    raise AssertionError(finding)
