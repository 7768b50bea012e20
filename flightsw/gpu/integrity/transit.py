"""Transit: a result is digested by its producer and verified by its consumers, and once more when the pass ends.

A check of arithmetic sees what an operation computed. What happens to the result afterwards, between the write of
the producer and the read of a consumer that may come a whole backward pass later, is seen here. A digest belongs to
a storage, so a view (a slice, a transposition) needs none of its own and costs nothing.

*Digest.* The memory is read as 64-bit words in rows of ``COLUMNS``; the digest is the sum of the rows, modulo 2⁶⁴.
A result of up to ``COLUMNS`` words is its own digest, and compared bit by bit. In a longer one any damage within a
single word is seen, and any of several words of which one is alone in its column. ``COLUMNS`` is prime: a damage of
regular stride (a lane, a bank, a line) puts two words into one column only at distances of a multiple of 8,168
bytes, which no power of two is. A single sum would not do: two flips of the same bit cancel in half of all cases.

*When.* The first consumer verifies, and every later one unless another did so within the last ``FRESH_OPERATIONS``:
a gradient that three products read one after the other is read once. What is damaged after such a look, and before
a neighbour's read that is not looked at, is seen by the next look. What still lives at the end of the pass (the
answer, the gradients) is verified there.

*Postponed.* What a forward operation reads and its backward one reads again is verified there, not twice: damage
does not heal in between. Until that look the memory is held, as autograd does anyway; without one it comes at the
end.

*Copies.* A copy has the words of its sources in another order, and so the same sum of all columns: that checks the
copy, and looks at the sources, without a second run or a reading of them. It does not see words that change places,
nor flips of the same bit that cancel.

Digests are dropped at the end of a pass. Memory is held by weak references but for postponed looks: nothing else
lives longer for being watched.
"""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Final

import torch

from flightsw.gpu.integrity import kernels

COLUMNS: Final = 1021
"""Words of a row, prime."""
WORD_BYTES: Final = 8
FRESH_OPERATIONS: Final = 6
"""Operations for which a look at a digest counts as the look of the next consumer, too."""


def digest(storage: Any) -> torch.Tensor:
    """Sums of the columns of a storage: int64 (at most ``COLUMNS`` + 1,), on its device."""
    size = storage.nbytes()
    count = size // WORD_BYTES
    if kernel := _kernel_for(storage):
        sums = torch.empty(min(count, COLUMNS), dtype=torch.int64)
        kernel.digest_into(storage.data_ptr(), count, sums.data_ptr())
        return sums
    words = torch.empty(0, dtype=torch.int64, device=storage.device).set_(storage, 0, (count,), (1,))
    if count <= COLUMNS:
        sums = words.clone()
    else:
        rows = count // COLUMNS
        whole = rows * COLUMNS
        sums = words[:whole].view(rows, COLUMNS).sum(0)
        if whole < count:
            sums[: count - whole] += words[whole:]
    if rest := size % WORD_BYTES:
        tail = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, size - rest, (rest,), (1,))
        sums = torch.cat((sums, tail.to(torch.int64)))
    return sums


def matches(storage: Any, sums: torch.Tensor) -> bool:
    """Whether a kernel found that a storage has this digest. False is no verdict: there may be no kernel."""
    kernel = _kernel_for(storage)
    return kernel is not None and kernel.matches(
        storage.data_ptr(), storage.nbytes() // WORD_BYTES, sums.data_ptr()
    )


