"""Which kernels there are for a device: the one place that asks, so that nothing else imports Triton or Numba.

A card has those of Triton (``kernels_digest``, ``kernels_adamw``, ``kernels_gemm``), a processor those of Numba
(``native_digest`` and its neighbours, see ``native``). A machine without them runs the plain PyTorch forms, which
give the same digests bit for bit. The kernels' own modules import their compiler on load and are loaded here at the
first use.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Final

import torch

CAPABILITY_MIN: Final = (8, 0)
"""Ampere: the first one with bfloat16 products."""


def digests(device: torch.device) -> ModuleType | None:
    """``kernels_digest`` or ``native_digest`` for memory on ``device``; None where the plain form has to do."""
    return _loaded("kernels_digest") if _compiles_for(device) else native(device, "native_digest")


def adamw(device: torch.device) -> ModuleType | None:
    """``kernels_adamw`` for state on ``device``; None where the plain form has to do."""
    return _loaded("kernels_adamw") if _compiles_for(device) else None


def gemm(device: torch.device) -> ModuleType | None:
    """``kernels_gemm`` for products on ``device``; None where a product in float32 and a cast have to do."""
    return _loaded("kernels_gemm") if _compiles_for(device) else None


def native(device: torch.device, name: str) -> ModuleType | None:
    """The processor's kernels of module ``name``; None on other devices, without Numba, and within ``plain``."""
    return _loaded(name) if device.type == "cpu" and _NATIVE.wanted and _has_numba() else None


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Without the processor's kernels: what a machine without Numba runs. For tests and baselines, one thread."""
    wanted, _NATIVE.wanted = _NATIVE.wanted, False
    try:
        yield
    finally:
        _NATIVE.wanted = wanted


class _Native:
    wanted = True


_NATIVE: Final = _Native()


@functools.cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _compiles_for(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= CAPABILITY_MIN


@functools.cache
def _loaded(name: str) -> ModuleType:
    return importlib.import_module(f"flightsw.gpu.integrity.{name}")
