"""Operations that are done once: their results obey identities, or nothing can be held against them.

Where an identity does not hold, the operation is repeated. A forward operation may owe its check to its backward
one (``owed``): what pays for it is the identity of that.
"""

from typing import Any

from torch import Tensor

from flightsw.gpu.integrity import identities, operations, owed, transit
from flightsw.gpu.integrity.debts import Debts
from flightsw.gpu.integrity.reading import Reading
from flightsw.gpu.integrity.repetition import Repetition
from flightsw.gpu.integrity.results import fingerprint, tensors_in
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch


class DoneOnce:
    """Handlers of operations; each returns what the operation returns."""

    def __init__(self, verdicts: Verdicts, watch: Watch, repetition: Repetition, debts: Debts) -> None:
        self._verdicts = verdicts
        self._watch = watch
        self._repetition = repetition
        self._debts = debts
        self._owed = debts.owed

    def once(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that may come out otherwise each time."""
        self._watch.verify(func, args, kwargs)
        if func._schema.is_mutable:
            self._debts.before_write(tensors_in(args))
        return self._watch.made(func(*args, **kwargs))

    def given(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Numbers of the host that become a tensor. Their memory may be shared with the host, which leaves it alone
        while the pass lasts."""
        return self._watch.made(func(*args, **kwargs))

    def later(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A forward operation whose backward one will be checked by identities that hold only if this is sound."""
        if not self._verdicts.look.repeat or not owed.may_owe(func, args, kwargs):
            return (self._repetition.repeat if operations.is_random(func) else self.identity)(func, args, kwargs)
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
            sound = forward is None or self._debts.redo(forward)
            if not self._verdicts.alike(first, second, "repeat", func):
                result, _ = self._repetition.majority(func, (result, first), (again, second), args, kwargs)
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
