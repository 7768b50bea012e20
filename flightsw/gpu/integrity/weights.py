"""Resident weights as products use them: their names, their sums, and what does not change from call to call."""

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import checksum, native_product
from flightsw.gpu.integrity.late_rows import LINEAR, Row
from flightsw.gpu.integrity.native_product import Addend, Kept
from flightsw.gpu.integrity.products import Product
from flightsw.gpu.integrity.reading import NOBODY
from flightsw.gpu.integrity.results import version_of

SITES_MAX: Final = 4096
"""Calls of which what does not change is kept."""
_LINEAR: Final = torch.ops.aten.linear.default


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A ``linear`` of float32 with a resident weight: what does not change from one to the next."""

    weight: Tensor
    bias: Tensor | None
    kept: Kept
    kernel: Any
    address: int
    """Of its sums."""
    inner: int
    columns: int
    total: float
    factor: float
    lost: float
    floor: float

    def holds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether it is this one, and the weight as it was when its sums were taken."""
        bias = args[2] if len(args) > 2 else None
        return (
            args[1] is self.weight
            and args[1].shape == (self.columns, self.inner)
            and bias is self.bias
            and not kwargs
            and self.kept.version == version_of(args[1])
        )

    def margin(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Lowest and highest of bound − difference, of operand and result in one piece."""
        found: tuple[float, float] = self.kernel.product_margin(
            y.data_ptr(), x.data_ptr(), x.numel() // self.inner, self.inner, False, self.columns,
            self.address, 1.0, self.total, self.factor, self.lost, self.floor,
            NOBODY, NOBODY,
        )  # fmt: skip
        return found

    def row(self, x: Tensor, y: Tensor) -> Row:
        """The same look as a row of a table."""
        lines = x.numel() // self.inner
        words = (
            LINEAR, y.data_ptr(), x.data_ptr(), lines, self.inner, self.columns, self.address, 0, 0, 0, lines,
        )  # fmt: skip
        return words, (self.total, self.factor, self.lost, self.floor)


class Weights:
    """Resident weights by name, and the sums of those that products use."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._sums: dict[tuple[Any, ...], Kept] = {}
        self._addends: dict[tuple[Any, ...], tuple[int, Addend]] = {}
        self._sites: dict[int, Site] = {}

    def know(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Memory that is guarded, and whose sums are worth keeping."""
        self._names = {
            tensor.untyped_storage()._cdata: name for name, tensor in weights if tensor.layout is torch.strided
        }
        self._sums.clear()
        self._addends.clear()
        self._sites.clear()

    def renew(self, *, now: bool) -> None:
        """Weights have changed by an announced update, or were just verified: old sums are void.

        With ``now`` those in use are taken at once, while the weights are known to be good; else at their next use.
        """
        kept = dict(self._sums)
        self._sums.clear()
        self._addends.clear()
        self._sites.clear()
        if now:
            with torch.no_grad():
                for key, one in kept.items():
                    self._sums[key] = native_product.kept(one.tensor)

    def known(self, handle: int) -> bool:
        """Whether memory with this handle is that of a resident weight."""
        return handle in self._names

    def name_of(self, tensor: Tensor) -> str | None:
        return self._names.get(tensor.untyped_storage()._cdata)

    def sums_of(self, w: Tensor) -> Kept | None:
        """Kept sums of a resident weight; None for a live operand."""
        handle = w.untyped_storage()._cdata
        if handle not in self._names:
            return None
        key = (handle, w.storage_offset(), w.shape, w.stride(), w.dtype)
        held = self._sums.get(key)
        if held is None or held.version != version_of(w):
            held = self._sums[key] = native_product.kept(w)
        return held

    def addend_of(self, product: Product, columns: int) -> Addend:
        """Sums of an addend; kept for a resident one."""
        addend = product.addend
        if addend is None or addend.untyped_storage()._cdata not in self._names:
            return native_product.addend_of(product, columns)
        key = (addend.untyped_storage()._cdata, addend.storage_offset(), addend.shape, addend.stride(), columns)
        version, held = self._addends.get(key, (-1, None))
        if held is None or version != version_of(addend):
            held = native_product.addend_of(product, columns)
            self._addends[key] = version_of(addend), held
        return held

    def site_of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Site | None:
        """What is kept of such a call; None for one that has to be looked at as any other."""
        site = self._sites.get(id(args[1]))
        if site is None or func is not _LINEAR or not site.holds(args, kwargs) or not _in_one_piece(args[0], y):
            return None
        return site

    def row_of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Row | None:
        """A look at such a call as a row of a table; None for one that has to be looked at as any other."""
        site = self.site_of(func, args, kwargs, y)
        return None if site is None else site.row(args[0], y)

    def keep_site(
        self, func: Any, args: tuple[Any, ...], y: Tensor, product: Product, kernel: Any, kept: Kept
    ) -> None:
        """Keep what does not change from one ``linear`` with a resident weight to the next."""
        if func is not _LINEAR or len(args) > 3 or not _in_one_piece(args[0], y) or len(self._sites) >= SITES_MAX:
            return
        inner, columns = product.w.shape
        limits = checksum.bounds(inner, columns, product.x.dtype)
        addend = self.addend_of(product, columns)
        self._sites[id(args[1])] = Site(
            weight=args[1], bias=args[2] if len(args) > 2 else None, kept=kept, kernel=kernel,
            address=kept.sums.rows.data_ptr(), inner=inner, columns=columns, total=addend.total,
            factor=kept.scale * limits.likely, lost=math.sqrt(inner) * native_product.LOST,
            floor=limits.floor + addend.norm * limits.addend,
        )  # fmt: skip


def _in_one_piece(x: Tensor, y: Tensor) -> bool:
    return x.dtype is y.dtype is torch.float32 and x.is_contiguous() and y.is_contiguous()
