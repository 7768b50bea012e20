"""Operations that write into memory that was there before: changes in place, stores, updates, other memory.

A change is made once, and the same change of a copy has to come to the same; a store may be made twice. One that
went wrong cannot be taken back, so it taints the pass.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from flightsw.gpu.integrity import operations
from flightsw.gpu.integrity.accumulation import Accumulation
from flightsw.gpu.integrity.debts import Debts
from flightsw.gpu.integrity.results import (
    copy_of,
    digest_of,
    fingerprint,
    put_back_of,
    replaced,
    same,
    shares,
    stored,
    tensors_in,
)
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch


class Changes:
    """Handlers of operations; each returns what the operation returns."""

    def __init__(self, verdicts: Verdicts, watch: Watch, debts: Debts) -> None:
        self._verdicts = verdicts
        self._watch = watch
        self._before_write = debts.before_write
        self._accumulation = Accumulation(verdicts, watch)
        self._left: frozenset[int] = frozenset()

    def leave(self, memory: Iterable[Tensor]) -> None:
        """Stores into this memory are made once: somebody holds it against what was to be written there."""
        self._left = frozenset(tensor.untyped_storage()._cdata for tensor in memory)

    def begin(self) -> None:
        """A pass begins."""
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

    def change(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that writes into its arguments."""
        flat = tensors_in(operations.targets(func, args, kwargs))
        self._before_write(flat)
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
        self._before_write([target])
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

    def state(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An update of whole lists of tensors: the optimiser's."""
        self._watch.verify(func, args, kwargs)
        self._before_write(tensors_in(args))
        result = func(*args, **kwargs)
        for tensor in tensors_in(args):
            self._watch.transit.forget(tensor)
        return result

    def remade(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A tensor is given other memory, or another size of it: a digest of what it had says nothing any more."""
        target = args[0]
        self._before_write([target])
        if target.layout is torch.strided:
            self._watch.look_at(target, func)
            self._watch.transit.forget(target)
        return func(*args, **kwargs)
