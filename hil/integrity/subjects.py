"""Small programs under fire: models trained for a moment, so that a token and a loss mean something.

A fault's effect is judged on what a program says, so an untrained model will not do: its logits are noise, and
every fault changes a token. These are trained on the corpus that every machine has, for seconds; then a wrong token
is a wrong answer. They are small because the share of harmful faults among all faults does not care for size
(reference, section 5), and a thousand faults are to take seconds.

    gpt        a GPT of the workloads, forward over fixed windows, float32 or bfloat16
    stack      plain linear layers and GELU
    decode     the same GPT with its cache, decoding greedily, pass by pass                  (``subjects_moving``)
    train      the same GPT in training: forward, backward, clip, update; judged steps later   (``subjects_moving``)
    told       the same GPT with a cache that is watched, as the server runs it                  (``subjects_told``)

A *testee* starts from the same state for every run, bit for bit, so everything that differs is the fault's doing.
``run`` wraps each pass with what it is given (``Around``), and runs a pass that may not be used once again, as
flight code does.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Final, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.protect import Guard
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import BYTE_VOCABULARY, GPT, GPTConfig
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.gpu.workloads.recipe import clipping

from .judging import Observation, observe
from .targets import Subject

SMALL: Final = GPTConfig(layers=2, heads=2, width=32, context=32)
TRAINING_STEPS: Final = 400
TRAINING_ROWS: Final = 16
LEARNING_RATE: Final = 3e-3
ROWS: Final = 8
"""Windows of the fixed batch that is judged."""
STACK_BYTES: Final = 16
"""Bytes that the linear stack sees."""
STACK_WIDTH: Final = 96
ATTEMPTS_MAX: Final = 2
"""Tries of one pass."""
HANG_WORK_S: Final = 10.0
"""A run of milliseconds that works for so long, in processor time of the whole process, hangs."""
HANG_WALL_S: Final = 120.0
"""So does one that waits for so long. Generous, as others may have the processor; a machine that was suspended
counts ``LOOK_S``, however long it slept."""
LOOK_S: Final = 0.1
"""Between two looks at the clocks, in seconds of the wall."""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is wrapped in: nothing for the twin, an injection, or protection and injection."""

    passing: Callable[[], AbstractContextManager[object]] = nullcontext
    """Gives what one pass is wrapped in; called for each pass, in order."""
    settled: Callable[[], bool] = lambda: True
    """After a pass: whether what it gave may be used. One that may not is run once again."""
    updating: Callable[[], AbstractContextManager[object]] = nullcontext
    """What an update of the weights is wrapped in."""
    sound: Callable[[], bool] = lambda: True
    """When a run has ended: whether what it kept between its passes is as it was made. If not, it is made again."""


ALONE: Final = Around()
T = TypeVar("T")


class Testee(Protocol):
    """A program that can be run again and again from the same state."""

    subject: Subject
    """How faults reach it."""
    dtype: str
    """Of its arithmetic."""
    passes: int

    def run(self, around: Around = ALONE) -> Observation:
        """One run from the state at hand; a run that fails or hangs is an observation, too."""

    def first_pass(self) -> None:
        """The first pass of a run, for a survey; ``restore`` afterwards."""

    def guarded(self) -> list[tuple[str, Tensor]]:
        """Resident state: what lives in memory between passes."""

    def intact(self) -> bool:
        """Whether resident state is as it was when it was made, bit for bit."""

    def restore(self) -> None:
        """Everything as it was when it was made, unseen by version counters."""


class _Hang(BaseException):
    """The alarm clock rang, for the reason given; no handler of ``Exception`` within the program stops it."""


class _Withheld(BaseException):
    """A pass that may not be used, twice."""


@contextmanager
def bounded(work_s: float = HANG_WORK_S, wall_s: float = HANG_WALL_S) -> Iterator[None]:
    """Raise within the block when it works or waits for longer; for the main thread. Looks that a stopped process
    has missed come as one, so the wall is counted in looks."""
    began_s = time.process_time()
    looks = 0

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal looks
        looks += 1
        if time.process_time() - began_s >= work_s:
            raise _Hang(f"it worked for {work_s:g} s")
        if looks * LOOK_S >= wall_s:
            raise _Hang(f"it took {wall_s:g} s")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


