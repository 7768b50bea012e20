"""Sums in place: formed before they are written, and looked after from one backward pass to the next."""

import ctypes
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.integrity.transit import COLUMNS
from flightsw.gpu.integrity.verdicts import Look
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import Struck, flip

ALL = Look(checksum=True, repeat=True, transit=True)


class Run:
    """A layer whose gradients add up over passes under checks."""

    def __init__(self, width: int = 64) -> None:
        self.layer = nn.Linear(width, width)
        self.batches = [torch.randn(8, width) for _ in range(3)]
        self.findings: list[Finding] = []
        self.mode = Checked(self.findings.append)
        for parameter in self.layer.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def backward(self, number: int, look: Look = ALL, *, adds: bool = False) -> bool:
        """One pass; whether it settled."""
        self.mode.begin(look)
        with self.mode:
            self.layer(self.batches[number]).square().sum().backward()
        self.mode.finish(adds=adds)
        return self.mode.settle()

    @property
    def gradient(self) -> Tensor:
        gradient = self.layer.weight.grad
        assert gradient is not None
        return gradient


@pytest.mark.parametrize("plain", [False, True])
def test_the_sum_has_the_bits_of_unwatched_passes(plain: bool) -> None:
    checked, free = Run(), Run()
    free.layer.load_state_dict(checked.layer.state_dict())
    free.batches = checked.batches
    for number in range(3):
        if plain:
            with kernels.plain():
                assert checked.backward(number)
        else:
            assert checked.backward(number)
        free.layer(free.batches[number]).square().sum().backward()
    assert torch.equal(checked.gradient, free.gradient)
    assert checked.findings == []


