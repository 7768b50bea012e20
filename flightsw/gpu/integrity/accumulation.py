"""Sums in place: gradients to which one backward pass after the other adds.

To check ``a += b`` by doing it again needs the old a, and so a copy of it, each time. Here a kernel does all of it,
piece by piece, while a piece is in the core's own cache: it forms a + b and digests that, digests the old a and b,
and only then forms a + b once more and writes it. Memory goes by as often as it does for the bare sum.

*Looked at later.* What was written has to have the digest of what was formed. ``transit`` is given that as if
memory had been read: whoever reads or overwrites the sum in the same pass looks at it, or the end of the pass does.
Memory that ``transit`` does not watch (a part of a larger one, a weight, a pass without looks at memory) is looked
at at once. If the next pass adds to it again, the old a has to be what the last sum left there, perhaps a whole
pass ago: nothing else looks at a gradient while the pass that will add to it runs. Who knows that another pass will
add (``Guard.running``) spares the look at the end; a pass that comes and looks at no sums makes it (``forget``).

*Who else writes.* Gradients are set to zero, clipped, gathered, between passes and unseen. Each write moves the
tensor's version; a version that is not the one after the last sum says that the memory is somebody else's now, and
what was known of it is forgotten. So it is when the tensor is gone: others may lie there, of whatever version.

Where there is no kernel, or what is added is no whole memory of float32, the sum is done again on a copy, as every
change in place is.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from flightsw.gpu.integrity import kernels, transit
from flightsw.gpu.integrity.results import version_of
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch

SUMS_MAX: Final = 65_536
"""Memories whose last sum is known; a model has one for each parameter."""

_Key = tuple[int, int]
_NOT_FORMED: Final = "memory is not what was formed of its terms"


class _Left(NamedTuple):
    """What a sum has left in memory."""

    target: TensorWeakRef
    version: int
    """After it."""
    made: Tensor
    """Digest of what was formed."""


class Accumulation:
    """Sums in place of one guard, over its passes."""

    def __init__(self, verdicts: Verdicts, watch: Watch) -> None:
        self._verdicts = verdicts
        self._watch = watch
        self._left: dict[_Key, _Left] = {}
        """By address and size."""
        self._unseen: set[_Key] = set()
        """Of these, those that nobody has looked at since."""

    @property
    def kept(self) -> int:
        """Memories whose last sum is known and will be looked at by the next."""
        return sum(_lies(left, key) is not None for key, left in self._left.items())

    def begin(self) -> None:
        """A pass begins: of memory that is gone nothing need be known."""
        for key in [key for key, left in self._left.items() if left.target() is None]:
            del self._left[key]
            self._unseen.discard(key)

    def forget(self) -> None:
        """What lies in memory is not known any more: a pass begins that looks at no sums."""
        self.look()
        self._left.clear()

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """Carry out ``aten::add_`` and return its result; None, with nothing done, where there is no kernel for it.

        Both operands are verified. Damage of the old value taints the pass.
        """
        target: Tensor = args[0]
        addend = args[1]
        if self._verdicts.waiting or len(args) > 2 or kwargs.get("alpha", 1) != 1 or not _whole(target, addend):
            return None
        kernel = kernels.native(target.device, "native_transit")
        if kernel is None:
            return None
        spared = (addend,) if transit.dense(addend) else ()
        self._watch.verify(func, args, kwargs, spared=spared)
        due = self._watch.due(addend) if spared else None
        key, version, words = (target.data_ptr(), target.nbytes), version_of(target), target.nbytes // 8
        held, brought, made = (torch.empty(min(words, transit.COLUMNS), dtype=torch.int64) for _ in range(3))
        kernel.add_into(key[0], addend.data_ptr(), words, held.data_ptr(), brought.data_ptr(), made.data_ptr())
        if due is not None:
            self._watch.agree(due, brought, func)
        before = self._left.pop(key, None)
        self._unseen.discard(key)
        if before is not None and before.version == version and _lies(before, key) is not None:
            self._verdicts.tally.checks += 1
            if not torch.equal(before.made, held):
                self._verdicts.taint("transit", func, "a sum in place is not any more what the last one left")
        if not self._watch.made_of(target, made):
            self._verdicts.tally.checks += 1
            if not transit.memory_matches(target, made):
                self._verdicts.taint("repeat", func, _NOT_FORMED)
            self._watch.rewritten((target,))
        if len(self._left) < SUMS_MAX:
            # Torch moves the version when this has returned.
            self._left[key] = _Left(TensorWeakRef(target), version + 1, made)
            self._unseen.add(key)
        return target

    def unseen(self) -> Iterator[Tensor]:
        """Sums that nobody has looked at, and that nobody else has written to."""
        for key in self._unseen:
            tensor = _lies(self._left[key], key)
            if tensor is not None:
                yield tensor

    def look(self) -> None:
        """Look at the sums that nobody has looked at, for no other pass will add to them."""
        for tensor in self.unseen():
            made = self._left[tensor.data_ptr(), tensor.nbytes].made
            self._verdicts.tally.checks += 1
            if not transit.memory_matches(tensor, made):
                self._verdicts.taint("repeat", "a sum in place", _NOT_FORMED)
        self._unseen.clear()


def _lies(left: _Left, key: _Key) -> Tensor | None:
    """The tensor, while it has the memory that it had, and nobody has written to it since the sum."""
    tensor: Tensor | None = left.target()
    if tensor is None or version_of(tensor) != left.version or (tensor.data_ptr(), tensor.nbytes) != key:
        return None
    return tensor


def _whole(target: Any, addend: Any) -> bool:
    """Whether both are float32 of one shape, row after row in whole, aligned words, and not the same memory."""
    return (
        isinstance(addend, Tensor)
        and target.dtype is addend.dtype is torch.float32
        and target.shape == addend.shape
        and target.numel() > 0
        and target.numel() % 2 == 0
        and target.is_contiguous()
        and addend.is_contiguous()
        and not addend.is_neg()
        and not target.is_neg()
        and target.data_ptr() % 8 == addend.data_ptr() % 8 == 0
        and abs(target.data_ptr() - addend.data_ptr()) >= target.nbytes
    )