class Base:
    """What all of them share: the pristine copy, and what a failed run is."""

    passes = 1
    moves = False
    """Whether a run changes resident state."""

    def __init__(self, subject: Subject, dtype: str) -> None:
        self.subject = subject
        self.dtype = dtype
        self._state = self._all()
        storages = {tensor.untyped_storage().data_ptr(): tensor for _, tensor in self._state}
        self._pristine = [(memory, memory.clone()) for memory in map(memory_of, storages.values())]

    def run(self, around: Around = ALONE) -> Observation:
        """See ``Testee``."""
        try:
            with bounded():
                return self._run(around)
        except _Withheld:
            return Observation(ending="withheld")
        except _Hang as hang:
            return Observation(ending="hang", detail=str(hang))
        except Exception as error:  # Whatever a damaged program raises is what it did, not our fault.
            return Observation(ending="error", detail=f"{type(error).__name__}: {error}".splitlines()[0])

    def first_pass(self) -> None:
        """See ``Testee``."""
        raise NotImplementedError

    def guarded(self) -> list[tuple[str, Tensor]]:
        """See ``Testee``."""
        return self._state

    def under(self, guard: Guard, report: Report) -> None:
        """A guard stands around its passes from now on, and ``report`` gets what is found besides."""

    def begin(self, *, looking: bool) -> None:
        """A run under the guard begins; ``looking`` at what it keeps between its passes, or not."""

    def sound(self) -> bool:
        """Of the run under a guard that has ended, whether what it kept is as it was made, as far as was looked."""
        return True

    def intact(self) -> bool:
        """See ``Testee``."""
        return all(torch.equal(memory, good) for memory, good in self._pristine)

    def restore(self) -> None:
        """See ``Testee``."""
        for memory, good in self._pristine:
            memory.copy_(good)

    def _all(self) -> list[tuple[str, Tensor]]:
        return [
            *((f"weight {name}", tensor) for name, tensor in self.subject.memory("weights").items()),
            *((f"input {name}", tensor) for name, tensor in self.subject.inputs()),
        ]

    def _run(self, around: Around) -> Observation:
        raise NotImplementedError

    def _pass(self, around: Around, work: Callable[[], T], undo: Callable[[], None] = lambda: None) -> T:
        """One pass, and once again when it may not be used; ``undo`` puts back what the first one changed."""

        def once() -> T:
            with around.passing():
                return work()

        return self._twice(once, around.settled, undo)

    def _twice(self, work: Callable[[], T], good: Callable[[], bool], undo: Callable[[], None] = lambda: None) -> T:
        """What some work gives, done once again when that is no good."""
        for _ in range(ATTEMPTS_MAX):
            result = work()
            if good():
                return result
            undo()
        raise _Withheld


class Forward(Base):
    """A module that maps a fixed batch to logits (…, classes); one pass, without a graph."""

    def __init__(self, name: str, module: nn.Module, inputs: Tensor, targets: Tensor, dtype: torch.dtype) -> None:
        self._module = module.to(dtype).eval().requires_grad_(False)
        self._inputs, self._targets = inputs, targets
        subject = Subject(name=name, module=self._module, inputs=lambda: [("tokens", self._inputs)])
        super().__init__(subject, dtype_name(dtype))

    @torch.no_grad()
    def first_pass(self) -> None:
        """See ``Testee``."""
        self._logits()

    def _logits(self) -> Tensor:
        found = self._module(self._inputs)
        logits: Tensor = found[0] if isinstance(found, tuple) else found
        return logits

    @torch.no_grad()
    def _run(self, around: Around) -> Observation:
        logits = self._pass(around, self._logits)
        loss = F.cross_entropy(logits.flatten(0, -2).float(), self._targets.flatten())
        return observe(logits, float(loss))


