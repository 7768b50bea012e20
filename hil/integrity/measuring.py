"""What is measured beside the ledger: false alarms, overhead, scrub speed; each kept as soon as it is there.

What a folder has already is not measured again, unless it was smaller than what is asked for now.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import torch

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.gpt import PRESETS
from flightsw.link.integrity import Level

from . import false_alarms, measurements, overhead, second
from .contestants import Shape
from .measurements import CHECKS_WANTED, Scrub
from .testees import Roster

QUICK_CHECKS: Final = 20_000
QUICK_SECOND: Final = 100
SECOND: Final = 1500
"""Faults of each second injector."""
QUICK_OVERHEAD_S: Final = 100.0
OVERHEAD_S: Final = 300.0
"""Of each level on each workload."""
QUICK_SHAPES: Final = 1
"""Workloads of each kind in a quick run; watch, with its long period, in full runs only."""
SCRUB_BYTES: Final = {"cpu": 256 << 20, "cuda": 8 << 30}
SCRUB_RUNS: Final = 3

Say = Callable[[str], None]


def carry_out(folder: Path, testees: Roster, *, quick: bool, say: Say) -> None:
    """All three, on this machine's processor."""
    found = measurements.load(folder)
    if found.scrub is None:
        found = msgspec.structs.replace(found, scrub=scrub(torch.device("cpu")))
        measurements.save(folder, found)
    wanted = QUICK_CHECKS if quick else CHECKS_WANTED
    if found.false_alarms is None or found.false_alarms.checks < wanted:

        def tell(done: int, left_s: float) -> None:
            say(f"false alarms: {done} of {wanted} checks, {left_s:.0f} s left")

        alarms = false_alarms.measure(testees.model, testees.corpus, testees.seed, wanted, tell)
        found = msgspec.structs.replace(found, false_alarms=alarms)
        measurements.save(folder, found)
    if not any(one.ran for one in found.injectors):
        say("second injectors")
        packages = second.carry_out(folder, testees, QUICK_SECOND if quick else SECOND)
        found = msgspec.structs.replace(found, injectors=packages)
        measurements.save(folder, found)
    if not found.overhead:
        for row in overheads(torch.device("cpu"), quick=quick, say=say):
            found = msgspec.structs.replace(found, overhead=(*found.overhead, row))
            measurements.save(folder, found)


def overheads(device: torch.device, *, quick: bool, say: Say) -> list[measurements.Overhead]:
    """Every level on every workload of the device; a few of them when it has to be quick."""
    shapes: tuple[Shape, ...] = overhead.CARD if device.type == "cuda" else overhead.CPU
    if quick:
        shapes = tuple(
            shape for kind in ("train", "infer") for shape in [s for s in shapes if s.kind == kind][-QUICK_SHAPES:]
        )
    levels = (Level.STANDARD, Level.STORM) if quick else overhead.MEASURED
    text = corpus.load("", max(PRESETS[shape.preset].model.context for shape in shapes))
    return [
        row
        for shape in shapes
        for row in overhead.measure(
            shape,
            text,
            device,
            QUICK_OVERHEAD_S if quick else OVERHEAD_S,
            levels=levels,
            tell=lambda what: say(f"overhead: {what}"),
        )
    ]


def scrub(device: torch.device, size_bytes: int = 0) -> Scrub:
    """Speed of verifying resident state: the best of a few looks at all of it, 10⁹ bytes per second.

    On a processor of its own time, on a card of the wall clock's.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    size = size_bytes or SCRUB_BYTES[device.type]
    memory = torch.randint(-(2**31), 2**31 - 1, (size // 8,), dtype=torch.int64, device=device)
    findings: list[Finding] = []
    resident = Resident(regions_of([("memory", memory)]), findings.append)
    resident.adopt()

    def timed(work: Callable[[], object]) -> float:
        best_s = float("inf")
        for _ in range(SCRUB_RUNS):
            if device.type == "cuda":
                torch.cuda.synchronize()
            began_s = clock()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best_s = min(best_s, clock() - began_s)
        return best_s

    look_s, plain_s = timed(resident.verify), timed(lambda: memory.sum())
    assert not findings, "nothing was injected"
    return Scrub(gb_per_s=size / look_s / 1e9, bytes=size, device=device.type, plain_gb_per_s=size / plain_s / 1e9)
