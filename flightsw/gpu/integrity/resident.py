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
Writing through ``.data`` or numpy leaves no trace in them and is taken for damage, and so do a few operations of
torch itself, ``batch_norm`` with its running statistics: verify the ``span`` of such regions before a pass, and
``adopt_update`` them after it. Tensors made in inference mode have no version. A block that was open and matches
again (the owner wrote the old values back) is good again. A region whose memory was replaced, freed or changed
stays in ``damaged`` until ``adopt``, and so does one that was updated while damaged.

**Memory of others.** Memory that its owner replaced or freed is let go of at the next look, with a finding. Until
then it stays; whoever keeps the ``Regions`` that were given keeps it for ever.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import torch

from flightsw.gpu.integrity.closer import look_closer
from flightsw.gpu.integrity.damage import put_right
from flightsw.gpu.integrity.digest import BLOCK_BYTES, digest, digest_all
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.layout import DeviceSums, Layout
from flightsw.gpu.integrity.owner import FREED, Owned
from flightsw.gpu.integrity.regions import Region, Regions

FINDINGS_MAX: Final = 64
"""Findings of one look; what comes after is one more that says so."""
_REPLACED: Final = "its owner gave it other memory; not verified until adopt()"
_CHANGED: Final = "changed by the program, which did not announce it; not verified until adopt()"
_INHERITED: Final = "updated while it was damaged; not verified until adopt()"


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
        self._owned = Owned(regions)
        self._layout = Layout(regions)
        self._open: dict[int, tuple[int, ...]] = {}
        """Blocks that are not good, and the sums found there when it was reported."""
        self._refused: dict[int, str] = {}
        """Regions that are not looked at before they are adopted again, and why."""

    @property
    def blocks(self) -> int:
        """How many there are in all."""
        return self._layout.blocks

    @property
    def regions(self) -> tuple[Region, ...]:
        """In the order of ``digests``; another tuple after ``adopt`` found memory replaced."""
        return self._owned.regions

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of what is not guarded, now."""
        return tuple(self._left_out)

    @property
    def size_bytes(self) -> int:
        """Bytes that are looked at."""
        return sum(region.size_bytes for region in self._owned.regions)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Where the regions are."""
        return tuple(device.sums.first.device for device in self._layout.devices)

    @property
    def damaged(self) -> frozenset[str]:
        """Names of the regions that are not good; all of them before the first ``adopt``."""
        if not self._adopted:
            return frozenset(region.name for region in self._owned.regions)
        bad = {self._layout.region_at(block) for block in self._open} | self._refused.keys()
        return frozenset(self._owned.regions[index].name for index in bad)

    def digests(self, index: int) -> torch.Tensor:
        """Sums of region ``index``, int64 (blocks, 3), the very memory in which they are kept. A kernel that writes
        them calls ``adopt_emitted`` afterwards. Ask anew when ``regions`` is another tuple."""
        sums, row, count = self._layout.rows_of(index)
        return sums.first[row : row + count]

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """Region in whose storage a tensor lies; None when it is not guarded."""
        return self._owned.index_of(tensor)

    def span(self, index: int) -> tuple[int, int]:
        """First block and number of blocks of region ``index``, as ``verify`` takes them."""
        return self._layout.firsts[index], self._layout.counts[index]

    def adopt(self, regions: Regions | None = None) -> None:
        """Everything is good as it is: digests of all, from the memory that the owners' tensors have now.

        ``regions`` is what shall be guarded from now on; None is the tensors known so far, as far as they exist.
        """
        if regions is not None:
            self._left_out = list(regions.left_out)
            self._lay_out(regions.regions)
        elif self._owned.moved:
            found, left_out = self._owned.found_again()
            self._left_out += left_out
            self._lay_out(found)
        self._open.clear()
        self._refused.clear()
        self._adopted = True
        self._take(range(len(self._owned.regions)))

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
            sums, row, count = self._layout.rows_of(index)
            sums.seal(row, count)
            self._owned.remember(index)

    def verify(self, first_block: int = 0, count: int | None = None) -> bool:
        """Look at ``count`` blocks from ``first_block`` (to the end when None), repair what can be repaired.

        True when all of them are good now. False also before the first ``adopt``: nothing is known then.
        """
        stop = self.blocks if count is None else min(first_block + count, self.blocks)
        if not self._adopted:
            return False
        self._findings = 0
        for device in self._layout.devices:
            for start, found in self._found(max(first_block, device.first), min(stop, device.stop)):
                self._compare(device, start, found)
        if any(first_block <= block < stop for block in self._open):
            return False
        return not any(index in self._refused for index, _, _ in self._layout.pieces(first_block, stop))

    def _compare(self, device: DeviceSums, start: int, found: torch.Tensor) -> None:
        row = start - device.first
        wrong = [] if device.sums.agree(row, found) else device.sums.differing(row, found)
        for block in [block for block in self._open if start <= block < start + len(found)]:
            if block - start not in wrong:
                del self._open[block]
        for place in wrong:
            self._look_closer(device, start + place, found[place])

    def _look_closer(self, device: DeviceSums, block: int, before: torch.Tensor) -> None:
        """One block that did not match, and gave ``before`` (3,)."""
        index = self._layout.region_at(block)
        if index in self._refused:
            return
        own = block - self._layout.firsts[index]
        part = self._owned.regions[index].memory[own * BLOCK_BYTES : (own + 1) * BLOCK_BYTES]
        look = look_closer(
            device.sums,
            block - device.first,
            before,
            read=lambda: digest(part)[0],
            put_right=lambda damage: put_right(part, damage),
            changed=lambda: self._owned.written(index),
        )
        if look.state == "changed":
            self.hits += 1
            self._refuse(index, _CHANGED)
            return
        if look.state == "open" and self._open.get(block) == look.sums:
            return
        self._open.pop(block, None)
        if look.state == "open":
            self._open[block] = look.sums
        self.hits += look.hit
        self.repairs += look.hit and look.state == "good"
        name, count = self._owned.regions[index].name, self._layout.counts[index]
        for finding in look.findings(name if count == 1 else f"{name}, block {own}"):
            self._find(finding)

    def _refuse(self, index: int, reason: str) -> None:
        if index not in self._refused:
            self._refused[index] = reason
            where = self._owned.regions[index].name
            self._find(Finding(detector="digest", outcome="open", where=where, detail=reason))

    def _find(self, finding: Finding) -> None:
        self._findings += 1
        if self._findings == FINDINGS_MAX + 1:
            detail = f"more than {FINDINGS_MAX} findings in one look; the rest is not listed"
            finding = Finding(detector="digest", outcome="open", where="resident state", detail=detail)
        if self._findings <= FINDINGS_MAX + 1:
            self._report(finding)

    def _take(self, regions: Iterable[int]) -> None:
        """Digests from memory, which is good."""
        self.generation += 1
        chosen = [index for index in regions if self._present(index)]
        for device, indices in self._layout.by_device(chosen):
            sums, at = digest_all([self._owned.regions[index].memory for index in indices]), 0
            for start, count in self._layout.runs(indices):
                device.sums.write(start - device.first, sums[at : at + count])
                at += count
        for index in chosen:
            self._owned.remember(index)

    def _updated(self, regions: Iterable[int] | None) -> list[int]:
        """Regions that may be adopted after an update; damage is inherited."""
        bad = {self._layout.region_at(block) for block in self._open}
        chosen = list(range(len(self._owned.regions)) if regions is None else regions)
        for index in bad.intersection(chosen):
            self._refused[index] = _INHERITED
        self._open = {
            block: found for block, found in self._open.items() if self._layout.region_at(block) not in chosen
        }
        return [index for index in chosen if index not in self._refused]

    def _present(self, index: int) -> bool:
        """Whether a region can be looked at; one that cannot is let go of, and said so."""
        found = self._owned.fate(index)
        if found == "here":
            return True
        self._refuse(index, _REPLACED if found == "replaced" else FREED)
        self._owned.let_go(index)
        return False

    def _found(self, start: int, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
        """First block and sums (n, 3) of the runs of blocks in a range, of one device, that can be looked at."""
        run: list[torch.Tensor] = []
        begin = start
        for index, first, last in self._layout.pieces(start, stop):
            if index in self._refused or not self._present(index):
                if run:
                    yield begin, digest_all(run)
                run, begin = [], self._layout.firsts[index] + last
                continue
            run.append(self._owned.regions[index].memory[first * BLOCK_BYTES : last * BLOCK_BYTES])
        if run:
            yield begin, digest_all(run)
