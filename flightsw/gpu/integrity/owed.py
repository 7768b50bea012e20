"""Checks that a forward operation owes to its backward one.

Of some operations the backward pass obeys identities that hold only when the forward result was sound, too. In a
pass that has a backward pass, such a forward operation is not done twice: its check is owed, and paid when the
identities of its backward operation hold. What is still owed when the pass ends, or when somebody is about to write
into what it needs, is paid by doing the operation again. A fault is then seen later than a repetition would see it,
but still before the pass is settled; its results are out by then, so it taints the pass.

*Attention*: see ``attention``. *GELU* (the tanh form): with y = gelu(x), r = y/x = (1 + tanh u(x)) / 2, and so

    gelu'(x)  =  r + 2 y (1 − r) u'(x),        u'(x) = √(2/π) (1 + 3·0.044715 x²)

whatever way y was computed. The backward result b has to be g · gelu'(x). It computes its own tanh from x and never
reads y: an error of either side shows. No function is evaluated, only five multiplications and a division.

*Bound*: per row ‖b − g gelu'(x)‖ ≤ λ u ‖g‖. The largest difference of a sound element is 44 u, near |x| = 4.6,
where 1 − r is a difference of nearly equal numbers; λ = ``GELU_SLACK``. A change of y by a relative δ moves gelu'
by about δ, but near |x| = 0.9, where gelu' as a function of r is flat, only by about δ²: there it is seen from some
percent on. Not seen: what changes an element whose gradient is nothing beside the others of its row.
"""

import math
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import attention
from flightsw.gpu.integrity.checksum import TINY, UNIT

GELU_SLACK: Final = 128.0
PIECE_ELEMENTS: Final = 1 << 15
"""Elements that are looked at together: all of them and what is made of them stay in a core's own cache."""
CUBIC: Final = 3 * 0.044715
ROOT: Final = math.sqrt(2.0 / math.pi)

_ATTENTION: Final = "aten::_scaled_dot_product_flash_attention_for_cpu"


class Owed(msgspec.Struct, frozen=True):
    """A forward operation, its operands and its result as it was handed on."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


Key = tuple[int, int, torch.Size]


def kept_for_backward() -> bool:
    """Whether autograd keeps operands for a backward pass, as they are."""
    if not torch.is_grad_enabled():
        return False
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is None


def saved(func: Any, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Operands of a forward operation that its backward one reads again."""
    match func._schema.name:
        case "aten::mm" | "aten::bmm":
            x, w = args[:2]
        case "aten::addmm" | "aten::baddbmm":
            x, w = args[1:3]
        case "aten::native_layer_norm":
            return (args[0],) if args[0].requires_grad else ()
        case _:
            return ()
    return (*((x,) if w.requires_grad else ()), *((w,) if x.requires_grad else ()))


def may_owe(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a backward operation is to come that has identities for it. Not under activation checkpointing or
    offloading: there its operands are not kept for the backward pass, and must not be kept here."""
    if not kept_for_backward():
        return False
    if func._schema.name == _ATTENTION:
        query, key, value = args[:3]
        return (
            any(one.requires_grad for one in (query, key, value))
            and (len(args) < 4 or args[3] == 0.0)
            and kwargs.get("dropout_p", 0.0) == 0.0
            and query.dtype in UNIT
            and query.shape[1] == key.shape[1]
            and query.numel() > 0
        )
    x = args[0]
    return (
        bool(x.requires_grad)
        and kwargs.get("approximate") == "tanh"
        and x.dtype in (torch.float32, torch.float64)
        and x.is_contiguous()
        and x.numel() > 0
    )


def key_of_forward(func: Any, args: tuple[Any, ...], result: Any) -> Key:
    return _key(result[0] if func._schema.name == _ATTENTION else args[0])


def key_of_backward(func: Any, args: tuple[Any, ...]) -> Key:
    return _key(args[4] if func._schema.name.startswith(_ATTENTION) else args[1])


def _key(tensor: Tensor) -> Key:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.shape


def margin(
    func: Any, owed: Owed | None, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, waiting: bool
) -> Tensor | None:
    """Lowest and highest of bound − difference (2,) of a backward operation; None when it has no identities here.

    ``waiting``: no verdict may be read on the way."""
    if func._schema.name.startswith(_ATTENTION):
        return attention.margin(result, args, kwargs)
    gradient, x = args[:2]
    if owed is None or not gradient.is_contiguous() or not result.is_contiguous() or gradient.dtype is not x.dtype:
        return None
    columns = x.shape[-1] if x.dim() else 1
    y, x, gradient, result = (tensor.view(-1, columns) for tensor in (owed.result, x, gradient, result))
    margins = _gelu_margins(y, x, gradient, result, zeros=waiting)
    if not waiting and not margins.min() >= 0.0:
        # An x = 0, of which there is hardly ever one, gives 0/0. Only these rows are looked at again.
        rows = (~(margins >= 0.0)).nonzero().view(-1)
        margins[rows] = _gelu_margins(y[rows], x[rows], gradient[rows], result[rows], zeros=True)
    return torch.stack(torch.aminmax(margins))


def _gelu_margins(y: Tensor, x: Tensor, gradient: Tensor, result: Tensor, *, zeros: bool) -> Tensor:
    """Bound − difference of each row (M,) of operands (M, N), piece by piece."""
    rows = max(1, PIECE_ELEMENTS // x.shape[1])
    root = torch.tensor(ROOT, dtype=x.dtype, device=x.device)
    made = torch.empty((3, min(rows, len(x)), x.shape[1]), dtype=x.dtype, device=x.device)
    differences = torch.empty(len(x), dtype=x.dtype, device=x.device)
    sizes = torch.empty_like(differences)
    for start in range(0, len(x), rows):
        piece = slice(start, start + rows)
        y_, x_, gradient_ = y[piece], x[piece], gradient[piece]
        ratio, left, slope = made[:, : len(x_)].unbind()
        torch.div(y_, x_, out=ratio)
        if zeros:
            ratio.masked_fill_(x_ == 0, 0.5)
        torch.addcmul(y_, y_, ratio, value=-1.0, out=left)
        torch.addcmul(root, x_, x_, value=CUBIC * ROOT, out=slope)
        ratio.addcmul_(left, slope, value=2.0)
        torch.addcmul(result[piece], gradient_, ratio, value=-1.0, out=left)
        torch.linalg.vector_norm(left, dim=1, out=differences[piece])
        torch.linalg.vector_norm(gradient_, dim=1, out=sizes[piece])
    return sizes.mul_(GELU_SLACK * UNIT[x.dtype]).add_(TINY).sub_(differences)
