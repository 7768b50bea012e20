"""Operands that are hit between an operation and the reading of its check: a second run from them is not taken."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from tests.gpu.looking import ALL
from tests.gpu.struck_mode import LARGEST, flip, strike


class OperandStruck(TorchDispatchMode):
    """Damages an operand of an operation when that has been computed for the first time, below the checks."""

    def __init__(self, operation: str, nth: int) -> None:
        super().__init__()
        self._operation, self._left = operation, nth
        self.fired = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name == f"aten::{self._operation}" and not self.fired:
            self.fired = self._left == 0
            self._left -= 1
            if self.fired:
                strike(flip(29, LARGEST), args[0])
        return result


def waves(x: torch.Tensor) -> torch.Tensor:
    a = x.tanh()
    return a.sin() + a.cos()


def products(x: torch.Tensor) -> torch.Tensor:
    a = x.tanh()
    return a @ a.new_ones(130, 40) + torch.mm(a, a.new_ones(130, 40))


# (what is computed, operation whose operand is hit; it is the second one to read that operand, so the look at it is
# fresh, and the last one, so no other look comes)
HIT_AFTERWARDS = ((waves, "cos"), (products, "mm"))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("compute", "operation"), HIT_AFTERWARDS, ids=[row[1] for row in HIT_AFTERWARDS])
def test_what_is_done_again_from_a_damaged_operand_is_not_taken(
    compute: Callable[[torch.Tensor], torch.Tensor], operation: str, grad: bool, plain: bool
) -> None:
    findings: list[Finding] = []
    mode, fault = Checked(findings.append), OperandStruck(operation, nth=operation == "mm")
    x = torch.randn(70, 130)
    expected = compute(x)
    mode.begin(ALL)
    with fault, mode, kernels.plain() if plain else nullcontext(), torch.set_grad_enabled(grad):
        y = compute(x)
    mode.finish()
    assert fault.fired
    assert not mode.settle() or torch.equal(y, expected), findings
