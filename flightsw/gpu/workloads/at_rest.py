"""What lies still between two pieces of a training step, and must be found as it was left.

Random states, counters, the batch whose parts are being worked on, and gradients that wait for the next part or
for the update: none of them is resident state (they change with every part), none of them is seen by a check of
the arithmetic, and each of them goes into the weights. So each is remembered when work leaves it and looked at
when work comes back: generators and counters against copies, the batch against the second copy of the corpus,
gradients against their digest, taken at the end of the backward pass that made them. Nobody repairs from that one:
where there is no kernel for the three sums it is xxh3-128, which reads at twice the speed of their plain form.

A change here has no second source that can be trusted, except at a step's boundary: the step is run again from
there.
"""

import struct
from typing import Final

import torch
import xxhash
from torch import Tensor

from flightsw.gpu.checkpoint.format import tensor_bytes
from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.digest import digest_all
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.workloads.boundary import Boundary
from flightsw.gpu.workloads.trainer import Trainer

COUNTERS: Final = "counters"


class AtRest:
    """Looks after ``trainer``'s small state. ``take`` comes first. Methods raise ``Lost`` and ``BadCorpus``."""

    def __init__(self, trainer: Trainer, report: Report) -> None:
        self._trainer = trainer
        self._report = report
        self._boundary = Boundary(report)
        self._left: dict[str, Tensor] = {}
        self._sums: Tensor | None = None

    def take(self) -> None:
        """The trainer is at a boundary and is good."""
        self._boundary.take({**self._trainer.random_states, COUNTERS: self._counters()})
        self._left = self._trainer.random_states
        self._sums = None

    def begin(self, *, again: bool) -> None:
        """Be at the boundary, with everything as it was there. What has changed since is found, unless the step
        was begun already and is run ``again``."""
        trainer = self._trainer
        if not again:
            for name in self._boundary.differing({**trainer.capture(), COUNTERS: self._counters()}):
                self._report(Finding(detector="transit", outcome="repaired", where=name, detail="from its copy"))
        self.mend()
        trainer.go_back()
        self._left = trainer.random_states
        self._sums = None

    def mend(self) -> None:
        """Give the trainer its boundary's states and counters from the good copy; the begun step goes on."""
        good = {name: state.clone() for name, state in self._boundary.states().items()}
        self._trainer.step, self._trainer.tokens = (int(count) for count in good.pop(COUNTERS))
        self._trainer.random_states = good

    def leave(self, *, gradients: bool) -> None:
        """A part has ended well: remember what it leaves."""
        self._left = self._trainer.capture()
        self._sums = self._gradient_sums() if gradients else None

    def changed(self) -> str:
        """Name of something that is not as it was left; empty when all of it is."""
        trainer = self._trainer
        live = trainer.capture()
        for name, state in self._left.items():
            if not torch.equal(live[name], state):
                return name
        if self._boundary.differing({COUNTERS: self._counters()}):
            return COUNTERS
        if trainer.at_hand is not None and not trainer.batches.agrees(trainer.at_hand):
            return "batch at hand"
        if self._sums is not None and not torch.equal(self._sums, self._gradient_sums()):
            return "gradients"
        return ""

    def fingerprint(self) -> bytes:
        """Of the gradients and the loss at hand: runs of a step with equal ones came to the same."""
        sums = self._gradient_sums() if self._sums is None else self._sums
        digest = xxhash.xxh3_128(tensor_bytes(sums.cpu()))
        digest.update(struct.pack("<d", self._trainer.step_loss))
        return digest.digest()

    def _counters(self) -> Tensor:
        return torch.tensor([self._trainer.step, self._trainer.tokens], dtype=torch.int64)

    def _gradient_sums(self) -> Tensor:
        self._trainer.optimiser.gather()
        rows = self._trainer.optimiser.gradients()
        if self._trainer.device.type != "cpu" or kernels.digests(self._trainer.device):
            return digest_all([row.view(torch.uint8) for row in rows])
        digest = xxhash.xxh3_128()
        for row in rows:
            digest.update(row.numpy().data)
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
