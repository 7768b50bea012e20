"""Results on their way, as the operations of a pass meet them: verified when read, digested when made.

``transit`` knows what a digest is and when a look is due; here are the occasions. An alarm has no second source to
go back to and taints the pass: its owner runs it again.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from flightsw.gpu.integrity import owed, transit
from flightsw.gpu.integrity.gradients import Gradient
from flightsw.gpu.integrity.results import tensors_in
from flightsw.gpu.integrity.verdicts import Verdicts


class Watch:
    """Digests of the results of a pass; ``known`` says of a handle that its memory is guarded otherwise."""

    def __init__(self, verdicts: Verdicts, known: Callable[[int], bool]) -> None:
        self.transit = transit.Transit()
        self.gradient: Gradient | None = None
        """The last one that a product of a backward pass has read."""
        self._verdicts = verdicts
        self._known = known

    def clear(self) -> None:
        self.transit.clear()
        self.gradient = None

    def finish(self, later: Iterable[Tensor] = ()) -> None:
        """Last look at what still lives, but at what somebody will look at ``later``."""
        if self._verdicts.look.transit:
            spared = {tensor.untyped_storage()._cdata for tensor in later}
            for expected, storage in self.transit.remaining():
                if storage._cdata in spared:
                    continue
                if not self._verdicts.waiting and transit.matches(storage, expected):
                    self._verdicts.tally.checks += 1
                else:
                    self.agree(expected, transit.digest(storage), "the end of the pass")

    def verify(self, func: Any, args: Any, kwargs: dict[str, Any], spared: tuple[Tensor, ...] = ()) -> None:
        """Look at the operands of an operation; those ``spared`` will be looked at by whoever reads them."""
        if not self._verdicts.look.transit or not len(self.transit):
            return
        self.transit.tick()
        forward = owed.kept_for_backward()
        if forward:
            self.transit.postpone(owed.saved(func, args))
        for tensor in tensors_in((args, tuple(kwargs.values())) if kwargs else args):
            held = self.transit.held(tensor)
            if held is None or (forward and held.strong is not None) or any(tensor is one for one in spared):
                continue
            self._look(held, tensor, func)

    def due(self, tensor: Tensor) -> Tensor | None:
        """Digest at production of an operand that was spared; None when nobody watches it, its last look is fresh,
        or it was postponed. Who asks looks."""
        held = self.transit.held(tensor)
        if held is None or (held.strong is not None and owed.kept_for_backward()):
            return None
        return self.transit.due(held)

    def is_due(self, tensor: Tensor) -> bool:
        """Whether ``due`` would give a digest."""
        held = self.transit.held(tensor)
        if held is None or (held.strong is not None and owed.kept_for_backward()):
            return False
        return self.transit.is_due(held)

    def read(self, tensor: Tensor, found: Tensor | None, where: Any) -> None:
        """Look at an operand that was spared: ``found`` is its digest where a check that read it has formed one."""
        if found is None:
            self.look_at(tensor, where)
            return
        expected = self.due(tensor)
        if expected is not None and not self.agree(expected, found, where):
            self.transit.produced(tensor, found)

    def look_at(self, tensor: Tensor, where: Any) -> bool:
        """Whether it is what its producer wrote; also when nobody watches it, or its last look is fresh."""
        held = self.transit.held(tensor)
        return held is None or self._look(held, tensor, where)

    def _look(self, held: transit.Watched, tensor: Tensor, where: Any) -> bool:
        sums = self.transit.due(held)
        if sums is None:
            return True
        storage = tensor.untyped_storage()
        if not self._verdicts.waiting and transit.matches(storage, sums):
            self._verdicts.tally.checks += 1
            return True
        found = transit.digest(storage)
        if self.agree(sums, found, where):
            return True
        self.transit.produced(tensor, found)
        return False

    def as_produced(self, operands: Iterable[Any], where: Any) -> bool:
        """Look at operands again, however fresh the last look at them: something is wrong, and runs from a damaged
        one agree in the wrong result. Where one is not what its producer wrote, the pass is tainted."""
        if not self._verdicts.look.transit:
            return True
        sound = True
        for tensor in tensors_in(operands):
            held = self.transit.held(tensor)
            if held is not None:
                found = transit.digest(tensor.untyped_storage())
                if not self.agree(held.sums, found, where):
                    self.transit.produced(tensor, found)
                    sound = False
        return sound

    def agree(self, expected: Tensor, found: Tensor, where: Any) -> bool:
        """Whether a digest is still what it was."""
        self._verdicts.tally.checks += 1
        if self._verdicts.alike([expected], [found], "transit", where):
            return True
        self._verdicts.taint("transit", where, "a result is not any more what its producer wrote")
        return False

    def made(self, result: Any, sums: list[Any] | None = None) -> Any:
        """Digest a result that is fresh memory; ``sums`` are those of its tensors where they are known."""
        if self._verdicts.look.transit:
            known = [one for one in sums if isinstance(one, Tensor)] if sums else None
            for index, tensor in enumerate(tensors_in((result,))):
                if self.wanted(tensor):
                    self.transit.produced(tensor, known[index] if known else None)
        return result

    def made_as_read(self, tensor: Tensor, sums: Tensor | None) -> None:
        """``made``, of one result whose digest a check has formed as it read it; None: it has not."""
        if sums is not None:
            self.transit.produced(tensor, sums)

    def made_of(self, tensor: Tensor, sums: Tensor) -> bool:
        """``made``, of memory that was written: ``sums`` is what it has to have. False, with nothing done, where it
        is not watched."""
        storage = transit.own_storage(tensor)
        if not self._verdicts.look.transit or storage is None or self._known(storage._cdata):
            return False
        self.transit.produced(tensor, sums)
        return True

    def wanted(self, tensor: Tensor) -> bool:
        """Whether a result is memory of its own that nobody watches yet."""
        storage = transit.own_storage(tensor)
        return storage is not None and not self.transit.holds(storage._cdata) and not self._known(storage._cdata)

    def rewritten(self, tensors: Iterable[Tensor]) -> None:
        """Memory that was just written by an announced change; a cache of rows has digests of its own."""
        if not self._verdicts.look.transit:
            return
        for tensor in tensors:
            if self.transit.held(tensor) is not None:
                self.transit.produced(tensor)

    def before_write(self, targets: Iterable[Tensor]) -> None:
        """What was left to a later look is looked at before it is gone."""
        for tensor in targets:
            if self.transit.postponed(tensor):
                self.look_at(tensor, "a write into it")
