"""What protection does to a module: whom it refuses, copies, and a module that is let go."""

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from flightsw.gpu.integrity.protect import protect
from flightsw.link.integrity import Level
from tests.gpu.looking import mlp
from tests.gpu.struck_mode import flip


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
