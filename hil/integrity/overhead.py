"""What protection costs: protected against unprotected, interleaved, in processor time, with an A/A control.

A machine drifts: clocks, caches, neighbours. So no long run of one is compared with a long run of the other. In
each round every contestant (``contestants``) has one turn, in an order drawn anew: the plain twin, a second plain
twin, and the guarded one at each level. The ratio is formed within a round; the figure is the median of the rounds,
its quartiles are its noise, and the ratio of the two plain twins says what "nothing" looks like on this machine.

On a processor the time is that of the process, which a neighbour does not lengthen. On a card it is the wall clock.

A turn has as many passes as the level has in its longest period, at most ``PASSES_MAX``, so that what is done at
every 32nd pass is in it once; storm does everything in every pass. Watch looks at one pass of 256, which seldom
falls into a turn: its figure is what it costs between its samples. Longer turns have fewer rounds.

*Which workload counts.* Integrity costs Python time by the operation and memory time by the weight, and both shrink
beside the products as a model grows and as more tokens go into a step. The figure is that of nanoGPT's width, 768,
with 12,288 tokens to an optimiser step (nanoGPT's batch; its own recipe adds up forty of them), and of a batch of
answers to prompts of some length; the small model that a laptop trains in the demonstration stands beside it.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Final

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


def measure(
    shape: Shape, corpus: Corpus, device: torch.device, rounds: int, seed: int = 1,
    levels: tuple[Level, ...] = MEASURED, tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Overhead]:  # fmt: skip
    """Overhead of each level on one workload."""
    plain, control, guarded = (
        contestant(shape, corpus, device, guarded=guarded) for guarded in (False, False, True)
    )
    for one in (plain, control, guarded):
        one.run(WARM_UNITS)
    rng = stream(seed, f"overhead {shape.name}")
    for level in levels:
        units = -(-period(level) // shape.passes)
        ratios: list[float] = []
        controls: list[float] = []
        guarded.set_level(level)
        guarded.run(WARM_UNITS)
        turns_wanted = max(ROUNDS_MIN, rounds * PASSES_MIN // (units * shape.passes))
        for number in range(turns_wanted):
            tell(f"{shape.name}, {level.name.lower()}: round {number + 1} of {turns_wanted}")
            turns = [plain, control, guarded]
            rng.shuffle(turns)
            spent = {id(one): one.run(units) for one in turns}
            ratios.append(100.0 * (spent[id(guarded)] / spent[id(plain)] - 1.0))
            controls.append(100.0 * (spent[id(control)] / spent[id(plain)] - 1.0))
        low, high = quartiles(ratios)
        control_low, control_high = quartiles(controls)
        yield Overhead(
            workload=shape.name, kind=shape.kind, level=level.name.lower(), percent=statistics.median(ratios),
            low=low, high=high, control_low=control_low, control_high=control_high, rounds=turns_wanted,
            passes=units * shape.passes, device=device.type, small=shape.small,
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
