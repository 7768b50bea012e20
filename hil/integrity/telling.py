"""Operations that a cached pass hands over by name (``flightsw.gpu.workloads.hands``), met between model and guard.

A guard that is told of operations does not see them, and one that another mode follows is told of none. So whoever
counts what a program does, or damages what it gets back, stands between the model and the guard's hands: there each
operation is met with its operands and with the work that carries it out, and gives its result back. A mode below
the guard sees the arithmetic of what is told as it sees any other.

    model ──handed over──► Telling ──► Told, the guard's (or Plain) ──► arithmetic, seen below
    model ◄──result, hit on its way─── Telling ◄──
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _pop_mode_temporarily

from flightsw.gpu.workloads.hands import PLAIN, Hands, Pair, hands_of

_ATEN: Final = torch.ops.aten
FROM_HOST: Final = "from_numpy"
"""Name of what is no operation of torch: numbers that the host gives. There is no arithmetic in it."""


class Handed(NamedTuple):
    """One operation that was handed over."""

    name: str
    func: Any
    """Torch's operator; None for ``FROM_HOST``."""
    args: tuple[Any, ...]
    work: Callable[[], Any]
    """Carries it out, once."""
    guarded: bool
    """Whether a guard is told of it."""
    module: nn.Module | None = None
    """Whose weights it works with."""


Meet = Callable[[Handed], Any]
"""Calls ``work`` and gives its result back."""


def telling(weight: Tensor, meet: Meet) -> "Telling":
    """The hands of whatever is under the mode at hand, which is out of the way while they work."""
    with _pop_mode_temporarily():
        return Telling(hands_of(weight), meet)


class Telling:
    """``hands.Hands`` before other ones."""

    def __init__(self, hands: Hands, meet: Meet) -> None:
        self._hands = hands
        self._meet = meet

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The mode that offered these is not there, and that of the hands behind them neither."""
        with _pop_mode_temporarily(), self._hands.aside():
            yield

    def embedded(self, module: nn.Embedding, index: Tensor) -> Tensor:
        """``embedding``."""
        args = (module.weight, index)
        return self._met(_ATEN.embedding.default, args, lambda: self._hands.embedded(module, index), module)

    def normed(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        """``layer_norm``."""
        args = (x, module.normalized_shape, module.weight, module.bias, module.eps)
        return self._met(_ATEN.layer_norm.default, args, lambda: self._hands.normed(module, x), module)

    def projected(self, module: nn.Linear, x: Tensor) -> Tensor:
        """``linear``."""
        args = (x, module.weight, module.bias)
        return self._met(_ATEN.linear.default, args, lambda: self._hands.projected(module, x), module)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``linear``."""
        return self._met(_ATEN.linear.default, (x, weight), lambda: self._hands.product(x, weight))

    def bent(self, x: Tensor) -> Tensor:
        """``gelu``."""
        return self._met(_ATEN.gelu.default, (x,), lambda: self._hands.bent(x))

    def added(self, a: Tensor, b: Tensor) -> Tensor:
        """``add``."""
        return self._met(_ATEN.add.Tensor, (a, b), lambda: self._hands.added(a, b))

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """``scaled_dot_product_attention``."""
        func, args = _ATEN.scaled_dot_product_attention.default, (query, key, value, mask)
        return self._met(func, args, lambda: self._hands.attended(*args))

    def reshaped(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``reshape``."""
        return self._met(_ATEN.reshape.default, (x, list(shape)), lambda: self._hands.reshaped(x, shape))

    def given(self, numbers: npt.NDArray[np.generic], device: torch.device) -> Tensor:
        """``FROM_HOST``."""
        return self._met(None, (), lambda: self._hands.given(numbers, device))

    def stored(self, stores: Pair, rows: Tensor, slots: Tensor, values: Pair) -> None:
        """``index_put_``: in place, so there is no result to meet."""
        self._hands.stored(stores, rows, slots, values)

    def gathered(self, store: Tensor, rows: Tensor) -> Tensor:
        """``index``."""
        return self._met(_ATEN.index.Tensor, (store, [rows]), lambda: self._hands.gathered(store, rows))

    def _met(
        self, func: Any, args: tuple[Any, ...], work: Callable[[], Tensor], module: nn.Module | None = None
    ) -> Tensor:
        name = FROM_HOST if func is None else str(func.overloadpacket.__name__)
        made: Tensor = self._meet(Handed(name, func, args, work, self._hands is not PLAIN, module))
        return made
