"""What became of a region in the hands of its owner: still there, replaced, freed; written to or not.

A region knows its tensors weakly (``regions``). While one of them exists, the region is what that tensor reads, or
it is not: ``module.to``, ``parameter.data = …``, ``resize_`` give a tensor other memory. When none exists any more,
whoever holds the storage decides: a tensor that nobody named, or nobody.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
import torch

from flightsw.gpu.integrity.regions import Region, regions_of

Fate: TypeAlias = Literal["here", "replaced", "freed"]
FREED: Final = "its owner has let go of it; what the job reads in its place is not guarded"
_OWN_HOLDS: Final = 2
"""References to a storage that are ours: the region's memory, and the object through which we ask."""


def alive(region: Region) -> Iterator[tuple[str, torch.Tensor]]:
    """A region's tensors that somebody still has."""
    for name, reference in region.tensors:
        if (tensor := reference()) is not None:
            yield name, tensor


def fate(region: Region) -> Fate:
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


class Owned:
    """Regions by number, in the hands of their owners."""

    def __init__(self, regions: tuple[Region, ...]) -> None:
        self.regions = regions
        """Of one that was let go of without its memory."""
        self._by_address = {region.memory.data_ptr(): index for index, region in enumerate(regions)}
        self._versions: list[list[int | None]] = [[]] * len(regions)
        self._dropped: set[int] = set()

    @property
    def moved(self) -> bool:
        """Whether a region is not what its owner reads any more."""
        return any(self.fate(index) != "here" for index in range(len(self.regions)))

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """Region in whose storage a tensor lies; None when there is none."""
        index = self._by_address.get(tensor.untyped_storage().data_ptr())
        return None if index in self._dropped else index

    def remember(self, index: int) -> None:
        """What was written to a region so far is known."""
        self._versions[index] = versions_of(self.regions[index])

    def written(self, index: int) -> bool:
        """Whether somebody has written to a region since ``remember``."""
        return written(self._versions[index], self.regions[index])

    def fate(self, index: int) -> Fate:
        """Of a region, also after it was let go of."""
        region = self.regions[index]
        if index not in self._dropped:
            return fate(region)
        return "replaced" if any(alive(region)) else "freed"

    def let_go(self, index: int) -> None:
        """Keep the memory of a region no longer."""
        self._dropped.add(index)
        bare = msgspec.structs.replace(self.regions[index], memory=torch.empty(0, dtype=torch.uint8))
        self.regions = (*self.regions[:index], bare, *self.regions[index + 1 :])

    def found_again(self) -> tuple[tuple[Region, ...], list[tuple[str, str]]]:
        """Regions anew, from the memory that the tensors have now; and name and reason of what is left out."""
        found = regions_of((name, tensor) for region in self.regions for name, tensor in alive(region))
        known = {region.memory.data_ptr() for region in found.regions}
        # Regions without a tensor that we know of, but held by somebody.
        others = tuple(
            region
            for index, region in enumerate(self.regions)
            if self.fate(index) == "here" and region.memory.data_ptr() not in known
        )
        freed = [(region.name, FREED) for index, region in enumerate(self.regions) if self.fate(index) == "freed"]
        return found.regions + others, [*found.left_out, *freed]
