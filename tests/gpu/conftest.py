"""Every test of the GPU side draws the same numbers, alone or after others."""

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)
