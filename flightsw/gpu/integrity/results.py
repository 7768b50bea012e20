"""Operands and results of operations as the checks handle them: found in lists, compared by bits, put back.

Comparison is by integer digests (``transit.digest``), never by floats: a NaN equals itself, and −0 is not 0.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

from flightsw.gpu.integrity import operations, transit

ALIGNED_BYTES: Final = 64
"""Torch's memory begins at multiples of it."""


def tensors_in(values: Any) -> list[Tensor]:
    """Tensors among arguments or results, lists included."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def digest_of(tensor: Tensor) -> Tensor:
    """Digest of what a tensor shows, whatever else is in its storage."""
    if transit.dense(tensor):
        return transit.digest(tensor.untyped_storage())
    if tensor.is_meta:
        return torch.empty(0, dtype=torch.int64)
    if tensor.is_nested:
        tensor = tensor.contiguous().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense() if tensor.layout is not torch.sparse_coo else tensor.coalesce().values()
    return transit.digest(tensor.clone(memory_format=torch.contiguous_format).untyped_storage())


def shown(func: Any, result: Any) -> Any:
    """Results that two runs of an operator have in common."""
    scratch = operations.SCRATCH.get(func._schema.name)
    return result if scratch is None else tuple(one for place, one in enumerate(result) if place != scratch)


def fingerprint(result: Any) -> list[Any]:
    """What two results are compared by: digests of tensors, and everything else as it is."""
    return [digest_of(value) if isinstance(value, Tensor) else repr(value) for value in _values(result)]


def fingerprint_if_same(result: Any, again: Any) -> list[Any] | None:
    """The fingerprint of two results that are the same, found by one reading of both. None is no verdict."""
    if isinstance(result, Tensor):
        sums = transit.digest_if_same(result, again)
        return None if sums is None else [sums]
    found: list[Any] = []
    for one, two in zip(_values(result), _values(again), strict=True):
        if isinstance(one, Tensor):
            sums = transit.digest_if_same(one, two)
            if sums is None:
                return None
            found.append(sums)
        elif repr(one) == repr(two):
            found.append(repr(one))
        else:
            return None
    return found


def _values(result: Any) -> Iterator[Any]:
    if isinstance(result, list | tuple):
        for value in result:
            yield from _values(value)
    else:
        yield result


def same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else one == two
        for one, two in zip(first, second, strict=True)
    )


def copy_of(tensor: Tensor) -> Tensor:
    """A copy that lies in memory like its original. Torch's kernels go over another layout in another way, and
    products over memory that is aligned in another way, whose results may differ in the last bit."""
    # 1: it does. 2 is that torch cannot tell, and copies.
    overlaps = tensor.layout is torch.strided and torch._debug_has_internal_overlap(tensor) == 1
    odd = tensor.layout is not torch.strided or tensor.is_nested or tensor.is_conj() or tensor.is_neg()
    if odd or overlaps or not tensor.numel():
        return tensor.clone()
    # A part of a larger memory only: what is dense stays so, or its digest would be formed in another way.
    before = 0 if transit.dense(tensor) or tensor.is_meta else tensor.data_ptr() % ALIGNED_BYTES
    before //= tensor.element_size()
    if tensor.is_contiguous() and not before:
        return tensor.clone()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    with torch.no_grad():
        memory = torch.empty(before + span, dtype=tensor.dtype, device=tensor.device)
        return memory.as_strided(tensor.shape, tensor.stride(), before).copy_(tensor)


def shares(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return True
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


def stored(func: Any, args: tuple[Any, ...]) -> Tensor:
    """What a store has left: the elements an index names, or the whole target."""
    target: Tensor = args[0]
    if "index_put" not in func._schema.name:
        return target
    stored: Tensor = torch.ops.aten.index.Tensor(target, args[1])
    return stored


def replaced(values: Any, copies: dict[int, Tensor]) -> Any:
    if isinstance(values, dict):
        return {key: replaced(value, copies) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(replaced(value, copies) for value in values)
    return copies.get(id(values), values)


def put_back_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], None]:
    """Puts the generator of a random operation back to where it stands now; nothing for others."""
    if not operations.is_random(func):
        return nothing
    generator = kwargs.get("generator")
    if generator is None:
        device = next((tensor.device for tensor in tensors_in(args)), torch.device("cpu"))
        generator = (
            torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        )
    state = generator.get_state()

    def put_back() -> None:
        generator.set_state(state)

    return put_back


def nothing() -> None:
    """Nothing to put back."""


def version_of(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
