"""No false alarm, no changed bit: activations, recurrent layers, odd shapes, grad modes, dtypes and scales."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flightsw.gpu.integrity.operations import Cover
from tests.gpu.kinds_of_work import B1, B2, W, X
from tests.gpu.looking import looked_at, same

# Torch writes the backward operations of the first two in terms of others, and has kernels that round otherwise.
BENDINGS = (F.silu, F.mish, F.gelu, F.relu, F.elu, F.softplus, F.hardswish, F.logsigmoid, torch.tanh, torch.sigmoid)


@pytest.mark.parametrize("bend", BENDINGS, ids=lambda bend: bend.__name__)
def test_gradients_of_activations_keep_every_bit(bend: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.randn(5001, generator=torch.Generator().manual_seed(1))

    def gradient() -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(bend(leaf).square().sum(), leaf)[0]

    result, findings, settled, _ = looked_at(gradient)
    assert same(result, gradient())
    assert (findings, settled) == ([], True)


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_a_recurrent_layer_may_go_back_twice(kind: type[torch.nn.RNNBase]) -> None:
    """Torch's own backward operation of an LSTM writes into the memory that its forward one has left it."""
    torch.manual_seed(1)
    layer, x = kind(8, 12, batch_first=True), torch.randn(2, 5, 8)

    def gradients() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        y = layer(leaf)[0]
        first = torch.autograd.grad(y.square().sum(), [leaf, *layer.parameters()], retain_graph=True)
        return [*first, *torch.autograd.grad(y.sum(), [leaf, *layer.parameters()])]

    result, findings, settled, _ = looked_at(gradients)
    assert same(result, gradients())
    assert (findings, settled) == ([], True)


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.mm(torch.ones(0, 4), torch.ones(4, 3)),
        lambda: torch.mm(torch.ones(2, 0), torch.ones(0, 3)),
        lambda: torch.ones(0).relu(),
        lambda: torch.addmm(torch.ones(3), torch.ones(2, 0), torch.ones(0, 3)),
        lambda: torch.mm(torch.ones(4, 4, dtype=torch.int64), torch.ones(4, 4, dtype=torch.int64)),
        lambda: torch.mm(X.to(torch.complex64), W.to(torch.complex64)),
        lambda: torch.view_as_real(torch.fft.fft(X)),
        lambda: X[:, ::2] @ W[::2],
        lambda: X.t()[:, :20].t() @ W,
        lambda: X.expand(2, 32, 24).sum(),
        lambda: torch.where(X > 0, X, torch.nan) + 1.0,
        lambda: torch.full((3, 3), -torch.inf).softmax(-1),
        lambda: X.to(torch.float8_e4m3fn).to(torch.float32),
        lambda: torch.sparse.mm(torch.eye(32).to_sparse(), X),
        lambda: torch.einsum("bij,bjk->bik", B1, B2),
        lambda: torch.linalg.inv(X[:24] + 9 * torch.eye(24)),
        lambda: X.unbind(0)[3] + X.split(5)[1][0],
    ],
)  # fmt: skip
def test_odd_shapes_dtypes_and_layouts(work: Callable[[], torch.Tensor]) -> None:
    with torch.no_grad():
        expected = work()
        result, findings, settled, _ = looked_at(work)
    assert same(result, expected)
    assert (findings, settled) == ([], True)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(guard: Any) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 8))
    with guard():
        expected = module(X)
        result, findings, settled, mode = looked_at(lambda: module(X.reshape(4, 8, 24)).to(torch.float64))
    assert same(result.reshape(32, 8), expected.double())
    assert (findings, settled) == ([], True)
    assert sum(count for (_, cover, _), count in mode.seen.items() if cover is Cover.CHECKSUM) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.integers(-3, 1),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_no_false_alarm_over_shapes_dtypes_and_scales(
    m: int, k: int, n: int, dtype: torch.dtype, scale: int, wide: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(m, k, generator=generator) * 10.0**scale).to(dtype).requires_grad_()
    layer = torch.nn.Linear(k, n).to(dtype)

    def work() -> Any:
        return torch.autograd.grad(F.softmax(F.gelu(layer(x)), dim=-1).square().sum(), [x, *layer.parameters()])

    first, findings, settled, _ = looked_at(work, wide=wide)
    assert (findings, settled) == ([], True)
    if not wide:
        assert same(first, work())


def test_the_modules_own_state_is_not_touched() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(24, 24), torch.nn.BatchNorm1d(24), torch.nn.Dropout(0.2))
    twin = copy.deepcopy(module)
    torch.manual_seed(1)
    expected = twin(X)
    torch.manual_seed(1)
    result, findings, settled, _ = looked_at(lambda: module(X))
    assert same(result, expected)
    assert all(same(a, b) for a, b in zip(module.buffers(), twin.buffers(), strict=True))
    assert (findings, settled) == ([], True)
