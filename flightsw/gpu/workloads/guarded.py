"""Training in which nothing unverified gets into the weights: a ``Trainer``, looked at between the parts of a step.

Above level off a step runs as ``guarded_step`` has it, guarded from its boundary to its update; at off it is the
trainer's own. What cannot be put right raises ``Damaged``; the owner goes back to a verified checkpoint, for which
``vouch`` verifies the state and ``sums`` gives its digests.

*Levels* may change at any time and count from the next boundary. None of it changes a bit of the training: a run
at any level, or with the level switched, has the journal of the run without. When guarding begins in mid-flight
(after OFF), the state is taken for good as it is; ``unverified`` tells of steps that nobody looked at.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.gpu.workloads.batches import BadCorpus
from flightsw.gpu.workloads.boundary import Lost
from flightsw.gpu.workloads.compute_path import Passes
from flightsw.gpu.workloads.guarded_step import GuardedStep, NoAgreement
from flightsw.gpu.workloads.guarded_update import Unsettled
from flightsw.gpu.workloads.recipe import clipping
from flightsw.gpu.workloads.state_verification import StateVerification, Unrepairable
from flightsw.gpu.workloads.trainer import Trainer
from flightsw.link.integrity import Level


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
        self.resident = Resident(regions_of(trainer.optimiser.flat()), report)
        """Digests of weights and moments."""
        self._passes = passes
        self._report = report
        on_card = trainer.device.type == "cuda"
        self._step = GuardedStep(
            trainer, passes, self.resident, report, exact=exact, fused=on_card if fused is None else fused
        )
        self._vouching = StateVerification(self.resident, trainer.device.type)
        self._plain = False
        """A step that nobody looks at is under way."""
        self._current = False
        """Digests are those of the state at hand."""
        self._told = 0
        if level is not Level.OFF:
            self._adopt()

    @property
    def suspects(self) -> int:
        """Runs that the training guard wanted a proof of."""
        return self._step.judge.suspects

    @property
    def verifications(self) -> int:
        """Complete ones of weights and moments."""
        return self._step.verification.complete + self._vouching.complete

    def turn(self, before_update: Callable[[], None] = lambda: None, pieces: int = 1) -> bool:
        """One bounded piece of work, finished on the device; True when it completed an optimiser step.

        ``before_update`` runs before weights change. Raises ``Damaged``, and ``NonFinite`` for a step whose loss or
        gradient is not finite and stays so when it is run again; then the trainer is at its boundary.
        """
        try:
            if self._step.ended and not self._plain:
                self._begin()
            return (
                self._plain_turn(before_update, pieces) if self._plain else self._step.turn(before_update, pieces)
            )
        except (Lost, BadCorpus, Unsettled, Unrepairable, NoAgreement) as error:
            raise self._damaged(error) from None

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
        try:
            if not self._vouching.piece():
                return False
        except Unrepairable as error:
            raise self._damaged(error) from None
        self._vouching.restart()
        try:
            self._step.at_rest.mend()
        except Lost as error:
            raise Damaged(str(error)) from None
        return True

    def take_checks(self) -> int:
        """Comparisons made since the last call, of the passes' operations too, whatever they found."""
        checks = (
            self._step.comparisons + self._step.verification.checks + self._vouching.checks + self._passes.checks
        )
        made, self._told = checks - self._told, checks
        return made

    def sums(self) -> dict[int, Tensor]:
        """Digests of the state by address of its storage, copied to the host; empty when there are none."""
        if not self._current:
            return {}
        return {
            region.memory.data_ptr(): self.resident.digests(index).cpu().clone()
            for index, region in enumerate(self.resident.regions)
        }

    def _begin(self) -> None:
        level = self._passes.level = self.level
        if level is Level.OFF:
            self._current = False
            self._plain = True
            self.trainer.draw = self.trainer.batches.draw
            return
        if not self._current:
            self._adopt()
        self.trainer.draw = lambda: self.trainer.batches.draw_checked(self._report)
        self._step.begin(level)

    def _adopt(self) -> None:
        """The state is good as it is."""
        self.resident.adopt()
        self._step.adopt()
        self._current = True

    def _plain_turn(self, before_update: Callable[[], None], pieces: int) -> bool:
        """A part of a step that nobody looks at, with the update when it is the last one."""
        trainer = self.trainer
        with self._passes.running():
            complete = trainer.run_part(pieces)
        if complete:
            self._passes.look_at_gradients()
        self._passes.settle()
        if not complete:
            return False
        norm = trainer.gradient_norm()
        self._plain = False
        trainer.refuse_non_finite(norm.item())
        before_update()
        trainer.optimiser.step(trainer.learning_rate, clipping(norm))
        trainer.stepped(norm.item())
        self._passes.renew()
        self.unverified += 1
        return True

    def _damaged(self, error: Exception) -> Damaged:
        return Damaged(f"step {self.trainer.step + 1}: {error}")
