"""Memory of a protected module between passes and updates: what was hit makes no update."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.protect import NotUsable, protect
from flightsw.link.integrity import Level
from tests.gpu.looking import mlp
from tests.gpu.struck_mode import Struck, flip


def test_a_step_from_a_tainted_pass_or_damaged_state_is_refused() -> None:
    model = mlp()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = protect(model, optimiser, level=Level.STORM)
    before = [parameter.clone() for parameter in model.parameters()]
    with guard.running(), Struck("gelu", flip(3)):
        model(torch.ones(20, 8)).sum().backward()
    with pytest.raises(NotUsable, match="tainted"):
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    optimiser.step()  # That taint is settled; the same gradients are the owner's responsibility now.
    for element in (0, 9):
        flip(20, element)(model[0].weight)
    with pytest.raises(NotUsable, match=r"weight 0\.weight"):
        optimiser.step()
    guard.adopt()
    optimiser.step()


def test_memory_only() -> None:
    guard = protect(mlp(), level=Level.STORM, compute=False)
    guard.module(torch.ones(1, 8))
    assert (guard.looked, guard.tally.checks, guard.settle()) == (0, 0, True)
    flip(20)(guard.module[0].weight)
    assert not guard.before_update(), "what was computed since may be wrong"
    assert guard.before_update()


def test_gradients_of_a_weight_that_was_wrong_make_no_update() -> None:
    """The weight is put right before the update; what was computed with the wrong one is done again."""
    torch.manual_seed(0)
    model, findings = mlp(), list[Finding]()
    optimiser = torch.optim.AdamW(model.parameters())
    guard = protect(model, optimiser, level=Level.WATCH, report=findings.append)
    x = torch.randn(5, 8)

    def gradients() -> None:
        optimiser.zero_grad()
        with guard.running():
            model(x).square().mean().backward()

    gradients()
    optimiser.step()
    flip(30)(model[0].weight)
    gradients()
    before = model[0].weight.detach().clone()
    with pytest.raises(NotUsable, match="run the step again"):
        optimiser.step()
    assert [finding.outcome for finding in findings] == ["repaired"]
    assert not torch.equal(model[0].weight, before), "the word is put right"
    gradients()
    optimiser.step()


@pytest.mark.parametrize("level", [Level.WATCH, Level.STORM])
def test_running_statistics_are_written_by_passes_and_guarded_between_them(level: Level) -> None:
    torch.manual_seed(0)
    model, findings = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).train(), list[Finding]()
    twin = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    twins = torch.optim.SGD(twin.parameters(), lr=0.1)
    guard = protect(model, optimiser, level=level, report=findings.append)
    for step in range(4):
        x = torch.randn(7, 4)
        for part, its in ((model, optimiser), (twin, twins)):
            its.zero_grad()
            with guard.running() if part is model else contextlib.nullcontext():
                part(x).square().sum().backward()
            its.step()
        if step == 1:
            flip(30)(model[1].running_mean)
            assert not guard.before_update()
    assert [finding.outcome for finding in findings] == ["repaired"]
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    )


def test_what_was_trained_at_off_is_good_when_the_level_rises() -> None:
    torch.manual_seed(0)
    model = mlp()
    optimiser = torch.optim.AdamW(model.parameters())
    guard = protect(model, optimiser, level=Level.OFF)
    for level in (Level.OFF, Level.OFF, Level.STORM, Level.OFF, Level.WATCH):
        guard.level = level
        with guard.running():
            model(torch.randn(3, 8)).sum().backward()
        optimiser.step()
    assert guard.resident.damaged == frozenset()


@torch.no_grad()
def test_sums_that_were_taken_of_a_damaged_weight_are_void_once_it_is_mended() -> None:
    """Damage that was there before the first product, and went with no version: its repair has none, either."""
    model, findings, x = mlp().eval(), list[Finding](), torch.randn(32, 8)
    expected = model(x)
    guard = protect(model, level=Level.STORM, report=findings.append)
    flip(23)(model[0].weight.data)
    with guard.running():
        model(x)
    assert not guard.before_update()
    guard.settle()
    assert [finding.outcome for finding in findings] == ["repaired"]
    with guard.running():
        result = model(x)
    assert guard.settle()
    assert torch.equal(result, expected)
    assert len(findings) == 1
