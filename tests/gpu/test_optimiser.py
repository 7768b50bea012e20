"""Our AdamW is torch's, without what its class drags in."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from flightsw.gpu.workloads import optimiser


@pytest.mark.parametrize(("inner", "tolerance"), [(32, 0.0), (5, 6e-8)], ids=["whole vectors", "with a rest"])
def test_it_takes_the_steps_of_torch_s_own_class(inner, tolerance):
    """To the bit where a parameter is whole vectors; torch's scalar loop rounds the rest of one otherwise."""

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
    homes = {tensor.untyped_storage().data_ptr() for _, tensor in own.flat()}
    assert {p.untyped_storage().data_ptr() for p in model.parameters()} < homes
    model.zero_grad()
    model(torch.ones(2, 16)).square().sum().backward()
    assert all(gradients.abs().sum() == 0.0 for gradients in own.gradients())
    own.step(0.1)
    torch.testing.assert_close(torch.cat(own.gradients()).norm(), own.gradient_norm())
    assert all(gradients.abs().sum() > 0.0 for gradients in own.gradients())
    own.zero_gradients()
    model.zero_grad()
    with pytest.raises(AssertionError, match="a step needs a backward pass"):
        own.step(0.1)


def test_chunks_are_every_word_of_each_group_once():
    own = optimiser.AdamW(nn.Sequential(nn.Linear(900, 900), nn.LayerNorm(900)))
    assert [(group.name, group.decay) for group in own.groups] == [("matrices", 0.1), ("vectors", 0.0)]
    assert [(chunk.group, chunk.first, chunk.last) for chunk in own.chunks] == [(0, 0, 8), (0, 8, 13), (1, 0, 1)]
    for number, group in enumerate(own.groups):
        words = sum(len(chunk.rows.weights) for chunk in own.chunks if chunk.group == number)
        assert words == len(group.rows.weights)


def test_a_model_without_vectors_has_one_group():
    own = optimiser.AdamW(nn.Linear(8, 8, bias=False))
    assert [group.name for group in own.groups] == ["matrices"]


def test_moments_come_under_the_names_of_their_parameters():
    model = nn.Sequential(nn.Linear(16, 5))
    own = optimiser.AdamW(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.state()}
    assert shapes == {
        "0.weight.exp_avg": (5, 16), "0.weight.exp_avg_sq": (5, 16), "0.weight.step": (),
        "0.bias.exp_avg": (5,), "0.bias.exp_avg_sq": (5,), "0.bias.step": (),
    }  # fmt: skip


@pytest.mark.process
def test_a_training_step_loads_neither_the_compiler_nor_triton():
    script = """
import sys
import torch
from flightsw.gpu.integrity import digest, guarded_adamw
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads import train
digest.digest(torch.zeros(9, dtype=torch.uint8))
assert train.prepare(TrainSpec(preset="micro", device="cpu")).micro_batch()
assert "torch._dynamo" not in sys.modules
assert not [name for name in sys.modules if name.split(".")[0] == "triton"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
