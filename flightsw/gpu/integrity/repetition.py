"""Operations that are done again and compared bit by bit, and those that are spared it by an identity.

Of two results that differ a third decides; none agreeing, the pass is tainted, as it is by an operation that
changes its argument: its owner runs it again. What is owed by a forward operation (``owed``) is paid here.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from flightsw.gpu.integrity import identities, operations, owed, transit
from flightsw.gpu.integrity.accumulation import Accumulation
from flightsw.gpu.integrity.reading import Reading
from flightsw.gpu.integrity.results import (
    copy_of,
    digest_of,
    fingerprint,
    fingerprint_if_same,
    nothing,
    put_back_of,
    replaced,
    same,
    shares,
    shown,
    stored,
    tensors_in,
)
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch


class Repetition:
    """Handlers of operations by their cover; each returns what the operation returns."""

    def __init__(self, verdicts: Verdicts, watch: Watch) -> None:
        self._verdicts = verdicts
        self._watch = watch
        self._owed: dict[owed.Key, owed.Owed] = {}
        self._accumulation = Accumulation(verdicts, watch)
        self._left: frozenset[int] = frozenset()

    def leave(self, memory: Iterable[Tensor]) -> None:
        """Stores into this memory are made once: somebody holds it against what was to be written there."""
        self._left = frozenset(tensor.untyped_storage()._cdata for tensor in memory)

    def begin(self) -> None:
        """A pass begins."""
        self._owed.clear()
        self._accumulation.begin()
        if not self._verdicts.look.repeat:
            self._accumulation.forget()

    @property
    def sums_kept(self) -> int:
        """Sums in place whose memory the next pass will look at."""
        return self._accumulation.kept

    def sums_unseen(self) -> Iterable[Tensor]:
        """Sums in place that nobody has looked at."""
        return self._accumulation.unseen()

    def look_at_sums(self) -> None:
        """No other pass will add to what was summed in place."""
        self._accumulation.look()

    # Done twice.

    def repeat(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._watch.verify(func, args, kwargs)
        if not self._verdicts.look.repeat:
            return self._watch.made(func(*args, **kwargs))
        put_back = put_back_of(func, args, kwargs)
        result = func(*args, **kwargs)
        put_back()
        again = func(*args, **kwargs)
        return self._compared(func, result, again, args, kwargs, put_back)

    def again(self, func: Any, y: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The second run of an operation that was done once already, with result ``y``."""
        return self._compared(func, y, func(*args, **kwargs), args, kwargs)

    def _compared(
        self,
        func: Any,
        result: Any,
        again: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        put_back: Callable[[], None] = nothing,
    ) -> Any:
        """The result that two runs, or two of three, agree on."""
        self._verdicts.tally.checks += 1
        one, two = shown(func, result), shown(func, again)
        first = None if self._verdicts.waiting else fingerprint_if_same(one, two)
        if first is None:
            first, second = fingerprint(one), fingerprint(two)
            if not self._verdicts.alike(first, second, "repeat", func):
                put_back()
                result, first = self._majority(func, (result, first), (again, second), args, kwargs)
        return self._watch.made(result, first if shown(func, result) is result else None)

    def copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A copy has the words of its sources, in whatever order: so has the sum of all, which costs no reading."""
        sources = tensors_in(args)
        alike = self._verdicts.look.repeat and len({tensor.dtype for tensor in sources}) == 1
        expected = self._watch.transit.total(sources) if alike else None
        if expected is None:
            return self.repeat(func, args, kwargs)
        self._watch.transit.tick()
        result = func(*args, **kwargs)
        if transit.keeps_words(result) and result.dtype is sources[0].dtype:
            sums = digest_of(result)
            self._verdicts.tally.checks += 1
            if self._verdicts.alike([sums.sum()], [expected], "repeat", func):
                return self._watch.made(result, [sums])
        for tensor in sources:
            self._watch.look_at(tensor, func)
        return self.again(func, result, args, kwargs)

    def change(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that writes into its arguments."""
        flat = tensors_in(operations.targets(func, args, kwargs))
        self.before_write(flat)
        if self._verdicts.look.repeat and func._schema.name == "aten::add_":
            added = self._accumulation.add(func, args, kwargs)
            if added is not None:
                return added
        self._watch.verify(func, args, kwargs)
        if self._verdicts.look.repeat and flat:
            copies = {id(tensor): copy_of(tensor) for tensor in flat}
            put_back = put_back_of(func, args, kwargs)
            result = func(*args, **kwargs)
            put_back()
            again = func(*replaced(args, copies), **replaced(kwargs, copies))
            first = [digest_of(tensor) for tensor in flat] + fingerprint(result)
            second = [digest_of(copies[id(tensor)]) for tensor in flat] + fingerprint(again)
            self._verdicts.tally.checks += 1
            if not self._verdicts.alike(first, second, "repeat", func):
                self._verdicts.taint("repeat", func, "a change in place differs from the same change of a copy")
        else:
            result = func(*args, **kwargs)
        self._watch.rewritten(flat)
        return self._watch.made(result)

    def store(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A write that may be done twice: the second one has to leave what the first one left."""
        target = args[0]
        accumulates = len(args) > 3 and bool(args[3]) and "index_put" in func._schema.name
        sources = tensors_in(args[1:])
        if accumulates or kwargs.get("accumulate") or any(shares(source, target) for source in sources):
            return self.change(func, args, kwargs)
        self._watch.verify(func, args[1:], kwargs)
        self.before_write([target])
        result = func(*args, **kwargs)
        if self._verdicts.look.repeat and target.untyped_storage()._cdata not in self._left:
            first = [digest_of(stored(func, args))]
            func(*args, **kwargs)
            second = [digest_of(stored(func, args))]
            self._verdicts.tally.checks += 1
            if not self._verdicts.alike(first, second, "repeat", func):
                func(*args, **kwargs)
                if same(second, [digest_of(stored(func, args))]):
                    detail = "stored again: the first write had gone wrong"
                    self._verdicts.find("repeat", "recomputed", func, detail)
                else:
                    self._verdicts.taint("repeat", func, "what is read back differs from write to write")
        self._watch.rewritten([target])
        return result

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A value that leaves for the host."""
        self._watch.verify(func, args, kwargs)
        result = func(*args, **kwargs)
        if self._verdicts.look.repeat:
            self._verdicts.tally.checks += 1
            again = func(*args, **kwargs)
            if repr(again) != repr(result):
                result, _ = self._majority(func, (result, [result]), (again, [again]), args, kwargs)
        return result

    # Not done twice.

    def once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._watch.verify(func, args, kwargs)
        if func._schema.is_mutable:
            self.before_write(tensors_in(args))
        return self._watch.made(func(*args, **kwargs))

    def given(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Numbers of the host that become a tensor. Their memory may be shared with the host, which leaves it alone
        while the pass lasts."""
        return self._watch.made(func(*args, **kwargs))

    def remade(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor is given other memory, or another size of it: a digest of what it had says nothing any more."""
        target = args[0]
        self.before_write([target])
        if target.layout is torch.strided:
            self._watch.look_at(target, func)
            self._watch.transit.forget(target)
        return func(*args, **kwargs)

    def state(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An update of whole lists of tensors: the optimiser's."""
        self._watch.verify(func, args, kwargs)
        self.before_write(tensors_in(args))
        result = func(*args, **kwargs)
        for tensor in tensors_in(args):
            self._watch.transit.forget(tensor)
        return result

    def later(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A forward operation whose backward one will be checked by identities that hold only if this is sound."""
        if not self._verdicts.look.repeat or not owed.may_owe(func, args, kwargs):
            return (self.repeat if operations.is_random(func) else self.identity)(func, args, kwargs)
        if self._verdicts.look.transit:
            self._watch.transit.tick()
            self._watch.transit.postpone(args[: 3 if len(args) > 2 else 1])
        result = func(*args, **kwargs)
        self._owed[owed.key_of_forward(func, args, result)] = owed.Owed(func, args, kwargs, result)
        return self._watch.made(result)

    def identity(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation whose results obey identities; where these do not hold, it is repeated."""
        if not self._verdicts.look.repeat:
            return self.once(func, args, kwargs)
        spared = () if self._verdicts.waiting else identities.reads(func, args)
        self._watch.verify(func, args, kwargs, spared=spared)
        result = func(*args, **kwargs)
        due, fresh = [one for one in spared if self._watch.is_due(one)], self._read_by_the_way(result)
        reading = Reading((*due, *fresh), self._watch.gradient)
        forward = self._owed.pop(owed.key_of_backward(func, args), None)
        low_high = owed.margin(func, forward, result, args, kwargs, reading=reading, waiting=self._verdicts.waiting)
        for tensor in due:
            self._watch.read(tensor, reading.digest(tensor), func)
        if low_high is None or not self._verdicts.sound(low_high, func):
            first, second = fingerprint(result), fingerprint(again := func(*args, **kwargs))
            sound = forward is None or self._redo(forward)
            if not self._verdicts.alike(first, second, "repeat", func):
                result, _ = self._majority(func, (result, first), (again, second), args, kwargs)
            elif not self._verdicts.waiting:
                self._verdicts.tally.doubts += low_high is not None and sound
        else:
            for tensor in fresh:
                self._watch.made_as_read(tensor, reading.digest(tensor))
        return self._watch.made(result)

    def _read_by_the_way(self, result: Any) -> list[Tensor]:
        """Results whose digest a check may form as it reads them."""
        if self._verdicts.waiting or not self._verdicts.look.transit:
            return []
        return [one for one in tensors_in((result,)) if transit.readable(one) and self._watch.wanted(one)]

    # What is owed.

    def before_write(self, targets: Iterable[Tensor]) -> None:
        """What was left to a later look, or is owed, is looked at before it is gone."""
        targets = list(targets)
        self._watch.before_write(targets)
        if self._owed:
            self.pay(frozenset(one.untyped_storage()._cdata for one in targets if one.layout is torch.strided))

    def pay(self, storages: frozenset[int] | None = None) -> None:
        """Do again what is still owed; of ``storages`` only, when somebody is about to write there."""
        for key, one in list(self._owed.items()):
            held = {tensor.untyped_storage()._cdata for tensor in tensors_in((one.args, one.result))}
            if storages is None or not storages.isdisjoint(held):
                del self._owed[key]
                self._redo(one)

    def _redo(self, one: owed.Owed) -> bool:
        return self.done_again(one.func, one.args, one.kwargs, one.result)

    def done_again(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        """Whether an operation whose result is out gives that again; if not, the pass is tainted. So it is when it
        cannot be done again, as somebody has changed an operand behind torch's back."""
        self._verdicts.tally.checks += 1
        try:
            again = func(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError) as error:
            self._verdicts.taint("repeat", func, f"it cannot be done again: {str(error).splitlines()[0]}")
            return False
        if not self._verdicts.waiting and fingerprint_if_same(result, again) is not None:
            return True
        if self._verdicts.alike(fingerprint(result), fingerprint(again), "repeat", func):
            return True
        self._verdicts.taint("repeat", func, "done again, a result that is in use differs")
        return False

    def _majority(
        self,
        func: Any,
        one: tuple[Any, list[Any]],
        two: tuple[Any, list[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Any, list[Any]]:
        """A third result decides between two; none agreeing, or with an operand that was damaged, it is tainted."""
        third = func(*args, **kwargs)
        found = fingerprint(shown(func, third))
        if not self._watch.as_produced((args, tuple(kwargs.values())), func):
            return third, found
        for result, held in (two, one):
            if same(found, held):
                detail = "one of two results was wrong, a third agrees with the other"
                self._verdicts.find("repeat", "recomputed", func, detail)
                return result, held
        self._verdicts.taint("repeat", func, "no two of three results agree")
        return third, found
