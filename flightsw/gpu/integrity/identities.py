"""Checks of operations that are no matrix products: what their results have to be, each read once.

``margin`` says how far the results of an operation are within their bounds, or that it has no check here: another
dtype, a layout whose rows are not in one piece, a device, or no Numba. Then it is done twice, as any other.

- *Exact* (sums, products, rows of a table): formed again in registers and compared as bits, ``native_pointwise``.
- *Layer norm*, forward and backward, and *sums over rows*: formed again row by row, within bounds of each
  element, ``native_norm``.
- *GELU* and *attention*: the identities of their backward operation, which hold only when the forward one was
  sound, ``owed``, ``gelu`` and ``attention``.

A check that counts wrong elements gives minus their number as the lowest margin. Bounds are slack times the unit
roundoff times the size of what an element is made of; nothing that is sound comes near, but for sums of terms that
are far from random. Such a one is an alarm, is done again with the same bits, and is a doubt (see ``checked``).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import attention, gelu, gradients, kernels, transit
from flightsw.gpu.integrity.checksum import SMALL, TINY, UNIT
from flightsw.gpu.integrity.reading import NOBODY, Reading

NORM_SLACK: Final = 8.0
"""Of the few roundings of one element; certain."""
SUM_SLACK: Final = 2.0
"""Of √n, for a sum over the n elements of a row; the few roundings of an element come on top."""
COLUMN_SLACK: Final = 8.0
"""Of a sum over m rows beside √m: what a sum of few terms may be off."""

_ATTENTION: Final = "aten::_scaled_dot_product_flash_attention_for_cpu_backward"
_GELU: Final = "aten::gelu_backward"
_FLOATS: Final = (torch.float32, torch.float64)

Check = Callable[[Any, tuple[Any, ...], dict[str, Any], Reading], int | None]
"""Of a result, arguments, keywords and wanted digests: how many of its rows, columns or pieces are wrong."""


def margin(
    func: Any,
    result: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    forward: Any = None,
    reading: Reading | None = None,
    waiting: bool = False,
) -> Tensor | None:
    """Lowest and highest of bound − difference (2,) of an operation; None when it has no check here.

    ``forward`` is the result of the forward operation whose check this one pays, where there is one; ``reading``
    says which digests are wanted of what is read. ``waiting``: no verdict may be read on the way."""
    reading = reading or Reading()
    name: str = func._schema.name
    if name == _ATTENTION:
        return attention.margin(result, args, kwargs)
    if name == "aten::gelu":
        return gelu.forward_margin(result, args, kwargs)
    if name == _GELU:
        return None if forward is None else gelu.margin(forward, result, args, reading=reading, waiting=waiting)
    check = CHECKS.get(name)
    wrong = None if check is None else check(result, args, kwargs, reading)
    return None if wrong is None else torch.tensor((-wrong, 0.0), dtype=torch.float64)


def reads(func: Any, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Operands whose digests the check of an operation may form as it reads them."""
    places = READS.get(func._schema.name, ())
    operands = [args[place] for place in places if place < len(args)]
    return tuple(one for one in operands if isinstance(one, Tensor) and one.is_cpu and transit.readable(one))


def _native(name: str, *tensors: Any) -> Any:
    """The kernels of a module, for tensors of one dtype that lie row by row on the processor; else None."""
    first = tensors[0]
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.dtype is not first.dtype or not tensor.is_contiguous():
            return None
        if tensor.is_neg():
            return None
    return kernels.native(first.device, name) if first.dtype in _FLOATS and first.numel() > 0 else None


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


# Exact ones.


def _elementwise(
    kernel: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading
) -> int | None:
    """A sum or product of two tensors, one of which may be the other's last dimensions over and over."""
    a, b = args[:2]
    if kwargs.get("alpha", 1) != 1 or len(args) > 2 or "out" in kwargs or not isinstance(b, Tensor):
        return None
    if isinstance(a, Tensor) and a.numel() < b.numel():
        a, b = b, a
    given = a, b, result
    dense = _alike(a, b, result)
    if dense is not None:
        a, b, result = dense
    native = _native("native_pointwise", a, b, result)
    if native is None or a.dtype is not torch.float32 or result.shape != a.shape or b.numel() == 0:
        return None
    if b.dim() > a.dim() or b.shape != a.shape[a.dim() - b.dim() :]:
        return None
    arrays = _array(a).reshape(-1), _array(b).reshape(-1), _array(result).reshape(-1).view(np.int32)
    found: int
    if kernel == "sums_differ" and a.numel() == b.numel() and a.numel() % 2 == 0:
        found = native.sums_differ_read(*arrays, *(reading.address(one) for one in given))
    else:
        found = getattr(native, kernel)(*arrays)
    return found


def _alike(*tensors: Tensor) -> list[Tensor] | None:
    """The memory of tensors of one shape that are laid out alike, without gaps, in one row each."""
    first = tensors[0]
    if first.is_contiguous():
        return None
    if not all(one.shape == first.shape and one.stride() == first.stride() for one in tensors):
        return None
    span = 1 + sum((size - 1) * stride for size, stride in zip(first.shape, first.stride(), strict=True))
    if span != first.numel():
        return None
    return [one.as_strided((span,), (1,)) for one in tensors]


