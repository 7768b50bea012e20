"""Runs work under the checks of a pass, with faults below or above them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.verdicts import Look
from tests.gpu.struck_mode import Struck

ALL = Look(checksum=True, repeat=True, transit=True)


def looked_at(
    work: Callable[[], Any], *struck: Struck, look: Look = ALL, above: bool = False, **options: Any
) -> tuple[Any, list[Finding], bool, Checked]:
    """Result, findings, whether it settled, and the mode, of work under checks with a fault below or above them."""
    findings: list[Finding] = []
    mode = Checked(findings.append, **options)
    mode.begin(look)
    modes = [mode, *struck] if above else [*struck, mode]
    for entered in modes:
        entered.__enter__()
    try:
        result = work()
    finally:
        for entered in reversed(modes):
            entered.__exit__(None, None, None)
        mode.finish()
    assert all(one.fired for one in struck), "a fault that never fired proves nothing"
    return result, findings, mode.settle(), mode


def mlp() -> nn.Module:
    """The smallest module that has a product, something else and another product: 8 to 4 values."""
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def bits(result: Any) -> list[torch.Tensor]:
    """Results as integers, so that NaN equals itself."""
    tensors = result if isinstance(result, tuple | list) else [result]
    return [
        tensor.detach().contiguous().view(torch.uint8) if tensor.numel() and tensor.dim() else tensor
        for tensor in tensors
    ]


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))
