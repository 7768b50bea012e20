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

NONE: Final = 0
"""Address of a digest that nobody wants."""


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
        kept: checksum.Sums | None,
        likely: float,
        limits: checksum.Bounds,
        looks: Sequence[bool],
        *,
        digest: bool,
    ) -> tuple[tuple[float, float], list[Tensor | None], Tensor | None]:
        """Lowest and highest of bound − difference; digests of ``reads``, of those that ``looks`` asks for; digest
        of ``y`` if asked for and there is one. ``kept`` are sums of w when it need not be read."""
        inner = self.w.columns if self.w.turned else self.w.rows
        height = y.numel() // y.shape[-1]
        asked = dict(zip(map(id, self.reads), looks, strict=True))
        digests = {key: _digest() for key, look in asked.items() if look}
        room = torch.empty(3 * height + 2 * inner)
        rows = room.data_ptr()
        dots, squares = rows + 4 * height, rows + 8 * height
        sums, scale = (kept.rows.data_ptr(), kept.scale.item()) if kept else (rows + 12 * height, 0.0)
        if kept is None:
            scale = self._sum(sums, inner, digests.get(id(self.w.tensor)))
        x, x_digest = self.x, digests.get(id(self.x.tensor))
        dot = self.kernel.dots_of_columns if x.turned else self.kernel.dots_of_rows
        dot(x.tensor.data_ptr(), x.rows, x.columns, sums, dots, squares, _address(x_digest))
        found = _digest() if digest and _digestible(y) else None
        self.kernel.sums_of_rows(y.data_ptr(), height, y.shape[-1], rows, _address(found))
        alpha, addend, floor = self.product.alpha, 0.0, limits.floor
        if self.product.addend is not None and self.product.beta != 0.0:
            total = torch.empty(1)
            columns = self.product.addend.shape[0]
            size = self.kernel.sums_of_rows(
                self.product.addend.contiguous().data_ptr(), 1, columns, total.data_ptr(), NONE
            )
            # A single number is added to every column.
            addend = self.product.beta * total.item() * (y.shape[-1] // columns)
            floor += math.sqrt(size * (y.shape[-1] // columns)) * abs(self.product.beta) * limits.addend
        lost = math.sqrt(inner) * checksum.SMALL[torch.float32]
        low_high: tuple[float, float] = self.kernel.margin(
            height, rows, dots, squares, float(alpha), addend, scale * likely * abs(alpha), lost, floor
        )
        return low_high, [digests.get(id(tensor)) for tensor in self.reads], found

    def _sum(self, sums: int, inner: int, digest: Tensor | None) -> float:
        """Sums of w's rows into memory at ``sums``, two times ``inner``; ‖w‖_F + ‖s‖."""
        w, size = self.w, self.w.rows * self.w.columns
        if w.turned:
            ones = checksum.ones(w.rows, torch.float32, w.tensor.device)
            self.kernel.dots_of_columns(
                w.tensor.data_ptr(), w.rows, w.columns, ones.data_ptr(), sums, sums + 4 * inner, _address(digest)
            )
            square = self.kernel.total(sums + 4 * inner, inner)
        else:
            square = self.kernel.sums_of_rows(w.tensor.data_ptr(), w.rows, w.columns, sums, _address(digest))
        norm = math.sqrt(square) + math.sqrt(size) * checksum.SMALL[torch.float32]
        return norm + math.sqrt(self.kernel.square(sums, inner))


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
        return Operand(tensor, tensor.numel() // max(columns, 1), columns, False, _digestible(tensor))
    if tensor.dim() == 2 and tensor.stride(0) == 1 and tensor.stride(1) == tensor.shape[0]:
        return Operand(tensor, tensor.shape[1], tensor.shape[0], True, _digestible(tensor))
    return None


def _digestible(tensor: Tensor) -> bool:
    return tensor.nbytes > transit.COLUMNS * transit.WORD_BYTES and not tensor.numel() % 2 and transit.dense(tensor)


def _digest() -> Tensor:
    return torch.empty(transit.COLUMNS, dtype=torch.int64)


def _address(digest: Tensor | None) -> int:
    return NONE if digest is None else digest.data_ptr()
