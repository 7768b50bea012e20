"""Operations as a dispatch mode sees them: which of their results can be hit, and what a raw product is.

A result counts when it is a tensor with memory of its own: views, in-place operations and what only sets memory
aside are none. Matrix products are told apart, because they alone are rounded once at the end: on a device the sum
of a bfloat16 product is a float32, and damage to it is finer than the result can show. ``accumulated`` gives that
sum for a product that the program asked for in bfloat16 or float16; what is added after it, a bias, comes later.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .shapes import FORMATS
from .telling import Meet, Telling, telling

PRODUCTS: Final = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "mv", "addmv", "dot"})
"""Matrix products: alike for an injection, because a protection may take one for another."""
SETS_MEMORY_ASIDE: Final = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
ROUNDED: Final = frozenset({torch.bfloat16, torch.float16})
"""Results whose sum is held in float32 before it is rounded."""
BACKWARD: Final = "backward:"
TOLD: Final = "told:"
"""Before the name of an operation that was handed over by a cached pass, and not seen (``telling``)."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped.
    """A dispatch mode that hands every operation to a function (operation, arguments, keywords) and gives its
    result back. With ``told`` it leaves to a guard before it what a cached pass hands over, and meets that there;
    without, such a pass is seen."""

    def __init__(self, seen: Callable[[Any, Any, Any], Any], told: Meet | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self._told = told

    def hands(self, weight: Tensor) -> Telling | None:
        """What ``hands_of`` asks of a mode."""
        return None if self._told is None else telling(weight, self._told)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._seen(func, args, kwargs or {})


def name_of(func: Any) -> str:
    """Name of an operation, without namespace and overload; with a prefix in a backward pass."""
    name = str(func.overloadpacket.__name__)
    return f"{BACKWARD}{name}" if torch._C._current_graph_task_id() != -1 else name


def is_product(operation: str) -> bool:
    """Whether an operation, as ``name_of`` gives it, is a matrix product."""
    return operation.removeprefix(BACKWARD).removeprefix(TOLD).partition("#")[0] in PRODUCTS


def with_output(operation: str, output: int) -> str:
    """Name of one of the results of an operation: the first has the operation's own name."""
    return operation if output == 0 else f"{operation}#{output}"


def split_output(operation: str) -> tuple[str, int]:
    """Operation and number of the result."""
    name, _, output = operation.partition("#")
    return name, int(output or 0)


def tensors_in(values: Any) -> list[Tensor]:
    """Tensors among arguments, within lists and mappings, too."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [tensor for value in values for tensor in tensors_in(value)]
    return []


def new_results(func: Any, args: Any, kwargs: Any, out: Any) -> list[tuple[int, Tensor]]:
    """Results with memory of their own, by their number; empty for views and operations in place. ``func`` None is
    what the host gave."""
    if func is not None and func.overloadpacket.__name__ in SETS_MEMORY_ASIDE:
        return []
    given = {_storage(tensor) for tensor in tensors_in((args, kwargs)) if _plain(tensor)}
    outputs = out if isinstance(out, tuple | list) else (out,)
    return [
        (number, tensor)
        for number, tensor in enumerate(outputs)
        if isinstance(tensor, Tensor)
        and _plain(tensor)
        and tensor.numel()
        and tensor.dtype in FORMATS
        and _storage(tensor) not in given
    ]


def is_composite(func: Any) -> bool:
    """Whether torch itself writes it in terms of others; in inference mode a mode sees it whole."""
    key = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))


class Accumulated(msgspec.Struct, frozen=True):
    """A product before rounding: ``sums`` (float32) of its terms, and what ``rounded`` makes of them."""

    sums: Tensor
    addend: Tensor | None
    alpha: float
    beta: float

    def rounded(self, dtype: torch.dtype) -> Tensor:
        """The result: alpha · sums + beta · addend, rounded once."""
        total = self.sums if self.alpha == 1 else self.sums * self.alpha
        if self.addend is not None and self.beta != 0:
            total = total + self.addend.float() * self.beta
        return total.to(dtype)


def accumulated(func: Any, args: Any, kwargs: Any) -> Accumulated:
    """The float32 sums of a product in bfloat16 or float16, its bias apart.

    Products of two such values are exact in float32, so these sums differ from a device's only in the order of
    summation.
    """
    addend: Tensor | None = None
    match func.overloadpacket.__name__:
        case "linear":
            addend = args[2] if len(args) > 2 else kwargs.get("bias")
            one, other = args[0], args[1].t()
        case "addmm" | "baddbmm" | "addmv":
            addend, one, other = args[:3]
        case _:
            one, other = args[:2]
    sums = torch.matmul(one.float(), other.float())
    return Accumulated(sums, addend, kwargs.get("alpha", 1), kwargs.get("beta", 1))


def result_elements(func: Any, args: Any, kwargs: Any, output: int) -> int:
    """Elements of a result without computing it; −1 where torch cannot tell."""

    def shape_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return [shape_of(item) for item in value] if isinstance(value, list | tuple) else value

    try:
        out = func(*map(shape_of, args), **{key: shape_of(value) for key, value in kwargs.items()})
    except (RuntimeError, NotImplementedError):
        return -1
    outputs = out if isinstance(out, tuple | list) else (out,)
    return int(outputs[output].numel()) if output < len(outputs) and isinstance(outputs[output], Tensor) else -1


def _plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type != "meta"


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())
