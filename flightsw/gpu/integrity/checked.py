"""The dispatch mode that sees a pass operation by operation, and checks each as its policy says.

Whoever computes under it, a module, a functional call, the backward pass, gets the results of torch's own
operators on the same operands: a check never changes a bit of a sound result. What is found wrong is done again
from its operands; if the second result passes, it is handed on in place of the first (finding "recomputed"), else
the pass is tainted: nothing that came of it may be used.

*Order of one operation.* Verify its arguments against the digests of their producers (transit), compute, check the
arithmetic (checksum, repetition), digest the result. An alarm of transit has no second source to go back to and
taints the pass, as does one of an operation that changes its argument: their owner runs the pass again.

*Deferred.* On a device an alarm that the host has to read stops the queue at every operation. There, verdicts stay
on the device; ``settle`` reads them all at once, and an alarm taints the pass. The pass that follows an alarm is
looked at in place, so that a doubt can be resolved when its owner runs it again.

*Doubt.* A product that crosses the likely bound twice with the same bits, and not the certain one, is correlated
rounding (see ``checksum``): no finding. It is counted, and the bound of that operation learns: it is doubled.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity import checksum, operations, owed, transit
from flightsw.gpu.integrity.finding import Detector, Finding, Outcome, Report
from flightsw.gpu.integrity.operations import Cover
from flightsw.gpu.integrity.products import Product, product_of, wide
from flightsw.gpu.integrity.results import (
    digest_of,
    fingerprint,
    put_back_of,
    replaced,
    same,
    shares,
    stored,
    tensors_in,
    version_of,
)

FINDINGS_MAX: Final = 64
"""Findings of one pass that are reported; further ones only taint it."""
ROWS_MIN: Final = 16
"""Rows from which a product with a live right operand is checked by sums. Summing the operand reads all of it once,
as a thin product does, so a thinner one is repeated: it costs as much and says more."""

_PLAIN: Final = frozenset({Tensor, nn.Parameter, nn.Buffer})
"""Tensor types that are what they seem."""

Handler = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class Look(msgspec.Struct, frozen=True):
    """What is looked at in one pass."""

    checksum: bool = False
    repeat: bool = False
    transit: bool = False

    def __bool__(self) -> bool:
        return self.checksum or self.repeat or self.transit


class Tally(msgspec.Struct):
    """Totals since the guard began."""

    checks: int = 0
    """Verdicts: products checked, results compared, digests verified."""
    doubts: int = 0
    """Clean products that crossed the likely bound."""
    findings: int = 0


class Checked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Enter it for a pass, between ``begin`` and ``finish``; ``settle`` says whether its results may be used."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: the wrapper would load torch's compiler at the first operation, seconds at every start of a worker.
        What is compiled is not run under this mode."""
        return False

    def __init__(self, report: Report, *, device: str = "cpu", deferred: bool = False, wide: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.look = Look()
        self.tainted = False
        self.tally = Tally()
        self.layer = ""
        """Layer that is running, where somebody follows that; for people."""
        self.seen: Counter[tuple[Any, Cover, str]] = Counter()
        """Operations by operator, cover and layer, since the guard began."""
        self._report = report
        self._device = device
        self._deferred = deferred
        self._wide = wide
        self._waiting = deferred
        self._immediate_next = False
        self._reported = 0
        self._plans: dict[Any, tuple[Cover, Handler]] = {}
        self._names: dict[int, str] = {}
        self._sums: dict[tuple[Any, ...], tuple[Tensor, int, checksum.Sums]] = {}
        self._slack: dict[tuple[Any, ...], float] = {}
        self._transit = transit.Transit()
        self._margins: list[tuple[Tensor, str]] = []
        self._flags: list[tuple[Tensor, Detector, str]] = []
        self._owed: dict[owed.Key, owed.Owed] = {}

    # A pass.

    def begin(self, look: Look) -> None:
        """A pass begins: what to look at in it."""
        self.look = look
        self._transit.clear()
        self._owed.clear()
        self._reported = 0
        self._waiting = self._deferred and not self._immediate_next

    def finish(self) -> None:
        """The pass has ended: last look at what still lives. Verdicts may still be on the device."""
        with torch.no_grad():
            self._pay()
            if self.look.transit:
                for expected, found in self._transit.remaining():
                    self._agree(expected, found, "the end of the pass")
        self._transit.clear()

    def settle(self) -> bool:
        """Read what is still on the device; whether no pass since the last call is tainted."""
        margins, self._margins = self._margins, []
        flags, self._flags = self._flags, []
        if margins:
            for (low, high), (_, where) in zip(
                torch.stack([margin for margin, _ in margins]).tolist(), margins, strict=True
            ):
                if not checksum.sound(low, high):
                    self._taint("checksum", where, "sums of a product do not match those of its operands")
        if flags:
            for raised, (_, detector, where) in zip(
                torch.stack([flag for flag, _, _ in flags]).tolist(), flags, strict=True
            ):
                if raised:
                    self._taint(detector, where, "two readings differ")
        clean, self.tainted = not self.tainted, False
        self._immediate_next = not clean
        return clean

    # Resident weights.

    def know(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Resident weights by name: memory that is guarded, and whose sums are worth keeping."""
        self._names = {
            tensor.untyped_storage()._cdata: name for name, tensor in weights if tensor.layout is torch.strided
        }
        self._sums.clear()

    def renew(self, *, now: bool) -> None:
        """Weights have changed by an announced update, or were just verified: old sums are void.

        With ``now`` those in use are taken at once, while the weights are known to be good; else at their next use.
        """
        kept = dict(self._sums)
        self._sums.clear()
        if now:
            with torch.no_grad():
                for key, (w, _, _) in kept.items():
                    self._sums[key] = (w, version_of(w), checksum.sums_of(w))

    # Operations.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plan = self._plans.get(func)
        if plan is None:
            plan = self._plans[func] = self._plan(func)
        cover, handler = plan
        if types and not _PLAIN.issuperset(types):
            cover, handler = Cover.UNSEEN, partial(self._plain, func)
        self.seen[func, cover, self.layer] += 1
        return handler(args, kwargs or {})

    def _plan(self, func: Any) -> tuple[Cover, Handler]:
        cover = operations.cover_of(func, self._device, deterministic=torch.are_deterministic_algorithms_enabled())
        handlers = {
            Cover.CHECKSUM: self._product,
            Cover.IDENTITY: self._identity,
            Cover.LATER: self._later,
            Cover.COPY: self._copy,
            Cover.REPEAT: self._repeat,
            Cover.RANDOM: self._repeat,
            Cover.CHANGE: self._change,
            Cover.STORE: self._store,
            Cover.READ: self._read,
            Cover.COMPOSITE: self._composite,
            Cover.STATE: self._state,
            Cover.UNSTABLE: self._unrepeated,
        }
        return cover, partial(handlers.get(cover, self._plain), func)

    def _plain(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Views, and what only makes memory."""
        return func(*args, **kwargs)

    def _composite(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self:
            result = func.decompose(*args, **kwargs)
        return self._repeat(func, args, kwargs) if result is NotImplemented else result

    def _unrepeated(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._verify(func, args, kwargs)
        if func._schema.is_mutable:
            self._about_to_write(tensors_in(args))
        return self._watch(func(*args, **kwargs))

    def _about_to_write(self, targets: Iterable[Tensor]) -> None:
        """What was left to a later look, or is owed, is looked at before it is gone."""
        targets = list(targets)
        for tensor in targets:
            if tensor.layout is torch.strided and self._transit.postponed(tensor):
                self._look_at(tensor, "a write into it")
        if self._owed:
            self._pay(frozenset(one.untyped_storage()._cdata for one in targets if one.layout is torch.strided))

    def _state(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._verify(func, args, kwargs)
        self._about_to_write(tensors_in(args))
        result = func(*args, **kwargs)
        for tensor in tensors_in(args):
            self._transit.forget(tensor)
        return result

    # Repetition.

    def _repeat(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._verify(func, args, kwargs)
        if not self.look.repeat:
            return self._watch(func(*args, **kwargs))
        put_back = put_back_of(func, args, kwargs)
        result = func(*args, **kwargs)
        first = fingerprint(result)
        put_back()
        again = func(*args, **kwargs)
        second = fingerprint(again)
        self.tally.checks += 1
        if self._waiting:
            self._flag("repeat", func, first, second)
        elif not same(first, second):
            put_back()
            result, first = self._majority(func, (result, first), (again, second), args, kwargs)
        return self._watch(result, first)

    def _later(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A forward operation whose backward one will be checked by identities that hold only if this is sound."""
        if not self.look.repeat or not owed.may_owe(func, args, kwargs):
            return (self._repeat if operations.is_random(func) else self._identity)(func, args, kwargs)
        if self.look.transit:
            self._transit.tick()
            self._transit.postpone(args[: 3 if len(args) > 2 else 1])
        result = func(*args, **kwargs)
        self._owed[owed.key_of_forward(func, args, result)] = owed.Owed(func, args, kwargs, result)
        return self._watch(result)

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A copy has the words of its sources, in whatever order: so has the sum of all, which costs no reading."""
        sources = list(tensors_in(args))
        alike = self.look.repeat and len({tensor.dtype for tensor in sources}) == 1
        expected = self._transit.total(sources) if alike else None
        if expected is None:
            return self._repeat(func, args, kwargs)
        self._transit.tick()
        result = func(*args, **kwargs)
        if not transit.keeps_words(result) or result.dtype is not sources[0].dtype:
            for tensor in sources:
                self._look_at(tensor, str(func))
            return self._repeat_of(func, result, args, kwargs)
        sums = digest_of(result)
        self.tally.checks += 1
        if self._waiting:
            self._flags.append((sums.sum() != expected, "repeat", str(func)))
        elif not torch.equal(sums.sum(), expected):
            for tensor in sources:
                self._look_at(tensor, str(func))
            return self._repeat_of(func, result, args, kwargs)
        return self._watch(result, [sums])

    def _pay(self, storages: frozenset[int] | None = None) -> None:
        """Do again what is still owed; of ``storages`` only, when somebody is about to write there."""
        for key, one in list(self._owed.items()):
            held = {tensor.untyped_storage()._cdata for tensor in tensors_in((one.args, one.result))}
            if storages is None or not storages.isdisjoint(held):
                del self._owed[key]
                self._redo(one)

    def _redo(self, one: owed.Owed) -> bool:
        """Whether a forward operation whose result is out gives that again; if not, the pass is tainted."""
        first, second = fingerprint(one.result), fingerprint(one.func(*one.args, **one.kwargs))
        self.tally.checks += 1
        if self._waiting:
            self._flag("repeat", one.func, first, second)
        elif not same(first, second):
            self._taint("repeat", str(one.func), "done again, a result that is in use differs")
            return False
        return True

    def _identity(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation whose results obey identities; where these do not hold, it is repeated."""
        if not self.look.repeat:
            return self._unrepeated(func, args, kwargs)
        self._verify(func, args, kwargs)
        result = func(*args, **kwargs)
        forward = self._owed.pop(owed.key_of_backward(func, args), None)
        low_high = owed.margin(func, forward, result, args, kwargs, waiting=self._waiting)
        self.tally.checks += 1
        if low_high is not None and self._waiting:
            self._margins.append((low_high, str(func)))
        elif low_high is None or not checksum.sound(*low_high.tolist()):
            first, second = fingerprint(result), fingerprint(again := func(*args, **kwargs))
            sound = forward is None or self._redo(forward)
            if self._waiting:
                self._flag("repeat", func, first, second)
            elif not same(first, second):
                result, _ = self._majority(func, (result, first), (again, second), args, kwargs)
            else:
                self.tally.doubts += low_high is not None and sound
        return self._watch(result)

    def _majority(
        self,
        func: Any,
        one: tuple[Any, list[Any]],
        two: tuple[Any, list[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, list[Any]]:
        """A third result decides between two; none agreeing, the pass is tainted."""
        third = func(*args, **kwargs)
        found = fingerprint(third)
        for result, held in (two, one):
            if same(found, held):
                self._find(
                    "repeat", "recomputed", str(func), "one of two results was wrong, a third agrees with the other"
                )
                return result, held
        self._taint("repeat", str(func), "no two of three results agree")
        return third, found

    def _change(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that writes into its arguments."""
        self._verify(func, args, kwargs)
        targets = [
            args[index] if index < len(args) else kwargs.get(name) for index, name in operations.written(func)
        ]
        flat = list(tensors_in(targets))
        self._about_to_write(flat)
        if self.look.repeat and flat:
            copies = {id(tensor): tensor.clone() for tensor in flat}
            put_back = put_back_of(func, args, kwargs)
            result = func(*args, **kwargs)
            put_back()
            again = func(*replaced(args, copies), **replaced(kwargs, copies))
            first = [digest_of(tensor) for tensor in flat] + fingerprint(result)
            second = [digest_of(copies[id(tensor)]) for tensor in flat] + fingerprint(again)
            self.tally.checks += 1
            if self._waiting:
                self._flag("repeat", func, first, second)
            elif not same(first, second):
                self._taint("repeat", str(func), "a change in place differs from the same change of a copy")
        else:
            result = func(*args, **kwargs)
        self._rewatch(flat)
        return self._watch(result)

    def _store(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A write that may be done twice: the second one has to leave what the first one left."""
        target = args[0]
        accumulates = len(args) > 3 and bool(args[3]) and "index_put" in func._schema.name
        sources = list(tensors_in(args[1:]))
        if accumulates or kwargs.get("accumulate") or any(shares(source, target) for source in sources):
            return self._change(func, args, kwargs)
        self._verify(func, args[1:], kwargs)
        self._about_to_write([target])
        result = func(*args, **kwargs)
        if self.look.repeat:
            first = [digest_of(stored(func, args))]
            func(*args, **kwargs)
            second = [digest_of(stored(func, args))]
            self.tally.checks += 1
            if self._waiting:
                self._flag("repeat", func, first, second)
            elif not same(first, second):
                func(*args, **kwargs)
                if same(second, [digest_of(stored(func, args))]):
                    self._find("repeat", "recomputed", str(func), "stored again: the first write had gone wrong")
                else:
                    self._taint("repeat", str(func), "what is read back differs from write to write")
        self._rewatch([target])
        return result

    def _read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A value that leaves for the host."""
        self._verify(func, args, kwargs)
        result = func(*args, **kwargs)
        if self.look.repeat:
            self.tally.checks += 1
            again = func(*args, **kwargs)
            if repr(again) != repr(result):
                result, _ = self._majority(func, (result, [result]), (again, [again]), args, kwargs)
        return result

    # Products.

    def _product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        product = product_of(func, args, kwargs)
        half = product.x.dtype in (torch.bfloat16, torch.float16)
        compute: Callable[[], Tensor] = partial(func, *args, **kwargs)
        if self._wide and half:
            compute = partial(wide, product)
        if product.x.dtype not in operations.FLOATS:
            return self._repeat(func, args, kwargs)
        if not self.look.checksum:
            self._verify(func, args, kwargs)
            return self._watch(compute().to(product.x.dtype))
        self._verify(func, args, kwargs)
        y = compute()
        if y.numel() == 0 or product.x.shape[-1] == 0:
            return y.to(product.x.dtype)
        sums = self._sums_of(product.w)
        if sums is None and y.numel() // y.shape[-1] < ROWS_MIN and not (self._wide and half):
            return self._repeat_of(func, y, args, kwargs)
        y = self._check(func, product, sums, y, compute)
        return self._watch(y.to(product.x.dtype))

    def _repeat_of(self, func: Any, y: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A thin product that was computed once already."""
        first, second = [digest_of(y)], fingerprint(again := func(*args, **kwargs))
        self.tally.checks += 1
        result: Any = y
        if self._waiting:
            self._flag("repeat", func, first, second)
        elif not same(first, second):
            result, first = self._majority(func, (y, first), (again, second), args, kwargs)
        return self._watch(result, first)

    def _check(
        self, func: Any, product: Product, kept: checksum.Sums | None, y: Tensor, compute: Callable[[], Tensor]
    ) -> Tensor:
        x, w, addend, alpha, beta = product.x, product.w, product.addend, product.alpha, product.beta
        limits = checksum.bounds(x.shape[-1], y.shape[-1], y.dtype)
        site = (func, w.shape, y.shape)
        likely = limits.likely * self._slack.get(site, 1.0)
        if not self._waiting:
            sums = kept or checksum.sums_of(w, screen=True)
            found = checksum.residual(y, x, sums, addend, limits, alpha, beta, screen=True)
            if checksum.sound(*checksum.margin(found, sums.scale * likely).tolist()):
                self.tally.checks += 1
                return y
        sums = kept or checksum.sums_of(w)
        factor = sums.scale * likely
        found = checksum.residual(y, x, sums, addend, limits, alpha, beta)
        low_high = checksum.margin(found, factor)
        self.tally.checks += 1
        if self._waiting:
            self._margins.append((low_high, self._where(func, product)))
            return y
        if checksum.sound(*low_high.tolist()):
            return y
        again = compute()
        where = self._where(func, product)
        found = checksum.residual(again, x, sums, addend, limits, alpha, beta)
        if checksum.sound(*checksum.margin(found, factor).tolist()):
            self._find(
                "checksum", "recomputed", where, "sums of the product did not match, those of a second one do"
            )
            return again
        certain = checksum.margin(found, sums.norm * limits.certain)
        fresh = checksum.sums_of(w)
        if not same([sums.rows], [fresh.rows]):
            self._taint("checksum", where, "the operand does not have the sums it had when it was verified")
        elif checksum.sound(*certain.tolist()) and same([digest_of(y)], [digest_of(again)]):
            self.tally.doubts += 1
            self._slack[site] = 2.0 * self._slack.get(site, 1.0)
        else:
            self._taint("checksum", where, "sums of the product do not match those of its operands, twice")
        return again

    def _sums_of(self, w: Tensor) -> checksum.Sums | None:
        """Kept sums of a resident weight; None for a live operand."""
        handle = w.untyped_storage()._cdata
        if handle not in self._names:
            return None
        key = (handle, w.storage_offset(), w.shape, w.stride(), w.dtype)
        held = self._sums.get(key)
        version = version_of(w)
        if held is None or held[1] != version:
            held = self._sums[key] = (w.detach(), version, checksum.sums_of(w))
        return held[2]

    def _where(self, func: Any, product: Product) -> str:
        name = self._names.get(product.w.untyped_storage()._cdata, self.layer)
        return f"{func} of {name}" if name else str(func)

    # Transit.

    def _verify(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not self.look.transit or not len(self._transit):
            return
        self._transit.tick()
        forward = owed.kept_for_backward()
        self._transit.postpone(owed.saved(func, args) if forward else ())
        for tensor in tensors_in((args, tuple(kwargs.values())) if kwargs else args):
            if tensor.layout is torch.strided and not (forward and self._transit.postponed(tensor)):
                self._look_at(tensor, str(func))

    def _look_at(self, tensor: Tensor, where: str) -> bool:
        """Whether it is what its producer wrote; also when nobody watches it, or its last look is fresh."""
        held = self._transit.expected(tensor)
        if held is None or self._agree(*held, where):
            return True
        self._transit.produced(tensor, held[1])
        return False

    def _agree(self, expected: Tensor, found: Tensor, where: str) -> bool:
        self.tally.checks += 1
        if self._waiting:
            self._flags.append(((expected != found).any(), "transit", where))
        elif not torch.equal(expected, found):
            self._taint("transit", where, "a result is not any more what its producer wrote")
            return False
        return True

    def _watch(self, result: Any, sums: list[Any] | None = None) -> Any:
        """Digest a result that is fresh memory; ``sums`` are those of its tensors where they are known."""
        if self.look.transit:
            known = [one for one in sums if isinstance(one, Tensor)] if sums else None
            for index, tensor in enumerate(tensors_in((result,))):
                if transit.watchable(tensor) and not self._transit.watched(tensor) and not self._known(tensor):
                    self._transit.produced(tensor, known[index] if known else None)
        return result

    def _rewatch(self, tensors: Iterable[Tensor]) -> None:
        """Memory that was just written by an announced change; a cache of rows has digests of its own."""
        if not self.look.transit:
            return
        for tensor in tensors:
            if tensor.layout is torch.strided and self._transit.watched(tensor):
                self._transit.produced(tensor)

    def _known(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._names

    # Verdicts.

    def _flag(self, detector: Detector, func: Any, first: list[Any], second: list[Any]) -> None:
        for one, two in zip(first, second, strict=True):
            if isinstance(one, Tensor):
                self._flags.append(((one != two).any(), detector, str(func)))

    def _taint(self, detector: Detector, where: str, detail: str) -> None:
        self.tainted = True
        self._find(detector, "contained", where, detail)

    def _find(self, detector: Detector, outcome: Outcome, where: str, detail: str) -> None:
        self.tally.findings += 1
        self._reported += 1
        if self._reported <= FINDINGS_MAX:
            self._report(Finding(detector=detector, outcome=outcome, where=where, detail=detail))
