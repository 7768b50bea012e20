"""Training in which nothing unverified gets into the weights: a ``Trainer``, looked at between the parts of a step.

    begin      random states and counters as they were left; the batch drawn twice, from two copies of the corpus
    part …     forward and backward under the guard of the compute path; between two parts the batch at hand, the random
               states and the gradients at rest are what they were left as
    verify     weights and moments against their digests, in bounded pieces, one a turn; single words are put right
    judge      gradients as the last backward pass left them, their norm, the training guard, the vote over runs
    update     ``GuardedUpdate``: new digests of what was written, on some steps rehearsed

Until the update the step can be run again from its boundary: weights have not changed, and random states are kept. So
whatever is found before it costs one more run and no bit: damage that was repaired (the gradients may have been made
with it), a pass that did not settle, an array that changed at rest, a suspect step, a sampled one that comes out
otherwise (``votes``). What cannot be put right raises ``Damaged``; the owner goes back to the last verified checkpoint.

*Turns.* ``turn`` does one bounded piece of work: a part, or as much verification as fits ``UNIT_BLOCKS``. Where steps
are cut into parts so that they stop soon, what follows the last part is a turn of its own.

*Levels* may change at any time and count from the next boundary. None of it changes a bit of the training: a run at
any level, or with the level switched, has the journal of the run without. When guarding begins in mid-flight
(from OFF), the state is taken for good as it is, which ``unverified`` says: steps since it was known to be.
"""

import math
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from flightsw.gpu.integrity import training_guard, votes
from flightsw.gpu.integrity.digest import digest_all
from flightsw.gpu.integrity.finding import Detector, Finding, Outcome, Report
from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.batches import BadCorpus
from flightsw.gpu.workloads.boundary import Boundary, Lost
from flightsw.gpu.workloads.guarded_update import GuardedUpdate, Rehearsal, Unsettled
from flightsw.gpu.workloads.trainer import Trainer, clipping
from flightsw.link.integrity import Level

UNIT_BLOCKS: Final = {"cpu": 64, "cuda": 4096}
"""Digest blocks that are verified in one turn: 16 MiB on a processor, 1 GiB on a card; some milliseconds."""


class Damaged(Exception):
    """State that cannot be put right here; a checkpoint has to."""


class Passes(Protocol):
    """The guard of the compute path, as ``integrity.protect.Guard`` is one."""

    level: Level

    def running(self, *, everything: bool = False) -> AbstractContextManager[None]:
        """One pass, all of whose checks are made with ``everything``."""

    def settle(self) -> bool:
        """Whether the passes since the last call may be used."""

    def renew(self) -> None:
        """Weights have changed, rightly."""


