"""Bits of live tensors, read and changed behind everybody's back, as a particle would.

A write here goes to the storage's bytes through an alias of its own: torch's version counter does not move,
autograd does not notice, and no dispatch mode sees an operation. So a program cannot tell damage from what it holds
by anything but its value. Floats are never read as floats: a NaN keeps its payload, a signalling one its signal.
"""

from typing import Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .injection import Fired, Injection
from .shapes import damaged, dtype_named, elements_hit, format_of

WORD_BYTES: Final = 4
"""A word as the digests of resident state count them."""


class Unreachable(ValueError):
    """A tensor whose elements have no bytes in memory; the text is one line."""


def offset_bytes(tensor: Tensor, element: int) -> int:
    """Where element number ``element`` (flat, row by row) of a tensor lies in its storage, whatever the strides."""
    offset = tensor.storage_offset()
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        element, index = divmod(element, size)
        offset += index * stride
    return int(offset) * tensor.element_size()


def read(tensor: Tensor, element: int) -> int:
    """One element as an unsigned integer of its own width."""
    start = offset_bytes(tensor, element)
    with _disable_current_modes():
        return int.from_bytes(bytes(_memory(tensor)[start : start + tensor.element_size()].tolist()), "little")


def write(tensor: Tensor, element: int, value: int) -> None:
    """Set one element's bits, unseen."""
    start, size = offset_bytes(tensor, element), tensor.element_size()
    with _disable_current_modes():
        raw = torch.tensor(list(value.to_bytes(size, "little")), dtype=torch.uint8)
        _memory(tensor)[start : start + size].copy_(raw)


def hit(tensor: Tensor, injection: Injection, where: str) -> Fired:
    """Apply an injection's pattern to a live tensor.

    Raises ``Unreachable`` when the tensor is empty, sparse, on no device, or of another dtype than was planned.
    """
    if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.numel() == 0:
        raise Unreachable(f"{where}: {tuple(tensor.shape)} of layout {tensor.layout} has no element to hit")
    if tensor.dtype is not dtype_named(injection.dtype):
        raise Unreachable(f"{where} holds {tensor.dtype}, the injection is for {injection.dtype}")
    form = format_of(tensor.dtype)
    elements = elements_hit(injection.pattern, injection.place, tensor.numel())
    old = tuple(read(tensor, element) for element in elements)
    new = tuple(damaged(injection.pattern, form, value) for value in old)
    words: set[int] = set()
    for element, before, after in zip(elements, old, new, strict=True):
        write(tensor, element, after)
        start = offset_bytes(tensor, element)
        changed = (before ^ after).to_bytes(form.size_bytes, "little")
        words |= {(start + place) // WORD_BYTES for place, byte in enumerate(changed) if byte}
    return Fired(
        injection=injection.id,
        where=where,
        dtype=injection.dtype,
        elements=elements,
        old=old,
        new=new,
        words32=len(words),
    )


def _memory(tensor: Tensor) -> Tensor:
    """The whole storage as bytes; a tensor of its own, with its own version counter."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
