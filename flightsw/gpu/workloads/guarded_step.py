"""One optimiser step under guard, from its boundary to its update, run again as often as it takes.

*begin*: random states and counters as they were left; the batch drawn twice, from two copies of the corpus.
*parts*: forward and backward under the guard of the compute path; what lies still between two parts is as it was
left (``at_rest``).
*verify*: weights and moments against their digests, in bounded pieces; single words are put right.
*judge*: gradients as the last backward pass left them, their norm, the training guard, the vote over runs.
*update*: ``GuardedUpdate``: new digests of what was written, on some steps rehearsed.

Until the update the step can be run again from its boundary: weights have not changed, and random states are
kept. So whatever is found before it costs one more run and no bit: damage that was repaired (the gradients may
have been made with it), a pass that did not settle, an array that changed at rest, a suspect step, a sampled one
that comes out otherwise (``votes``). Before it is run again all of the state is verified.

*Turns.* ``turn`` does one bounded piece of work: a part, or a piece of verification. Where steps are cut into parts
so that they stop soon, what follows the last part is a turn of its own.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch

from flightsw.gpu.integrity import training_guard, votes
from flightsw.gpu.integrity.finding import Detector, Finding, Outcome, Report
from flightsw.gpu.integrity.levels import LEVELS, Vigilance, due
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.at_rest import AtRest
from flightsw.gpu.workloads.compute_path import Passes
from flightsw.gpu.workloads.guarded_update import GuardedUpdate, Rehearsal
from flightsw.gpu.workloads.judge import Judge
from flightsw.gpu.workloads.recipe import clipping
from flightsw.gpu.workloads.state_verification import StateVerification
from flightsw.gpu.workloads.trainer import Trainer
from flightsw.link.integrity import Level


class NoAgreement(Exception):
    """A step was run as often as it may be, and no two of its runs agree."""


class GuardedStep:
    """Steps of ``trainer``, one at a time, whose weights and moments are ``resident``.

    ``exact``: runs of a step agree bit for bit; ``fused``: updates verify as they read where they can.
    """

    def __init__(
        self, trainer: Trainer, passes: Passes, resident: Resident, report: Report, *, exact: bool, fused: bool
    ) -> None:
        self.at_rest = AtRest(trainer, report)
        """What lies still between parts."""
        self.verification = StateVerification(resident, trainer.device.type)
        """Of the state, before each update."""
        self.judge = Judge(exact=exact)
        """Which run counts."""
        self.comparisons = 0
        """Looks at what lay still."""
        self._trainer = trainer
        self._passes = passes
        self._resident = resident
        self._report = report
        self._fused = fused
        self._update = GuardedUpdate(trainer.optimiser, resident, report)
        self._level = Level.OFF
        self._phase: Literal["done", "parts", "verify", "mend"] = "done"
        self._hits = 0

    def adopt(self) -> None:
        """The state, whose digests have just been taken, is good, and so is what lies still."""
        self._update.prepare()
        self.at_rest.take()

    def begin(self, level: Level) -> None:
        """Be at the boundary of the next step, all of which is looked at as ``level`` has it."""
        self._level = level
        self.judge.begin()
        self._run(again=False)

    def turn(self, before_update: Callable[[], None], pieces: int) -> bool:
        """One bounded piece of the step that was begun; True when it completed the step.

        Raises ``NoAgreement``, ``Unrepairable``, ``Lost``, ``BadCorpus``, ``Unsettled``, and ``NonFinite``, after
        which the trainer is at a boundary.
        """
        if self._phase == "mend" and not self._mended():
            return False
        if self._phase == "parts" and not self._part(pieces):
            return False
        return self._verify() and self._close(before_update)

    @property
    def ended(self) -> bool:
        """Whether no step is under way."""
        return self._phase == "done"

    # A run, in order.

    def _run(self, *, again: bool) -> None:
        self.at_rest.begin(again=again)
        self._hits = self._resident.hits
        self.verification.restart()
        self._phase = "parts"

    def _part(self, pieces: int) -> bool:
        """One pass; True when it was the last one and this turn may go on."""
        if not self._trainer.untouched and (changed := self._changed()):
            return self._again(f"{changed} changed at rest")
        # In a storm the next pass looks at the gradients as it adds to them.
        adds = self._policy.repeat_every == 1
        with self._passes.running(everything=self.judge.runs > 0, adds=adds):
            complete = self._trainer.run_part(pieces)
        if complete:
            self._passes.look_at_gradients()
        if not self._passes.settle():
            return self._again("a pass did not settle")
        watched = adds and self._passes.keeps_gradients  # Then only the last ones lie unseen.
        self.at_rest.leave(gradients=self._due(self._policy.transit_every) and (complete or not watched))
        if complete:
            self._phase = "verify"
        return complete and self._trainer.split == 1

    def _verify(self) -> bool:
        """One piece of verification; True when it is complete, or the update does it.

        Before every update, whatever the level: one from a state that nobody verified would seal damage in, and no
        checkpoint after it could be vouched for.
        """
        if not self._fuses and not self.verification.done:
            self.verification.piece()
        return self._fuses or self.verification.done

    def _close(self, before_update: Callable[[], None]) -> bool:
        """Judge the gradients, and make the update that they deserve."""
        trainer = self._trainer
        if self._resident.hits != self._hits:
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
        self._phase = "done"
        trainer.refuse_non_finite(norm.item())
        before_update()
        if self._fuses:
            self._update.apply_fused(trainer.learning_rate, clipping(norm))
            self.verification.made_elsewhere()
        else:
            self._update.apply(trainer.learning_rate, clipping(norm), rehearsal)
        trainer.stepped(norm.item())
        self._passes.renew()
        self.at_rest.take()
        return True

    def _accepted(self, norm: float, rehearsal: Rehearsal | None) -> bool:
        """Whether this run's gradients are used. If not, the step is on its way to its boundary."""
        observed = training_guard.Observed(
            step=self._trainer.step + 1,
            loss=self._trainer.step_loss,
            gradient_norm=norm,
            update=rehearsal.update if rehearsal is not None and math.isfinite(norm) else None,
            learning_rate=self._trainer.learning_rate,
        )
        decision = self.judge.ended(
            observed,
            guards=self._policy.guards,
            sampled=self._due(self._policy.replay_every),
            fingerprint=self.at_rest.fingerprint,
        )
        if decision == "use" and self.judge.recomputed:
            self._find("replay", "recomputed", f"step {observed.step}", self.judge.causes)
        return decision == "use" or self._run_again(decision)

    # Runs.

    def _again(self, cause: str) -> bool:
        """Throw the run at hand away; False."""
        return self._run_again(self.judge.tainted(cause))

    def _run_again(self, decision: votes.Decision) -> bool:
        if decision == "lost":
            said = f"{self.judge.runs} runs, no two agree: {self.judge.causes or 'their gradients differ'}"
            raise NoAgreement(said)
        self.verification.restart()
        self._phase = "mend"
        return False

    def _mended(self) -> bool:
        """One piece of verifying the state before a step is run again: what went wrong may have come from there."""
        if not self.verification.piece():
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
        return self._fused and self._level is not Level.STORM and not self._rehearses

    def _due(self, every: int) -> bool:
        """Whether the present step is one of every so many; of 0 none is."""
        return due(self._trainer.step + 1, every)

    def _changed(self) -> str:
        self.comparisons += 1
        changed = self.at_rest.changed()
        if changed:
            self._find("transit", "contained", changed, "it is not as the pass before left it")
        return changed

    def _find(self, detector: Detector, outcome: Outcome, where: str, detail: str) -> None:
        self._report(Finding(detector=detector, outcome=outcome, where=where, detail=detail))
