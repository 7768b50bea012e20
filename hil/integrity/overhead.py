"""What protection costs: protected against unprotected, interleaved, in processor time, with an A/A control.

A machine drifts: clocks, caches, neighbours. So no long run of one is compared with a long run of the other. In
each round every contestant has one turn, in an order drawn anew: the unprotected twin, a second unprotected twin,
and the guarded one at each level. The ratio is formed within a round; the figure is the median of the rounds, its
quartiles are its noise, and the ratio of the two unprotected twins says what "nothing" looks like on this machine.

On a processor the time is that of the process (``time.process_time``), which a neighbour does not lengthen. On a
card it is the wall clock between two synchronisations: there the host's time is not what the work costs.

A turn has as many passes as the level has in its longest period, at most ``PASSES_MAX``, so that what is done at
every 32nd pass is in it once; storm does everything in every pass. Of a longer period (watch) the turn begins with
the pass that is looked at, so its figure is on the dear side. Longer turns have fewer rounds.

*Which workload counts.* Integrity costs Python time by the operation and memory time by the weight, and both shrink
beside the products as a model grows. The figure is that of nanoGPT's width, 768; the small model that a laptop
trains in the demonstration stands beside it.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.integrity.protect import Guard, protect
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT, Cache, GPTConfig
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.link.integrity import Level
from hil.randomness import stream

from .measurements import Overhead
from .subjects import LEARNING_RATE, gradients, update, windows

MEASURED: Final = (Level.WATCH, Level.STANDARD, Level.STORM)
PASSES_MAX: Final = 64
PASSES_MIN: Final = 4
ROUNDS_MIN: Final = 3
WARM_PASSES: Final = 2
DECODED: Final = {"cpu": 8, "cuda": 32}
"""Tokens after the prompts of an inference run."""
PLAIN: Final = "plain"
CONTROL: Final = "control"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A workload: model, and rows of a pass."""

    name: str
    kind: str
    """train or infer."""
    model: GPTConfig
    rows: int
    mixed: bool = True
    """bfloat16 autocast in training, bfloat16 weights in inference."""
    small: bool = False
    """Shown beside the figure, and not the figure itself."""


CPU: Final = (
    Shape(
        name="GPT 3×96, 512 tokens", kind="train", rows=8, mixed=False, small=True,
        model=GPTConfig(layers=3, heads=4, width=96, context=64),
    ),
    Shape(
        name="GPT 2×768, 1,024 tokens", kind="train", rows=4, mixed=False,
        model=GPTConfig(layers=2, heads=12, width=768, context=256),
    ),
    Shape(
        name="GPT 3×96, prompts 8×64 and 8 tokens", kind="infer", rows=8, mixed=False, small=True,
        model=GPTConfig(layers=3, heads=4, width=96, context=72),
    ),
    Shape(
        name="GPT 2×768, prompts 8×64 and 8 tokens", kind="infer", rows=8, mixed=False,
        model=GPTConfig(layers=2, heads=12, width=768, context=72),
    ),
)  # fmt: skip
CARD: Final = (
    Shape(
        name="GPT 85 M, 8×1024 tokens", kind="train", rows=8,
        model=GPTConfig(layers=12, heads=12, width=768, context=1024),
    ),
    Shape(
        name="GPT 350 M, 8×1024 tokens", kind="train", rows=8,
        model=GPTConfig(layers=24, heads=16, width=1024, context=1024),
    ),
    Shape(
        name="GPT 85 M, prompts 32×512 and 32 tokens", kind="infer", rows=32,
        model=GPTConfig(layers=12, heads=12, width=768, context=1024),
    ),
    Shape(
        name="GPT 350 M, prompts 32×512 and 32 tokens", kind="infer", rows=32,
        model=GPTConfig(layers=24, heads=16, width=1024, context=1024),
    ),
)  # fmt: skip