def _multiplied(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading) -> int | None:
    a, factor = args[:2]
    if isinstance(factor, Tensor) and (factor.dim() > 0 or factor.dtype is not torch.float32):
        return _elementwise("products_differ", result, args, kwargs, reading)
    native = _native("native_pointwise", a, result)
    if native is None or a.dtype is not torch.float32 or isinstance(factor, complex) or "out" in kwargs:
        return None
    found: int = native.scaled_differ(
        _array(a).reshape(-1), np.float32(float(factor)), _array(result).reshape(-1).view(np.int32)
    )
    return found


def _rows_of(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading) -> int | None:
    """``embedding``: a table and which of its rows."""
    table, index = args[:2]
    native = _native("native_pointwise", table, result)
    if native is None or table.dtype is not torch.float32 or index.dtype is not torch.int64:
        return None
    columns = table.shape[-1]
    found: int = native.rows_differ(
        _array(table).view(np.int32),
        _array(index).reshape(-1),
        _array(result).reshape(-1, columns).view(np.int32),
    )
    return found


# Layer norm and sums.


def _layer_norm(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading) -> int | None:
    if len(args) != 5:
        return None
    x, shape, weight, bias, epsilon = args
    y, mean, rstd = result
    given = [one for one in (weight, bias) if one is not None]
    native = _native("native_norm", x, y, mean, rstd, *given)
    if native is None:
        return None
    columns, rows = math.prod(shape), mean.numel()
    x_ = _array(x).reshape(rows, columns)
    numbers = _numbers(x.dtype, columns, epsilon)
    found: int = native.layer_norm_differs(
        x_,
        _affine(weight, columns, 1.0, x_.dtype),
        _affine(bias, columns, 0.0, x_.dtype),
        _array(mean).reshape(rows),
        _array(rstd).reshape(rows),
        _array(y).reshape(rows, columns),
        numbers,
        reading.address(x),
        reading.address(y),
    )
    return found


def _numbers(dtype: torch.dtype, columns: int, last: float) -> Any:
    """What the kernels of layer norms are told, in the operands' dtype."""
    unit = UNIT[dtype]
    of_sum = (SUM_SLACK * math.sqrt(columns) + NORM_SLACK) * unit
    numbers = (NORM_SLACK * unit, of_sum, TINY, 1.0, columns, SMALL[dtype], last)
    return np.array(numbers, np.float32 if dtype is torch.float32 else np.float64)


def _affine(given: Tensor | None, columns: int, otherwise: float, dtype: Any) -> Any:
    return np.full(columns, otherwise, dtype) if given is None else _array(given).reshape(columns)


def _layer_norm_backward(
    result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading
) -> int | None:
    if len(args) != 8:
        return None
    gradient, x, shape, mean, rstd, weight, bias, wanted = args
    given = [one for one in (weight, bias, *result) if one is not None]
    native = _native("native_norm", x, gradient, mean, rstd, *given)
    if native is None:
        return None
    columns, rows = math.prod(shape), mean.numel()
    x_ = _array(x).reshape(rows, columns)
    numbers = _numbers(x.dtype, columns, (math.sqrt(rows) + COLUMN_SLACK) * UNIT[x.dtype])
    moved, of_weight, of_bias = (
        None if one is None or not want else _array(one) for one, want in zip(result, wanted, strict=True)
    )
    found: int = native.layer_norm_backward_differs(
        _array(gradient).reshape(rows, columns),
        x_,
        _affine(weight, columns, 1.0, x_.dtype),
        _array(mean).reshape(rows),
        _array(rstd).reshape(rows),
        np.empty((0, columns), x_.dtype) if moved is None else moved.reshape(rows, columns),
        np.empty(0, x_.dtype) if of_weight is None else of_weight.reshape(columns),
        np.empty(0, x_.dtype) if of_bias is None else of_bias.reshape(columns),
        numbers,
        reading.address(gradient),
        reading.address(x),
        NOBODY if moved is None else reading.address(result[0]),
    )
    return found


def _sum(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading) -> int | None:
    """A sum over leading dimensions: of a bias, of what was broadcast."""
    x, over = args[0], args[1] if len(args) > 1 else kwargs.get("dim")
    native = _native("native_norm", x, result)
    if (
        native is None
        or not over
        or x.dim() == 0
        or sorted(one % x.dim() for one in over) != list(range(len(over)))
    ):
        return None
    if len(over) == x.dim():
        return None
    rows = math.prod(x.shape[: len(over)])
    unit, read = (math.sqrt(rows) + COLUMN_SLACK) * UNIT[x.dtype], reading.gradient
    if read is not None and read.is_of(x) and read.across.shape[1] * rows == x.numel():
        return gradients.columns_wrong(read, result, unit, TINY)
    found: int = native.column_sums_differ(_array(x).reshape(rows, -1), _array(result).reshape(-1), unit, TINY)
    return found


CHECKS: Final[dict[str, Check]] = {
    "aten::add": partial(_elementwise, "sums_differ"),
    "aten::mul": _multiplied,
    "aten::embedding": _rows_of,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_layer_norm_backward": _layer_norm_backward,
    "aten::sum": _sum,
}
"""By operator; those of ``operations.ON_PROCESSOR``."""

READS: Final[dict[str, tuple[int, ...]]] = {
    "aten::add": (0, 1),
    "aten::native_layer_norm": (0,),
    "aten::native_layer_norm_backward": (0, 1),
    _GELU: (0, 1),
}
"""By operator, places of operands that its check reads from their first byte to their last."""
