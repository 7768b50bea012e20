"""Shared by all tests: Hypothesis profile, deadlines instead of sleeps, reasons for skipped hardware tests."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.background import Patience

# A failing example prints its own reproduction; wall-clock deadlines would make a busy machine a failure.
settings.register_profile("gpusat", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gpusat")

# What runs in the background of a shell inherits a Ctrl-C that is ignored, and hands that on to every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
END_MAX_S = 5.0


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait for a condition of another process, up to a deadline: ``eventually(lambda: ..., 10, "what")``."""

    def wait(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "condition") -> None:
        patience = Patience(timeout_s)
        pause = threading.Event()
        while not condition():
            if patience.over():
                pytest.fail(f"{what}: not within {timeout_s:g} s")
            # A wait that gives the processor away: a spinning test would starve what it waits for.
            pause.wait(0.005)

    return wait


@pytest.fixture(autouse=True)
def _nothing_outlives_its_test() -> Iterator[None]:
    """A thread that is left would fail whichever test is next: here it fails the one that left it."""
    before = set(threading.enumerate())
    yield
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(END_MAX_S)
            assert not thread.is_alive(), f"{thread} outlives its test"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped, with the reason, where torch finds no CUDA device."""
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
