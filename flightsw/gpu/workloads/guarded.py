"""Training in which nothing unverified gets into the weights: a ``Trainer``, looked at between the parts of a step.

begin      random states and counters as they were left; the batch drawn twice, from two copies of the corpus part
…     forward and backward under the guard of the compute path; what lies still between two parts is as it was
left (``at_rest``) verify     weights and moments against their digests, in bounded pieces, one a turn; single
words are put right judge      gradients as the last backward pass left them, their norm, the training guard, the
vote over runs update     ``GuardedUpdate``: new digests of what was written, on some steps rehearsed

Until the update the step can be run again from its boundary: weights have not changed, and random states are
kept. So whatever is found before it costs one more run and no bit: damage that was repaired (the gradients may
have been made with it), a pass that did not settle, an array that changed at rest, a suspect step, a sampled one
that comes out otherwise (``votes``). What cannot be put right raises ``Damaged``; the owner goes back to a
verified checkpoint.

*Turns.* ``turn`` does one bounded piece of work: a part, or as much verification as fits ``UNIT_BLOCKS``. Where
steps are cut into parts so that they stop soon, what follows the last part is a turn of its own.

*Levels* may change at any time and count from the next boundary. None of it changes a bit of the training: a run
at any level, or with the level switched, has the journal of the run without. When guarding begins in mid-flight
(after OFF), the state is taken for good as it is; ``unverified`` tells of steps that nobody looked at.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol

import torch
from torch import Tensor

from flightsw.gpu.integrity import training_guard, votes
from flightsw.gpu.integrity.finding import Detector, Finding, Outcome, Report
from flightsw.gpu.integrity.levels import LEVELS, Vigilance
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.at_rest import AtRest
from flightsw.gpu.workloads.batches import BadCorpus
from flightsw.gpu.workloads.boundary import Lost
from flightsw.gpu.workloads.guarded_update import GuardedUpdate, Rehearsal, Unsettled
from flightsw.gpu.workloads.recipe import clipping
from flightsw.gpu.workloads.trainer import Trainer
from flightsw.link.integrity import Level

UNIT_BLOCKS: Final = {"cpu": 64, "cuda": 4096}
"""Digest blocks that are verified in one turn: 16 MiB on a processor, 1 GiB on a card; some milliseconds."""


class Damaged(Exception):
    """State that cannot be put right here; a checkpoint has to."""


class Passes(Protocol):
    """The guard of the compute path, as ``integrity.protect.Guard`` is one."""

    level: Level

    @property
    def checks(self) -> int:
        """Operations checked so far."""

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
        """Updates that were made from, or followed by, a state that nobody verified."""
        self._checks = 0
        self.verifications = 0
        """Complete ones of weights and moments."""
        self.suspects = 0
        """Steps that the training guard wanted a proof of."""
        self.resident = Resident(regions_of(trainer.optimiser.flat()), report)
        """Digests of weights and moments."""
        self._passes = passes
        self._report = report
        self._exact = exact
        self._guard = training_guard.State()
        self._guard_config = training_guard.Config()
        self._update = GuardedUpdate(trainer.optimiser, self.resident, report)
        self._at_rest = AtRest(trainer, report)
        self._unit_blocks = UNIT_BLOCKS[trainer.device.type]
        self._level = Level.OFF
        """Of the present step."""
        self._current = False
        """Digests are those of the state at hand."""
        self._phase: Literal["begin", "parts", "verify"] = "begin"
        self._votes = votes.State()
        self._causes: list[str] = []
        self._hits = 0
        self._cursor = 0
        self._vouched = 0
        self._told = 0

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
            return self._verify() and self._close(before_update)
        except (Lost, BadCorpus, Unsettled) as error:
            raise Damaged(f"step {self.trainer.step + 1}: {error}") from None

    def vouch(self) -> bool:
        """One piece of verifying the state for a snapshot; True when all of it has been, and is good.

        Call again until it is, without a ``turn`` between. Raises ``Damaged``. While there are no digests (OFF)
        nothing can be said, and ``unverified`` tells.
        """
        if not self._current:
            return True
        self._vouched = self._verified_from(self._vouched)
        if self._vouched < self.resident.blocks:
            return False
        self._vouched = 0
        try:
            self._at_rest.mend()
        except Lost as error:
            raise Damaged(str(error)) from None
        return True

    def take_checks(self) -> int:
        """Comparisons made since the last call, of the passes' operations too, whatever they found."""
        made, self._told = self._checks + self._passes.checks - self._told, self._checks + self._passes.checks
        return made

    def sums(self) -> dict[int, Tensor]:
        """Digests of the state by address of its storage, copied to the host; empty when there are none."""
        if not self._current:
            return {}
        return {
            region.memory.data_ptr(): self.resident.digests(index).cpu().clone()
            for index, region in enumerate(self.resident.regions)
        }

    # A step, in order.

    def _begin(self) -> None:
        self._level = self._passes.level = self.level
        self._votes, self._causes = votes.State(), []
        self._phase = "parts"
        if self._level is Level.OFF:
            self._current = False
            self.trainer.draw = self.trainer.batches.draw
            return
        if not self._current:
            self.resident.adopt()
            self._at_rest.take()
            self._current = True
        self.trainer.draw = lambda: self.trainer.batches.draw_checked(self._report)
        self._run(again=False)

    def _run(self, *, again: bool) -> None:
        self._at_rest.begin(again=again)
        self._hits = self.resident.hits
        self._cursor = 0
        self._phase = "parts"

    def _part(self, pieces: int) -> bool:
        """One pass; True when it was the last one and this turn may go on."""
        if self._level is not Level.OFF and not self.trainer.untouched and (changed := self._changed()):
            return self._again(f"{changed} changed at rest")
        with self._passes.running(everything=self._votes.runs > 0):
            complete = self.trainer.run_part(pieces)
        settled = self._passes.settle()
        if self._level is not Level.OFF:
            if not settled:
                return self._again("a pass did not settle")
            self._at_rest.leave(gradients=self._due(self._policy.transit_every))
        if complete:
            self._phase = "verify"
        return complete and (self.trainer.split == 1 or self._level is Level.OFF)

    def _verify(self) -> bool:
        """One piece of verification; True when it is complete, or not due."""
        if not self._due(self._policy.state_every):
            return True
        if self._cursor < self.resident.blocks:
            self._cursor = self._verified_from(self._cursor)
        return self._cursor >= self.resident.blocks

    def _close(self, before_update: Callable[[], None]) -> bool:
        """Judge the gradients, and make the update that they deserve."""
        trainer, rehearsal = self.trainer, None
        if self._level is not Level.OFF:
            if self.resident.hits != self._hits:
                return self._again("resident state was hit")
            if changed := self._changed():
                return self._again(f"{changed} changed at rest")
        norm = trainer.gradient_norm()
        if self._level is not Level.OFF:
            if self._due(self._policy.repeat_every):
                if not torch.equal(norm, trainer.gradient_norm()):
                    self._find("repeat", "contained", "gradient norm", "two results from the same gradients")
                    return self._again("the norm of the gradients differs from itself")
                rehearsal = self._update.rehearse(trainer.learning_rate, clipping(norm))
            if not self._accepted(float(norm.item()), rehearsal):
                return False
        self._phase = "begin"
        trainer.refuse_non_finite(norm.item())
        before_update()
        verified = self._level is not Level.OFF and self._due(self._policy.state_every)
        if self._level is Level.OFF:
            trainer.optimiser.step(trainer.learning_rate, clipping(norm))
        else:
            self._update.apply(trainer.learning_rate, clipping(norm), rehearsal)
        trainer.stepped(norm.item())
        self._passes.renew()
        if self._level is not Level.OFF:
            self._at_rest.take()
        self.unverified += not verified
        return True

    def _accepted(self, norm: float, rehearsal: Rehearsal | None) -> bool:
        """Whether this run's gradients are used. If not, the step is at its boundary again."""
        trainer = self.trainer
        observed = training_guard.Observed(
            step=trainer.step + 1,
            loss=trainer.step_loss,
            gradient_norm=norm,
            update=rehearsal.update if rehearsal is not None and math.isfinite(norm) else None,
            learning_rate=trainer.learning_rate,
        )
        guard, verdict = training_guard.step(self._guard, self._guard_config, observed)
        suspect = not verdict.ok and (self._policy.guards or not math.isfinite(trainer.step_loss + norm))
        sampled = self._exact and self._due(self._policy.replay_every)
        asked = suspect or sampled or bool(self._votes.clean)
        fingerprint = self._at_rest.fingerprint() if asked else b""
        self._votes, decision = votes.vote(self._votes, fingerprint, wanted=suspect or sampled, exact=self._exact)
        if suspect and decision != "use":
            self.suspects += 1
            self._causes.append(verdict.reason)
        if decision != "use":
            return self._run_again(decision)
        if self._votes.recomputed:
            self._find("replay", "recomputed", f"step {observed.step}", "; ".join(self._causes))
        self._guard = guard
        if suspect:
            self._guard, _ = training_guard.step(guard, self._guard_config, observed, proven=True)
        return True

    # Runs.

    def _again(self, cause: str) -> bool:
        """Throw the run at hand away; False."""
        self._causes.append(cause)
        self._votes, decision = votes.vote(self._votes, None, wanted=True)
        return self._run_again(decision)

    def _run_again(self, decision: votes.Decision) -> bool:
        if decision == "lost":
            causes = "; ".join(self._causes) or "its runs differ"
            raise Damaged(f"step {self.trainer.step + 1}: {self._votes.runs} runs, no two agree: {causes}")
        self._run(again=True)
        return False

    # Looking.

    @property
    def _policy(self) -> Vigilance:
        return LEVELS[self._level]

    def _due(self, every: int) -> bool:
        """Whether the present step is one of every so many; of 0 none is."""
        return every > 0 and (self.trainer.step + 1) % every == 0

    def _changed(self) -> str:
        self._checks += 1
        changed = self._at_rest.changed()
        if changed:
            self._find("transit", "contained", changed, "it is not as the pass before left it")
        return changed

    def _verified_from(self, block: int) -> int:
        """Verify a bounded number of blocks; the next one after them. Raises ``Damaged``."""
        count = min(self._unit_blocks, self.resident.blocks - block)
        self._checks += count
        if not self.resident.verify(block, count):
            names = ", ".join(sorted(self.resident.damaged)) or "resident state"
            raise Damaged(f"step {self.trainer.step + 1}: {names} cannot be repaired")
        if block + count >= self.resident.blocks:
            self.verifications += 1
        return block + count

    def _find(self, detector: Detector, outcome: Outcome, where: str, detail: str) -> None:
        self._report(Finding(detector=detector, outcome=outcome, where=where, detail=detail))
