"""Resident state under digests: weights, optimiser state, buffers, from the moment they are known to be good.

A ``Resident`` holds a digest of every block of every region (``digest``, ``regions``). Four calls:

    adopt()            all that is there now is good, the caller says so: just loaded, just verified
    verify(…)          blocks against their digests; damage of one word is put right in place, read again, and
                       counts as repaired only if the block then matches
    adopt_update(…)    the program has just changed these regions, from a state that was verified: new digests
    adopt_emitted(…)   the same, when the kernel that wrote the memory has written ``digests(i)`` with it

**What differs is not always damage.** Told apart, in this order:

    the owner has other memory now, or let go of it       what the job reads was never looked at: open
    one copy of the digest was hit (``sums``)             written again from the other; memory is not touched
    the next reading is right                             the check itself was hit; memory is good
    the version of a tensor moved since its adoption      the program wrote and did not say so: open, also a single
                                                          word, or a wanted change would be "repaired"
    one word                                              repaired
    more, or no digest left to trust                      open: it stays in ``damaged``

Versions are those that torch keeps for autograd: every in-place operation on a tensor moves it, radiation does not.
Writing through ``.data`` or numpy leaves no trace in them and is taken for damage; tensors made in inference mode
have none. A block that was open and matches again (the owner wrote the old values back) is good again. A region
whose memory was replaced, freed or changed stays in ``damaged`` until ``adopt``, and so does one that was updated
while damaged.

**Memory of others.** Memory that its owner replaced or freed is let go of at the next look, with a finding. Until
then it stays; whoever keeps the ``Regions`` that were given keeps it for ever.
"""

import bisect
from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec
import torch

from flightsw.gpu.integrity.digest import BLOCK_BYTES, Damage, block_count, digest, located, repair
from flightsw.gpu.integrity.finding import Finding, Outcome, Report
from flightsw.gpu.integrity.regions import Region, Regions, regions_of
from flightsw.gpu.integrity.sums import Sums

READINGS_MAX: Final = 8
"""Readings of one damaged block in one look: memory that changes faster than it is read is not chased."""
FINDINGS_MAX: Final = 64
"""Findings of one look; what comes after is one more that says so."""
_OWN_HOLDS: Final = 2
"""References to a storage that are ours: the region's memory, and the object through which we ask."""
_REPLACED: Final = "its owner gave it other memory; not verified until adopt()"
_CHANGED: Final = "changed by the program, which did not announce it; not verified until adopt()"
_FREED: Final = "its owner has let go of it; what the job reads in its place is not guarded"
_INHERITED: Final = "updated while it was damaged; not verified until adopt()"


class _Device:
    """The blocks of all regions on one device, numbered from ``first`` on, and their sums."""

    def __init__(self, first: int, blocks: int, device: torch.device) -> None:
        self.first = first
        self.stop = first + blocks
        self.sums = Sums(blocks, device)


