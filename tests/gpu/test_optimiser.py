"""Our AdamW is torch's, without what its class drags in."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from flightsw.gpu.workloads import optimiser


def test_it_takes_the_steps_of_torch_s_own_class():
    def model():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2))

    ours, reference = model(), model()
    own = optimiser.AdamW(ours)
    groups = [
        {"params": [p for p in reference.parameters() if p.dim() >= 2], "weight_decay": optimiser.WEIGHT_DECAY},
        {"params": [p for p in reference.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, betas=optimiser.BETAS, eps=optimiser.EPSILON, fused=True)
    for step in range(5):
        x = torch.randn(7, 6)
        for group in theirs.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for network in (ours, reference):
            network.zero_grad()
            network(x).square().mean().backward()
        own.step(0.1 / (step + 1))
        theirs.step()
    for mine, their in zip(ours.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine, their)


@pytest.mark.process
def test_a_training_step_does_not_load_the_compiler():
    script = """
import sys
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads import train
assert train.prepare(TrainSpec(preset="micro", device="cpu")).micro_batch()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
