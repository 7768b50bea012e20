"""Training in which nothing unverified gets into the weights: a ``Trainer``, looked at between the parts of a step.

begin      random states and counters as they were left; the batch drawn twice, from two copies of the corpus part
…     forward and backward under the guard of the compute path; what lies still between two parts is as it was
left (``at_rest``) verify     weights and moments against their digests, in bounded pieces, one a turn; single
words are put right judge      gradients as the last backward pass left them, their norm, the training guard, the
vote over runs update     ``GuardedUpdate``: new digests of what was written, on some steps rehearsed

Until the update the step can be run again from its boundary: weights have not changed, and random states are
kept. So whatever is found before it costs one more run and no bit: damage that was repaired (the gradients may
have been made with it), a pass that did not settle, an array that changed at rest, a suspect step, a sampled one
that comes out otherwise (``votes``). Before it is run again all of the state is verified. What cannot be put
right raises ``Damaged``; the owner goes back to a verified checkpoint.

*Turns.* ``turn`` does one bounded piece of work: a part, or as much verification as fits ``UNIT_BLOCKS``. Where
steps are cut into parts so that they stop soon, what follows the last part is a turn of its own.

*Levels* may change at any time and count from the next boundary. None of it changes a bit of the training: a run
at any level, or with the level switched, has the journal of the run without. When guarding begins in mid-flight
(after OFF), the state is taken for good as it is; ``unverified`` tells of steps that nobody looked at.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

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
from flightsw.gpu.workloads.compute_path import Passes
from flightsw.gpu.workloads.guarded_update import GuardedUpdate, Rehearsal, Unsettled
from flightsw.gpu.workloads.judge import Judge
from flightsw.gpu.workloads.recipe import clipping
from flightsw.gpu.workloads.trainer import Trainer
from flightsw.link.integrity import Level

UNIT_BLOCKS: Final = {"cpu": 64, "cuda": 4096}
"""Digest blocks that are verified in one turn: 16 MiB on a processor, 1 GiB on a card; some milliseconds."""


class Damaged(Exception):
    """State that cannot be put right here; a checkpoint has to."""


class Guarded:
    """The trainer's state is good at this moment: just made, or just restored from a verified checkpoint.

    ``report`` gets every finding; ``exact``: the job is deterministic, so runs of a step agree bit for bit;
    ``fused``: updates verify as they read where they can, None is on a card.
    """

    def __init__(
        self,
        trainer: Trainer,
        passes: Passes,
        level: Level,
        report: Report,
        *,
        exact: bool = True,
        fused: bool | None = None,
    ) -> None:
        self.trainer = trainer
        self.level = level
        """May be set at any time; counts from the next boundary."""
        self.unverified = 0
        """Updates that were made from, or followed by, a state that nobody verified."""
        self._checks = 0
        self.verifications = 0
        """Complete ones of weights and moments."""
        self.resident = Resident(regions_of(trainer.optimiser.flat()), report)
        """Digests of weights and moments."""
        self._passes = passes
        self._report = report
        self._fused = trainer.device.type == "cuda" if fused is None else fused
        self._update = GuardedUpdate(trainer.optimiser, self.resident, report)
        self._at_rest = AtRest(trainer, report)
        self._unit_blocks = UNIT_BLOCKS[trainer.device.type]
        self._level = Level.OFF
        """Of the present step."""
        self._current = False
        """Digests are those of the state at hand."""
        self._phase: Literal["begin", "parts", "verify", "mend"] = "begin"
        self._judge = Judge(exact=exact)
        self._hits = 0
        self._cursor = 0
        self._vouched = 0
        self._told = 0
        if level is not Level.OFF:
            self._adopt()

    @property
    def suspects(self) -> int:
        """Runs that the training guard wanted a proof of."""
        return self._judge.suspects

    def turn(self, before_update: Callable[[], None] = lambda: None, pieces: int = 1) -> bool:
        """One bounded piece of work, finished on the device; True when it completed an optimiser step.

        ``before_update`` runs before weights change. Raises ``Damaged``, and ``NonFinite`` for a step whose loss or
        gradient is not finite and stays so when it is run again; then the trainer is at its boundary.
        """
        try:
            if self._phase == "begin":
                self._begin()
            if self._phase == "mend" and not self._mended():
                return False
            if self._phase == "parts" and not self._part(pieces):
                return False
            return self._verify() and self._close(before_update)
        except (Lost, BadCorpus, Unsettled) as error:
            raise Damaged(f"step {self.trainer.step + 1}: {error}") from None

    @contextmanager
    def checked_pass(self) -> Iterator[None]:
        """A pass that is no part of a step, with all checks made: to see what it costs."""
        with self._passes.running(everything=True):
            yield
        self._passes.settle()

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
        self._judge.begin()
        self._phase = "parts"
        if self._level is Level.OFF:
            self._current = False
            self.trainer.draw = self.trainer.batches.draw
            return
        if not self._current:
            self._adopt()
        self.trainer.draw = lambda: self.trainer.batches.draw_checked(self._report)
        self._run(again=False)

    def _adopt(self) -> None:
        """The state is good as it is."""
        self.resident.adopt()
        self._update.prepare()
        self._at_rest.take()
        self._current = True

    def _run(self, *, again: bool) -> None:
        self._at_rest.begin(again=again)
        self._hits = self.resident.hits
        self._cursor = 0
        self._phase = "parts"

    def _part(self, pieces: int) -> bool:
        """One pass; True when it was the last one and this turn may go on."""
        if self._level is not Level.OFF and not self.trainer.untouched and (changed := self._changed()):
            return self._again(f"{changed} changed at rest")
        # In a storm the next pass looks at the gradients as it adds to them.
        adds = self._policy.repeat_every == 1
        with self._passes.running(everything=self._judge.runs > 0, adds=adds):
            complete = self.trainer.run_part(pieces)
        if complete:
            self._passes.look_at_gradients()
        settled = self._passes.settle()
        if self._level is not Level.OFF:
            if not settled:
                return self._again("a pass did not settle")
            watched = adds and self._passes.keeps_gradients  # Then only the last ones lie unseen.
            self._at_rest.leave(gradients=self._due(self._policy.transit_every) and (complete or not watched))
        if complete:
            self._phase = "verify"
        return complete and (self.trainer.split == 1 or self._level is Level.OFF)

    def _verify(self) -> bool:
        """One piece of verification; True when it is complete, or the update does it.

        Before every update, whatever the level: one from a state that nobody verified would seal damage in, and no
        checkpoint after it could be vouched for.
        """
        if self._level is Level.OFF or self._fuses:
            return True
        if self._cursor < self.resident.blocks:
            self._cursor = self._verified_from(self._cursor)
        return self._cursor >= self.resident.blocks

    def _close(self, before_update: Callable[[], None]) -> bool:
        """Judge the gradients, and make the update that they deserve."""
        trainer = self.trainer
        if self._level is Level.OFF:
            norm = trainer.gradient_norm()
            self._phase = "begin"
            trainer.refuse_non_finite(norm.item())
            before_update()
            trainer.optimiser.step(trainer.learning_rate, clipping(norm))
            trainer.stepped(norm.item())
            self._passes.renew()
            self.unverified += 1
            return True
        if self.resident.hits != self._hits:
            return self._again("resident state was hit")
        if changed := self._changed():
            return self._again(f"{changed} changed at rest")
        norm, rehearsal = trainer.gradient_norm(), None
        if self._rehearses:
            # By their bits: a norm that is no number is to be judged, not to differ from itself.
            if not torch.equal(norm.view(torch.int32), trainer.gradient_norm().view(torch.int32)):
                self._find("repeat", "contained", "gradient norm", "two results from the same gradients")
                return self._again("the norm of the gradients differs from itself")
            rehearsal = self._update.rehearse(trainer.learning_rate, clipping(norm))
        if not self._accepted(float(norm.item()), rehearsal):
            return False
        self._phase = "begin"
        trainer.refuse_non_finite(norm.item())
        before_update()
        if self._fuses:
            self._update.apply_fused(trainer.learning_rate, clipping(norm))
            self._checks += self.resident.blocks
            self.verifications += 1
        else:
            self._update.apply(trainer.learning_rate, clipping(norm), rehearsal)
        trainer.stepped(norm.item())
        self._passes.renew()
        self._at_rest.take()
        return True

    def _accepted(self, norm: float, rehearsal: Rehearsal | None) -> bool:
        """Whether this run's gradients are used. If not, the step is on its way to its boundary."""
        observed = training_guard.Observed(
            step=self.trainer.step + 1,
            loss=self.trainer.step_loss,
            gradient_norm=norm,
            update=rehearsal.update if rehearsal is not None and math.isfinite(norm) else None,
            learning_rate=self.trainer.learning_rate,
        )
        decision = self._judge.ended(
            observed,
            guards=self._policy.guards,
            sampled=self._due(self._policy.replay_every),
            fingerprint=self._at_rest.fingerprint,
        )
        if decision == "use" and self._judge.recomputed:
            self._find("replay", "recomputed", f"step {observed.step}", self._judge.causes)
        return decision == "use" or self._run_again(decision)

    # Runs.

    def _again(self, cause: str) -> bool:
        """Throw the run at hand away; False."""
        return self._run_again(self._judge.tainted(cause))

    def _run_again(self, decision: votes.Decision) -> bool:
        if decision == "lost":
            said = f"{self._judge.runs} runs, no two agree: {self._judge.causes or 'their gradients differ'}"
            raise Damaged(f"step {self.trainer.step + 1}: {said}")
        self._cursor = 0
        self._phase = "mend"
        return False

    def _mended(self) -> bool:
        """One piece of verifying the state before a step is run again: what went wrong may have come from there."""
        self._cursor = self._verified_from(self._cursor)
        if self._cursor < self.resident.blocks:
            return False
        self._passes.renew()
        self._run(again=True)
        return True

    # Looking.

    @property
    def _policy(self) -> Vigilance:
        return LEVELS[self._level]

    @property
    def _rehearses(self) -> bool:
        """Whether the arithmetic of this step's update is checked."""
        return self._due(self._policy.repeat_every)

    @property
    def _fuses(self) -> bool:
        """Whether this step's update verifies as it reads. Not in a storm: there repair has to come first."""
        return self._fused and self._level not in (Level.OFF, Level.STORM) and not self._rehearses

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
