"""Who carries out the operations of a cached pass: torch as ever, or a guard that is told of them.

A guard that sees a pass through a dispatch mode pays for each operation twice: torch makes Python of its arguments,
asks the mode, and is called a second time. In a decode step, whose operations are small, that is most of what
looking costs. So the model hands each operation over instead, by name. ``PLAIN`` calls the modules, with all that
hangs on them; whoever takes its place does the same operations on the same operands, and gives the same bits.

Views, which compute nothing, are not handed over. Everything else has to be: within ``aside`` nobody sees what was
not. A mode offers its own hands by an attribute of that name; ``hands_of`` asks the one that would see the next
operation, and no other, so that what is entered after it sees everything.
"""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

Pair: TypeAlias = tuple[Tensor, Tensor]
"""Of keys and of values."""


class Hands(Protocol):
    """Operations of a model without gradients. Each gives what torch gives."""

    def aside(self) -> AbstractContextManager[None]:
        """Within it operations are handed over, and are not seen."""

    def embedded(self, module: nn.Embedding, index: Tensor) -> Tensor:
        """Rows of a table."""

    def normed(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        """Layer norm."""

    def projected(self, module: nn.Linear, x: Tensor) -> Tensor:
        """x wᵀ + b."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """x wᵀ."""

    def bent(self, x: Tensor) -> Tensor:
        """GELU, tanh form."""

    def added(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b."""

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """``scaled_dot_product_attention`` with a mask that is added."""

    def reshaped(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements, copied if need be."""

    def given(self, numbers: npt.NDArray[np.generic], device: torch.device) -> Tensor:
        """The host's numbers on a device; shared with it where that is the host itself."""

    def stored(self, stores: Pair, rows: Tensor, slots: Tensor, values: Pair) -> None:
        """Two of ``values`` (B, T, H, D) go to ``rows`` and ``slots`` (B, T) of two stores (rows, H, slots, D)."""

    def gathered(self, store: Tensor, rows: Tensor) -> Tensor:
        """Rows of the first dimension."""


class Plain:
    """By modules and functions of torch."""

    def aside(self) -> AbstractContextManager[None]:
        """Nobody is told, so whoever looks goes on to see."""
        return contextlib.nullcontext()

    def embedded(self, module: nn.Embedding, index: Tensor) -> Tensor:
        """The module's."""
        made: Tensor = module(index)
        return made

    def normed(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        """The module's."""
        made: Tensor = module(x)
        return made

    def projected(self, module: nn.Linear, x: Tensor) -> Tensor:
        """The module's."""
        made: Tensor = module(x)
        return made

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``linear`` without a bias."""
        return F.linear(x, weight)

    def bent(self, x: Tensor) -> Tensor:
        """``gelu``."""
        return F.gelu(x, approximate="tanh")

    def added(self, a: Tensor, b: Tensor) -> Tensor:
        """``add``."""
        return a + b

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """``scaled_dot_product_attention``."""
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def reshaped(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``reshape``."""
        return x.reshape(shape)

    def given(self, numbers: npt.NDArray[np.generic], device: torch.device) -> Tensor:
        """``from_numpy``."""
        tensor = torch.from_numpy(numbers)
        return tensor if device.type == "cpu" else tensor.to(device)

    def stored(self, stores: Pair, rows: Tensor, slots: Tensor, values: Pair) -> None:
        """``index_put_``, twice."""
        stores[0][rows, :, slots] = values[0]
        stores[1][rows, :, slots] = values[1]

    def gathered(self, store: Tensor, rows: Tensor) -> Tensor:
        """``index``."""
        return store[rows]


PLAIN: Final = Plain()


def hands_of(weight: Tensor) -> Hands:
    """Those of the mode that would see the next operation, where it offers some for a model with this weight."""
    mode = _get_current_dispatch_mode()
    offer = None if mode is None or not torch.is_inference_mode_enabled() else getattr(mode, "hands", None)
    hands: Hands | None = None if offer is None else offer(weight)
    return hands or PLAIN
