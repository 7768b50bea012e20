"""What is done to a protected program between and within its passes: it goes through, or is told in a line."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes, _len_torch_dispatch_stack

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.pass_looks import PassLooks
from flightsw.gpu.integrity.protect import Guard, NotUsable, protect
from flightsw.gpu.integrity.protected_state import ProtectedState
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import Struck, flip

optim = torch.optim


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 4))


def guarded(model: nn.Module, level: Level = Level.STORM) -> tuple[Guard, optim.Optimizer, list[Finding]]:
    findings = list[Finding]()
    optimiser = optim.Adam(model.parameters())
    return protect(model, optimiser, level=level, report=findings.append), optimiser, findings


def one_pass(guard: Guard, optimiser: optim.Optimizer, x: Tensor) -> None:
    optimiser.zero_grad()
    with guard.running():
        guard.module(x.to(next(guard.module.parameters()).dtype)).square().mean().backward()


@torch.no_grad()
def _copied(model: Any, its: Any) -> None:
    model[0].weight.copy_(torch.ones(16, 8))


def _replaced(model: Any, its: Any) -> None:
    model[2] = nn.Linear(16, 4)


def _assigned(model: Any, its: Any) -> None:
    model[0].weight = nn.Parameter(torch.ones(16, 8))


DAMAGED = "damaged and not repairable: .*; restore the state and call adopt"
CHANGED = r"the program has changed .*0\.weight.*, unannounced; adopt\(\) says"
NEW = "nobody said that these are good, adopt\\(\\) says it: "
CHANGES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a row through .data": (lambda model, its: model[0].weight.data[0].zero_(), DAMAGED),
    "all through numpy": (lambda model, its: model[0].weight.detach().numpy().fill(2.0), DAMAGED),
    "copy_": (_copied, CHANGED),
    "load_state_dict": (lambda model, its: model.load_state_dict(normed_like(model)), CHANGED),
    "a state_dict that is assigned": (
        lambda model, its: model.load_state_dict(normed_like(model), assign=True),
        NEW + r"weight 0\.weight",
    ),
    "another dtype": (lambda model, its: model.double(), CHANGED),
    "a parameter in place of another": (_assigned, NEW + r"weight 0\.weight"),
    "a layer in place of another": (_replaced, NEW + r"weight 2\.weight, weight 2\.bias"),
    "one more layer": (lambda model, its: model.append(nn.Linear(4, 4)), NEW + r"weight 3\.weight"),
    "one more group": (
        lambda model, its: its.add_param_group({"params": [nn.Parameter(torch.ones(3))]}),
        NEW + "parameter 4",
    ),
    "optimiser.load_state_dict": (lambda model, its: its.load_state_dict(copy.deepcopy(its.state_dict())), CHANGED),
    "one layer less": (lambda model, its: model.__delitem__(2), ""),
    "frozen": (lambda model, its: model[0].requires_grad_(False), ""),
    "evaluation": (lambda model, its: model.eval(), ""),
    "another learning rate": (lambda model, its: its.param_groups[0].update(lr=0.5), ""),
    "a copy of everything": (lambda model, its: copy.deepcopy((model, its.state_dict())), ""),
    "a move to where it is": (lambda model, its: model.to("cpu", torch.float32), ""),
}


def normed_like(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.ones_like(one) for name, one in model.state_dict().items()}


@pytest.mark.parametrize("level", [Level.WATCH, Level.STORM])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_passes_goes_through_or_is_told_and_adopted(name: str, level: Level) -> None:
    change, refusal = CHANGES[name]
    guard, optimiser, findings = guarded(mlp(), level)
    one_pass(guard, optimiser, torch.randn(20, 8))
    optimiser.step()
    change(guard.module, optimiser)
    if refusal:
        for _ in range(2):
            one_pass(guard, optimiser, torch.randn(20, 8))
            with pytest.raises(NotUsable, match=refusal) as refused:
                optimiser.step()
            assert "\n" not in str(refused.value)
        assert {finding.outcome for finding in findings} == {"open"}
        if name == "another dtype":
            optimiser = optim.Adam(guard.module.parameters())  # Its state was of the old one.
        guard.adopt()
        findings.clear()
    one_pass(guard, optimiser, torch.randn(20, 8))
    optimiser.step()
    assert findings == []


def test_state_that_comes_late_is_guarded_from_then_on() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    guard, optimiser, _ = guarded(model)
    for thawed in (False, True):
        model[0].requires_grad_(thawed)
        one_pass(guard, optimiser, torch.randn(20, 8))
        optimiser.step()
    for element in (0, 3):
        flip(22, element)(optimiser.state[model[0].weight]["exp_avg"])
    with pytest.raises(NotUsable, match=r"exp_avg of 0\.weight"):
        optimiser.step()


def test_what_no_digest_can_hold_is_named() -> None:
    model = mlp()
    model.scale = torch.ones(4)
    guard = protect(model)
    assert guard.coverage().gaps == (("scale", "memory: a plain attribute; register it as a buffer"),)


def test_lazy_parameters_are_refused_in_one_line() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"^protect: 0\.weight has no memory yet; call the module once"):
        protect(model)


# Passes that end in another way.


def _in_forward(model: Any, guard: Guard) -> None:
    with guard.running():
        model[2](model[1](model(torch.ones(20, 8))))


def _in_backward(model: Any, guard: Guard) -> None:
    def interrupt(gradient: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with guard.running():
        hidden = model[1](model[0](torch.ones(20, 8)))
        hidden.register_hook(interrupt)
        model[3](model[2](hidden)).sum().backward()


def _between(model: Any, guard: Guard) -> None:
    with guard.running(), guard.running():
        model(torch.ones(20, 8)).sum().backward()
        raise KeyboardInterrupt


@pytest.mark.parametrize("level", [Level.WATCH, Level.STORM])
@pytest.mark.parametrize("end", [_in_forward, _in_backward, _between])
def test_a_pass_that_raises_leaves_nothing_and_the_next_ones_are_those_of_a_twin(
    end: Callable[[Any, Guard], None], level: Level
) -> None:
    model = normed()
    twin = copy.deepcopy(model)
    guard, optimiser, findings = guarded(model, level)
    twins = optim.Adam(twin.parameters())
    assert guard.settle(), "no pass is a good one"
    for number in range(3):
        if number == 1:
            with pytest.raises((RuntimeError, KeyboardInterrupt)):
                end(model, guard)
            assert _len_torch_dispatch_stack() == 0
            with pytest.raises(NotUsable, match="tainted or unfinished; run the step again"):
                optimiser.step()
        x = torch.randn(20, 8)
        one_pass(guard, optimiser, x)
        optimiser.step()
        twins.zero_grad()
        twin(x).square().mean().backward()
        twins.step()
    assert findings == []
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_statistics_of_a_pass_that_is_thrown_away_are_put_back() -> None:
    model = normed()
    before = {name: one.clone() for name, one in model.named_buffers()}
    guard, optimiser, findings = guarded(model)
    with guard.running():
        hidden = model[0](torch.ones(20, 8))
        with _disable_current_modes():
            flip(30)(hidden.detach())
        model[3](model[2](model[1](hidden))).sum().backward()
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert not guard.settle()
    assert [finding.outcome for finding in findings] == ["contained"]
    assert all(torch.equal(one, before[name]) for name, one in model.named_buffers())
    one_pass(guard, optimiser, torch.randn(20, 8))
    optimiser.step()
    assert len(findings) == 1


def test_statistics_of_a_pass_with_a_weight_that_was_wrong_are_put_back() -> None:
    model = normed()
    guard, optimiser, findings = guarded(model, Level.WATCH)
    one_pass(guard, optimiser, torch.randn(20, 8))
    optimiser.step()
    before = model[1].running_mean.clone()
    flip(30)(model[0].weight)
    one_pass(guard, optimiser, torch.randn(20, 8))
    with pytest.raises(NotUsable, match="put right"):
        optimiser.step()
    assert torch.equal(model[1].running_mean, before)
    assert [finding.outcome for finding in findings] == ["repaired"]


# Steps.


@pytest.mark.parametrize("level", Level)
def test_a_step_within_a_pass_is_refused_at_every_level(level: Level) -> None:
    guard, optimiser, _ = guarded(mlp(), level)
    with guard.running():
        guard.module(torch.ones(20, 8)).sum().backward()
        with pytest.raises(NotUsable, match="leave running\\(\\) first"):
            optimiser.step()
    optimiser.step()


@pytest.mark.parametrize("by_name", [False, True])
def test_what_a_closure_computed_is_settled_before_it_is_used(by_name: bool) -> None:
    model = mlp()
    guard, optimiser, findings = guarded(model)
    before = [one.detach().clone() for one in model.parameters()]
    faults: list[Any] = [contextlib.nullcontext(), Struck("gelu", flip(29))]

    def closure() -> Tensor:
        optimiser.zero_grad()
        with guard.running(), faults.pop():
            loss: Tensor = model(torch.ones(20, 8)).square().mean()
            loss.backward()
        return loss

    step: Any = optimiser.step
    with pytest.raises(NotUsable, match="a pass of its closure is tainted"):
        step(closure=closure) if by_name else step(closure)
    assert findings
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    step(closure)
    assert not torch.equal(model[0].weight, before[0])


def test_a_pass_is_refused_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device says is played; the refusal is not."""
    model = mlp()
    mode = Checked(print)
    state = ProtectedState(model, None, mode, print)
    looks = PassLooks(model, mode, state, Level.STORM, compute=True, wide=False, card=True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="a CUDA graph is being captured") as refused, looks.running():
        raise AssertionError("it began")
    assert "\n" not in str(refused.value)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with looks.running():
        model(torch.ones(20, 8))
    assert looks.settle() == (True, True)
