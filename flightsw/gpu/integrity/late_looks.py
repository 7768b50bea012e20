"""How operations of a pass without gradients are looked at late: policy as a table, for ``tape``.

A look forms a result again from operands and result as they lie in memory, and says how many pieces are wrong:
bit by bit for sums, products and rows of tables, within bounds of every element for the others (``native_late``,
``forward_attention``). Other layouts than the usual have no look here, and the operation is done again.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from flightsw.gpu.integrity import forward_attention, gelu, kernels
from flightsw.gpu.integrity.checksum import TINY, UNIT
from flightsw.gpu.integrity.identities import CHECKS, NORM_SLACK, SUM_SLACK
from flightsw.gpu.integrity.reading import Reading

ANY: Final = -1
MOVED_DIMS: Final = 4
"""Of what is compared with its copy; of more it is done again."""
_CPU: Final = torch.device("cpu")
_FLOAT: Final = torch.float32
_STRIDED: Final = torch.strided
_U: Final = UNIT[_FLOAT]

Look = Callable[[Any, tuple[Any, ...], dict[str, Any]], int | None]
"""Of a result, arguments and keywords: how many pieces are wrong; None when the operation has to be done again."""


class Kind(NamedTuple):
    """How operations of a name are noted."""

    at: int
    """Place among the arguments of the tensor that has to be float32; ``ANY`` dtype will do for what only moves."""
    look: Look | None
    """None: done again. Products are looked at by ``ProductCheck``."""
    product: bool = False
    moves: bool = False
    """May give back its argument, or a view of it: then there is nothing to note."""
    prompt: bool = False
    """Reads so much more than it writes that it is looked at while that is in cache; a digest has its result."""
    draws: tuple[int, str] | None = None
    """Place and name of the argument that has to be zero or false, or elements are dropped at random."""


def kind_of(func: Any) -> Kind | None:
    """How an operator is noted; None when it never is."""
    schema = func._schema
    return None if schema.is_mutable else KINDS.get(schema.name)


def takes(kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Whether a call of an operator can be noted: of float32 in the processor's memory, and nothing is drawn in
    it. Kernels are given addresses, and a tensor on another device, or without memory, has none."""
    if kind.draws is not None:
        place, name = kind.draws
        if args[place] if place < len(args) else kwargs is not None and kwargs.get(name):
            return False
    for one in args:
        if isinstance(one, Tensor) and (not one.is_cpu or one.layout is not _STRIDED or one.is_nested):
            return False
    if kind.at == ANY:
        return isinstance(args[0], Tensor)
    if len(args) <= kind.at:
        return False
    tensor = args[kind.at]
    return isinstance(tensor, Tensor) and tensor.dtype is _FLOAT


# Looks.


def _dense(*tensors: Any) -> bool:
    """Whether all are float32 and lie in one piece."""
    return all(isinstance(one, Tensor) and one.dtype is _FLOAT and one.is_contiguous() for one in tensors)


