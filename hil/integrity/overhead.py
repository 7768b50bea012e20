"""What protection costs: protected against unprotected, interleaved, in processor time, with an A/A control.

A machine drifts: clocks, caches, neighbours. So no long run of one is compared with a long run of the other. In
each round the contestants (``contestants``), two plain twins and the guarded one at some level, do the same work
side by side, a piece at a time, in an order that is drawn anew for every piece. The ratio is formed within a round,
the guarded one over the *mean* of both twins, so that a twin's bad luck counts half. The figure is the median of
the rounds, its quartiles are its noise, and one twin over the other says what "nothing" looks like on this machine.

On a processor the time is that of the process, which a neighbour lengthens little, and of *one thread*: of several
those that have nothing to do spin, which counts as work, most of all in the checks, as these are single-threaded.
The number of threads is set here, and put back after. On a card it is the wall clock.

A round has as many passes as the level has in its longest period, at most ``PASSES_MAX``, so that what is done at
every 32nd pass is in it once; storm does everything in every pass. Watch looks at one pass of 256, which seldom
falls into a round: its figure is what it costs between its samples. Whole steps are done a second time yet more
seldom, and are in some rounds. Many short rounds tell more than few long ones: none is longer than that, and there
are as many as the time (``budget_s``) allows.

*Which workload counts.* Integrity costs Python time by the operation and memory time by the weight, and both shrink
beside the products as a model grows and as more tokens go into a step. The figure is that of nanoGPT's width, 768,
with 12,288 tokens to an optimiser step (nanoGPT's batch; its own recipe adds up forty of them), and of a batch of
answers to prompts of some length; the small model that a laptop trains in the demonstration stands beside it.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final, NamedTuple

import torch

from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.link.integrity import Level
from hil.randomness import stream

from .contestants import Shape, contestant
from .measurements import Overhead

MEASURED: Final = (Level.WATCH, Level.STANDARD, Level.STORM)
PASSES_MAX: Final = 32
PASSES_MIN: Final = 4
ROUNDS_MIN: Final = 3
ROUNDS_MAX: Final = 60
WARM_UNITS: Final = 1

CPU: Final = (
    Shape(name="tiny (3×96), 512 tokens a step", kind="train", preset="tiny", rows=8, small=True),
    Shape(name="gpt2-14m (2×768), 12,288 tokens a step", kind="train", preset="gpt2-14m", rows=4, micro_batches=12),
    Shape(
        name="tiny (3×96), 8 answers of 16 tokens", kind="infer", preset="tiny", rows=8, prompt=32, tokens=16,
        small=True,
    ),
    Shape(
        name="gpt2-14m (2×768), 16 answers of 32 tokens to prompts of 192", kind="infer", preset="gpt2-14m",
        rows=16, prompt=192, tokens=32,
    ),
)  # fmt: skip
CARD: Final = (
    Shape(name="GPT 85 M, 4×8×1024 tokens a step", kind="train", preset="gpt2-85m", rows=8, micro_batches=4),
    Shape(name="GPT 350 M, 4×8×1024 tokens a step", kind="train", preset="gpt2-302m", rows=8, micro_batches=4),
    Shape(
        name="GPT 85 M, 32 answers of 32 tokens to prompts of 512", kind="infer", preset="gpt2-85m", rows=32,
        prompt=512, tokens=32,
    ),
    Shape(
        name="GPT 350 M, 32 answers of 32 tokens to prompts of 512", kind="infer", preset="gpt2-302m", rows=32,
        prompt=512, tokens=32,
    ),
)  # fmt: skip


class Spent(NamedTuple):
    """Seconds of a round."""

    plain: float
    control: float
    guarded: float

    @property
    def percent(self) -> float:
        """What the guarded one took more than the mean of both plain twins."""
        return 100.0 * (2.0 * self.guarded / (self.plain + self.control) - 1.0)

    @property
    def control_percent(self) -> float:
        """What the second plain twin took more than the first."""
        return 100.0 * (self.control / self.plain - 1.0)


def measure(
    shape: Shape, corpus: Corpus, device: torch.device, budget_s: float, seed: int = 1,
    levels: tuple[Level, ...] = MEASURED, tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Overhead]:  # fmt: skip
    """Overhead of each level on one workload: rounds for about ``budget_s`` each, at least ``ROUNDS_MIN``."""
    with one_thread(device):
        plain, control, guarded = (
            contestant(shape, corpus, device, guarded=guarded) for guarded in (False, False, True)
        )
        for one in (plain, control, guarded):
            one.run(WARM_UNITS)
    rng = stream(seed, f"overhead {shape.name}")
    for level in levels:
        units = units_of(shape, level)
        rounds: list[Spent] = []
        spent_s = 0.0
        with one_thread(device):
            guarded.set_level(level)
            guarded.run(WARM_UNITS)
            while len(rounds) < ROUNDS_MIN or (spent_s < budget_s and len(rounds) < ROUNDS_MAX):
                tell(
                    f"{shape.name}, {level.name.lower()}: round {len(rounds) + 1}, {spent_s:.0f} of {budget_s:g} s"
                )
                turns = [one.pieces(units) for one in (plain, control, guarded)]
                rounds.append(Spent(*side_by_side(turns, rng)))
                spent_s += sum(rounds[-1])
        low, high = quartiles([spent.percent for spent in rounds])
        control_low, control_high = quartiles([spent.control_percent for spent in rounds])
        yield Overhead(
            workload=shape.name, kind=shape.kind, level=level.name.lower(),
            percent=statistics.median(spent.percent for spent in rounds), low=low, high=high,
            control_low=control_low, control_high=control_high, rounds=len(rounds), passes=units * shape.passes,
            device=device.type, small=shape.small,
        )  # fmt: skip


def side_by_side(turns: Sequence[Iterator[float]], rng: Random) -> list[float]:
    """Seconds of each turn, when all advance a piece at a time, in another order every time."""
    spent = [0.0] * len(turns)
    left = list(range(len(turns)))
    while left:
        rng.shuffle(left)
        for number in tuple(left):
            seconds = next(turns[number], None)
            if seconds is None:
                left.remove(number)
            else:
                spent[number] += seconds
    return spent


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute with one thread of the processor where its time is what is measured."""
    before = torch.get_num_threads()
    if device.type != "cuda":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def units_of(shape: Shape, level: Level) -> int:
    """Units of work in a round: a whole period of the level, and no more."""
    return -(-period(level) // shape.passes)


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
