"""How operations of a pass without gradients are looked at late: policy as a table, for ``tape``.

A look forms a result again from operands and result as they lie in memory, and says how many pieces are wrong:
bit by bit for sums, products and rows of tables, within bounds of every element for the others (``native_late``,
``forward_attention``). Other layouts than the usual have no look here, and the operation is done again. Most looks
need addresses and numbers only: rows, of which many are looked at together (``late_rows``).
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from flightsw.gpu.integrity import forward_attention, late_rows
from flightsw.gpu.integrity.identities import CHECKS
from flightsw.gpu.integrity.reading import Reading

ANY: Final = -1
_FLOAT: Final = torch.float32
_STRIDED: Final = torch.strided

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
    copied: bool = False
    """Held against a copy of its result, not against its operands."""
    row: late_rows.Maker | None = None
    """Of a look that is a row of a table; that of a product is made by ``Weights``."""


def _by_row(maker: late_rows.Maker, *, at: int = 0, moves: bool = False) -> Kind:
    return Kind(at, late_rows.look_of(maker), moves=moves, row=maker)


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


# Looks that are no row of a table.


def _normed(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """What becomes of a layer norm outside inference mode."""
    return CHECKS["aten::native_layer_norm"](result, args, kwargs, Reading())


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
    "aten::add": _by_row(late_rows.elementwise(late_rows.SUMS)),
    "aten::mul": _by_row(late_rows.elementwise(late_rows.PRODUCTS)),
    "aten::embedding": _by_row(late_rows.embedded),
    "aten::layer_norm": _by_row(late_rows.normed),
    "aten::native_layer_norm": Kind(0, _normed),
    "aten::gelu": _by_row(late_rows.bent),
    "aten::scaled_dot_product_attention": Kind(0, _attended, prompt=True, draws=(4, "dropout_p")),
    "aten::_scaled_dot_product_flash_attention_for_cpu": Kind(0, _flash, prompt=True, draws=(3, "dropout_p")),
    "aten::dropout": Kind(ANY, None, moves=True, draws=(2, "train")),
    "aten::to": Kind(ANY, None, moves=True),
    "aten::reshape": _by_row(late_rows.moved, at=ANY, moves=True),
    "aten::contiguous": _by_row(late_rows.moved, at=ANY, moves=True),
}
"""By operator name. Layer norm, attention and reshaping are seen whole in inference mode, else their parts are."""
COPIED: Final = Kind(ANY, None, copied=True, row=late_rows.logged)
"""A result of which somebody keeps a copy: they have to be the same when the pass ends."""