class Resident:
    """Digests of regions. Blocks are numbered through all of them, 0 to ``blocks`` − 1, device by device."""

    def __init__(self, regions: Regions, report: Report) -> None:
        self._report = report
        self.hits = 0
        """How often memory was found changed, repaired or not. What was computed between two equal readings of
        this, with a clean look at all of it after the second, was computed from good memory."""
        self.repairs = 0
        """Words put right."""
        self.generation = 0
        """Moves with every adoption."""
        self._left_out = list(regions.left_out)
        self._adopted = False
        self._findings = 0
        self._lay_out(regions.regions)

    def _lay_out(self, regions: tuple[Region, ...]) -> None:
        self._regions = regions
        self._memory: list[torch.Tensor | None] = [region.memory for region in regions]
        self._blocks = [block_count(region.size_bytes) for region in regions]
        self._by_address = {region.memory.data_ptr(): index for index, region in enumerate(regions)}
        self._versions: list[list[int | None]] = [[]] * len(regions)
        self._first = [0] * len(regions)
        """First block of each region."""
        self._devices: list[_Device] = []
        self._order: list[int] = []
        """Regions in order of their blocks."""
        by_device: dict[torch.device, list[int]] = {}
        for index, region in enumerate(regions):
            by_device.setdefault(region.memory.device, []).append(index)
        self.blocks = 0
        for device, indices in by_device.items():
            first = self.blocks
            for index in indices:
                self._first[index] = self.blocks
                self.blocks += self._blocks[index]
            self._devices.append(_Device(first, self.blocks - first, device))
            self._order += indices
        self._bounds = [self._first[index] for index in self._order]
        self._open: dict[int, list[int]] = {}
        """Blocks that are not good, and the sums found there when it was reported."""
        self._refused: dict[int, str] = {}
        """Regions that are not looked at before they are adopted again, and why."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """In the order of ``digests``; another tuple after ``adopt`` found memory replaced."""
        return self._regions

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of what is not guarded, now."""
        return tuple(self._left_out)

    @property
    def size_bytes(self) -> int:
        """Bytes that are looked at."""
        return sum(memory.numel() for memory in self._memory if memory is not None)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the regions are."""
        return tuple(device.sums.first.device for device in self._devices)

    @property
    def damaged(self) -> frozenset[str]:
        """Names of the regions that are not good; all of them before the first ``adopt``."""
        if not self._adopted:
            return frozenset(region.name for region in self._regions)
        bad = {self._region_at(block) for block in self._open} | self._refused.keys()
        return frozenset(self._regions[index].name for index in bad)

    def digests(self, index: int) -> torch.Tensor:
        """Sums of region ``index``, int64 (blocks, 3), the very memory in which they are kept. A kernel that writes
        them calls ``adopt_emitted`` afterwards. Ask anew when ``regions`` is another tuple."""
        first = self._first[index]
        device = self._device_at(index)
        return device.sums.first[first - device.first :][: self._blocks[index]]

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """Region in whose storage a tensor lies; None when it is not guarded."""
        index = self._by_address.get(tensor.untyped_storage().data_ptr())
        return None if index is None or self._memory[index] is None else index

    def adopt(self, regions: Regions | None = None) -> None:
        """Everything is good as it is: digests of all, from the memory that the owners' tensors have now.

        ``regions`` is what shall be guarded from now on; None is the tensors known so far, as far as they exist.
        """
        if regions is not None:
            self._left_out = list(regions.left_out)
            self._lay_out(regions.regions)
        elif any(self._fate(index) != "here" for index in range(len(self._regions))):
            self._find_again()
        self._open.clear()
        self._refused.clear()
        self._adopted = True
        self._take(range(len(self._regions)))

    def adopt_update(self, regions: Iterable[int] | None = None) -> None:
        """Digests of the regions (all when None) that the program has just changed, from state verified before.

        One that is in ``damaged`` stays there: what was made of damage is no better. Nothing before ``adopt``.
        """
        if self._adopted:
            self._take(self._updated(regions))

    def adopt_emitted(self, regions: Iterable[int] | None = None) -> None:
        """As ``adopt_update``, for a kernel that has written the sums into ``digests(i)``: nothing is read."""
        if not self._adopted:
            return
        self.generation += 1
        for index in self._updated(regions):
            device = self._device_at(index)
            device.sums.seal(self._first[index] - device.first, self._blocks[index])
            self._versions[index] = _versions_of(self._regions[index])

    def verify(self, first_block: int = 0, count: int | None = None) -> bool:
        """Look at ``count`` blocks from ``first_block`` (to the end when None), repair what can be repaired.

        True when all of them are good now. False also before the first ``adopt``: nothing is known then.
        """
        stop = self.blocks if count is None else min(first_block + count, self.blocks)
        if not self._adopted:
            return False
        self._findings = 0
        for device in self._devices:
            for start, found in self._found(max(first_block, device.first), min(stop, device.stop)):
                self._compare(device, start, found)
        if any(first_block <= block < stop for block in self._open):
            return False
        return not any(index in self._refused for index, _, _ in self._pieces(first_block, stop))

    def _compare(self, device: _Device, start: int, found: torch.Tensor) -> None:
        row = start - device.first
        wrong = [] if device.sums.agree(row, found) else device.sums.differing(row, found)
        for block in [block for block in self._open if start <= block < start + len(found)]:
            if block - start not in wrong:
                del self._open[block]
        for place in wrong:
            self._look_closer(device, start + place, found[place])

    def _look_closer(self, device: _Device, block: int, before: torch.Tensor | None) -> None:
        """One block that did not match, ``before`` (3,): what happened to it, and what becomes of it.

        Memory is touched only when two readings in a row say the same, so that a hit of the check repairs nothing.
        """
        index = self._region_at(block)
        memory, own = self._memory[index], block - self._first[index]
        if memory is None or index in self._refused:
            return
        name, repaired, why = self._regions[index].name, "", "no two readings of it agree"
        sums: list[int] = []
        for _ in range(READINGS_MAX):
            found = digest(memory[own * BLOCK_BYTES : (own + 1) * BLOCK_BYTES])[0]
            verdict, difference = device.sums.judge(block - device.first, found)
            if verdict in ("good", "mended"):
                self._settle(block, name, repaired, mended=verdict == "mended")
                return
            if before is None or not torch.equal(found, before):
                before = found
                continue
            if self._written(index):
                self.hits += 1
                self._refuse(index, _CHANGED)
                return
            sums = found.tolist()
            damage = located(own, difference) if verdict == "hit" else None
            if damage is None or not _repaired(memory, damage):
                why = "more than one word was hit" if verdict == "hit" else "memory and its digest were both hit"
                break
            repaired, before = f"word {damage.word} was off by {damage.error}", None
        if self._open.get(block) != sums:
            self._open[block] = sums
            self.hits += 1
            self._find("open", name, f"block {own}: {why}")

    def _settle(self, block: int, name: str, repaired: str, mended: bool) -> None:
        """A block that did not match is good; say what it was."""
        self._open.pop(block, None)
        if repaired:
            self.hits += 1
            self.repairs += 1
            self._find("repaired", name, repaired)
        if mended:
            self._find("repaired", f"digest of {name}", "the digest itself was hit, memory was not")
        elif not repaired:
            self._find("recomputed", f"digest of {name}", "one reading was wrong, the next was right")

    def _refuse(self, index: int, reason: str) -> None:
        if index not in self._refused:
            self._refused[index] = reason
            self._find("open", self._regions[index].name, reason)

    def _find(self, outcome: Outcome, where: str, detail: str) -> None:
        self._findings += 1
        if self._findings == FINDINGS_MAX + 1:
            where, detail = (
                "resident state",
                f"more than {FINDINGS_MAX} findings in one look; the rest is not listed",
            )
        if self._findings <= FINDINGS_MAX + 1:
            self._report(Finding(detector="digest", outcome=outcome, where=where, detail=detail))

    def _take(self, regions: Iterable[int]) -> None:
        """Digests from memory, which is good."""
        self.generation += 1
        for index in regions:
            memory = self._memory[index]
            if memory is not None and self._present(index):
                device = self._device_at(index)
                device.sums.write(self._first[index] - device.first, digest(memory))
                self._versions[index] = _versions_of(self._regions[index])

    def _updated(self, regions: Iterable[int] | None) -> list[int]:
        """Regions that may be adopted after an update; damage is inherited."""
        bad = {self._region_at(block) for block in self._open}
        chosen = list(range(len(self._regions)) if regions is None else regions)
        for index in bad.intersection(chosen):
            self._refused[index] = _INHERITED
        self._open = {block: found for block, found in self._open.items() if self._region_at(block) not in chosen}
        return [index for index in chosen if self._memory[index] is not None and index not in self._refused]

    def _find_again(self) -> None:
        """Regions anew, from the memory that the tensors have now."""
        found = regions_of((name, tensor) for region in self._regions for name, tensor in _alive(region))
        known = {region.memory.data_ptr() for region in found.regions}
        # Regions without a tensor that we know of, but held by somebody.
        others = tuple(
            region
            for index, region in enumerate(self._regions)
            if self._fate(index) == "here" and region.memory.data_ptr() not in known
        )
        self._left_out += found.left_out
        self._left_out += [
            (region.name, _FREED) for index, region in enumerate(self._regions) if self._fate(index) == "freed"
        ]
        self._lay_out(found.regions + others)

    def _fate(self, index: int) -> Literal["here", "replaced", "freed"]:
        """Whether a region's memory is still what its owner reads."""
        memory, tensors = self._memory[index], list(_alive(self._regions[index]))
        if memory is None:
            return "replaced" if tensors else "freed"
        address = memory.data_ptr()
        if any(tensor.untyped_storage().data_ptr() != address for _, tensor in tensors) or not _whole(memory):
            return "replaced"
        return "here" if tensors or _held(memory) else "freed"

    def _present(self, index: int) -> bool:
        """Whether a region can be looked at; one that cannot is let go of, and said so."""
        fate = self._fate(index)
        if fate == "here":
            return True
        self._refuse(index, _REPLACED if fate == "replaced" else _FREED)
        self._memory[index] = None
        bare = msgspec.structs.replace(self._regions[index], memory=torch.empty(0, dtype=torch.uint8))
        self._regions = (*self._regions[:index], bare, *self._regions[index + 1 :])
        return False

    def _written(self, index: int) -> bool:
        """Whether the version of one of a region's tensors moved since it was adopted."""
        now = _versions_of(self._regions[index])
        return any(
            version is not None and version != before
            for version, before in zip(now, self._versions[index], strict=True)
        )

    def _found(self, start: int, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
        """First block and sums (n, 3) of the runs of blocks in a range, of one device, that can be looked at."""
        run: list[torch.Tensor] = []
        begin = start
        for index, first, last in self._pieces(start, stop):
            memory = self._memory[index]
            if index in self._refused or memory is None or not self._present(index):
                if run:
                    yield begin, torch.cat(run)
                run, begin = [], self._first[index] + last
                continue
            run.append(digest(memory[first * BLOCK_BYTES : last * BLOCK_BYTES]))
        if run:
            yield begin, torch.cat(run)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Region and its own blocks, first and last + 1, in a range of all blocks."""
        place = max(bisect.bisect_right(self._bounds, start) - 1, 0)
        while start < stop and place < len(self._order):
            index = self._order[place]
            first = self._first[index]
            last = min(stop - first, self._blocks[index])
            yield index, start - first, last
            start = first + last
            place += 1

    def _region_at(self, block: int) -> int:
        return self._order[bisect.bisect_right(self._bounds, block) - 1]

    def _device_at(self, index: int) -> _Device:
        first = self._first[index]
        return next(device for device in self._devices if device.first <= first < device.stop)


def _repaired(memory: torch.Tensor, damage: Damage) -> bool:
    """Put a single word right; False when there is more to it."""
    if not damage.repairable:
        return False
    try:
        repair(memory, damage)
    except ValueError:
        return False
    return True


def _alive(region: Region) -> Iterator[tuple[str, torch.Tensor]]:
    """A region's tensors that somebody still has."""
    for name, reference in region.tensors:
        if (tensor := reference()) is not None:
            yield name, tensor


def _versions_of(region: Region) -> list[int | None]:
    """Versions of a region's tensors; those that are gone, or were made in inference mode, have none."""
    tensors = [reference() for _, reference in region.tensors]
    return [None if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors]


def _whole(memory: torch.Tensor) -> bool:
    """Whether the storage still has the size it had; a smaller one must not be read."""
    return memory.untyped_storage().nbytes() == memory.numel()


def _held(memory: torch.Tensor) -> bool:
    """Whether anybody but us holds the storage."""
    return int(torch._C._storage_Use_Count(memory.untyped_storage()._cdata)) > _OWN_HOLDS
