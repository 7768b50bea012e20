"""What a worker loads before it is ready: afterwards, nothing is compiled within a micro-batch."""

import gc
import importlib
import pkgutil
import platform
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from flightsw.gpu import integrity
from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.tally import Tally
from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.gpt import GPT
from flightsw.gpu.workloads.model_watch import ModelWatch
from flightsw.gpu.workloads.served import GptEngine
from flightsw.gpu.workloads.warm_up import CONFIG, warm_up
from flightsw.link.integrity import Level
from hil.integrity.contestants import Shape, contestant

pytest.importorskip("numba")


def compiled() -> dict[str, int]:
    """Kernels of this process, and for how many types of arguments each was made."""
    found: dict[str, int] = {}
    for module in pkgutil.iter_modules(integrity.__path__):
        if module.name.startswith("native"):
            loaded = importlib.import_module(f"flightsw.gpu.integrity.{module.name}")
            found |= {
                f"{module.name}.{name}": len(kernel.signatures)
                for name, kernel in vars(loaded).items()
                if hasattr(kernel, "signatures")
            }
    return found


@pytest.mark.parametrize(
    "shape",
    [
        Shape(name="a training", kind="train", preset="micro", rows=4, micro_batches=2),
        Shape(name="a server", kind="infer", preset="micro", rows=2, prompt=40, tokens=3),
    ],
    ids=lambda shape: shape.kind,
)
def test_nothing_is_compiled_once_work_has_begun(shape: Shape) -> None:
    warm_up()
    before = compiled()
    assert sum(before.values()) > 12, "kernels were loaded"
    work = contestant(shape, corpus.load("", 256), torch.device("cpu"), guarded=True)
    work.set_level(Level.STORM)
    work.run(2)
    assert compiled() == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library allocates")
def test_memory_that_an_operation_has_freed_is_there_for_the_next_one() -> None:
    warm_up()
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            held = [torch.ones(3 << 20) for _ in range(6)]
            del held
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    pages = 5 * 6 * (12 << 20) // resource.getpagesize()
    assert faults[-1] < pages // 20, "pages are asked for once"


CAMPAIGN = """\
from tests.gpu.test_warm_up import compiled
from hil.integrity.compute_part import Trial
from hil.integrity.testees import Roster

testees = Roster(seed=3, steps=2)
before = compiled()
for name in ("train-mixed", "gpt-float32", "decode-float32"):
    Trial(testees, name).close()
assert sum(before.values()) > 12, "kernels were loaded"
assert compiled() == before, "compiled within a run that is bounded in time"
"""


def test_nothing_is_compiled_within_a_run_of_a_campaign() -> None:
    """Such a run ends after ten seconds and counts as one that hangs: with fresh sources an undisturbed one did."""
    done = subprocess.run(
        [sys.executable, "-c", CAMPAIGN], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_random_generators_are_left_alone() -> None:
    state = torch.get_rng_state()
    warm_up.__wrapped__()
    assert torch.equal(torch.get_rng_state(), state)


def test_without_kernels_there_is_nothing_to_load() -> None:
    with kernels.plain():
        assert warm_up.__wrapped__() == 0.0


def test_the_collector_leaves_modules_alone_and_a_model_that_is_swapped_out_goes() -> None:
    warm_up.__wrapped__()
    assert gc.get_freeze_count() > 100_000, "torch alone has more"
    engine = GptEngine(GPT(CONFIG), 2, torch.device("cpu"))
    watch = ModelWatch(engine, Level.STORM, Tally(Level.STORM))
    weights, cache = weakref.ref(engine.module), weakref.ref(engine.cache)
    del engine, watch
    gc.collect()
    assert weights() is None
    assert cache() is None
