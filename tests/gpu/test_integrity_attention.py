"""The identities of attention's backward pass: they hold for sound gradients, and not for struck ones."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity import attention, checksum, kernels
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.verdicts import Look
from tests.gpu.struck_mode import Struck, flip, value

BACKWARD = "_scaled_dot_product_flash_attention_for_cpu_backward"
FORWARD = "_scaled_dot_product_flash_attention_for_cpu"


class Caught(TorchDispatchMode):
    """Keeps the operands and results of the backward operation."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: tuple[Any, Any, Any] = ((), (), {})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == f"aten::{BACKWARD}":
            self.caught = (result, args, kwargs or {})
        return result


def caught(dtype: torch.dtype = torch.float32, size: float = 1.0, shift: float = 0.0, **options: Any) -> Any:
    torch.manual_seed(1)
    q, k, v = ((torch.randn(2, 3, 40, 16) * size + shift).to(dtype).requires_grad_() for _ in range(3))
    with Caught() as mode:
        out = F.scaled_dot_product_attention(q, k, v, **options)
        torch.autograd.grad(out, (q, k, v), torch.randn(out.shape).to(dtype) * size)
    return mode.caught


MASK = (torch.rand(40, 40, generator=torch.Generator().manual_seed(3)) > 0.3) | torch.eye(40, dtype=torch.bool)


@pytest.fixture(params=[True, False], ids=["kernels", "plain"], autouse=True)
def both(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the processor's kernels and without them."""
    with contextlib.nullcontext() if request.param else kernels.plain():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("size", "shift"), [(1.0, 0.0), (1.0, 1.0), (1e-4, 0.0), (5.0, 0.0)])
@pytest.mark.parametrize(
    "options",
    [{"is_causal": True}, {}, {"attn_mask": MASK}, {"scale": 0.7}],
    ids=["causal", "full", "mask", "scale"],
)
def test_sound_gradients_pass(dtype: torch.dtype, size: float, shift: float, options: dict[str, Any]) -> None:
    if dtype is torch.float16 and size == 1e-4:
        pytest.skip("below the numbers of float16")
    result, args, kwargs = caught(dtype, size, shift, **options)
    found = attention.margin(result, args, kwargs)
    assert found is not None
    assert checksum.sound(*found.tolist())


@pytest.mark.parametrize(("which", "size"), [(0, 10.0), (1, 0.3), (2, 0.03)])
def test_struck_gradients_do_not(which: int, size: float) -> None:
    result, args, kwargs = caught(is_causal=True)
    bad = [tensor.clone() for tensor in result]
    usual = bad[which].square().mean().sqrt()
    bad[which][1, 2, 30, 4] += size * usual
    found = attention.margin(bad, args, kwargs)
    assert found is not None
    assert not checksum.sound(*found.tolist())


def test_a_struck_forward_result_is_seen_by_the_backward_pass() -> None:
    _, args, kwargs = caught(is_causal=True)
    out = args[4].clone()
    out[0, 0, 20, 3] += 1.0
    again = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(*args[:4], out, *args[5:], **kwargs)
    found = attention.margin(again, args, kwargs)
    assert found is not None
    assert not checksum.sound(*found.tolist())


@pytest.mark.parametrize("change", [{6: 0.1}, {1: torch.ones(2, 6, 40, 16)}, {1: torch.ones(2, 3, 0, 16)}])
def test_where_the_identities_do_not_hold_there_is_no_verdict(change: dict[int, Any]) -> None:
    result, args, kwargs = caught()
    assert attention.margin(result, [change.get(place, arg) for place, arg in enumerate(args)], kwargs) is None


@pytest.mark.parametrize("fault", [flip(30, 5), value(float("nan"), 7), value(1e36, 7)])
def test_a_struck_backward_operation_is_done_again(fault: Any) -> None:
    x = torch.randn(2, 3, 40, 16, requires_grad=True)

    def work() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(F.scaled_dot_product_attention(x, x, x, is_causal=True).sum(), x)
        return gradient

    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    with Struck(BACKWARD, fault) as struck, mode:
        result = work()
    mode.finish()
    assert struck.fired == 1
    assert [found.outcome for found in findings] == ["recomputed"]
    assert mode.settle()
    assert torch.equal(result, work())


def test_heads_side_by_side_and_one_by_one_have_the_same_margins() -> None:
    torch.manual_seed(4)
    packed = torch.randn(2, 50, 3, 4, 24).requires_grad_()
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    with Caught() as mode:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad((out * torch.linspace(-1.0, 1.0, 24)).sum(), packed)
    result, args, kwargs = mode.caught
    together = attention.margin(result, args, kwargs)
    apart = attention.margin(
        [one.contiguous() for one in result[:3]], [one.contiguous() for one in args[:5]] + [*args[5:]], kwargs
    )
    with kernels.plain():
        plain = attention.margin(result, args, kwargs)
    assert together is not None
    assert apart is not None
    assert plain is not None
    assert checksum.sound(*together.tolist())
    assert torch.allclose(together.double(), apart.double(), rtol=0.1)
    assert torch.allclose(together.double(), plain.double(), rtol=0.1)


def test_more_keys_than_queries() -> None:
    torch.manual_seed(5)
    q, k, v = (torch.randn(2, 3, rows, 16).requires_grad_() for rows in (7, 40, 40))
    with Caught() as mode:
        torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).square().sum(), (q, k, v))
    result, args, kwargs = mode.caught
    found = attention.margin(result, args, kwargs)
    assert found is not None
    assert checksum.sound(*found.tolist())


@pytest.mark.parametrize("place", range(5))
def test_what_is_not_a_number_in_an_operand_or_result_does_not_pass(place: int) -> None:
    result, args, kwargs = caught(is_causal=True)
    for number in (float("nan"), float("inf")):
        given = [one.clone() if isinstance(one, torch.Tensor) else one for one in args]
        given[place][1, 1, 3, 2] = number
        found = attention.margin(result, given, kwargs)
        assert found is not None
        assert not checksum.sound(*found.tolist())
