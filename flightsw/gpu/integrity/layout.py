"""Where the blocks of regions are: numbered through all of them, device by device, with the sums of each.

Regions keep the numbers under which they were given; blocks are numbered in another order, so that what is looked
at together lies on one device and its digests in one tensor.
"""

import bisect
from collections.abc import Iterator, Sequence

import torch

from flightsw.gpu.integrity.digest import block_count
from flightsw.gpu.integrity.regions import Region
from flightsw.gpu.integrity.sums import Sums


class DeviceSums:
    """The blocks ``first`` to ``stop`` − 1, which are on one device, and their sums."""

    def __init__(self, first: int, stop: int, device: torch.device) -> None:
        self.first = first
        self.stop = stop
        self.sums = Sums(stop - first, device)


class Layout:
    """Regions by number, blocks by number, and what belongs to what."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.counts = [block_count(region.size_bytes) for region in regions]
        """Blocks of each region."""
        self.firsts = [0] * len(regions)
        """First block of each region."""
        self.devices: list[DeviceSums] = []
        self.blocks = 0
        """Blocks of all."""
        self._order: list[int] = []
        self._device_of: dict[int, DeviceSums] = {}
        by_device: dict[torch.device, list[int]] = {}
        for index, region in enumerate(regions):
            by_device.setdefault(region.memory.device, []).append(index)
        for device, indices in by_device.items():
            first = self.blocks
            for index in indices:
                self.firsts[index] = self.blocks
                self.blocks += self.counts[index]
            self.devices.append(DeviceSums(first, self.blocks, device))
            self._device_of.update(dict.fromkeys(indices, self.devices[-1]))
            self._order += indices
        self._bounds = [self.firsts[index] for index in self._order]

    def rows_of(self, index: int) -> tuple[Sums, int, int]:
        """The sums in which a region's are kept, its first row there, and how many rows."""
        device = self._device_of[index]
        return device.sums, self.firsts[index] - device.first, self.counts[index]

    def region_at(self, block: int) -> int:
        """The region to which a block belongs."""
        return self._order[bisect.bisect_right(self._bounds, block) - 1]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Region and its own blocks, first and last + 1, in blocks ``start`` to ``stop`` − 1."""
        place = max(bisect.bisect_right(self._bounds, start) - 1, 0)
        while start < stop and place < len(self._order):
            index = self._order[place]
            first = self.firsts[index]
            last = min(stop - first, self.counts[index])
            yield index, start - first, last
            start = first + last
            place += 1

    def by_device(self, indices: Sequence[int]) -> Iterator[tuple[DeviceSums, list[int]]]:
        """Regions, those of one device together."""
        for device in self.devices:
            if chosen := [index for index in indices if self._device_of[index] is device]:
                yield device, chosen

    def runs(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """First block and number of blocks of regions, those that follow each other taken together."""
        runs: list[tuple[int, int]] = []
        for index in indices:
            first, count = self.firsts[index], self.counts[index]
            if runs and sum(runs[-1]) == first:
                runs[-1] = (runs[-1][0], runs[-1][1] + count)
            else:
                runs.append((first, count))
        return runs
