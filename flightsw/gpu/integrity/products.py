"""Matrix products as the check sees them, whatever operator computes them: y = β c + α x w."""

from typing import Any

import msgspec
import torch
from torch import Tensor


class Product(msgspec.Struct, frozen=True):
    """One product; x is (…, M, K) and w (K, N) or (B, K, N)."""

    x: Tensor
    w: Tensor
    addend: Tensor | None = None
    alpha: float = 1.0
    beta: float = 1.0


def product_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Product:
    match func._schema.name:
        case "aten::linear":
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return Product(args[0], args[1].t(), bias)
        case "aten::addmm" | "aten::baddbmm":
            return Product(args[1], args[2], args[0], kwargs.get("alpha", 1), kwargs.get("beta", 1))
        case _:
            return Product(args[0], args[1])


def folds(x: Tensor, weight: Tensor) -> bool:
    """Whether ``linear``, seen whole in inference mode, makes rows that do not lie in order to one matrix."""
    return (
        weight.requires_grad
        and not weight.is_inference()
        and x.dim() > 2
        and weight.dim() == 2
        and x.layout is torch.strided
        and not x.is_nested
        and not x.is_contiguous()
    )


def wide(product: Product) -> Tensor:
    """The product of half-precision operands in float32, not rounded."""
    x, w = product.x, product.w
    flat = x if w.dim() == 3 else x.reshape(-1, x.shape[-1])
    y: Tensor
    if x.is_cuda:
        y = (torch.ops.aten.mm if w.dim() == 2 else torch.ops.aten.bmm).dtype(flat, w, torch.float32)
    else:
        y = (torch.mm if w.dim() == 2 else torch.bmm)(flat.float(), w.float())
    y = y.view(*x.shape[:-1], w.shape[-1])
    if product.alpha != 1:
        y = y * product.alpha
    if product.addend is not None and product.beta != 0:
        y = y + product.addend.float() * product.beta
    return y
