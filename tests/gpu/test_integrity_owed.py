"""Forward operations whose check is owed to their backward one: sound ones pass, struck ones taint the pass."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flightsw.gpu.integrity import checksum, owed
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.reading import Reading
from flightsw.gpu.integrity.verdicts import Look
from tests.gpu.struck_mode import Damage, Struck, flip, value

aten = torch.ops.aten
ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


def looked_at(
    work: Callable[[], Any], *struck: Struck, deferred: bool = False
) -> tuple[Any, list[Finding], bool, Checked]:
    findings: list[Finding] = []
    mode = Checked(findings.append, deferred=deferred)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    for entered in [*struck, mode]:
        entered.__enter__()
    try:
        result = work()
    finally:
        for entered in [mode, *reversed(struck)]:
            entered.__exit__(None, None, None)
        mode.finish()
    assert all(one.fired for one in struck), "a fault that never fired proves nothing"
    return result, findings, mode.settle(), mode


def gelu_backward(x: torch.Tensor, damage: Damage | None = None, *, back: bool = False) -> torch.Tensor:
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    y = aten.gelu(x, approximate="tanh")
    result = aten.gelu_backward(gradient, x, approximate="tanh")
    if damage is not None:
        damage(result if back else y)
    found = owed.margin(
        aten.gelu_backward.default,
        owed.Owed(aten.gelu.default, (x,), {}, y),
        result,
        (gradient, x),
        {"approximate": "tanh"},
        reading=Reading(),
        waiting=False,
    )
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 3.0, 10.0, 1e4])
def test_sound_gelu_passes(size: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape in [(), (1,), (40, 70), (3, 5, 9000)]:
        assert checksum.sound(*gelu_backward(torch.randn(shape, dtype=dtype) * size).tolist())


def test_sound_gelu_passes_everywhere() -> None:
    line = torch.linspace(-9.0, 9.0, 300_001)
    assert checksum.sound(*gelu_backward(line.view(-1, 1)).tolist())
    assert checksum.sound(*gelu_backward(line).tolist())


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("damage", [flip(30, 99), flip(31, 99), flip(18, 99), value(math.nan, 99), value(1e36, 99)])
def test_struck_gelu_does_not(damage: Damage, back: bool) -> None:
    torch.manual_seed(0)
    assert not checksum.sound(*gelu_backward(torch.randn(40, 70) + 2.0, damage, back=back).tolist())


def gelu() -> Any:
    x = torch.linspace(-3.0, 3.0, 600).view(20, 30).requires_grad_()
    y = F.gelu(x * 1.0, approximate="tanh")
    return torch.autograd.grad((y * torch.linspace(-1.0, 2.0, 30)).sum(), x)[0]


def attention() -> Any:
    torch.manual_seed(3)
    x = torch.randn(2, 3, 40, 16).requires_grad_()
    y = F.scaled_dot_product_attention(x * 1.0, x * 2.0, x * 3.0, is_causal=True)
    return torch.autograd.grad((y * torch.randn(y.shape)).sum(), x)[0]


WORK = {"gelu": gelu, ATTENTION: attention}


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("name", WORK)
def test_a_forward_operation_is_done_once_when_its_backward_operation_vouches(name: str, deferred: bool) -> None:
    expected = WORK[name]()
    result, findings, settled, _ = looked_at(WORK[name], deferred=deferred)
    assert torch.equal(result, expected)
    assert (findings, settled) == ([], True)
    # Were it done a second time, this would strike.
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    with Struck(name, flip(30), nth=1) as second, mode:
        WORK[name]()
    mode.finish()
    assert (second.fired, mode.settle()) == (0, True)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("fault", [flip(30, 7), flip(22, 7), value(math.nan, 7), value(1e36, 7)])
@pytest.mark.parametrize("name", WORK)
def test_a_struck_forward_operation_taints_the_pass(name: str, fault: Damage, deferred: bool) -> None:
    _, findings, settled, _ = looked_at(WORK[name], Struck(name, fault), deferred=deferred)
    assert not settled
    assert {found.outcome for found in findings} == {"contained"}


@pytest.mark.parametrize("name", ["gelu_backward", f"{ATTENTION}_backward"])
def test_a_struck_backward_operation_is_done_again(name: str) -> None:
    work = WORK[name.removesuffix("_backward")]
    result, findings, settled, _ = looked_at(work, Struck(name, flip(30, 7)))
    assert torch.equal(result, work())
    assert settled
    assert [found.outcome for found in findings] == ["recomputed"]


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("name", WORK)
def test_without_a_backward_pass_the_debt_is_paid_at_the_end(name: str, deferred: bool) -> None:
    x = torch.randn(2, 3, 40, 16).requires_grad_()

    def work() -> Any:
        return F.gelu(x, approximate="tanh") if name == "gelu" else F.scaled_dot_product_attention(x, x, x)

    _, findings, settled, _ = looked_at(work, deferred=deferred)
    assert (findings, settled) == ([], True)
    _, findings, settled, _ = looked_at(work, Struck(name, flip(10, 7)), deferred=deferred)
    assert (settled, [(found.detector, found.outcome) for found in findings]) == (False, [("repeat", "contained")])


@pytest.mark.parametrize("fault", [None, flip(10, 7)])
def test_it_is_paid_before_somebody_writes_into_what_it_needs(fault: Damage | None) -> None:
    x = torch.randn(20, 30).requires_grad_()
    struck = [] if fault is None else [Struck("gelu", fault)]
    _, findings, settled, _ = looked_at(lambda: F.gelu(x, approximate="tanh").mul_(2.0), *struck)
    assert settled is (fault is None)
    assert len(findings) == len(struck)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: F.gelu(x.detach(), approximate="tanh"),
        lambda x: F.gelu(x),
        lambda x: F.gelu(x.t(), approximate="tanh"),
        lambda x: checkpoint(lambda y: F.gelu(y, approximate="tanh"), x, use_reentrant=False),
    ],
    ids=["no gradient", "erf", "strided", "checkpoint"],
)
def test_where_nothing_can_be_owed_it_is_done_twice_at_once(work: Callable[[Any], Any]) -> None:
    x = torch.randn(20, 30).requires_grad_()
    result, findings, settled, _ = looked_at(lambda: work(x), Struck("gelu", flip(10, 7)))
    assert torch.equal(result, work(x))
    assert (settled, [found.outcome for found in findings]) == (True, ["recomputed"])


def test_zeros_are_no_alarm() -> None:
    x = torch.zeros(20, 30).requires_grad_()

    def work() -> Any:
        return torch.autograd.grad(F.gelu(x * 1.0, approximate="tanh").sum(), x)[0]

    result, findings, settled, mode = looked_at(work)
    assert torch.equal(result, work())
    assert (findings, settled, mode.tally.doubts) == ([], True, 0)


COPIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "clone": lambda x: x.transpose(0, 1).clone(memory_format=torch.contiguous_format),
    "stack": lambda x: torch.stack([x, x]),
    "cat": lambda x: torch.cat([x, x], dim=-1),
}


@pytest.mark.parametrize("fault", [None, flip(30, 77), flip(0, 77), value(0.0, 77)])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_done_once_and_a_struck_one_again(name: str, fault: Damage | None) -> None:
    x = torch.randn(40, 50, 6)
    struck = [Struck(name, fault)] if fault is not None else [Struck(name, flip(30), nth=1)]
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    with struck[0], mode:
        result = COPIES[name](x * 1.0)
    mode.finish()
    assert torch.equal(result, COPIES[name](x))
    assert mode.settle()
    assert struck[0].fired == (fault is not None)
    assert [(found.detector, found.outcome) for found in findings] == [("repeat", "recomputed")] * len(findings)
    assert len(findings) == (fault is not None)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_damaged_memory_taints_the_pass(name: str) -> None:
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    with mode, Struck("mul", flip(3, 5)):
        COPIES[name](torch.randn(40, 50, 6) * 1.0)
    mode.finish()
    assert not mode.settle()
    assert findings[0].detector == "transit"


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("consumer", ["mm", "gelu", "layer_norm", "attention", "zero_"])
def test_a_look_that_is_left_to_the_backward_pass_comes_there_or_at_the_end(consumer: str, backward: bool) -> None:
    w = torch.randn(16, 16).requires_grad_()
    read: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "mm": lambda x: x @ w,
        "gelu": lambda x: F.gelu(x, approximate="tanh"),
        "layer_norm": lambda x: F.layer_norm(x, (16,)),
        "attention": lambda x: F.scaled_dot_product_attention(*[x.view(1, 1, 30, 16)] * 3),
        "zero_": lambda x: ((x @ w).sum(), x.detach().zero_())[0],
    }

    def work() -> None:
        x = torch.randn(30, 16).requires_grad_() * 1.0
        result = read[consumer](x)
        del x
        if backward and consumer != "zero_":
            result.square().sum().backward()

    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    with mode, Struck("mul", flip(3, 5)) as struck:
        work()
    mode.finish()
    assert struck.fired == 1
    assert not mode.settle()
    assert findings[0].detector == "transit"
