"""The memory of a protected module and its optimiser: under digests, and verified before an update is made of it.

*Sums of weights.* The compute path keeps sums of weights to check products by; they are as old as the digests, so
what adopts the one adopts the other.

*Written by passes.* A pass in training writes buffers: running statistics, vectors of a spectral norm, counters;
and any pass scales rows of an embedding that has a largest norm. What may be written so is verified before the
pass, and taken anew after it if its version moved. Batch norms and the observers of quantisation move none, so
theirs are always taken anew. A buffer to which the pass has assigned another tensor, or that it has registered, is
guarded from then on; as this takes new digests of everything, all else is verified first.

*Thrown away.* A pass that may not be used has written its buffers, perhaps from wrong values, and is run again. So
they are put back to what they were when the first pass since the last settlement began.

*Off.* At level off nobody takes digests of what changes. ``unwatched`` remembers that it did: when the level rises,
the owner adopts the state as it is, as nobody can say what it should be.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeGuard

import torch
from torch import nn

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.regions import optimiser_state, parameters_beside, regions_of, weights
from flightsw.gpu.integrity.resident import Resident

_OBSERVERS: Final = "torch.ao.quantization."
_NOWHERE: Final = 0
_STRANGE: Final = "came after the last adopt(), and is not guarded until the next"


class ProtectedState:
    """All of it is good at this moment; ``mode`` is the compute path that reads it."""

    def __init__(
        self, module: nn.Module, optimiser: torch.optim.Optimizer | None, mode: Checked, report: Report
    ) -> None:
        self._module = module
        self._optimiser = optimiser
        self._mode = mode
        self._report = report
        self.resident = Resident(regions_of(self._tensors()), report)
        """Digests of weights, buffers and the optimiser's state."""
        self.unwatched = False
        """State was changed at level off, where nobody takes digests."""
        self._hits = 0
        """Hits in memory up to the last look before an update."""
        self._sound = True
        """Nothing was damaged when the pass began."""
        self._before: dict[int, torch.Tensor] = {}
        """Regions of buffers as they were when the first pass since the last settlement began."""
        self._settled = False
        """There was one since these were copied."""
        self.resident.adopt()
        self._look_around()

    def adopt(self) -> None:
        """Everything is good as it is: digests and sums anew, of all there is now."""
        self.resident.adopt(regions_of(self._tensors()))
        self._hits = self.resident.hits
        self._before.clear()
        self._look_around()

    def verified(self) -> bool:
        """Verify all of it now, repair what can be; False also when anything was hit since the last call, although
        it may be put right by now."""
        good = self.resident.verify() and not self.strangers(report=True)
        before, self._hits = self._hits, self.resident.hits
        return good and self._hits == before

    def updated(self, *, sums_now: bool) -> None:
        """The optimiser has changed it, which was good before; ``sums_now``: take sums of weights at once."""
        self._before.clear()
        self.resident.adopt_update()
        self._mode.renew(now=sums_now)

    def strangers(self, *, report: bool = False) -> list[str]:
        """Names of what came after the last ``adopt``, and of what was given other memory by assignment: nobody has
        said that it is good, and no digest has it."""
        found = [name for name, address in self._places_now() if address not in self._known]
        if report and found:
            detail = f"{_STRANGE}: {', '.join(found)}"
            self._report(Finding(detector="digest", outcome="open", where=found[0], detail=detail))
        return found

    def changed_unannounced(self) -> frozenset[str]:
        """Names of regions that are not what their digests say, and that the program has written to, or put other
        memory in place of: it may have meant it."""
        resident = self.resident
        changed = {
            region.name
            for index, region in enumerate(resident.regions)
            if resident.written(index) or resident.moved(index)
        }
        return resident.damaged & changed

    def rearranged(self) -> bool:
        """Whether there are other tensors than those that are guarded, or some lie elsewhere."""
        return self._places != self._places_now()

    def before_pass(self, *, training: bool) -> None:
        """Verify what the pass may write."""
        for index in self._writable(training=training):
            self.resident.verify(*self.resident.span(index))
        self._sound = not self.resident.damaged
        if self._settled:
            self._before.clear()
            self._settled = False
        if training:
            for index in self._buffers:
                if index not in self._before:
                    self._before[index] = self.resident.regions[index].memory.clone()

    def settled(self) -> None:
        """What was computed so far is somebody's to judge; what comes is another pass or more."""
        self._settled = True

    def put_back(self) -> None:
        """Passes since the last settlement are thrown away: their buffers are as they were before."""
        regions = self.resident.regions
        changed = [
            index
            for index, was in self._before.items()
            if not self.resident.moved(index) and not torch.equal(regions[index].memory, was)
        ]
        for index in changed:
            regions[index].memory.copy_(self._before[index])
        if changed:
            self.resident.adopt_update(changed)
            self._mode.renew(now=False)

    def after_pass(self, *, training: bool, watched: bool) -> None:
        """Take anew what the pass has written; not ``watched``: remember that it did."""
        writable = self._writable(training=training)
        moved = {index for index in writable if self.resident.moved(index)}
        wrote = [
            index
            for index in writable
            if index not in moved and (index in self._silent or self.resident.written(index))
        ]
        moved_or_new = bool(moved) or (
            training and not self._known.issuperset(map(_address, self._module.buffers()))
        )
        if not watched:
            self._before.clear()
            self.unwatched = self.unwatched or bool(wrote or moved_or_new)
            return
        if wrote:
            self.resident.adopt_update(wrote)
        if moved_or_new and self._sound and self._others_are_good(moved):
            hits = self._hits
            self.adopt()
            self._hits = hits

    def _others_are_good(self, moved: set[int]) -> bool:
        others = [index for index in range(len(self.resident.regions)) if index not in moved]
        return all([self.resident.verify(*self.resident.span(index)) for index in others])

    def _writable(self, *, training: bool) -> tuple[int, ...]:
        """Regions that a pass may write."""
        return self._in_training if training else self._always

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from weights(self._module)
        if self._optimiser is not None:
            names: dict[torch.Tensor, str] = {
                parameter: name for name, parameter in self._module.named_parameters()
            }
            yield from parameters_beside(self._optimiser, names)
            yield from optimiser_state(self._optimiser, names)

    def _places_now(self) -> list[tuple[str, int]]:
        """Name and address of everything that has one."""
        return [(name, _address(tensor)) for name, tensor in self._tensors()]

    def _look_around(self) -> None:
        """What there is, and what of it passes write."""
        self._mode.know(weights(self._module))
        self._places = self._places_now()
        self._known = {address for _, address in self._places} | {_NOWHERE}
        parts = list(self._module.modules())
        self._always = self._regions_of(part.weight for part in parts if _renorms(part))
        self._buffers = self._regions_of(self._module.buffers())
        self._in_training = tuple(dict.fromkeys((*self._buffers, *self._always)))
        silent = (part.buffers(recurse=False) for part in parts if _writes_unseen(part))
        self._silent = frozenset(self._regions_of(buffer for buffers in silent for buffer in buffers))

    def _regions_of(self, tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
        strided = (tensor for tensor in tensors if tensor.layout is torch.strided)
        found = (self.resident.index_of(tensor) for tensor in strided)
        return tuple(dict.fromkeys(index for index in found if index is not None))


def _address(tensor: torch.Tensor) -> int:
    """Of its memory; ``_NOWHERE`` for what has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else _NOWHERE


def _renorms(part: nn.Module) -> TypeGuard[nn.Embedding | nn.EmbeddingBag]:
    """Whether each pass scales rows of a layer's weight that are too long."""
    return isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None


def _writes_unseen(part: nn.Module) -> bool:
    """Whether operations of a layer write its buffers, and torch moves no version for it."""
    return isinstance(part, nn.modules.batchnorm._NormBase) or type(part).__module__.startswith(_OBSERVERS)
