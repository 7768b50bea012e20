"""A training of a few milliseconds a step, and the daemon that it talks to, in this process."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from worker_harness import tiny_corpus

from flightsw.gpu import protocol
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.workloads.gpt import PRESETS, Preset
from flightsw.gpu.workloads.job import Job

WAIT_S = 30.0


def micro_spec(folder: Path, patch: pytest.MonkeyPatch, layers: int = 2, **fields: Any) -> protocol.TrainSpec:
    """A job with the preset "micro", of so many layers and with dropout.

    Dropout makes torch's own generator part of the path; without it a lost random state would go unnoticed.
    """
    model = replace(PRESETS["micro"].model, layers=layers, dropout=0.1)
    patch.setitem(PRESETS, "micro", Preset(model=model, batch_size=PRESETS["micro"].batch_size))
    return protocol.TrainSpec(
        preset="micro",
        device="cpu",
        corpus=tiny_corpus(folder),
        checkpoint_dir=str(folder / "checkpoints"),
        micro_batches=2,
        **fields,
    )


@contextlib.contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Deterministic mode and thread count are global: they are given back."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode("default")
        torch.set_num_threads(threads)


class Daemon:
    """The other end of a job in this process: collects what it says."""

    def __init__(self, duty: float = 1.0) -> None:
        self.said: list[protocol.FromChild] = []
        self.arrived = threading.Condition()
        self.job = Job(self.send, Pacer(duty), Meter())

    def send(self, message: protocol.FromChild) -> None:
        with self.arrived:
            self.said.append(message)
            self.arrived.notify_all()

    def all(self, kind):
        return [message for message in self.said if isinstance(message, kind)]

    def wait_for(self, kind, count=1):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.all(kind)) >= count, WAIT_S), self.said
        return self.all(kind)[count - 1]
