"""What one reading of operands and results brings beside a verdict: digests, by the way, of those that want one.

A check reads an operand to see whether the result is that of it; its look at the operand (``transit``) reads it
again, and the digest of the result reads that once more. Where a kernel forms digests while a piece is in cache,
memory goes by once for all of them.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from flightsw.gpu.integrity import transit

NOBODY: Final = 0
"""Address of a digest that nobody wants."""


class Reading:
    """Digests of memory as it is read: ``wanted`` are tensors that are ``transit.readable``."""

    def __init__(self, wanted: Iterable[Tensor] = (), gradient: Any = None) -> None:
        self.gradient = gradient
        """``gradients.Gradient`` that was read last, whose sums will do for another reading."""
        self._wanted = {_handle(tensor): torch.empty(transit.COLUMNS, dtype=torch.int64) for tensor in wanted}
        self._taken: dict[int, Tensor] = {}

    def address(self, tensor: Tensor) -> int:
        """Where a kernel that reads all of a tensor's memory, from its first byte on, leaves the digest. Once: of
        an operand that is read twice, the first reading has it."""
        sums = self._wanted.pop(_handle(tensor), None)
        if sums is None:
            return NOBODY
        self._taken[_handle(tensor)] = sums
        return sums.data_ptr()

    def digest(self, tensor: Tensor) -> Tensor | None:
        """What was read; None when no kernel did."""
        return self._taken.get(_handle(tensor))


def _handle(tensor: Tensor) -> int:
    handle: int = tensor.untyped_storage()._cdata
    return handle
