"""Our AdamW is torch's, without what its class drags in."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from flightsw.gpu.workloads import optimiser


@pytest.mark.parametrize(("inner", "tolerance"), [(32, 0.0), (5, 6e-8)], ids=["whole vectors", "with a rest"])
def test_it_takes_the_steps_of_torch_s_own_class(inner, tolerance):
    """To the bit where a parameter is whole vectors; the rest of one is rounded otherwise by torch's scalar loop."""

    def model():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(16, inner), nn.LayerNorm(inner), nn.Linear(inner, 16))

    ours, reference = model(), model()
    own = optimiser.AdamW(ours)
    groups = [
        {"params": [p for p in reference.parameters() if p.dim() >= 2], "weight_decay": optimiser.WEIGHT_DECAY},
        {"params": [p for p in reference.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, betas=optimiser.BETAS, eps=optimiser.EPSILON, fused=True)
    for step in range(5):
        x = torch.randn(7, 16)
        for group in theirs.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for network in (ours, reference):
            network.zero_grad()
            network(x).square().mean().backward()
        own.step(0.1 / (step + 1))
        theirs.step()
    for mine, their in zip(ours.parameters(), reference.parameters(), strict=True):
        assert (mine - their).abs().max().item() <= tolerance


def test_parameters_and_gradients_live_in_flat_memory_and_a_gradient_elsewhere_is_brought_there():
    model = nn.Sequential(nn.Linear(16, 5), nn.LayerNorm(5))
    own = optimiser.AdamW(model)
    assert {p.untyped_storage().data_ptr() for p in model.parameters()} == {
        own.weights.untyped_storage().data_ptr()
    }
    model.zero_grad()
    model(torch.ones(2, 16)).square().sum().backward()
    assert own.gradients.abs().sum() == 0.0
    own.step(0.1)
    torch.testing.assert_close(own.gradients.norm(), own.gradient_norm())
    assert own.gradients.abs().sum() > 0.0
    own.zero_gradients()
    with pytest.raises(AssertionError, match="a step needs a backward pass"):
        model.zero_grad()
        own.step(0.1)


def test_chunks_are_every_word_once_matrices_with_decay():
    model = nn.Sequential(nn.Linear(900, 900), nn.LayerNorm(900))
    own = optimiser.AdamW(model)
    assert [(chunk.first, chunk.last) for chunk in own.chunks] == [(0, 8), (8, 13)]
    parts = [part for chunk in own.chunks for part in chunk.parts]
    assert sum(len(part.weights) for part in parts) == len(own.weights)
    assert [part.decay for part in parts] == [optimiser.WEIGHT_DECAY, optimiser.WEIGHT_DECAY, 0.0]
    for chunk in own.chunks:
        words = sum(len(part.weights) for part in chunk.parts)
        assert -(-words // optimiser.BLOCK_WORDS) == chunk.last - chunk.first


def test_moments_come_under_the_names_of_their_parameters():
    model = nn.Sequential(nn.Linear(16, 5))
    own = optimiser.AdamW(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.state()}
    assert shapes == {
        "0.weight.exp_avg": (5, 16), "0.weight.exp_avg_sq": (5, 16), "0.weight.step": (),
        "0.bias.exp_avg": (5,), "0.bias.exp_avg_sq": (5,), "0.bias.step": (),
    }  # fmt: skip


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
