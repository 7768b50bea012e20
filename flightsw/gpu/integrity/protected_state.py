"""The memory of a protected module and its optimiser: under digests, and verified before an update is made of it.

*Sums of weights.* The compute path keeps sums of weights to check products by; they are as old as the digests, so
what adopts the one adopts the other.

*Running statistics* (batch norm's) are written by a pass in training, and torch moves no version for it. So they
are verified before such a pass and taken anew after it.

*Off.* At level off nobody takes digests of what changes. ``unwatched`` remembers that it did: when the level rises,
the owner adopts the state as it is, as nobody can say what it should be.
"""

from collections.abc import Iterator

import torch
from torch import nn

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.regions import optimiser_state, regions_of, weights
from flightsw.gpu.integrity.resident import Resident


class ProtectedState:
    """All of it is good at this moment; ``mode`` is the compute path that reads it."""

    def __init__(
        self, module: nn.Module, optimiser: torch.optim.Optimizer | None, mode: Checked, report: Report
    ) -> None:
        self._module = module
        self._optimiser = optimiser
        self._mode = mode
        self.resident = Resident(regions_of(self._tensors()), report)
        """Digests of weights, buffers and the optimiser's state."""
        self.resident.adopt()
        self.statistics = self._written_by_passes()
        """Regions of running statistics."""
        self.unwatched = False
        """State was changed at level off, where nobody takes digests."""
        self._hits = 0
        """Hits in memory up to the last look before an update."""
        mode.know(weights(module))

    def adopt(self) -> None:
        """Everything is good as it is: digests and sums anew, of all there is now."""
        self.resident.adopt(regions_of(self._tensors()))
        self.statistics = self._written_by_passes()
        self._hits = self.resident.hits
        self._mode.know(weights(self._module))

    def verified(self) -> bool:
        """Verify all of it now, repair what can be; False also when anything was hit since the last call, although
        it may be put right by now."""
        good = self.resident.verify()
        before, self._hits = self._hits, self.resident.hits
        return good and self._hits == before

    def updated(self, *, sums_now: bool) -> None:
        """The optimiser has changed it, which was good before; ``sums_now``: take sums of weights at once."""
        self.resident.adopt_update()
        self._mode.renew(now=sums_now)

    def before_training_pass(self) -> None:
        """Verify what the pass will write."""
        for index in self.statistics:
            self.resident.verify(*self.resident.span(index))

    def after_training_pass(self) -> None:
        """Take anew what the pass has written."""
        self.resident.adopt_update(self.statistics)

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from weights(self._module)
        if self._optimiser is not None:
            names: dict[torch.Tensor, str] = {
                parameter: name for name, parameter in self._module.named_parameters()
            }
            yield from optimiser_state(self._optimiser, names)

    def _written_by_passes(self) -> tuple[int, ...]:
        buffers = (
            buffer
            for part in self._module.modules()
            if isinstance(part, nn.modules.batchnorm._NormBase)
            for buffer in part.buffers(recurse=False)
        )
        found = (self.resident.index_of(buffer) for buffer in buffers)
        return tuple(dict.fromkeys(index for index in found if index is not None))
