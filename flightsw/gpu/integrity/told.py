"""Operations that a model hands over by name instead of having them seen (``hands``): computed, and noted.

What is done about each is what the dispatch mode does when it sees the same operation. It is noted on the tape with
its operands and its result, under the name that torch knows it by, and looked at later. Attention is logged, or
looked at while its operands are in cache. A store into memory that somebody else holds against what is written
there is made once. Spared is the way through torch's dispatcher to the mode and back, which takes several times as
long as a small operation.

Whatever has no such form here is done under the mode: a module that somebody hooks or replaces, a gathered cache,
a store elsewhere. Other modes that were entered before see every operation as ever. One that was entered after
would see nothing of what is handed over: then there are no hands (``hands_of`` asks the last one only).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily

from flightsw.gpu.integrity.plans import Plan
from flightsw.gpu.integrity.tape import Tape
from flightsw.gpu.integrity.watch import Watch
from flightsw.gpu.workloads.hands import PLAIN, Pair

_ATEN: Final = torch.ops.aten
OPERATIONS: Final = (
    _ATEN.embedding.default,
    _ATEN.layer_norm.default,
    _ATEN.linear.default,
    _ATEN.gelu.default,
    _ATEN.add.Tensor,
    _ATEN.scaled_dot_product_attention.default,
    _ATEN.reshape.default,
    _ATEN.index_put_.default,
)
"""All that are told."""
_NOTHING: Final[dict[str, Any]] = {}
_TANH: Final[dict[str, Any]] = {"approximate": "tanh"}

_linear: Final = torch._C._nn.linear
_gelu: Final = torch._C._nn.gelu
_attention: Final = torch._C._nn.scaled_dot_product_attention


class _Operation:
    """An operator that is told: how often it was is counted with the others, by layer."""

    __slots__ = ("func", "kind", "seen")

    def __init__(self, func: Any, plan: Plan) -> None:
        self.func = func
        self.kind: Any = plan.noted
        self.seen = plan.seen


class Told:
    """``hands.Hands`` of a mode; ``plan_of`` is what it does about an operator, ``left`` says of memory whether
    stores into it are made once."""

    def __init__(
        self,
        mode: TorchDispatchMode,
        tape: Tape,
        watch: Watch,
        plan_of: Callable[[Any], Plan],
        left: Callable[[Tensor], bool],
    ) -> None:
        self.foreign = False
        """Whether something is noted that was seen, and may lie where is written."""
        self._mode = mode
        self._tape = tape
        self._watch = watch
        self._left = left
        told = [_Operation(func, plan_of(func)) for func in OPERATIONS]
        self._embedding, self._layer_norm, self._linear, self._gelu, self._add = told[:5]
        self._attention, self._reshape, self._index_put = told[5:]

    def aside(self) -> AbstractContextManager[Any]:
        """The mode is not there."""
        return _pop_mode_temporarily()

    def embedded(self, module: nn.Embedding, index: Tensor) -> Tensor:
        """``embedding``."""
        if not _plain(module, nn.Embedding) or module.max_norm is not None:
            return self._seen(module, index)
        args = (module.weight, index)
        return self._made(self._embedding, args, _NOTHING, torch.embedding(*args))

    def normed(self, module: nn.LayerNorm, x: Tensor) -> Tensor:
        """``layer_norm``."""
        if not _plain(module, nn.LayerNorm):
            return self._seen(module, x)
        args = (x, module.normalized_shape, module.weight, module.bias, module.eps)
        return self._made(self._layer_norm, args, _NOTHING, torch.layer_norm(*args))

    def projected(self, module: nn.Linear, x: Tensor) -> Tensor:
        """``linear``."""
        if not _plain(module, nn.Linear):
            return self._seen(module, x)
        args = (x, module.weight, module.bias)
        return self._made(self._linear, args, _NOTHING, _linear(*args))

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``linear``."""
        return self._made(self._linear, (x, weight), _NOTHING, _linear(x, weight))

    def bent(self, x: Tensor) -> Tensor:
        """``gelu``."""
        return self._made(self._gelu, (x,), _TANH, _gelu(x, approximate="tanh"))

    def added(self, a: Tensor, b: Tensor) -> Tensor:
        """``add``."""
        return self._made(self._add, (a, b), _NOTHING, a + b)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """``scaled_dot_product_attention``."""
        made: Tensor = _attention(query, key, value, attn_mask=mask)
        told = self._attention
        told.seen[self._tape.layer] += 1
        self._tape.attended(told.kind, told.func, (query, key, value, mask), _NOTHING, made, told=True)
        return made

    def reshaped(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``reshape``; there is nothing to note of a view."""
        made = x.reshape(shape)
        if made.untyped_storage()._cdata != x.untyped_storage()._cdata:
            return self._made(self._reshape, (x, shape), _NOTHING, made)
        self._reshape.seen[self._tape.layer] += 1
        return made

    def given(self, numbers: npt.NDArray[np.generic], device: torch.device) -> Tensor:
        """``from_numpy``: digested as what the host gives always is."""
        made = torch.from_numpy(numbers)
        self._watch.made(made)
        return made

    def stored(self, stores: Pair, rows: Tensor, slots: Tensor, values: Pair) -> None:
        """``index_put_``. What is told reads none of the memory whose stores are left to somebody else but in
        attention, of which no operand is noted."""
        told = self._index_put
        if not (self._left(stores[0]) and self._left(stores[1])):
            with self._mode:
                PLAIN.stored(stores, rows, slots, values)
            return
        if self.foreign:
            self._tape.before_write(stores)
        self._watch.verify(told.func, (rows, slots, values), _NOTHING)
        PLAIN.stored(stores, rows, slots, values)
        told.seen[self._tape.layer] += 2

    def gathered(self, store: Tensor, rows: Tensor) -> Tensor:
        """``index``: as any other operation."""
        self.foreign = True
        with self._mode:
            return store[rows]

    def _made(self, told: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Tensor:
        """Its operands are of the pass as well: they keep no more alive than results do."""
        told.seen[self._tape.layer] += 1
        self._tape.note(told.kind, told.func, args, kwargs, result, result.nbytes)
        return result

    def _seen(self, module: nn.Module, x: Tensor) -> Tensor:
        self.foreign = True
        with self._mode:
            made: Tensor = module(x)
        return made


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module does nothing but what its kind does."""
    return (
        type(module) is kind
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
    )