class Guarded:
    """``report`` gets every finding; ``exact``: the job is deterministic, so runs of a step agree bit for bit."""

    def __init__(
        self, trainer: Trainer, passes: Passes, level: Level, report: Report, *, exact: bool = True
    ) -> None:
        self.trainer = trainer
        self.level = level
        """May be set at any time; counts from the next boundary."""
        self.unverified = 0
        """Steps since the state was last known to be good; what was taken for good as it was counts as one."""
        self.checks = 0
        """Comparisons made, whatever they found."""
        self.verified = 0
        """Complete verifications of weights and moments."""
        self._passes = passes
        self._report = report
        self._exact = exact
        self._guard = (training_guard.State(), training_guard.Config())
        self._resident = Resident(regions_of(trainer.optimiser.flat()), report)
        self._update = GuardedUpdate(trainer.optimiser, self._resident, report)
        self._boundary = Boundary(report)
        self._unit_blocks = UNIT_BLOCKS.get(trainer.device.type, 1)
        self._policy = LEVELS[Level.OFF]
        self._current = False
        """Digests are those of the state at hand."""
        self._phase: Literal["begin", "parts", "verify"] = "begin"
        self._votes = votes.State()
        self._cause = ""
        self._hits = 0
        self._cursor = 0
        self._vouched = 0
        self._left: dict[str, Tensor] = {}
        self._sums: Tensor | None = None

    @property
    def resident(self) -> Resident:
        """Digests of weights and moments."""
        return self._resident

    def turn(self, before_update: Callable[[], None] = lambda: None, pieces: int = 1) -> bool:
        """One bounded piece of work, finished on the device; True when it completed an optimiser step.

        ``before_update`` runs before weights change. Raises ``Damaged``, and ``NonFinite`` for a step whose loss or
        gradient is not finite and stays so when it is run again; then the trainer is at its boundary.
        """
        try:
            if self._phase == "begin":
                self._begin()
            if self._phase == "parts" and not self._part(pieces):
                return False
            if self._phase == "verify":
                return self._verify() and self._close(before_update)
            return False
        except (Lost, BadCorpus, Unsettled) as error:
            raise Damaged(f"step {self.trainer.step + 1}: {error}") from None

    def vouch(self) -> bool:
        """One piece of verifying the state for a snapshot; True when all of it has been, and is good.

        Call again until it is, without a ``turn`` between. Raises ``Damaged``. At level OFF there is nothing to
        verify against, and ``unverified`` says so.
        """
        if not self._current:
            return True
        self._vouched = self._verified_from(self._vouched)
        if self._vouched < self._resident.blocks:
            return False
        self._vouched = 0
        if self._boundary.differing(self._counters()):
            self._restore_boundary()
        self.trainer.random_states = self._random_states()
        return True

    def sums(self) -> dict[int, Tensor]:
        """Digests of the state by address of its storage, copied to the host; empty when there are none."""
        if not self._current:
            return {}
        return {
            region.memory.data_ptr(): self._resident.digests(index).cpu().clone()
            for index, region in enumerate(self._resident.regions)
        }

    # A step, in order.

    def _begin(self) -> None:
        self._policy = LEVELS[self.level]
        self._passes.level = self.level
        self._votes, self._cause = votes.State(), ""
        if not self._guarding:
            self._current = False
            self.trainer.draw = self.trainer.batches.draw
        else:
            if not self._current:
                self._adopt()
            self.trainer.draw = self._draw
            self._start_run()
        self._phase = "parts"

    def _start_run(self) -> None:
        """At the boundary, with everything as it was left there."""
        live = {**self.trainer.capture(), **self._counters()}
        for name in self._boundary.differing(live):
            if self._votes.runs == 0:
                self._find("digest", "repaired", name, "it was not as the last step left it")
        self._restore_boundary()
        self.trainer.go_back()
        self._left = self.trainer.random_states
        self._hits = self._resident.hits
        self._sums = None
        self._cursor = 0
        self.checks += 1

    def _part(self, pieces: int) -> bool:
        """One pass; True when work can go on in this turn."""
        if self._guarding and not self.trainer.untouched and (changed := self._changed_at_rest()):
            self._find("transit", "contained", changed, "it changed between two parts of a step")
            self._again(f"{changed} changed at rest", tainted=True)
            return False
        with self._passes.running(everything=self._votes.runs > 0):
            complete = self.trainer.run_part(pieces)
        settled = self._passes.settle()
        if self._guarding:
            if not settled:
                self._again("a pass did not settle", tainted=True)
                return False
            self._left = self.trainer.capture()
            if self._due(self._policy.transit_every) or (complete and self._due(self._policy.replay_every)):
                self._sums = self._gradient_sums()
        if complete:
            self._phase = "verify"
        return complete and (self.trainer.split == 1 or not self._guarding)

    def _verify(self) -> bool:
        """One piece of verification; True when it is complete."""
        if not self._guarding or not self._due(self._policy.state_every):
            return True
        self._cursor = self._verified_from(self._cursor)
        return self._cursor >= self._resident.blocks

    def _close(self, before_update: Callable[[], None]) -> bool:
        trainer = self.trainer
        if not self._guarding:
            norm = trainer.gradient_norm()
            self._phase = "begin"
            trainer.refuse_non_finite(norm.item())
            before_update()
            trainer.optimiser.step(trainer.learning_rate, clipping(norm))
            trainer.stepped(norm.item())
            self._passes.renew()
            self.unverified += 1
            return True
        if cause := self._spoiled():
            return self._again(cause, tainted=True)
        norm = trainer.gradient_norm()
        rehearsal = self._rehearsal(norm)
        if rehearsal is None and self._due(self._policy.repeat_every) and not torch.equal(
            norm, trainer.gradient_norm()
        ):
            self._find("repeat", "contained", "gradient norm", "two results of the same gradients")
            return self._again("the norm of the gradients differs from itself", tainted=True)
        if not self._accepted(norm.item(), rehearsal):
            return False
        before_update()
        self._update.apply(trainer.learning_rate, clipping(norm), rehearsal)
        trainer.stepped(norm.item())
        self._passes.renew()
        self._boundary.take({**trainer.random_states, **self._counters()})
        self.unverified += 0 if self._due(self._policy.state_every, trainer.step - 1) else 1
        self._phase = "begin"
        return True

    # What is looked at.

    def _spoiled(self) -> str:
        """Why the run at hand may not be used; empty when it may."""
        if self._resident.hits != self._hits:
            return "resident state was hit while it was used"
        if changed := self._changed_at_rest():
            self._find("transit", "contained", changed, "it changed after the last backward pass")
            return f"{changed} changed at rest"
        return ""

    def _changed_at_rest(self) -> str:
        """What is not as the last part left it; empty when all is."""
        trainer = self.trainer
        self.checks += 1
        live = trainer.capture()
        for name, state in self._left.items():
            if not torch.equal(live[name], state):
                return name
        if self._boundary.differing(self._counters(), among=True):
            return COUNTERS
        if trainer.at_hand is not None and not trainer.batches.agrees(trainer.at_hand):
            return "batch at hand"
        if self._sums is not None and not torch.equal(self._sums, self._gradient_sums()):
            return "gradients"
        return ""
