"""Checks that a forward operation owes to its backward one.

Of some operations the backward pass obeys identities that hold only when the forward result was sound, too. In a
pass that has a backward pass, such a forward operation is not done twice: its check is owed, and paid when the
identities of its backward operation hold. What is still owed when the pass ends, or when somebody is about to write
into what it needs, is paid by doing the operation again. A fault is then seen later than a repetition would see it,
but still before the pass is settled; its results are out by then, so it taints the pass.

*Attention*: see ``attention``. *GELU*: see ``gelu``. How these and others are computed: see ``identities``.
"""

from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import identities
from flightsw.gpu.integrity.checksum import UNIT
from flightsw.gpu.integrity.reading import Reading

_ATTENTION: Final = "aten::_scaled_dot_product_flash_attention_for_cpu"


class Owed(msgspec.Struct, frozen=True):
    """A forward operation, its operands and its result as it was handed on."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


Key = tuple[int, int, torch.Size]
_NOBODY: Final[Key] = (0, 0, torch.Size())


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
    """Of the forward operation that a backward one may pay for; nobody's when it pays for none."""
    name: str = func._schema.name
    if name.startswith(_ATTENTION):
        return _key(args[4])
    return _key(args[1]) if name == "aten::gelu_backward" else _NOBODY


def _key(tensor: Tensor) -> Key:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.shape


def margin(
    func: Any,
    owed: Owed | None,
    result: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    reading: Reading,
    waiting: bool,
) -> Tensor | None:
    """``identities.margin``, with what is owed."""
    forward = owed and owed.result
    return identities.margin(func, result, args, kwargs, forward=forward, reading=reading, waiting=waiting)
