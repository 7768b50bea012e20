"""Matrix products in a pass: computed, checked against the sums of their operands, done again when they fail.

An alarm repeats the product; if the second one passes, it is handed on in place of the first (finding
"recomputed"), else the pass is tainted.

*Doubt.* A product that crosses the likely bound twice with the same bits, and not the certain one, is correlated
rounding (see ``checksum``): no finding. It is counted, and the bound of that operation learns: it is doubled.

*One reading.* On a processor with kernels (``native_product``) an operand whose look is due is verified by the same
reading that forms its sums, and the result is digested by the one that sums its rows. What does not pass there is
checked again in torch's operators, which have the last word.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from flightsw.gpu.integrity import checksum, native_product, operations
from flightsw.gpu.integrity.native_product import Addend, Kept
from flightsw.gpu.integrity.products import Product, product_of, wide
from flightsw.gpu.integrity.repetition import Repetition
from flightsw.gpu.integrity.results import digest_of, same, version_of
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch

ROWS_MIN: Final = 16
"""Rows from which a product with a live right operand is checked by sums. Summing the operand reads all of it once,
as a thin product does, so a thinner one is repeated: it costs as much and says more."""


class Weights:
    """Resident weights by name, and the sums of those that products use."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._sums: dict[tuple[Any, ...], Kept] = {}
        self._addends: dict[tuple[Any, ...], tuple[int, Addend]] = {}

    def know(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Memory that is guarded, and whose sums are worth keeping."""
        self._names = {
            tensor.untyped_storage()._cdata: name for name, tensor in weights if tensor.layout is torch.strided
        }
        self._sums.clear()
        self._addends.clear()

    def renew(self, *, now: bool) -> None:
        """Weights have changed by an announced update, or were just verified: old sums are void.

        With ``now`` those in use are taken at once, while the weights are known to be good; else at their next use.
        """
        kept = dict(self._sums)
        self._sums.clear()
        self._addends.clear()
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


class ProductCheck:
    """Handler of products."""

    def __init__(
        self, verdicts: Verdicts, watch: Watch, repetition: Repetition, weights: Weights, *, wide: bool
    ) -> None:
        self._verdicts = verdicts
        self._watch = watch
        self._repetition = repetition
        self._weights = weights
        self._wide = wide
        self._slack: dict[tuple[Any, ...], float] = {}

    def product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        product = product_of(func, args, kwargs)
        dtype = product.x.dtype
        if dtype not in operations.FLOATS:
            return self._repetition.repeat(func, args, kwargs)
        half = self._wide and dtype in (torch.bfloat16, torch.float16)
        compute: Callable[[], Tensor] = partial(wide, product) if half else partial(func, *args, **kwargs)
        if not self._verdicts.look.checksum:
            self._watch.verify(func, args, kwargs)
            return self._watch.made(compute().to(dtype))
        kept = self._weights.sums_of(product.w)
        thin = kept is None and product.x.numel() // max(product.x.shape[-1], 1) < ROWS_MIN and not half
        reader = native_product.reader(product) if not (thin or self._verdicts.waiting) else None
        self._watch.verify(func, args, kwargs, spared=reader.reads if reader else ())
        y = compute()
        if y.numel() == 0 or product.x.shape[-1] == 0:
            return y.to(dtype)
        if thin:
            return self._repetition.again(func, y, args, kwargs)
        if reader is None:
            return self._watch.made(self._check(func, product, kept.sums if kept else None, y, compute).to(dtype))
        found, sums = self._read(func, product, reader, kept, y)
        if not found:
            y, sums = self._check(func, product, kept.sums if kept else None, y, compute), None
        return self._watch.made(y, [sums])

    def _read(
        self, func: Any, product: Product, reader: native_product.Reader, kept: Kept | None, y: Tensor
    ) -> tuple[bool, Tensor | None]:
        """Whether sums match, and the digest of ``y`` where it was taken; looks at operands on the way."""
        limits = checksum.bounds(product.x.shape[-1], y.shape[-1], y.dtype)
        likely = limits.likely * self._slack.get((func, product.w.shape, y.shape), 1.0)
        due = [self._watch.due(tensor) for tensor in reader.reads]
        wanted = self._verdicts.look.transit and self._watch.wanted(y)
        low_high, digests, sums = reader.read(
            y,
            kept,
            self._weights.addend_of(product, y.shape[-1]),
            likely,
            limits,
            [held is not None for held in due],
            digest=wanted,
        )
        for tensor, held, digest in zip(reader.reads, due, digests, strict=True):
            if held is not None and digest is not None and not self._watch.agree(held, digest, func):
                self._watch.transit.produced(tensor, digest)
        sound = checksum.sound(*low_high)
        self._verdicts.tally.checks += sound
        return sound, sums

    def _check(
        self, func: Any, product: Product, kept: checksum.Sums | None, y: Tensor, compute: Callable[[], Tensor]
    ) -> Tensor:
        x, w, addend, alpha, beta = product.x, product.w, product.addend, product.alpha, product.beta
        limits = checksum.bounds(x.shape[-1], y.shape[-1], y.dtype)
        site = (func, w.shape, y.shape)
        likely = limits.likely * self._slack.get(site, 1.0)
        if not self._verdicts.waiting:
            sums = kept or checksum.sums_of(w, screen=True)
            found = checksum.residual(y, x, sums, addend, limits, alpha, beta, screen=True)
            if checksum.sound(*checksum.margin(found, sums.scale * likely).tolist()):
                self._verdicts.tally.checks += 1
                return y
        sums = kept or checksum.sums_of(w)
        factor = sums.scale * likely
        found = checksum.residual(y, x, sums, addend, limits, alpha, beta)
        self._verdicts.tally.checks += 1
        if self._verdicts.sound(checksum.margin(found, factor), self._where(func, product)):
            return y
        again = compute()
        where = self._where(func, product)
        found = checksum.residual(again, x, sums, addend, limits, alpha, beta)
        if checksum.sound(*checksum.margin(found, factor).tolist()):
            detail = "sums of the product did not match, those of a second one do"
            self._verdicts.find("checksum", "recomputed", where, detail)
            return again
        certain = checksum.margin(found, sums.norm * limits.certain)
        fresh = (
            native_product.kept(w).sums if self._weights.known(w.untyped_storage()._cdata) else checksum.sums_of(w)
        )
        if not same([sums.rows], [fresh.rows]):
            detail = "the operand does not have the sums it had when it was verified"
            self._verdicts.taint("checksum", where, detail)
        elif checksum.sound(*certain.tolist()) and same([digest_of(y)], [digest_of(again)]):
            self._verdicts.tally.doubts += 1
            self._slack[site] = 2.0 * self._slack.get(site, 1.0)
        else:
            detail = "sums of the product do not match those of its operands, twice"
            self._verdicts.taint("checksum", where, detail)
        return again

    def _where(self, func: Any, product: Product) -> str:
        name = self._weights.name_of(product.w) or self._verdicts.layer
        return f"{func} of {name}" if name else str(func)