@pytest.mark.parametrize("width", [2, 6, 44, 46, 64, 300])
@pytest.mark.parametrize("bit", [0, 22, 31])
def test_a_gradient_hit_while_the_next_pass_runs_is_seen_by_its_sum(width: int, bit: int) -> None:
    pytest.importorskip("numba")
    run = Run(width)
    assert run.backward(0)
    hit = run.gradient.numpy().view(np.uint32)  # Past torch, as radiation does: its version does not move.
    hit[-1, -1] ^= np.uint32(1 << bit)
    assert not run.backward(1)
    assert [finding.detector for finding in run.findings] == ["transit"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("bit", [0, 13, 30])
def test_a_sum_that_comes_out_wrong_is_seen(plain: bool, bit: int) -> None:
    """Torch's is struck below the checks; a kernel's where it has left it, as nobody sees into a kernel."""
    run = Run()
    assert run.backward(0)
    struck = []

    def strike(tensor: Tensor) -> None:
        if tensor.shape == run.gradient.shape and not struck:
            struck.append(flip(bit, 7)(tensor))

    fault = Struck("add_", strike, times=1000)
    run.mode.begin(ALL)
    with kernels.plain() if plain else nullcontext(), ExitStack() as modes:
        for mode in (fault, run.mode) if plain else (run.mode, fault):
            modes.enter_context(mode)
        run.layer(run.batches[1]).square().sum().backward()
    run.mode.finish()
    assert struck
    assert not run.mode.settle()


# (what follows the pass whose sum is struck, whether it is seen)
FOLLOWS = (
    ("the next pass", lambda run: run.backward(2), True),
    ("a look", lambda run: run.mode.look_at_sums(), True),
    ("zeroes, and the next pass", lambda run: run.gradient.zero_().any() or run.backward(2), False),
)


@pytest.mark.parametrize(("follows", "seen"), [row[1:] for row in FOLLOWS], ids=[row[0] for row in FOLLOWS])
def test_a_sum_to_which_another_pass_will_add_is_looked_at_by_that(
    follows: Callable[[Run], object], seen: bool
) -> None:
    pytest.importorskip("numba")
    run = Run()
    assert run.backward(0, adds=True)
    run.gradient.numpy().view(np.uint32)[3, 3] ^= np.uint32(1)
    assert run.mode.settle(), "nobody has looked"
    settled = follows(run) is not False and run.mode.settle()
    assert settled is not seen


def zeroed(run: Run) -> None:
    run.gradient.zero_()


def clipped(run: Run) -> None:
    nn.utils.clip_grad_norm_(run.layer.parameters(), 1e-3)


def replaced(run: Run) -> None:
    run.layer.weight.grad = torch.randn_like(run.layer.weight)


def unwatched(run: Run) -> None:
    assert run.backward(2, Look(transit=True))


@pytest.mark.parametrize("between", [zeroed, clipped, replaced, unwatched])
def test_what_others_write_between_passes_is_no_damage(between: Callable[[Run], None]) -> None:
    run = Run()
    assert run.backward(0)
    between(run)
    assert run.backward(1)
    assert run.findings == []


def test_both_digests_are_tried_short_and_long() -> None:
    """The widths above have weights on both sides of the words from which column sums are formed."""
    assert 64 * 64 // 2 > COLUMNS > 44 * 44 // 2
    assert COLUMNS < 46 * 46 // 2


def part(x: Tensor, y: Tensor) -> Tensor:
    x[:4] += y[:4]
    return x * 2.0


def plus(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


# (what becomes of a sum in place within its pass)
FATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "it lives": plus,
    "it is read, and gone": lambda x, y: plus(x, y) * 1.5,
    "it is overwritten": lambda x, y: plus(x, y).relu_(),
    "it is scaled": lambda x, y: plus(x, y).mul_(2.0),
    "it is added to": lambda x, y: plus(plus(x, y), y),
    "it is a part of more": part,
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("fate", FATES)
def test_a_sum_of_a_kernel_that_comes_out_wrong_is_seen_before_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, fate: str, inference: bool
) -> None:
    pytest.importorskip("numba")
    kernel = kernels.native(torch.device("cpu"), "native_transit")
    add, hits = kernel.add_into, []

    def struck(memory: int, *others: int) -> None:
        add(memory, *others)
        if not hits:
            ctypes.c_uint32.from_address(memory).value ^= 1 << 22
        hits.append(memory)

    monkeypatch.setattr(kernel, "add_into", struck)
    findings: list[Finding] = []
    mode = Checked(findings.append)
    x, y = torch.rand(64, 64) + 1.0, torch.rand(64, 64)
    mode.begin(ALL)
    with torch.inference_mode(inference), mode:
        made = FATES[fate](x + 0.0, y)
    mode.finish()
    assert hits
    assert not mode.settle(), made


@pytest.mark.parametrize("fate", FATES)
def test_sums_in_place_within_a_pass_have_the_bits_of_unwatched_ones(fate: str) -> None:
    findings: list[Finding] = []
    mode = Checked(findings.append)
    x, y = torch.rand(64, 64), torch.rand(64, 64)
    mode.begin(ALL)
    with torch.no_grad(), mode:
        made = FATES[fate](x + 0.0, y)
    mode.finish()
    assert mode.settle()
    assert findings == []
    assert torch.equal(made, FATES[fate](x + 0.0, y))


def test_what_lies_where_a_sum_was_is_no_damage() -> None:
    """Gradients are dropped and made anew, often at the same place, and may have been written to as often."""
    memory = np.zeros((64, 64), np.float32)
    findings: list[Finding] = []
    mode = Checked(findings.append)
    for number in range(2):
        gradient = torch.from_numpy(memory)
        if number:
            gradient.mul_(0.5)
        mode.begin(ALL)
        with torch.no_grad(), mode:
            gradient += torch.ones(64, 64)
        mode.finish()
        assert mode.settle()
        del gradient
    assert findings == []
    mode.begin(ALL)
    mode.finish()
    assert mode.sums_kept == 0, "of what is gone nothing is kept"


@pytest.mark.parametrize("level", [Level.OFF, Level.STANDARD])
def test_a_sum_whose_next_pass_looks_at_nothing_is_looked_at_before_that(level: Level) -> None:
    pytest.importorskip("numba")
    layer, batch = nn.Linear(64, 64), torch.randn(8, 64)
    guard = protect(layer, level=Level.STORM)
    for adds in (False, True):
        with guard.running(adds=adds):
            layer(batch).square().sum().backward()
    assert layer.weight.grad is not None
    layer.weight.grad.numpy().view(np.uint32)[3, 3] ^= np.uint32(1)
    guard.level = level
    with guard.running():
        layer(batch).square().sum().backward()
    assert not guard.settle()
