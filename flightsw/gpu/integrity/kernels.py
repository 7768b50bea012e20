"""Which Triton kernels there are for a device: the one place that asks, so that nothing else imports Triton.

A machine without Triton, or without a card that it compiles for, runs the plain PyTorch forms, which give the same
digests bit for bit. The kernels' own modules (``kernels_digest``, ``kernels_adamw``, ``kernels_gemm``) import
Triton on load and are loaded here at the first use on such a card.
"""

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Final

import torch

CAPABILITY_MIN: Final = (8, 0)
"""Ampere: the first one with bfloat16 products."""


def digests(device: torch.device) -> ModuleType | None:
    """``kernels_digest`` for memory on ``device``; None where the plain form has to do."""
    return _loaded("kernels_digest") if _compiles_for(device) else None


def adamw(device: torch.device) -> ModuleType | None:
    """``kernels_adamw`` for state on ``device``; None where the plain form has to do."""
    return _loaded("kernels_adamw") if _compiles_for(device) else None


def gemm(device: torch.device) -> ModuleType | None:
    """``kernels_gemm`` for products on ``device``; None where a product in float32 and a cast have to do."""
    return _loaded("kernels_gemm") if _compiles_for(device) else None


@functools.cache
def _compiles_for(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY_MIN


@functools.cache
def _loaded(name: str) -> ModuleType:
    return importlib.import_module(f"flightsw.gpu.integrity.{name}")
