"""One reading of a gradient for the three operations of a backward pass that read it.

Of y = x wᵀ + b the backward pass makes, one after the other, dx = g w, dw = gᵀ x and db = Σ_t g_t. The check of dx
holds its rows against g s, with s the sums of w: it reads all of g. What the other two need of g is formed by that
reading, too (``native_gradient``):

- the sums r of its rows, and its norm. With them dw is checked along its other side, Σ_i dw_ij = Σ_t r_t x_tj, and
  x, which is read anyway to see whether it is still what its producer wrote, is all that is read for it;
- the sums of its columns, and of their sizes, to which db is held.

Bounds are those of ``checksum`` with gᵀ and x having changed places: (‖x_j‖ + lost) (‖g‖_F + ‖r‖) likely + floor.

*What is gained besides.* If g is damaged between two of the operations, what the later one makes of it is not what
the sums say. Where a look at its digest is due, it is read again all the same.

The last gradient that was read is kept until the next one is, or until the pass ends. It counts while its memory
has the version that it had.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import checksum, kernels, transit
from flightsw.gpu.integrity.native_product import LOST, Kept, Reader
from flightsw.gpu.integrity.reading import NOBODY
from flightsw.gpu.integrity.results import version_of

Read = tuple[tuple[float, float], list[Tensor | None], Tensor | None]
"""As ``Reader.read`` has it."""


class Gradient(msgspec.Struct, frozen=True):
    """What was read of one, (rows, columns)."""

    tensor: Tensor
    version: int
    sums: Tensor
    """Of its rows, float32 (rows,)."""
    scale: float
    """‖g‖_F + ‖r‖."""
    across: Any
    """Sums of its columns, and of their sizes, float64 (2, columns)."""

    def is_of(self, tensor: Tensor) -> bool:
        """Whether it is of the memory that a tensor shows, all of it and as it is."""
        mine = self.tensor
        return (
            tensor.layout is torch.strided
            and tensor.data_ptr() == mine.data_ptr()
            and tensor.numel() == mine.numel()
            and tensor.untyped_storage()._cdata == mine.untyped_storage()._cdata
            and version_of(tensor) == self.version
        )


def in_backward() -> bool:
    """Whether autograd is running a backward pass on this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


def read(
    reader: Reader,
    y: Tensor,
    kept: Kept,
    likely: float,
    limits: checksum.Bounds,
    looks: Sequence[bool],
    *,
    digest: bool,
) -> tuple[Read, Gradient]:
    """Look at y = g w, w having the sums that were ``kept``."""
    x = reader.x
    asked, digests, found = _asked(reader, y, looks, digest=digest)
    sums, across = torch.empty(x.rows), np.empty((2, x.columns))
    low, high, norm, size = _kernel().margin_and_sums(
        y.data_ptr(), y.shape[-1], x.tensor.data_ptr(), x.rows, x.columns, kept.sums.rows.data_ptr(),
        kept.scale * likely, math.sqrt(x.columns) * LOST, limits.floor, asked.get(id(x.tensor), NOBODY),
        NOBODY if found is None else found.data_ptr(), sums.data_ptr(), across.ctypes.data,
    )  # fmt: skip
    scale = math.sqrt(norm) + math.sqrt(x.rows * x.columns) * LOST + math.sqrt(size)
    gradient = Gradient(x.tensor, version_of(x.tensor), sums, scale, across)
    return ((low, high), digests, found), gradient


def can_read_again(reader: Reader, gradient: Gradient, looks: Sequence[bool]) -> bool:
    """Whether a product is gᵀ x with the ``gradient`` that was read before, no look at which is due."""
    g = reader.x
    due = any(look for one, look in zip(reader.reads, looks, strict=True) if one is g.tensor)
    shape = (len(gradient.sums), gradient.across.shape[1])
    return (
        g.turned and not reader.w.turned and not due and (g.rows, g.columns) == shape and gradient.is_of(g.tensor)
    )


def read_again(
    reader: Reader, gradient: Gradient, y: Tensor, likely: float, looks: Sequence[bool], *, digest: bool
) -> Read:
    """Look at y = gᵀ x, g being the ``gradient`` that was read before."""
    x = reader.w
    limits = checksum.bounds(x.rows, y.shape[0], y.dtype)
    asked, digests, found = _asked(reader, y, looks, digest=digest)
    low_high: tuple[float, float] = _kernel().turned_margin(
        y.data_ptr(), y.shape[0], x.tensor.data_ptr(), x.rows, x.columns, gradient.sums.data_ptr(),
        gradient.scale * likely, math.sqrt(x.rows) * LOST, limits.floor, asked.get(id(x.tensor), NOBODY),
        NOBODY if found is None else found.data_ptr(),
    )  # fmt: skip
    return low_high, digests, found


def columns_wrong(gradient: Gradient, result: Tensor, unit: float, floor: float) -> int:
    """Elements of ``result`` (columns,) that are not sums over the rows, within ``unit`` · Σ|g| + ``floor``."""
    sums, sizes = gradient.across
    bound = unit * sizes + floor
    with np.errstate(invalid="ignore", over="ignore"):
        right = (np.abs(result.detach().numpy().reshape(-1) - sums) < bound) & (bound < np.inf)
    return int(right.size - np.count_nonzero(right))


def _asked(
    reader: Reader, y: Tensor, looks: Sequence[bool], *, digest: bool
) -> tuple[dict[int, int], list[Tensor | None], Tensor | None]:
    digests = [torch.empty(transit.COLUMNS, dtype=torch.int64) if look else None for look in looks]
    asked = {id(one): sums.data_ptr() for one, sums in zip(reader.reads, digests, strict=True) if sums is not None}
    found = torch.empty(transit.COLUMNS, dtype=torch.int64) if digest and transit.readable(y) else None
    return asked, digests, found


def _kernel() -> Any:
    return kernels.native(torch.device("cpu"), "native_gradient")
