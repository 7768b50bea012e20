"""One call: passes, levels that change no bit, what plain code gets, and what it says to what it cannot do."""

import contextlib
import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _len_torch_dispatch_stack
from torch.utils.checkpoint import checkpoint

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.integrity.protect import Guard, NotUsable, protect
from flightsw.gpu.workloads.gpt import GPT, Cache, GPTConfig
from flightsw.gpu.workloads.optimiser import AdamW
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import Struck, flip

CONFIG = GPTConfig(layers=2, heads=2, width=32, context=24, dropout=0.1)
STEPS = 9


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


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


@pytest.mark.parametrize(
    ("level", "looked"), [(Level.OFF, 0), (Level.WATCH, 1), (Level.STANDARD, 2), (Level.STORM, 9)]
)
def test_a_pass_that_is_not_looked_at_is_not_touched(level: Level, looked: int) -> None:
    guard = protect(mlp(), level=level)
    entered = 0
    for _ in range(9):
        with guard.running():
            entered += _len_torch_dispatch_stack()
            guard.module(torch.ones(1, 8))
    assert (guard.passes, guard.looked, entered) == (9, looked, looked)


def test_everything_looks_at_a_pass_that_is_done_again() -> None:
    guard = protect(mlp(), level=Level.OFF)
    with guard.running(everything=True):
        guard.module(torch.ones(1, 8))
    assert (guard.looked, guard.settle()) == (1, True)
    assert guard.tally.checks > 0


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


def test_an_exception_leaves_the_mode_and_the_pass_is_not_settled() -> None:
    guard = protect(mlp(), level=Level.STORM)

    def fail() -> None:
        with guard.running():
            guard.module(torch.ones(20, 8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert _len_torch_dispatch_stack() == 0
    assert guard.settle() is False
    with pytest.raises(RuntimeError):
        guard.module(torch.ones(1, 9))
    assert (_len_torch_dispatch_stack(), guard.settle()) == (0, False)
    guard.module(torch.ones(1, 8))
    assert guard.settle() is True


def test_a_pass_within_a_pass_is_part_of_it() -> None:
    guard = protect(mlp(), level=Level.STORM)
    with guard.running(), guard.running():
        guard.module(torch.ones(1, 8))
        assert _len_torch_dispatch_stack() == 1
    assert (guard.passes, guard.settle()) == (1, True)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (lambda: protect(torch.ones(3)), "is no torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: protect(lambda x: x), "is no torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: _twice(mlp()), "the module is protected already"),
        (lambda: _twice(mlp(), inner=True), "0 is protected already"),
    ],
    ids=["tensor", "function", "twice", "a part"],
)
def test_what_cannot_be_protected_is_refused_in_one_line(what: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as refused:
        what()
    assert "\n" not in str(refused.value)


def _twice(module: nn.Module, *, inner: bool = False) -> None:
    protect(module[0] if inner else module)
    protect(module)


def test_a_closed_guard_leaves_the_module_as_it_was() -> None:
    module = mlp()
    before = set(module.__dict__)
    optimiser = torch.optim.SGD(module.parameters())
    guard = protect(module, optimiser, level=Level.STORM)
    guard.close()
    assert set(module.__dict__) == before
    torch.save(module, io.BytesIO())
    flip(30)(module[0].weight)
    module(torch.ones(1, 8)).sum().backward()
    optimiser.step()
    protect(module).close()


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


def test_a_copy_of_a_protected_module_is_a_module_of_its_own() -> None:
    guard = protect(mlp(), level=Level.STORM)
    x = torch.ones(1, 8)
    twin = copy.deepcopy(guard.module)
    file = io.BytesIO()
    torch.save(guard.module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    expected, passes = guard.module(x), guard.passes
    for other in (twin, loaded):
        assert torch.equal(other(x), expected)
        torch.nn.init.zeros_(other[2].weight)
        assert not torch.equal(other(x), expected)
    assert guard.passes == passes
    assert list(inspect.signature(guard.module.forward).parameters) == ["input"]


def test_memory_only() -> None:
    guard = protect(mlp(), level=Level.STORM, compute=False)
    guard.module(torch.ones(1, 8))
    assert (guard.looked, guard.tally.checks, guard.settle()) == (0, 0, True)
    flip(20)(guard.module[0].weight)
    assert not guard.before_update(), "what was computed since may be wrong"
    assert guard.before_update()


def test_levels_are_those_of_the_table() -> None:
    guard = protect(mlp(), level=Level.WATCH)
    assert guard.vigilance == LEVELS[Level.WATCH]


def test_results_out_of_their_calibrated_range_taint_a_pass_that_is_not_looked_at() -> None:
    torch.manual_seed(0)
    findings = list[Finding]()
    guard = protect(mlp(), level=Level.WATCH, report=findings.append)
    x = torch.randn(20, 8)
    with guard.calibrate():
        for _ in range(3):
            guard.module(x)
    assert guard.settle()
    guard.module(x)
    assert guard.settle()
    assert guard.looked == 1, "none of these passes is looked at by operations"
    with Struck("addmm", flip(30)):
        guard.module(x)
    assert not guard.settle()
    assert (findings[0].detector, findings[0].outcome, findings[0].where) == ("range", "contained", "0")
    findings.clear()
    guard.module[0].weight.data.fill_(torch.nan)
    guard.module(x)
    assert not guard.settle()
    assert {found.detector for found in findings} == {"finite"}


def test_a_range_that_a_fully_checked_pass_crosses_is_widened() -> None:
    findings = list[Finding]()
    guard = protect(mlp(), level=Level.STORM, report=findings.append)
    with guard.calibrate():
        guard.module(torch.ones(20, 8))
    guard.module(torch.full((20, 8), 50.0))
    assert guard.settle()
    assert findings == []
    guard.level = Level.WATCH
    guard.module(torch.full((20, 8), 50.0))
    assert guard.settle(), "learnt"
    guard.module(torch.full((20, 8), 5000.0))
    assert not guard.settle()
    with guard.running(everything=True):
        guard.module(torch.full((20, 8), 5000.0))
    assert guard.settle(), "done again with everything checked"


def struck_word(tensor: torch.Tensor, bit: int = 30) -> None:
    """Flip a bit of the first word behind torch's back: through the storage, which moves no version."""
    memory = torch.empty(0, dtype=torch.int32).set_(tensor.untyped_storage())
    memory[0] ^= 1 << bit


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
    struck_word(model[0].weight)
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
            struck_word(model[1].running_mean)
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
