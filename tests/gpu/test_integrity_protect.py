"""One call: levels that change no bit, what plain code gets, and modules of every build."""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.integrity.protect import Guard, NotUsable, protect
from flightsw.gpu.workloads.gpt import GPT, Cache, GPTConfig
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.link.integrity import Level
from tests.gpu.looking import mlp
from tests.gpu.struck_mode import Struck, flip

CONFIG = GPTConfig(layers=2, heads=2, width=32, context=24, dropout=0.1)
STEPS = 9


def trained(level: Level, change: Callable[[Guard, int], None] = lambda guard, step: None) -> list[torch.Tensor]:
    """Parameters and random state after a few steps under a level."""
    torch.manual_seed(3)
    model, findings = GPT(CONFIG).train(), list[Finding]()
    optimiser = AdamW(model)
    guard = protect(model, level=level, report=findings.append)
    for step in range(STEPS):
        change(guard, step)
        idx = torch.randint(256, (3, 24))
        with guard.running():
            model(idx, idx)[1].backward()
        assert guard.settle()
        assert guard.before_update()
        optimiser.step(1e-2)
        guard.after_update()
        model.zero_grad()
    assert findings == []
    return [*(parameter.detach() for parameter in model.parameters()), torch.get_rng_state()]


def test_training_is_the_same_bit_for_bit_at_every_level() -> None:
    bare = trained(Level.OFF)
    for level in (Level.WATCH, Level.STANDARD, Level.STORM):
        assert all(torch.equal(a, b) for a, b in zip(trained(level), bare, strict=True)), level

    def switch(guard: Guard, step: int) -> None:
        guard.level = Level(step % 4)

    assert all(torch.equal(a, b) for a, b in zip(trained(Level.OFF, switch), bare, strict=True))


@pytest.mark.parametrize("level", Level)
def test_generation_is_the_same_bit_for_bit_at_every_level(level: Level) -> None:
    torch.manual_seed(5)
    model = GPT(CONFIG).eval()
    tokens = torch.randint(256, (3, 20))
    answers = []
    for protected in (False, True):
        cache, logits = Cache(CONFIG, 3), []
        guard = protect(model, level=level) if protected else None
        for start, stop in [(0, 12), *((n, n + 1) for n in range(12, 20))]:
            positions = torch.arange(start, stop).expand(3, -1)
            with torch.inference_mode():
                if guard is None:
                    logits.append(model.forward_cached(tokens[:, start:stop], cache, positions))
                else:
                    with guard.running():
                        logits.append(model.forward_cached(tokens[:, start:stop], cache, positions))
                    assert guard.settle()
        answers.append([*logits, *cache.keys, *cache.values])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_plain_calls_and_steps_are_covered() -> None:
    model, findings = mlp(), list[Finding]()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    guard = protect(model, optimiser, level=Level.STORM, report=findings.append)
    expected = copy.deepcopy(model[2])(nn.functional.gelu(model[0](torch.ones(20, 8))))
    with Struck("addmm", flip(30)):
        result = model(torch.ones(20, 8))
    assert torch.equal(result, expected)
    assert [found.outcome for found in findings] == ["recomputed"]
    result.sum().backward()
    optimiser.step()
    assert guard.resident.verify()
    flip(20, 3)(model[0].weight)
    kept = model[0].weight.clone()
    optimiser.zero_grad()
    model(torch.ones(1, 8)).sum().backward()
    with pytest.raises(NotUsable, match="run the step again"):
        optimiser.step()
    assert findings[-1].outcome == "repaired"
    assert not torch.equal(model[0].weight, kept)
    optimiser.step()


@pytest.mark.parametrize("bit", [3, 30])
def test_the_norm_that_gradients_are_clipped_by_is_made_twice(bit: int) -> None:
    """Within a pass torch takes the norms of all of them by one operation, which changes nothing."""
    norms = []
    for damage in (None, flip(bit)):
        torch.manual_seed(6)
        module = nn.Linear(4, 3)
        findings: list[Finding] = []
        guard = protect(module, level=Level.STORM, report=findings.append)
        struck = Struck("_foreach_norm", damage) if damage else contextlib.nullcontext()
        with struck, guard.running():
            module(torch.ones(2, 4)).square().sum().backward()
            norms.append(nn.utils.clip_grad_norm_(module.parameters(), 0.1, foreach=True))
        assert guard.settle()
        assert [finding.detector for finding in findings] == (["repeat"] if damage else [])
    assert torch.equal(*norms)


def test_levels_are_those_of_the_table() -> None:
    guard = protect(mlp(), level=Level.WATCH)
    assert guard.vigilance == LEVELS[Level.WATCH]


class Twice(nn.Module):
    """One layer used twice, a tied weight, a buffer, a hook of its own, an in-place operation, a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.head = nn.Linear(16, 16, bias=False)
        self.head.weight = self.layer.weight
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("scale", torch.full((16,), 2.0)[::2])
        self.layer.register_forward_hook(lambda module, args, result: result * 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = checkpoint(self.layer, x, use_reentrant=False)
        x = self.norm(self.layer(x)).relu_() + 0.5
        x[:, ::2] *= self.scale
        return self.head(x)


def test_shared_parts_hooks_changes_in_place_and_checkpointing() -> None:
    torch.manual_seed(0)
    module = Twice()
    twin = copy.deepcopy(module)
    guard = protect(module, level=Level.STORM)
    x = torch.randn(20, 16)
    for _ in range(2):
        for one in (module, twin):
            one.zero_grad()
        with guard.running():
            module(x).square().sum().backward()
        twin(x).square().sum().backward()
        assert guard.settle()
        for a, b in zip(module.parameters(), twin.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.grad is not None
            assert torch.equal(a.grad, b.grad)
        assert all(torch.equal(a, b) for a, b in zip(module.buffers(), twin.buffers(), strict=True))
    module.eval()
    twin.eval()
    assert torch.equal(module(x), twin(x))
    assert guard.settle()


def test_autocast_keeps_its_bits() -> None:
    module, x = mlp(), torch.randn(40, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = module(x)
        guard = protect(module, level=Level.STORM)
        result = module(x)
    assert result.dtype is torch.bfloat16
    assert torch.equal(result, expected)
    assert guard.settle()


@pytest.mark.parametrize("level", Level)
def test_half_precision_has_one_form_at_all_levels(level: Level) -> None:
    torch.manual_seed(0)
    module, x = mlp().bfloat16(), torch.randn(40, 8).bfloat16()
    guard = protect(module, level=Level.STORM)
    expected = module(x)
    guard.level = level
    for _ in range(3):
        assert torch.equal(module(x), expected)
    assert guard.settle()
