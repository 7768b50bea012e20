"""What became of a region in the hands of its owner: still there, replaced, freed; written to or not.

A region knows its tensors weakly (``regions``). While one of them exists, the region is what that tensor reads, or
it is not: ``module.to``, ``parameter.data = …``, ``resize_`` give a tensor other memory. When none exists any more,
whoever holds the storage decides: a tensor that nobody named, or nobody.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import torch

from flightsw.gpu.integrity.regions import Region

_OWN_HOLDS: Final = 2
"""References to a storage that are ours: the region's memory, and the object through which we ask."""


def alive(region: Region) -> Iterator[tuple[str, torch.Tensor]]:
    """A region's tensors that somebody still has."""
    for name, reference in region.tensors:
        if (tensor := reference()) is not None:
            yield name, tensor


def fate(region: Region) -> Literal["here", "replaced", "freed"]:
    """Whether a region's memory is still what its owner reads. Memory of which only a part is left is not."""
    storage = region.memory.untyped_storage()
    address, size_bytes = storage.data_ptr(), storage.nbytes()
    tensors = 0
    for _, tensor in alive(region):
        tensors += 1
        if tensor.untyped_storage().data_ptr() != address:
            return "replaced"
    if size_bytes != region.memory.numel():
        return "replaced"
    if tensors or int(torch._C._storage_Use_Count(storage._cdata)) > _OWN_HOLDS:
        return "here"
    return "freed"


def versions_of(region: Region) -> list[int | None]:
    """Versions of a region's tensors; those that are gone, or were made in inference mode, have none."""
    tensors = [reference() for _, reference in region.tensors]
    return [None if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors]


def written(before: Sequence[int | None], region: Region) -> bool:
    """Whether the version of one of a region's tensors is not what it was."""
    return any(
        version is not None and version != old for version, old in zip(versions_of(region), before, strict=True)
    )