def memory_matches(tensor: torch.Tensor, sums: torch.Tensor) -> bool:
    """As ``matches``, of the memory of a contiguous tensor of whole words; it need not have its own storage."""
    kernel = kernels.native(tensor.device, "native_transit")
    return kernel is not None and kernel.matches(tensor.data_ptr(), tensor.nbytes // WORD_BYTES, sums.data_ptr())


def digest_if_same(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """Digest of a tensor of whole memory, read once beside another one that a kernel found to be the same bit for
    bit. None is no verdict."""
    storage, copy = own_storage(one), own_storage(other)
    if storage is None or copy is None or one.stride() != other.stride() or one.shape != other.shape:
        return None
    size, kernel = storage.nbytes(), _kernel_for(storage)
    if kernel is None or _kernel_for(copy) is None or copy.nbytes() != size:
        return None
    sums = torch.empty(min(size // WORD_BYTES, COLUMNS), dtype=torch.int64)
    same = kernel.same_into(storage.data_ptr(), copy.data_ptr(), size // WORD_BYTES, sums.data_ptr())
    return sums if same else None


def _kernel_for(storage: Any) -> ModuleType | None:
    """The kernels that read a storage; None for one that is not of whole, aligned words on the processor."""
    if storage.nbytes() % WORD_BYTES or storage.data_ptr() % WORD_BYTES:
        return None
    return kernels.native(storage.device, "native_transit")


def lies_in_memory(tensor: torch.Tensor) -> bool:
    """Whether its elements lie at strides in memory. Those of a sparse or nested one do not, one on ``meta`` has
    none, and the zeros that forward-mode differentiation makes are nowhere."""
    return not (tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested or tensor._is_zerotensor())


def own_storage(tensor: torch.Tensor) -> Any:
    """The storage of a tensor that shows every byte of it, so that the storage's digest is its own; else None."""
    if not lies_in_memory(tensor):
        return None
    storage, size = tensor.untyped_storage(), tensor.nbytes
    return storage if 0 < size == storage.nbytes() else None


def dense(tensor: torch.Tensor) -> bool:
    """Whether there are bytes of its own that can be summed."""
    return own_storage(tensor) is not None


def readable(tensor: torch.Tensor) -> bool:
    """Whether a kernel that reads float32 from its first byte to its last can form its digest: it is whole memory,
    of whole words, and more of them than are their own digest."""
    return (
        tensor.dtype is torch.float32
        and dense(tensor)
        and tensor.nbytes > COLUMNS * WORD_BYTES
        and not tensor.numel() % 2
    )


def keeps_words(tensor: torch.Tensor) -> bool:
    """Whether its memory is made of whole words along its last dimension, as is that of a copy of it."""
    return (
        dense(tensor)
        and tensor.dim() > 0
        and tensor.stride(-1) == 1
        and tensor.shape[-1] * tensor.element_size() % WORD_BYTES == 0
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


class Transit:
    """Digests of the results of one pass, by storage."""

    def __init__(self) -> None:
        self._watched: dict[int, Watched] = {}
        self._now = 0

    def clear(self) -> None:
        """Forget all: a pass begins or has ended."""
        self._watched.clear()

    def __len__(self) -> int:
        return len(self._watched)

    def produced(self, tensor: torch.Tensor, sums: torch.Tensor | None = None) -> None:
        """Begin to watch a fresh result; ``sums`` when its digest is known already."""
        storage = tensor.untyped_storage()
        # While a weak reference is held, torch gives the handle to no other storage.
        self._watched[storage._cdata] = Watched(storage, digest(storage) if sums is None else sums)

    def tick(self, count: int = 1) -> None:
        """The next operation, or so many of them."""
        self._now += count

    def held(self, tensor: torch.Tensor) -> "Watched | None":
        """What is known of its memory; None when nobody watches it."""
        return self._watched.get(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else None

    def holds(self, handle: int) -> bool:
        """Whether the memory with this handle is watched."""
        return handle in self._watched

    def is_due(self, held: "Watched") -> bool:
        """Whether the last look is not fresh."""
        return self._now > held.fresh_until

    def due(self, held: "Watched") -> torch.Tensor | None:
        """Digest at production; None when the last look is fresh. Who asks looks."""
        if not self.is_due(held):
            return None
        held.fresh_until = self._now + FRESH_OPERATIONS
        held.strong = None
        return held.sums

    def postpone(self, tensors: Iterable[torch.Tensor]) -> None:
        """They are read now, and will be read again: the look is left to that time, or to the end of the pass."""
        for tensor in tensors:
            held = self.held(tensor)
            if held is not None and self.is_due(held):
                held.strong = tensor.untyped_storage()

    def postponed(self, tensor: torch.Tensor) -> bool:
        """Whether a look at it is still to come."""
        held = self.held(tensor)
        return held is not None and held.strong is not None

    def total(self, tensors: Iterable[torch.Tensor]) -> torch.Tensor | None:
        """Sum () of all words of tensors as they were produced; None unless all are watched and of whole words."""
        total: torch.Tensor | None = None
        for tensor in tensors:
            held = self._watched.get(tensor.untyped_storage()._cdata) if keeps_words(tensor) else None
            if held is None:
                return None
            total = held.sums.sum() if total is None else total + held.sums.sum()
        return total

    def remaining(self) -> Iterator[tuple[torch.Tensor, Any]]:
        """Digests at production, and the memory, of all that still lives and has no fresh look."""
        for held in self._watched.values():
            storage = held.storage()
            if storage is not None and self.is_due(held):
                yield held.sums, storage

    def forget(self, tensor: torch.Tensor) -> None:
        """Watch it no longer: its contents have changed by an announced write."""
        self._watched.pop(tensor.untyped_storage()._cdata, None)


class Watched:
    """A digest, and a weak reference to the memory it is of."""

    __slots__ = ("_handle", "fresh_until", "strong", "sums")

    def __init__(self, storage: Any, sums: torch.Tensor) -> None:
        self._handle: int = storage._weak_ref()
        self.sums = sums
        self.fresh_until = -1
        self.strong: Any = None
        """The memory itself while a look is postponed."""

    def storage(self) -> Any:
        """The memory; None when nobody holds it any more."""
        return _STORAGE._new_with_weak_ptr(self._handle)

    def __del__(self) -> None:
        _STORAGE._free_weak_ref(self._handle)


_STORAGE: Any = torch.UntypedStorage
