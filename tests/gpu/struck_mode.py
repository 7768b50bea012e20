"""A fault of one shot for the tests of the compute path: entered before (below) or after (above) the checks."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

Damage = Callable[[torch.Tensor], None]


LARGEST = -1


def flip(bit: int, element: int = 0) -> Damage:
    """XOR one bit of one element, or of the ``LARGEST`` one, of a float32 or bfloat16 tensor, in its memory."""
    wanted = element

    def damage(tensor: torch.Tensor) -> None:
        size = tensor.element_size()
        element = int(tensor.abs().argmax()) if wanted == LARGEST else wanted
        memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        memory[(tensor.storage_offset() + element) * size + bit // 8] ^= 1 << bit % 8

    return damage


def nullify(first: int, count: int) -> Damage:
    """Elements that came out as zero."""

    def damage(tensor: torch.Tensor) -> None:
        size = tensor.element_size()
        memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        start = (tensor.storage_offset() + first) * size
        memory[start : start + count * size] = 0

    return damage


def value(number: float, element: int = 0) -> Damage:
    """An element that came out as this number."""

    def damage(tensor: torch.Tensor) -> None:
        tensor.untyped_storage()
        alias = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        alias[tensor.storage_offset() + element] = number

    return damage


def strike(damage: Damage, tensor: torch.Tensor) -> None:
    """Do the damage now, unseen by whatever looks at operations."""
    with _disable_current_modes():
        damage(tensor)


class Struck(TorchDispatchMode):
    """Damages the result of the ``nth`` call of an operation (0 is the first), ``times`` in a row."""

    def __init__(self, operation: str, damage: Damage, nth: int = 0, times: int = 1) -> None:
        super().__init__()
        self._operation = operation
        self._damage = damage
        self._due = range(nth, nth + times)
        self.calls = 0
        self.fired = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.removeprefix("aten::") == self._operation:
            if self.calls in self._due:
                target = result[0] if isinstance(result, tuple | list) else result
                strike(self._damage, target)
                self.fired += 1
            self.calls += 1
        return result
