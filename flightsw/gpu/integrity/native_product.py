"""Which products the processor's kernels can check, and how: the torch side of ``native_rows``.

A product is read by kernels when all of it is float32 in whole matrices: operands that lie in memory row after row,
or column after column, from the start of their storage to its end, so that one reading serves sums and digest.
Everything else (views of parts, batches of matrices, other dtypes) is checked in torch's operators.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import checksum, kernels, transit
from flightsw.gpu.integrity.products import Product
from flightsw.gpu.integrity.reading import NOBODY
from flightsw.gpu.integrity.results import version_of

LOST: Final = checksum.SMALL[torch.float32]


class Kept(msgspec.Struct, frozen=True):
    """Sums of a resident operand as it was when it was verified."""

    tensor: Tensor
    version: int
    sums: checksum.Sums
    scale: float
    """Of the sums, on the host."""


class Addend(msgspec.Struct, frozen=True):
    """What a row of an addend adds to that of the product."""

    total: float = 0.0
    norm: float = 0.0


class Operand(msgspec.Struct, frozen=True):
    """A matrix in memory (rows, columns), and whether the product sees its transpose."""

    tensor: Tensor
    rows: int
    columns: int
    turned: bool
    digestible: bool
    """Whether the reading can form the digest of its storage."""


class Reader(msgspec.Struct, frozen=True):
    """Reads one product."""

    product: Product
    x: Operand
    w: Operand
    reads: tuple[Tensor, ...]
    """Operands that are verified by reading them here, where they are read at all."""
    kernel: Any

    def read(
        self,
        y: Tensor,
        kept: Kept | None,
        addend: Addend,
        likely: float,
        limits: checksum.Bounds,
        looks: Sequence[bool],
        *,
        digest: bool,
    ) -> tuple[tuple[float, float], list[Tensor | None], Tensor | None]:
        """Lowest and highest of bound − difference; digests of ``reads``, of those that ``looks`` asks for; digest
        of ``y`` if asked for and there is one. ``kept`` are sums of w when it need not be read."""
        x, w = self.x, self.w
        inner = w.columns if w.turned else w.rows
        digests = [_digest() if look else None for look in looks]
        asked = {
            id(tensor): one.data_ptr() for tensor, one in zip(self.reads, digests, strict=True) if one is not None
        }
        if kept is None:
            sums = torch.empty(inner)
            address, scale = sums.data_ptr(), self._sum(sums, asked.get(id(w.tensor), NOBODY))
        else:
            address, scale = kept.sums.rows.data_ptr(), kept.scale
        found = _digest() if digest and transit.readable(y) else None
        alpha, beta = float(self.product.alpha), self.product.beta
        low_high: tuple[float, float] = self.kernel.product_margin(
            y.data_ptr(), x.tensor.data_ptr(), x.rows, x.columns, x.turned, y.shape[-1], address, alpha,
            beta * addend.total, scale * likely * abs(alpha), math.sqrt(inner) * LOST,
            limits.floor + addend.norm * abs(beta) * limits.addend, asked.get(id(x.tensor), NOBODY),
            NOBODY if found is None else found.data_ptr(),
        )  # fmt: skip
        return low_high, digests, found

    def _sum(self, sums: Tensor, digest: int) -> float:
        """Sums of the rows of w into ``sums``; ‖w‖_F + ‖s‖."""
        w = self.w
        norm, size = self.kernel.operand_sums(
            w.tensor.data_ptr(), w.rows, w.columns, w.turned, sums.data_ptr(), digest
        )
        return float(math.sqrt(norm) + math.sqrt(w.rows * w.columns) * LOST + math.sqrt(size))


def reader(product: Product) -> Reader | None:
    """None for a product that is not read here."""
    addend = product.addend
    if product.w.dim() != 2 or product.x.dtype is not torch.float32 or product.w.dtype is not torch.float32:
        return None
    kernel = kernels.native(product.x.device, "native_rows")
    if kernel is None or (addend is not None and (addend.dim() != 1 or addend.dtype is not torch.float32)):
        return None
    x, w = operand(product.x), operand(product.w)
    if x is None or w is None:
        return None
    return Reader(product, x, w, tuple(one.tensor for one in (x, w) if one.digestible), kernel)


def operand(tensor: Tensor) -> Operand | None:
    """The matrix behind an operand (…, M, K), or (M, K) transposed; None for other layouts."""
    if tensor.is_contiguous():
        columns = tensor.shape[-1]
        return Operand(tensor, tensor.numel() // max(columns, 1), columns, False, transit.readable(tensor))
    if tensor.dim() == 2 and tensor.stride(0) == 1 and tensor.stride(1) == tensor.shape[0]:
        return Operand(tensor, tensor.shape[1], tensor.shape[0], True, transit.readable(tensor))
    return None


def _digest() -> Tensor:
    return torch.empty(transit.COLUMNS, dtype=torch.int64)


def kept(w: Tensor) -> Kept:
    """Sums of a resident operand as it is now."""
    kernel = kernels.native(w.device, "native_rows")
    matrix = operand(w) if w.dim() == 2 and w.dtype is torch.float32 else None
    if kernel is None or matrix is None:
        sums = checksum.sums_of(w)
        return Kept(w, version_of(w), sums, sums.scale.amax().item())
    rows = torch.empty((w.shape[0], 1))
    squares, size = kernel.operand_sums(
        w.data_ptr(), matrix.rows, matrix.columns, matrix.turned, rows.data_ptr(), NOBODY
    )
    norm = math.sqrt(squares) + math.sqrt(w.numel()) * LOST
    scale = norm + math.sqrt(size)
    sums = checksum.Sums(rows, torch.tensor([[scale]]), torch.tensor([[norm]]))
    return Kept(w, version_of(w), sums, scale)


def addend_of(product: Product, columns: int) -> Addend:
    """Of a vector (N,) or a single number that is added to every row."""
    if product.addend is None or product.beta == 0.0:
        return Addend()
    whole = product.addend.double().expand(columns)
    return Addend(whole.sum().item(), torch.linalg.vector_norm(whole).item())
