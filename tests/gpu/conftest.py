"""Every test of the GPU side draws the same numbers, alone or after others; and what several of its files need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_rig import micro_spec, torch_as_it_was

from flightsw.gpu import protocol
from flightsw.gpu.integrity import kernels


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)


@pytest.fixture
def storm_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[protocol.TrainSpec]:
    """A training at level STORM, of two micro-batches of two parts; torch is as it was afterwards."""
    with torch_as_it_was():
        yield micro_spec(tmp_path, monkeypatch, layers=1, micro_batch_split=2, integrity="storm")


@pytest.fixture
def plain() -> Iterator[None]:
    """Without the processor's kernels."""
    with kernels.plain():
        yield
