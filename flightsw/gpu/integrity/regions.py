"""Regions: which memory is guarded, and under which name.

A region is one *storage*, byte for byte, not one tensor: tied weights are guarded once, views of a fused buffer
together, a transposed or sliced tensor whole, and what a repair writes is the memory that the job reads. A storage
that several tensors share carries all their names, so that a report says what was hit.

A region holds its storage, but its tensors only weakly: so it can be seen that their owner gave them other memory
(``module.to``, ``parameter.data = …``) or let go of them. Give the owner's own tensors, not ``detach()``ed copies
made for the call; those count as gone at once, and then nothing is known of later changes.

Nothing is skipped in silence: what cannot be guarded (no storage, not dense, no bytes) is named in ``left_out``
with the reason.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
import torch

NAMES_SHOWN: Final = 3


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """One storage; ``memory`` is all of it as bytes (uint8, 1-d) and shares it."""

    names: tuple[str, ...]
    memory: torch.Tensor
    tensors: tuple[tuple[str, "weakref.ref[torch.Tensor]"], ...] = ()
    """Name and tensor of everything that was found in this storage."""

    @property
    def size_bytes(self) -> int:
        """Size of the storage."""
        return self.memory.numel()

    @property
    def name(self) -> str:
        """Its names for people, not more than a few."""
        shown = ", ".join(self.names[:NAMES_SHOWN])
        return shown if len(self.names) <= NAMES_SHOWN else f"{shown} and {len(self.names) - NAMES_SHOWN} more"


class Regions(msgspec.Struct, frozen=True, kw_only=True):
    """What is guarded, and what is not: name and reason."""

    regions: tuple[Region, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def size_bytes(self) -> int:
        """Guarded bytes."""
        return sum(region.size_bytes for region in self.regions)


def regions_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> Regions:
    """Storages of named tensors, each once, in order of first sight."""
    names: dict[int, list[str]] = {}
    memory: dict[int, torch.Tensor] = {}
    seen: dict[int, list[tuple[str, weakref.ref[torch.Tensor]]]] = {}
    left_out: list[tuple[str, str]] = []
    for name, tensor in tensors:
        if reason := _unguardable(tensor):
            left_out.append((name, reason))
            continue
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in memory:
            # A tensor made in inference mode could not be repaired outside it.
            with torch.inference_mode(False):
                memory[key] = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            names[key] = []
            seen[key] = []
        if name not in names[key]:
            names[key].append(name)
        seen[key].append((name, weakref.ref(tensor)))
    found = tuple(Region(names=tuple(names[key]), memory=memory[key], tensors=tuple(seen[key])) for key in memory)
    return Regions(regions=found, left_out=tuple(left_out))


def weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of a module by name; a tied parameter comes under each of its names."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        yield f"weight {name}", parameter
    for name, buffer in module.named_buffers(remove_duplicate=False):
        yield f"buffer {name}", buffer


def optimiser_state(
    optimiser: torch.optim.Optimizer, names: Mapping[torch.Tensor, str] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """State tensors of an optimiser, also those in lists; ``names`` gives a parameter's own name, else it is its
    number. Its groups (a learning rate that is a tensor) are not state: schedulers write there."""
    known = names or {}
    number = 0
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            owner = known.get(parameter, f"parameter {number}")
            number += 1
            state: dict[str, Any] = optimiser.state.get(parameter, {})
            for key, value in state.items():
                for place, tensor in _within(value):
                    yield f"{key}{place} of {owner}", tensor


def parameters_beside(
    optimiser: torch.optim.Optimizer, names: Mapping[torch.Tensor, str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters of an optimiser that have none of these ``names``, by number."""
    parameters = (parameter for group in optimiser.param_groups for parameter in group["params"])
    for number, parameter in enumerate(parameters):
        if parameter not in names:
            yield f"parameter {number}", parameter


def _within(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of one value of a state, with their place in it: LBFGS keeps lists of them."""
    if isinstance(value, torch.Tensor):
        yield "", value
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            for place, tensor in _within(one):
                yield f"[{number}]{place}", tensor


def unregistered(module: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Name and reason of what a module computes with and no region holds: it is neither parameter nor buffer."""
    for name, part in module.named_modules():
        for own, value in part.__dict__.items():
            full = f"{name}.{own}" if name else own
            if isinstance(value, torch.ScriptObject):
                yield full, "packed by torch, so there is no tensor whose bytes can be guarded"
            elif isinstance(value, torch.Tensor) and value.is_leaf:
                yield full, "a plain attribute; register it as a buffer"


def _unguardable(tensor: torch.Tensor) -> str:
    """Why a tensor has no bytes to guard; empty when it has."""
    if tensor.layout is not torch.strided:
        return f"layout {tensor.layout} has no storage of its own"
    if tensor.device.type == "meta":
        return "a meta tensor has no memory"
    if tensor.untyped_storage().nbytes() == 0:
        return "no bytes"
    return ""
