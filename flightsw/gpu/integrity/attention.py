"""The backward pass of attention, checked by identities instead of a second run.

With P = softmax(s Q Kᵀ + mask), O = P V, and dS the gradient of the scores, per head:

    Σ_j dV_j  =  Σ_i dO_i                because every row of P adds up to one
    Σ_j dK_j  =  s Σ_i (Σ_j dS_ij) q_i  =  0      because every row of dS adds up to nothing, if O = P V
    Σ_i q_i·dQ_i  =  Σ_ij dS_ij s q_i·k_j  =  Σ_j k_j·dK_j

The second one holds only for a sound O, and the first one only for sound log-sums of the forward pass, so they look
at the forward operation too, a whole pass later (``owed``). A fourth one bounds O where dO is too small for the
second to see it: ‖o_i‖ ≤ max‖v_j‖. They cost one reading of each operand and result, an eighth of the operation.

*Bounds*, with ``SLACK`` times the unit roundoff, per head: ‖dO‖ √T for the first; Σ_j |dS_ij| ≤ 2 ‖dO_i‖ max‖v_j‖
gives 2 s max‖v‖ ‖dO‖ ‖Q‖ for the second, and max‖k‖ times that for the third. What crosses one is done again; equal
bits are a doubt and not a finding, as with products: rows that the mask hides wholly do not add up to one. What is
not seen: a change of dQ at a right angle to Q, or below the third bound, which is a few times an element's usual
size. On noise of unit size the first bound sees a hundredth of it in an element of dV, the second a tenth in dK.
"""

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.checksum import UNIT

SLACK: Final = 4.0
SCORES: Final = 16.0
"""Scores up to which ``SLACK`` is enough: exp turns the absolute rounding of a score into a relative one of P."""


def margin(results: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Lowest and highest of bound − difference (2,), over all four and all heads.

    For ``_scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse, dropout, causal)``, all
    (B, H, T, D). None where the identities do not hold or have no bound: dropout, grouped heads, odd dtypes.
    """
    gradient, query, key, value = args[:4]
    if query.dtype not in UNIT or args[6] != 0.0 or query.shape[1] != key.shape[1] or query.numel() == 0:
        return None
    query_gradient, key_gradient, value_gradient = results[:3]
    out = args[4]
    given = kwargs.get("scale")
    scale = 1.0 / math.sqrt(query.shape[-1]) if given is None else abs(given)
    unit: Any = SLACK * UNIT[query.dtype]
    operands = (gradient, query, key, value, out, query_gradient, key_gradient, value_gradient)
    if (native := kernels.native(query.device, "native_attention")) and all(_in_rows(one) for one in operands):
        found = native.margins(
            *(one.as_strided((_span(one),), (1,)).detach().numpy() for one in operands),
            np.array([one.stride()[:3] for one in operands]),
            np.array((*query.shape[:3], *key.shape[2:])),
            scale,
            unit,
            SCORES,
        )
        return torch.tensor(found, dtype=torch.float64)
    if query.dtype in (torch.bfloat16, torch.float16):
        gradient, query, key, value = gradient.float(), query.float(), key.float(), value.float()
        query_gradient, key_gradient = query_gradient.float(), key_gradient.float()
        value_gradient, out = value_gradient.float(), out.float()
    # Norms of rows (B, H, T), from which those of heads (B, H, 1) follow: one reading of each operand.
    size = _rows(gradient).norm(dim=-1, keepdim=True)
    queries, longest_key = _rows(query), _rows(key).amax(dim=-1, keepdim=True)
    unit = unit * (1.0 + queries.amax(dim=-1, keepdim=True) * longest_key * (scale / SCORES))
    longest_value = _rows(value).amax(dim=-1, keepdim=True)
    moved = size * queries.norm(dim=-1, keepdim=True) * longest_value * unit * (2.0 * scale)
    columns = (value_gradient.sum(-2) - gradient.sum(-2)).abs_()
    trace = _trace(query, query_gradient, key, key_gradient)
    margins = (
        size * unit * math.sqrt(query.shape[-2]) - columns,
        moved - key_gradient.sum(-2).abs_(),
        moved * longest_key - trace.abs_().unsqueeze(-1),
        longest_value * (1.0 + unit * math.sqrt(query.shape[-2])) - _rows(out).amax(dim=-1, keepdim=True),
    )
    return torch.stack(torch.aminmax(torch.cat(margins, dim=-1)))


def _trace(query: Tensor, query_gradient: Tensor, key: Tensor, key_gradient: Tensor) -> Tensor:
    """Σ q·dQ − Σ k·dK (B, H), sequence by sequence: what is made of one stays in a core's own cache."""
    batch, heads, _, size = query.shape
    if query.shape != key.shape or query.is_cuda:
        return (query * query_gradient).sum((-2, -1)) - (key * key_gradient).sum((-2, -1))
    found = torch.empty((batch, heads), dtype=query.dtype, device=query.device)
    made = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)  # (T, H, D).
    columns = made.view(len(made), -1)
    with torch.no_grad():
        for index in range(batch):
            q, dq, k, dk = (one[index].transpose(0, 1) for one in (query, query_gradient, key, key_gradient))
            torch.mul(q, dq, out=made).addcmul_(k, dk, value=-1.0)
            torch.sum(columns.sum(0).view(heads, size), dim=-1, out=found[index])
    return found


def _in_rows(x: Tensor) -> bool:
    """Whether kernels can read it, the last dimension in one piece."""
    return (
        x.dtype in (torch.float32, torch.float64) and x.stride(-1) == 1 and min(x.stride()) >= 0 and x.numel() > 0
    )


def _span(x: Tensor) -> int:
    """Elements from the first to the last in memory."""
    return 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))


def _rows(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norms