class Contestant:
    """One copy of the workload; with a guard or without."""

    def __init__(self, shape: Shape, corpus: Corpus, device: torch.device, *, guarded: bool) -> None:
        torch.manual_seed(1)
        self._shape, self._device = shape, device
        trains = shape.kind == "train"
        self._model = GPT(shape.model).to(device)
        self._batch = windows(corpus, shape.rows, shape.model.context + 1, 1).to(device)
        if trains:
            self._optimiser = AdamW(self._model.train())
        else:
            dtype = torch.bfloat16 if shape.mixed else torch.float32
            self._model = self._model.to(dtype).eval().requires_grad_(False)
            self._cache = Cache(shape.model, shape.rows, device, dtype)
        self.decoded = DECODED.get(device.type, 0)
        self._pass = self._train if trains else self._infer
        self.guard: Guard | None = protect(self._model, level=Level.OFF) if guarded else None

    def run(self, passes: int) -> float:
        """Seconds for so many passes."""
        self._wait()
        clock = time.perf_counter if self._device.type == "cuda" else time.process_time
        began_s = clock()
        for _ in range(passes):
            self._pass()
        self._wait()
        return clock() - began_s

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _train(self) -> None:
        guard = self.guard
        if guard is None:
            update(self._optimiser, self._gradients(), LEARNING_RATE)
            return
        with guard.running():
            norm = self._gradients()
        assert guard.settle(), "nothing was injected"
        if guard.level is not Level.OFF:
            assert guard.before_update(), "nothing was injected"
        update(self._optimiser, norm, LEARNING_RATE)
        if guard.level is not Level.OFF:
            guard.after_update()

    def _gradients(self) -> Tensor:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._shape.mixed):
            return gradients(self._model, self._optimiser, self._batch)

    @torch.no_grad()
    def _infer(self) -> None:
        """A chunk of prompts, then a few tokens, pass by pass as the engine does it."""
        rows, context = self._shape.rows, self._shape.model.context
        prompt = context - self.decoded if self._device.type == "cpu" else context // 2
        tokens = self._batch[:, :prompt]
        for place in (0, *range(prompt, prompt + self.decoded)):
            positions = torch.arange(place, place + tokens.shape[1], device=self._device).expand(rows, -1)
            tokens = self._guarded(tokens, positions)

    def _guarded(self, tokens: Tensor, positions: Tensor) -> Tensor:
        if self.guard is None:
            return self._next(tokens, positions)
        began_s = time.perf_counter()
        with self.guard.running():
            found = self._next(tokens, positions)
        assert self.guard.settle(), "nothing was injected"
        worked_s = time.perf_counter() - began_s
        self.guard.scrubber.turn(worked_s, self.guard.vigilance.scrub_share)
        return found

    def _next(self, tokens: Tensor, positions: Tensor) -> Tensor:
        logits = self._model.forward_cached(tokens, self._cache, positions)[:, -1].float().cpu()
        return logits.argmax(dim=-1, keepdim=True).to(self._device)


def measure(
    shape: Shape, corpus: Corpus, device: torch.device, rounds: int, seed: int = 1,
    levels: tuple[Level, ...] = MEASURED, tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Overhead]:  # fmt: skip
    """Overhead of each level on one workload."""
    plain, control, guarded = (
        Contestant(shape, corpus, device, guarded=name == "guarded") for name in (PLAIN, CONTROL, "guarded")
    )
    for one in (plain, control, guarded):
        one.run(WARM_PASSES)
    rng = stream(seed, f"overhead {shape.name}")
    for level in levels:
        # A run of inference is a chunk of prompts and some tokens: several passes of the guard.
        within = 1 if shape.kind == "train" else 1 + plain.decoded
        passes = max(-(-period(level) // within), 1)
        ratios: list[float] = []
        controls: list[float] = []
        assert guarded.guard is not None, "it was made with one"
        guarded.guard.level = level
        guarded.guard.adopt()  # What ran before it at level off was not announced.
        guarded.run(1)
        turns_wanted = max(ROUNDS_MIN, rounds * PASSES_MIN // passes)
        for number in range(turns_wanted):
            tell(f"{shape.name}, {level.name.lower()}: round {number + 1} of {turns_wanted}")
            turns = [plain, control, guarded]
            rng.shuffle(turns)
            spent_s = {id(one): one.run(passes) for one in turns}
            ratios.append(100.0 * (spent_s[id(guarded)] / spent_s[id(plain)] - 1.0))
            controls.append(100.0 * (spent_s[id(control)] / spent_s[id(plain)] - 1.0))
        low, high = quartiles(ratios)
        control_low, control_high = quartiles(controls)
        yield Overhead(
            workload=shape.name, kind=shape.kind, level=level.name.lower(), percent=statistics.median(ratios),
            low=low, high=high, control_low=control_low, control_high=control_high, rounds=turns_wanted,
            passes=passes, device=device.type, small=shape.small,
        )  # fmt: skip


def period(level: Level) -> int:
    """Passes after which a level begins anew, within ``PASSES_MIN`` and ``PASSES_MAX``."""
    row = LEVELS[level]
    longest = max(row.checksum_every, row.repeat_every, row.transit_every, 1)
    return min(max(longest, PASSES_MIN), PASSES_MAX)


def quartiles(values: list[float]) -> tuple[float, float]:
    """First and third quartile; of a single value itself, twice."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