def memory_of(tensor: Tensor) -> Tensor:
    """The whole storage as bytes: a tensor of its own, with its own version counter."""
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def dtype_name(dtype: torch.dtype) -> str:
    """As the ledger has it."""
    return str(dtype).removeprefix("torch.")


def windows(corpus: Corpus, rows: int, length: int, seed: int) -> Tensor:
    """Random windows of the corpus, int64 (rows, length); the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(corpus.tokens) - length, (rows,), generator=generator)
    return torch.stack([corpus.tokens[start : start + length] for start in starts.tolist()]).long()


def trained(corpus: Corpus, seed: int, config: GPTConfig = SMALL, steps: int = TRAINING_STEPS) -> GPT:
    """A GPT that has learnt the corpus for a moment; the same for the same seed."""
    torch.manual_seed(seed)
    model = GPT(config).train()
    optimiser = AdamW(model)
    for step in range(steps):
        batch = windows(corpus, TRAINING_ROWS, config.context + 1, seed * 1_000_003 + step)
        train_step(model, optimiser, batch, LEARNING_RATE)
    return model


def train_step(model: GPT, optimiser: AdamW, batch: Tensor, learning_rate: float) -> None:
    """Forward, backward, clip, update, as the workloads' trainer does it.

    Raises ``ArithmeticError`` when loss or gradient norm is not finite, before anything has changed.
    """
    update(optimiser, gradients(model, optimiser, batch), learning_rate)


def gradients(model: GPT, optimiser: AdamW, batch: Tensor) -> Tensor:
    """Forward and backward; the norm of the gradients. Raises ``ArithmeticError``."""
    loss = model(batch[:, :-1], batch[:, 1:])[1]
    assert loss is not None, "targets were given"
    torch.autograd.backward(loss)
    optimiser.gather()
    norm = optimiser.gradient_norm()
    if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(loss)):
        raise ArithmeticError(f"loss {float(loss.detach()):g}, gradient norm {float(norm.detach()):g}")
    return norm


def update(optimiser: AdamW, norm: Tensor, learning_rate: float) -> None:
    """Clip and apply the gradients, and begin anew."""
    optimiser.step(learning_rate, clipping(norm))
    optimiser.zero_gradients()


def gpt(model: GPT, corpus: Corpus, seed: int, dtype: torch.dtype) -> Forward:
    """Testee ``gpt``: a copy of the model over fixed windows."""
    batch = windows(corpus, ROWS, model.config.context + 1, seed)
    return Forward(f"gpt-{dtype_name(dtype)}", copy_of(model), batch[:, :-1].contiguous(), batch[:, 1:], dtype)


def copy_of(model: GPT) -> GPT:
    """Another model with the same weights."""
    copy = GPT(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def stack(corpus: Corpus, seed: int, dtype: torch.dtype, steps: int = TRAINING_STEPS) -> Forward:
    """Testee ``stack``: three linear layers that guess the byte after the last ones."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Linear(STACK_BYTES, STACK_WIDTH),
        nn.GELU(),
        nn.Linear(STACK_WIDTH, STACK_WIDTH),
        nn.GELU(),
        nn.Linear(STACK_WIDTH, BYTE_VOCABULARY),
    )
    optimiser = AdamW(module)
    for step in range(steps):
        inputs, targets = _stack_batch(corpus, 4 * TRAINING_ROWS, seed * 1_000_003 + step)
        loss = F.cross_entropy(module(inputs), targets)
        torch.autograd.backward(loss)
        optimiser.step(LEARNING_RATE)
        optimiser.zero_gradients()
    inputs, targets = _stack_batch(corpus, 8 * ROWS, seed)
    return Forward(f"stack-{dtype_name(dtype)}", module, inputs.to(dtype), targets, dtype)


def _stack_batch(corpus: Corpus, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    batch = windows(corpus, rows, STACK_BYTES + 1, seed)
    return batch[:, :-1].float() / 64.0 - 1.0, batch[:, -1]
