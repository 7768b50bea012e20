"""What the coverage says of modules that can be covered, and of those that cannot: named, with the reason."""

from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from flightsw.gpu.integrity.coverage import Coverage
from flightsw.gpu.integrity.operations import COVERED, TABLE, Cover, cover_of, written
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.workloads.gpt import GPT, GPTConfig
from flightsw.link.integrity import Level

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("operator", "cover"),
    [
        (aten.mm.default, Cover.CHECKSUM),
        (aten.linear.default, Cover.CHECKSUM),
        (aten.view.default, Cover.VIEW),
        (aten.detach.default, Cover.VIEW),
        (aten.to.dtype, Cover.COMPOSITE),
        (aten.reshape.default, Cover.COMPOSITE),
        (aten.gelu.default, Cover.LATER),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, Cover.LATER),
        (aten._scaled_dot_product_flash_attention_for_cpu_backward.default, Cover.IDENTITY),
        (aten.native_dropout.default, Cover.RANDOM),
        (aten.add_.Tensor, Cover.CHANGE),
        (aten.bernoulli_.float, Cover.CHANGE),
        (aten.native_batch_norm.default, Cover.CHANGE),
        (aten.copy_.default, Cover.STORE),
        (aten.empty.memory_format, Cover.MADE),
        (aten._local_scalar_dense.default, Cover.READ),
        (aten._foreach_add_.Scalar, Cover.STATE),
        (aten._fused_adamw_.default, Cover.STATE),
        # Named as updates are, and none.
        (aten._foreach_norm.Scalar, Cover.REPEAT),
        (aten._fused_rms_norm_backward.default, Cover.REPEAT),
        (aten._fused_dropout.default, Cover.RANDOM),
    ],
)
def test_how_operators_are_covered(operator: Any, cover: Cover) -> None:
    assert cover_of(operator, "cpu", deterministic=False) is cover


def test_operators_that_no_order_is_kept_of_are_named_on_cuda() -> None:
    operator = aten.embedding_dense_backward.default
    assert cover_of(operator, "cuda", deterministic=False) is Cover.UNSTABLE
    assert cover_of(operator, "cuda", deterministic=True) is Cover.REPEAT
    assert Cover.UNSTABLE not in COVERED


def test_hidden_writes_are_known() -> None:
    assert [name for _, name in written(aten.native_batch_norm.default)] == ["running_mean", "running_var"]
    assert [name for _, name in written(aten.add_.Tensor)] == ["self"]
    assert written(aten.add.Tensor) == ()


def test_the_table_names_operators_that_exist() -> None:
    for name in TABLE:
        namespace, operator = name.split("::")
        assert hasattr(getattr(torch.ops, namespace), operator), name


def covered(module: nn.Module, *inputs: torch.Tensor, level: Level = Level.STORM, **options: Any) -> Coverage:
    guard = protect(module, level=level, **options)
    with guard.running():
        result = module(*inputs)
        if isinstance(result, torch.Tensor) and result.requires_grad:
            result.sum().backward()
    assert guard.settle()
    return guard.coverage()


def test_a_gpt_is_covered_in_every_layer_forward_and_backward() -> None:
    model = GPT(GPTConfig(layers=1, heads=2, width=16, context=8))
    guard = protect(model, level=Level.STORM)
    idx = torch.randint(256, (2, 8))
    with guard.running():
        model(idx, idx)[1].backward()
    found = guard.coverage()
    assert found.complete
    assert all(layer.covered for layer in found.layers), [layer for layer in found.layers if not layer.covered]
    names = {operation.name for operation in found.operations}
    assert {"addmm", "mm", "gelu_backward", "native_layer_norm", "embedding_dense_backward"} <= names
    assert "not covered: nothing" in str(found)
    assert "blocks.0.attention.qkv" in str(found)
    assert msgspec.json.decode(found.json(), type=Coverage) == found


class Odd(nn.Module):
    """What has no bytes, sits on no device, or is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("sparse", torch.eye(4).to_sparse())
        self.register_buffer("whole", torch.ones(4, dtype=torch.int8))
        self.register_buffer("eighth", torch.ones(4, 4).to(torch.float8_e4m3fn))
        self.register_buffer("strided", torch.ones(4, 8)[:, ::2])
        self.register_buffer("imaginary", torch.ones(4, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sparse.mm(self.sparse, self.layer(x)) @ self.eighth.to(torch.float32) * self.strided
        return (x * self.imaginary).real + self.whole


def test_memory_that_cannot_be_guarded_is_named() -> None:
    found = covered(Odd(), torch.ones(4, 4))
    assert sorted(name for name, _ in found.gaps) == ["buffer nothing", "buffer sparse"]
    assert all(reason for _, reason in found.gaps)
    (itself,) = [layer for layer in found.layers if layer.kind == "Odd"]
    assert not itself.covered
    assert not found.complete


def test_a_compiled_module_is_guarded_in_memory_and_says_so() -> None:
    inner = nn.Linear(4, 4)
    inner.compile(backend="eager")
    module = nn.Sequential(inner, nn.Linear(4, 4))
    guard = protect(module, level=Level.STORM)
    assert guard.compute is False
    found = guard.coverage()
    assert [name for name, reason in found.gaps if "compiled" in reason] == ["0"]
    assert all(layer.memory == "digest" for layer in found.layers)
    assert not any(layer.covered for layer in found.layers)


@pytest.mark.parametrize(
    ("options", "gap"),
    [({"compute": False}, "arithmetic"), ({"wide": False}, "half-precision products"), ({}, "")],
)
def test_choices_that_leave_a_gap_are_named(options: dict[str, Any], gap: str) -> None:
    found = covered(nn.Sequential(nn.Linear(4, 4)).bfloat16(), torch.ones(2, 4).bfloat16(), **options)
    assert [name for name, _ in found.gaps] == ([gap] if gap else [])


class Marked(torch.Tensor):
    """A tensor type with arithmetic of its own."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Marked":
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(arg.inner if isinstance(arg, Marked) else arg for arg in args), **(kwargs or {}))


def test_tensors_that_hide_their_arithmetic_are_named() -> None:
    guard = protect(nn.Linear(4, 4), level=Level.STORM)
    with torch.no_grad(), guard.running():
        torch.relu(Marked(torch.ones(3)))
    assert any("hides the arithmetic" in reason for _, reason in guard.coverage().gaps)


def test_a_layer_that_no_pass_has_run_is_not_called_covered() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    found = {layer.name: layer.covered for layer in covered(Idle(), torch.ones(2, 4)).layers}
    assert found["used"] is True
    assert found["idle"] is False
