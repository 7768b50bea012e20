"""Kernels at hand before work begins: a tiny training and a tiny answer under every check.

The processor's kernels are compiled at their first call on a machine, some half a minute for all of them, and read
from their cache at the first call in a process, about a second. Neither may happen within a micro-batch: it would
be late, or look stuck. So a worker calls ``warm_up`` before it says that it is ready. As a program this module
compiles for all workers to come: ``make setup`` does that.

Nor may a full pass of Python's collector, which walks over a quarter of a million objects, modules and torch's own,
for a tenth of a second and more. They live as long as the process, so it is told to leave them alone from here on.
Not later: a model holds itself in a circle (its guard, the observer of its cache), and one that is frozen when
another takes its place would never go.

And memory that an operation has freed is kept for the next one. The C library gives back what is more than some
megabytes, and the kernel clears each page that is asked for anew: of a training step 768 wide on a processor that
was 4 %, with checks and without. What lies free at most is ``KEPT_BYTES_MAX``.
"""

import ctypes
import functools
import gc
import sys
import time
from typing import Final

import torch

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.integrity.tally import Tally
from flightsw.gpu.protocol import Generate
from flightsw.gpu.workloads.generation import Batch
from flightsw.gpu.workloads.gpt import GPT, GPTConfig
from flightsw.gpu.workloads.guarded_update import GuardedUpdate
from flightsw.gpu.workloads.model_watch import ModelWatch
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.gpu.workloads.served import GptEngine
from flightsw.link.integrity import Level

CONFIG = GPTConfig(layers=1, heads=4, width=96, context=64)
ROWS = 4
PASSES = 2
KEPT_BYTES_MAX: Final = (1 << 31) - 1
"""Free memory at the end of the heap; what is more goes back."""
MAPPED_BYTES_MIN: Final = 1 << 30
"""What is larger is mapped by itself, and goes back at once."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` (malloc.h of the GNU C library)."""


@functools.cache
def warm_up() -> float:
    """Load, or compile, what is not loaded yet, and set what there is apart from what will come and go; once in a
    process, before a model is loaded. Seconds that kernels took.

    Random generators are as they were. Where there are no kernels for the processor, none are loaded.
    """
    _keep_memory()
    seconds = _load()
    gc.collect()
    gc.freeze()
    return seconds


def _keep_memory() -> None:
    """Nothing where another C library allocates."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES_MAX)


def _load() -> float:
    began_s = time.monotonic()
    if kernels.native(torch.device("cpu"), "native_rows") is None:
        return 0.0
    with torch.random.fork_rng(devices=[]):
        model = GPT(CONFIG)
        _train(model)
        _answer(model)
    return time.monotonic() - began_s


def _train(model: GPT) -> None:
    optimiser = AdamW(model)
    resident = Resident(regions_of(optimiser.flat()), _sound)
    resident.adopt()
    guard = protect(model, level=Level.STORM, report=_sound)
    text = torch.arange(ROWS * (CONFIG.context + 1)).remainder(CONFIG.vocabulary).view(ROWS, -1)
    for _ in range(PASSES):
        with guard.running():
            loss = model(text[:, :-1], text[:, 1:])[1]
            assert loss is not None, "targets were given"
            torch.autograd.backward(loss * 0.5)
        guard.settle()
    update, scale = GuardedUpdate(optimiser, resident, _sound), torch.ones(())
    update.apply(1e-3, scale, update.rehearse(1e-3, scale))
    resident.verify()
    guard.close()


def _answer(model: GPT) -> None:
    engine = GptEngine(model.requires_grad_(False), ROWS, torch.device("cpu"))
    batch = Batch(engine, ROWS, ModelWatch(engine, Level.STORM, Tally(Level.STORM)))
    request = Generate(request=0, prompt="x" * ROWS * ROWS, max_tokens=2, temperature=1.0, top_k=0, seed=0)
    batch.admit(request, time.monotonic())
    while batch.running:
        batch.advance()


def _sound(finding: Finding) -> None:
    """Not before anything has begun: whoever works will find it again."""


if __name__ == "__main__":
    sys.stdout.write(f"kernels of the integrity layer: {warm_up():.0f} s\n")
