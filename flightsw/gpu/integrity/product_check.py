"""Matrix products in a pass: computed, checked against the sums of their operands, done again when they fail.

An alarm repeats the product; if the second one passes, it is handed on in place of the first (finding
"recomputed"), else the pass is tainted.

*Doubt.* A product that crosses the likely bound twice with the same bits, and not the certain one, is correlated
rounding (see ``checksum``): no finding. It is counted, and the bound of that operation learns: it is doubled.

*One reading.* On a processor with kernels (``native_product``) an operand whose look is due is verified by the same
reading that forms its sums, and the result is digested by the one that sums its rows. What does not pass there is
checked again in torch's operators, which have the last word.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from flightsw.gpu.integrity import checksum, gradients, native_product, operations
from flightsw.gpu.integrity.native_product import Kept
from flightsw.gpu.integrity.products import Product, product_of, wide
from flightsw.gpu.integrity.repetition import Repetition
from flightsw.gpu.integrity.results import digest_of, same
from flightsw.gpu.integrity.transit import lies_in_memory
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch
from flightsw.gpu.integrity.weights import Weights

ROWS_MIN: Final = 16
"""Rows from which a product with a live right operand is checked by sums. Summing the operand reads all of it once,
as a thin product does, so a thinner one is repeated: it costs as much and says more."""


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
        if dtype not in operations.FLOATS or not (lies_in_memory(product.x) and lies_in_memory(product.w)):
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

    def looked_at(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor, layer: str, *, last: bool
    ) -> None:
        """Look at a product of float32 whose result ``y`` is in use: an alarm taints the pass. Unless it is the
        ``last`` look, ``y`` is digested from now on."""
        site = self._weights.site_of(func, args, kwargs, y) if last else None
        if site is not None:
            self._watch.verify(func, args, kwargs)
            if checksum.sound(*site.margin(args[0], y)):
                self._verdicts.tally.checks += 1
                return
        product = product_of(func, args, kwargs)
        if y.numel() == 0 or product.x.shape[-1] == 0:
            return
        kept = self._weights.sums_of(product.w)
        if kept is None and product.x.numel() // max(product.x.shape[-1], 1) < ROWS_MIN:
            self._watch.verify(func, args, kwargs)
            self._repetition.done_again(func, args, kwargs, y)
            if not last:
                self._watch.made(y)
            return
        reader = native_product.reader(product)
        self._watch.verify(func, args, kwargs, spared=reader.reads if reader else ())
        found, sums = False, None
        if reader is not None:
            found, sums = self._read(func, product, reader, kept, y, digest=not last)
            if found and last and kept is not None:
                self._weights.keep_site(func, args, y, product, reader.kernel, kept)
        if not last:
            self._watch.made(y, [sums])
        if not found:
            self._verdicts.layer = layer
            compute = partial(func, *args, **kwargs)
            self._check(func, product, kept.sums if kept else None, y, compute, in_use=True)

    def _read(
        self,
        func: Any,
        product: Product,
        reader: native_product.Reader,
        kept: Kept | None,
        y: Tensor,
        *,
        digest: bool = True,
    ) -> tuple[bool, Tensor | None]:
        """Whether sums match, and the digest of ``y`` where it was taken; looks at operands on the way."""
        limits = checksum.bounds(product.x.shape[-1], y.shape[-1], y.dtype)
        likely = limits.likely * self._slack.get((func, product.w.shape, y.shape), 1.0)
        due = [self._watch.due(tensor) for tensor in reader.reads]
        wanted = digest and self._verdicts.look.transit and self._watch.wanted(y)
        low_high, digests, sums = self._margin(
            product, reader, kept, y, likely, limits, [held is not None for held in due], digest=wanted
        )
        for tensor, held, seen in zip(reader.reads, due, digests, strict=True):
            if held is not None and seen is not None and not self._watch.agree(held, seen, func):
                self._watch.transit.produced(tensor, seen)
        sound = checksum.sound(*low_high)
        self._verdicts.tally.checks += sound
        return sound, sums

    def _margin(
        self,
        product: Product,
        reader: native_product.Reader,
        kept: Kept | None,
        y: Tensor,
        likely: float,
        limits: checksum.Bounds,
        looks: list[bool],
        *,
        digest: bool,
    ) -> gradients.Read:
        """What the kernels find; in a backward pass a gradient is read once for all that read it."""
        if product.addend is None and product.alpha == 1 and gradients.in_backward():
            if kept is not None and not reader.x.turned:
                found, self._watch.gradient = gradients.read(reader, y, kept, likely, limits, looks, digest=digest)
                return found
            read = self._watch.gradient
            if read is not None and kept is None and gradients.can_read_again(reader, read, looks):
                return gradients.read_again(reader, read, y, likely, looks, digest=digest)
        addend = self._weights.addend_of(product, y.shape[-1])
        return reader.read(y, kept, addend, likely, limits, looks, digest=digest)

    def _check(
        self,
        func: Any,
        product: Product,
        kept: checksum.Sums | None,
        y: Tensor,
        compute: Callable[[], Tensor],
        *,
        in_use: bool = False,
    ) -> Tensor:
        """``y``, or a second result in its place; one that is ``in_use`` cannot be replaced."""
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
        if not self._watch.as_produced((x, w, addend), where):
            return again
        found = checksum.residual(again, x, sums, addend, limits, alpha, beta)
        if checksum.sound(*checksum.margin(found, factor).tolist()):
            detail = "sums of the product did not match, those of a second one do"
            if in_use:
                self._verdicts.taint("checksum", where, detail)
            else:
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
