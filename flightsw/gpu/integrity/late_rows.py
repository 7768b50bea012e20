"""Looks that need nothing but addresses and numbers: rows of a table, which one call of a kernel goes through.

A decode step has two dozen small operations, and a call of a kernel costs more than its work on one of them: when
it comes, what it needs has left the core's cache. So what is looked at when a pass has ended is put down in rows
first, and looked at together (``native_table``). What a row says is what a look by itself is told, so there is one
maker of rows for each kind of look, and both take it.

A chunk of a prompt has as many operations, of megabytes each. There each tensor is read as the result of one and as
the operand of the next, and would come from memory each time. So rows of as many lines are gone through block by
block, all of them for some lines, and then for the next.

A row is ``WORDS`` whole numbers, the first of them its kind, and ``NUMBERS`` floats. Whoever makes one has looked
at dtype, layout and size, and keeps the memory alive until the table was looked at.
"""

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from flightsw.gpu.integrity import gelu, kernels
from flightsw.gpu.integrity.checksum import TINY, UNIT
from flightsw.gpu.integrity.identities import NORM_SLACK, SUM_SLACK

SUMS, PRODUCTS, ROWS, NORM, GELU, MOVED, LINEAR, LOGGED = range(8)
"""Kinds of rows. What follows is in the order of the arguments of a kernel: of ``native_late``, or, of a product,
addresses of y, x, its rows, K, N and the address of s, as in ``native_rows.product_margin``."""
WORDS: Final = 11
LINES: Final = WORDS - 1
"""Place of the word that says of how many lines, one for each token, operand and result are, so that a block of
lines can be looked at by itself. 1 where they are not; none, which counts as 1, where a kind has no lines."""
NUMBERS: Final = 4
MOVED_DIMS: Final = 4
"""Of what is compared with its copy; of more it is done again."""
_CPU: Final = torch.device("cpu")
_FLOAT: Final = torch.float32
_U: Final = UNIT[_FLOAT]
NO_NUMBERS: Final = (0.0,) * NUMBERS

Row: TypeAlias = tuple[tuple[int, ...], tuple[float, ...]]
Maker = Callable[[Any, tuple[Any, ...], dict[str, Any]], Row | None]
"""Of a result, arguments and keywords; None when a row does not say it."""


def wrong(rows: Sequence[Row]) -> Sequence[int]:
    """How many pieces are wrong in what each row says."""
    words, numbers = array("q"), array("d")
    for word, number in rows:
        words.extend(word)
        numbers.extend(number)
    assert len(words) == WORDS * len(rows), "whole rows"
    found = array("q", bytes(words.itemsize * len(rows)))
    native: Any = kernels.native(_CPU, "native_table")
    native.look(
        words.buffer_info()[0], numbers.buffer_info()[0], len(rows), gelu.FORWARD_NUMBERS, found.buffer_info()[0]
    )
    return found


def look_of(maker: Maker) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], int | None]:
    """A look by itself: how many pieces are wrong; None when there is no row for it."""

    def look(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        row = maker(result, args, kwargs)
        return None if row is None else wrong((row,))[0]

    return look


def dense(*tensors: Any) -> bool:
    """Whether all are float32 and lie in one piece."""
    for one in tensors:
        if not isinstance(one, Tensor) or one.dtype is not _FLOAT or not one.is_contiguous():
            return False
    return True


def elementwise(kind: int) -> Maker:
    """A sum or a product of two tensors, one of which may be the other's last dimensions over and over."""

    def row(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
        if kwargs or len(args) > 2 or not dense(*args, result):
            return None
        a, b = args
        count, size = a.numel(), b.numel()
        if count < size:
            a, b, count, size = b, a, size, count
        shape, last = a.shape, b.shape
        if size == 0 or shape != result.shape or last != shape[len(shape) - len(last) :]:
            return None
        width = shape[-1] if shape else 1
        lines = count // width if size in (count, width) else 1
        return (kind, a.data_ptr(), b.data_ptr(), result.data_ptr(), count, size, 0, 0, 0, 0, lines), NO_NUMBERS

    return row


def embedded(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
    """Rows of a table."""
    table, index = args[:2]
    if not dense(table, result) or index.dtype is not torch.int64 or not index.is_contiguous():
        return None
    rows, columns = table.shape
    count = index.numel()
    return (
        ROWS,
        table.data_ptr(),
        rows,
        columns,
        index.data_ptr(),
        count,
        result.data_ptr(),
        0,
        0,
        0,
        count,
    ), NO_NUMBERS


def normed(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
    """``layer_norm``."""
    x, shape = args[:2]
    weight, bias, epsilon = (*args[2:5], *(None, None, 1e-5)[len(args) - 2 :])[:3]
    columns = math.prod(shape)
    if kwargs or columns == 0 or not dense(x, result, *(one for one in (weight, bias) if one is not None)):
        return None
    lines = x.numel() // columns
    words = (
        NORM, x.data_ptr(), result.data_ptr(), lines, columns,
        0 if weight is None else weight.data_ptr(), 0 if bias is None else bias.data_ptr(), 0, 0, 0, lines,
    )  # fmt: skip
    return words, (epsilon, NORM_SLACK * _U, (SUM_SLACK * math.sqrt(columns) + NORM_SLACK) * _U, TINY)


def bent(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
    """GELU of the tanh form."""
    x = args[0]
    if kwargs.get("approximate") != "tanh" or not dense(x, result):
        return None
    lines = max(x.numel() // max(x.shape[-1], 1), 1) if x.shape else 1
    return (GELU, x.data_ptr(), result.data_ptr(), x.numel(), 0, 0, 0, 0, 0, 0, lines), NO_NUMBERS


def moved(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
    """``reshape`` and ``contiguous``: what they were given, in the order of its indices, in one piece."""
    source = args[0]
    if source.dtype is not _FLOAT or source.is_neg() or not dense(result) or result.is_neg():
        return None
    if not 0 < source.dim() <= MOVED_DIMS or (source.stride(-1) != 1 and source.shape[-1] > 1):
        return None
    missing = MOVED_DIMS - source.dim()
    words = (
        MOVED, source.data_ptr(), *(1,) * missing, *source.shape, *(0,) * missing, *source.stride()[:-1],
        result.data_ptr(), 0,
    )  # fmt: skip
    return words, NO_NUMBERS


def logged(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
    """What a log has copied; the log has made the row."""
    row: Row = args[0]
    return row