def _elementwise(kernel: str) -> Look:
    def look(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        a, b = args[:2]
        if kwargs or len(args) > 2 or not _dense(a, b, result):
            return None
        count, size = a.numel(), b.numel()
        if count < size:
            a, b, count, size = b, a, size, count
        if size == 0 or a.shape != result.shape or b.shape != a.shape[a.dim() - b.dim() :]:
            return None
        native: Any = kernels.native(_CPU, "native_late")
        found: int = getattr(native, kernel)(a.data_ptr(), b.data_ptr(), result.data_ptr(), count, size)
        return found

    return look


def _embedded(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    table, index = args[:2]
    if not _dense(table, result) or index.dtype is not torch.int64 or not index.is_contiguous():
        return None
    rows, columns = table.shape
    native: Any = kernels.native(_CPU, "native_late")
    found: int = native.rows_wrong(
        table.data_ptr(), rows, columns, index.data_ptr(), index.numel(), result.data_ptr()
    )
    return found


def _normed(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    x, shape = args[:2]
    weight, bias, epsilon = (*args[2:5], *(None, None, 1e-5)[len(args) - 2 :])[:3]
    columns = math.prod(shape)
    if kwargs or columns == 0 or not _dense(x, result, *(one for one in (weight, bias) if one is not None)):
        return None
    native: Any = kernels.native(_CPU, "native_late")
    found: int = native.layer_norm_wrong(
        x.data_ptr(), result.data_ptr(), x.numel() // columns, columns, 0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(), epsilon, NORM_SLACK * _U,
        (SUM_SLACK * math.sqrt(columns) + NORM_SLACK) * _U, TINY,
    )  # fmt: skip
    return found


def _normed_whole(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    return CHECKS["aten::native_layer_norm"](result, args, kwargs, Reading())


def _bent(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    x = args[0]
    if kwargs.get("approximate") != "tanh" or not _dense(x, result):
        return None
    native: Any = kernels.native(_CPU, "native_late")
    found: int = native.gelu_wrong(x.data_ptr(), result.data_ptr(), x.numel(), gelu.FORWARD_NUMBERS)
    return found


def _moved(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """``reshape`` and ``contiguous``: what they were given, in the order of its indices, in one piece."""
    source = args[0]
    if source.dtype is not _FLOAT or source.is_neg() or not _dense(result) or result.is_neg():
        return None
    if not 0 < source.dim() <= MOVED_DIMS or (source.stride(-1) != 1 and source.shape[-1] > 1):
        return None
    missing = MOVED_DIMS - source.dim()
    native: Any = kernels.native(_CPU, "native_late")
    found: int = native.moved_wrong(
        source.data_ptr(), *(1,) * missing, *source.shape, *(0,) * missing, *source.stride()[:-1], result.data_ptr()
    )
    return found


def _attended(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """``scaled_dot_product_attention``, whose fourth argument is a mask."""
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    causal = args[5] if len(args) > 5 else kwargs.get("is_causal", False)
    return _attention(result, args, kwargs, mask, causal)


def _flash(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """What becomes of it outside inference mode; its second result is for a backward pass, which there is not."""
    causal = args[4] if len(args) > 4 else kwargs.get("is_causal", False)
    return _attention(result[0], args, kwargs, kwargs.get("attn_mask"), causal)


def _attention(out: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], mask: Any, causal: bool) -> int | None:
    if kwargs.keys() - {"attn_mask", "dropout_p", "is_causal", "scale"}:
        return None
    query, key, value = args[:3]
    return forward_attention.wrong(out, query, key, value, mask, is_causal=causal, scale=kwargs.get("scale"))


KINDS: Final[dict[str, Kind]] = {
    "aten::linear": Kind(0, None, product=True),
    "aten::mm": Kind(0, None, product=True),
    "aten::addmm": Kind(1, None, product=True),
    "aten::bmm": Kind(0, None, product=True),
    "aten::baddbmm": Kind(1, None, product=True),
    "aten::add": Kind(0, _elementwise("sums_wrong")),
    "aten::mul": Kind(0, _elementwise("products_wrong")),
    "aten::embedding": Kind(0, _embedded),
    "aten::layer_norm": Kind(0, _normed),
    "aten::native_layer_norm": Kind(0, _normed_whole),
    "aten::gelu": Kind(0, _bent),
    "aten::scaled_dot_product_attention": Kind(0, _attended, prompt=True, draws=(4, "dropout_p")),
    "aten::_scaled_dot_product_flash_attention_for_cpu": Kind(0, _flash, prompt=True, draws=(3, "dropout_p")),
    "aten::dropout": Kind(ANY, None, moves=True, draws=(2, "train")),
    "aten::to": Kind(ANY, None, moves=True),
    "aten::reshape": Kind(ANY, _moved, moves=True),
    "aten::contiguous": Kind(ANY, _moved, moves=True),
}
"""By operator name. Layer norm, attention and reshaping are seen whole in inference mode, else their parts are."""
