"""The forward pass of attention against its operands, where no backward pass will look at it: in serving."""

import functools
import math
import threading
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.checksum import PIECE_ELEMENTS, UNIT

SLACK: Final = 4.0
EXP: Final = 32.0
BLOCK: Final = 512
EXACT_ROWS: Final = 3
SCRATCH_MAX: Final = 1 << 24


def wrong(
    out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> int | None:
    native = _native(out, query, key, value)
    if native is None or (is_causal and mask is not None):
        return None
    shape = batch, heads, rows, width = query.shape
    keys = key.shape[2]
    masked, strides = _of_mask(native, mask, (batch, heads, rows, keys))
    factor = 1.0 / math.sqrt(width) if scale is None else float(scale)
    if masked is None or not math.isfinite(factor) or heads * keys > SCRATCH_MAX:
        return None
    table = np.array(
        (batch, heads, rows, keys, width, is_causal, masked,
         query.data_ptr(), *_bytes(query), key.data_ptr(), *_bytes(key), value.data_ptr(), *_bytes(value),
         out.data_ptr(), *_bytes(out), *strides),
        np.int64,
    )  # fmt: skip
    limits = (factor, *bounds(width, keys))
    if rows <= EXACT_ROWS:
        return native.rows_differ(table, *limits)
    return _projected(native, query, key, table, limits)


def _projected(native: Any, query: Tensor, key: Tensor, table: Any, limits: Any) -> int:
    heads, rows, width = query.shape[1:]
    keys = key.shape[2]
    weights = _weights(width)
    count = 0
    step = min(rows, max(1, PIECE_ELEMENTS // (heads * keys)))
    with torch.no_grad():
        scratch = _scratch(heads * step * keys)
        for b, (q, k) in enumerate(zip(query.unbind(), key.transpose(2, 3).unbind(), strict=True)):
            for first in range(0, rows, step):
                piece = min(step, rows - first)
                scores = scratch[: heads * piece * keys].view(heads, piece, keys)
                torch.bmm(q[:, first : first + piece] if piece < rows else q, k, out=scores)
                count += native.projections_differ(table, b, first, piece, scores.data_ptr(), weights, *limits)
    return count


_KEPT = threading.local()


def _scratch(size: int) -> Tensor:
    held: Tensor | None = getattr(_KEPT, "scratch", None)
    if held is None or held.numel() < size:
        with torch.inference_mode(mode=False):
            held = _KEPT.scratch = torch.empty(max(size, PIECE_ELEMENTS), dtype=torch.float32)
    return held


@functools.lru_cache(maxsize=64)
def _weights(width: int) -> Any:
    j = np.arange(width)
    return ((1.0 + j / width) * (1 - 2 * (j % 2))).astype(np.float32)


@functools.lru_cache(maxsize=1024)
def bounds(width: int, keys: int) -> tuple[float, float, float]:
    unit = UNIT[torch.float32]
    return unit * (terms(width) + 2.0), 2.0 * unit, unit * (4.0 * terms(keys) + EXP)


def terms(count: int) -> float:
    return min(float(count), SLACK * math.sqrt(count))


def _native(*tensors: Any) -> Any:
    for x in tensors:
        if not isinstance(x, Tensor) or x.dtype is not torch.float32 or x.dim() != 4 or x.layout is not torch.strided:
            return None
        if x.numel() == 0 or x.stride(3) != 1 or x.is_neg():
            return None
    out, query, key, value = tensors
    if out.shape != query.shape or key.shape != value.shape:
        return None
    if query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        return None
    return kernels.native(query.device, "native_forward_attention")


def _bytes(x: Tensor) -> list[int]:
    return [4 * step for step in x.stride()[:3]]


def _of_mask(native: Any, mask: Tensor | None, shape: tuple[int, ...]) -> Any:
    if mask is None:
        return native.NO_MASK, (0, 0, 0, 0, 0)
    size = 4 if mask.dtype is torch.float32 else 1
    strides = [0 if have == 1 and want != 1 else size * step for have, want, step in zip(mask.shape, shape, mask.stride())]
    return (native.FLOAT_MASK if size == 4 else native.BOOL_MASK), (mask.data_ptr(), *strides)
