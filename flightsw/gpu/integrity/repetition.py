"""Operations that are done again and compared bit by bit.

Of two results that differ a third decides; none agreeing, the pass is tainted: its owner runs it again.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from flightsw.gpu.integrity import transit
from flightsw.gpu.integrity.results import (
    digest_of,
    fingerprint,
    fingerprint_if_same,
    nothing,
    put_back_of,
    same,
    shown,
    tensors_in,
)
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch


class Repetition:
    """Handlers of operations; each returns what the operation returns."""

    def __init__(self, verdicts: Verdicts, watch: Watch) -> None:
        self._verdicts = verdicts
        self._watch = watch

    def repeat(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation that leaves its arguments alone."""
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
                result, first = self.majority(func, (result, first), (again, second), args, kwargs)
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

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A value that leaves for the host."""
        self._watch.verify(func, args, kwargs)
        result = func(*args, **kwargs)
        if self._verdicts.look.repeat:
            self._verdicts.tally.checks += 1
            again = func(*args, **kwargs)
            if repr(again) != repr(result):
                result, _ = self.majority(func, (result, [result]), (again, [again]), args, kwargs)
        return result

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

    def majority(
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
