"""One run of the training job: a ``Guarded`` trainer that is paced, saved, stopped and rolled back.

A loss that is not finite, and stays so when its step is run again, is a symptom of a broken recipe, or of damage
that integrity at its level did not see. Damaged state that cannot be repaired (``Damaged``) is known to be that.
For both the job says so, goes back to the last verified generation and repeats the steps in between: damage is
gone then, a broken recipe comes back. ``ROLLBACKS_MAX`` in a row without a new checkpoint tell the two apart, and
the job gives up.

*Checkpoints.* The state is verified at the boundary, before it is copied; the copy is held against the same
digests (``Saver``). A state that does not verify is not written: ``SaveFailed`` says why, and the job rolls back.
Integrity OFF vouches for nothing: what it saves carries ``unverified_steps``, and so does what was saved after
it.

A checkpoint that was asked for at a step that is already committed is answered with that generation again: asking
twice in an eclipse must not push older generations out of the ring.
"""

import sys
import time
from pathlib import Path
from typing import Final

from flightsw.gpu import protocol
from flightsw.gpu.actuators.pieces import pieces_for
from flightsw.gpu.checkpoint.ring import Commit, Rejection, Ring, SaveError
from flightsw.gpu.checkpoint.saver import Saved, Saver
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.tally import LEVELS, Tally, starting_level
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads.findings import Findings
from flightsw.gpu.workloads.guarded import Damaged
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.preparation import guard, open_journal, prepare
from flightsw.gpu.workloads.splitting import fitting_split
from flightsw.gpu.workloads.trainer import NonFinite, Unfit
from flightsw.gpu.workloads.training_cover import gaps

ROLLBACKS_MAX: Final = 3
SAVE_WAIT_S: Final = 60.0
"""How long the end of the job waits for a checkpoint that is being written."""
SLOW_MICRO_BATCHES: Final = 5
"""Consecutive micro-batches over the bound that make a fault; a single one may be the machine's doing."""


class Session:
    """One run of the job: its trainer, its ring and its saver, rebuilt together by a rollback."""

    def __init__(self, spec: TrainSpec, job: Job) -> None:
        if not spec.checkpoint_dir:
            raise JobFault("spec", "checkpoint_dir is empty; a training job needs a folder for its checkpoints")
        self._spec = spec
        self._job = job
        self._ring = Ring(Path(spec.checkpoint_dir), spec.generations)
        self._rollbacks = 0
        self._verifications = 0
        self._split = 0
        self._whole_s = 0.0
        self._slow = 0
        self._slow_reported = False
        self._level = starting_level(spec.integrity)
        self._tally = Tally(self._level)
        self._findings = Findings(self._tally, "train")
        for line in gaps(spec):
            print(f"train: integrity: {line}", file=sys.stderr)
        self._journal = open_journal(spec.journal, fresh=False)
        try:
            self._report_rejected(self._ring.open_for_writing())
            self._begin()
        except SaveError as error:
            self._let_go()
            raise JobFault("checkpoint", str(error)) from None
        except BaseException:
            self._let_go()
            raise

    def _begin(self) -> None:
        """Build the trainer and bring it to the newest generation that verifies."""
        self.trainer = prepare(self._spec)
        self.generation = -1
        self._committed: Commit | None = None
        restored = self._ring.newest()
        self._report_rejected(restored.rejected)
        if restored.manifest is not None:
            try:
                self.trainer.restore(restored.manifest, restored.tensors)
            except Unfit as error:
                raise JobFault("checkpoint", str(error)) from None
            manifest = restored.manifest
            self.generation = manifest.generation
            size_bytes = sum(entry.size_bytes for entry in manifest.tensors)
            self._committed = Commit(manifest.generation, manifest.step, manifest.digest, size_bytes)
        self.guarded = guard(self.trainer, self._spec, self._level, self._findings.add)
        if restored.manifest is None and self._spec.micro_batch_target_s and not self._spec.micro_batch_split:
            self._choose_split()
        self._saver = Saver(self._ring, self.trainer.live(), self._report_saved, self._job.pacer.wake)
        self._show_progress()

    def _choose_split(self) -> None:
        """Parts that fit the target, timed once in a run of the job."""
        target_s = self._spec.micro_batch_target_s
        if self._spec.integrity == "off":
            self._split = self._split or fitting_split(self.trainer, target_s)
        else:
            self._split = self._split or fitting_split(self.trainer, target_s, self.guarded.checked_pass)
        self.trainer.split = self._split
        print(f"train: micro-batches in {self._split} parts each", file=sys.stderr)

    def handle(self, message: protocol.ToChild) -> None:
        """Act on a message from the daemon."""
        match message:
            case protocol.Checkpoint():
                self._saver.request()
            case protocol.Vigilance(level=name):
                self._level = self._tally.level = self.guarded.level = LEVELS[name]
            case protocol.Generate(request=request):
                self._job.send(
                    protocol.Reply(
                        request=request,
                        text=f"job {self._spec.id} trains, it does not answer requests",
                        tokens=0,
                        finish="failed",
                        generation=self.generation,
                        duration_s=0.0,
                    )
                )
            case _:
                print(f"train: {type(message).__name__} means nothing to this job", file=sys.stderr)

    def save_if_due(self) -> None:
        """Take the snapshot that was asked for, as soon as the writer is free."""
        if not self._saver.due:
            return
        if self._committed is not None and self._committed.step == self.trainer.step:
            self._saver.withdraw()
            self._announce(Saved(self._committed, stall_s=0.0, total_s=0.0))
        else:
            self._snapshot()

    def turn(self) -> None:
        """Run one micro-batch."""
        pieces = self._pieces()
        try:
            with self._job.micro_batch():
                stepped = self.guarded.turn(self._saver.fence, pieces)
        except NonFinite as error:
            self._roll_back("non_finite", str(error))
            return
        except Damaged as error:
            self._roll_back("integrity", str(error))
            return
        self._whole_s = self._job.micro_batch_last_s * self.trainer.cut
        if stepped:
            self._show_progress()
            if self._spec.journal:
                self._journal.write(f"{self.trainer.step} {self.trainer.digest()}\n")
        self._watch_speed()

    def tell(self) -> None:
        """Send the daemon what integrity has found, when it is time."""
        self._tally.checked(self.guarded.take_checks())
        self._tally.scrubbed(self._verifications + self.guarded.verifications)
        if report := self._tally.due(time.monotonic()):
            self._job.send(report)

    def _pieces(self) -> int:
        """How the next micro-batch is cut. A deterministic job is not: another order of summation is other bits;
        nor is a compiled one, which would be compiled anew for each size."""
        if self._spec.deterministic or self._spec.compile:
            return 1
        return pieces_for(self._whole_s, self._job.micro_batch_bound_s, self.trainer.rows)

    def finish(self) -> None:
        """Leave the state of the last step on disk."""
        saved_step = self._committed.step if self._committed else 0
        if self._saver.drain(SAVE_WAIT_S) and self._committed:
            saved_step = self._committed.step
        if self._saver.idle and self.trainer.step != saved_step:
            self._snapshot()
        if not self._saver.drain(SAVE_WAIT_S):
            self._job.send(protocol.SaveFailed(reason=f"the last checkpoint took longer than {SAVE_WAIT_S:g} s"))

    def close(self) -> None:
        """Let go of files and the ring's lock."""
        if self._saver.idle:
            self._saver.close()
        self._let_go()

    def _let_go(self) -> None:
        self._journal.close()
        self._ring.close()

    def _snapshot(self) -> None:
        """Verify and copy; a state that nobody can vouch for is not saved."""
        try:
            vouched = False
            while not vouched:
                with self._job.aside():
                    vouched = self.guarded.vouch()
        except Damaged as error:
            self._saver.withdraw()
            self._job.send(protocol.SaveFailed(reason=f"{error}; not saved"))
            self._roll_back("integrity", str(error))
            return
        facts = self.trainer.facts()
        if self.guarded.unverified:
            facts["unverified_steps"] = self.guarded.unverified
        self._saver.snapshot(self.trainer.step, facts, self.trainer.random_states, self.guarded.sums())

    def _roll_back(self, code: str, cause: str) -> None:
        self._saver.drain(SAVE_WAIT_S)
        self._rollbacks += 1
        if self._rollbacks > ROLLBACKS_MAX:
            raise JobFault(code, f"{cause}; {ROLLBACKS_MAX} rollbacks did not help, the job ends")
        self._saver.close()
        self._verifications += self.guarded.verifications
        step = self.trainer.step
        self._begin()
        place = f"generation {self.generation}" if self.generation >= 0 else "the start, there is no checkpoint"
        reason = f"{cause}; rolled back to {place} (step {self.trainer.step}), the job goes on"
        if code == "integrity":
            where = f"steps {self.trainer.step + 1} to {step + 1}"
            self._findings.add(Finding(detector="digest", outcome="contained", where=where, detail=cause))
        self._job.send(protocol.Fault(code=code, reason=reason))

    def _watch_speed(self) -> None:
        bound_s = self._spec.micro_batch_max_s
        last_s = self._job.micro_batch_last_s
        self._slow = self._slow + 1 if last_s > bound_s else 0
        if self._slow == SLOW_MICRO_BATCHES and not self._slow_reported:
            self._slow_reported = True
            reason = (
                f"{self._slow} micro-batches in a row took longer than {bound_s:g} s (the last {last_s:.3f} s); "
                "a smaller preset or batch_size reacts faster; the job goes on"
            )
            self._job.send(protocol.Fault(code="micro_batch", reason=reason))

    def _show_progress(self) -> None:
        progress = self._job.progress
        progress.step, progress.loss, progress.tokens = self.trainer.step, self.trainer.loss, self.trainer.tokens

    def _report_rejected(self, rejected: tuple[Rejection, ...]) -> None:
        for rejection in rejected:
            self._job.send(protocol.Rejected(generation=rejection.generation, reason=rejection.reason))

    def _report_saved(self, outcome: Saved | SaveError) -> None:
        if isinstance(outcome, SaveError):
            self._job.send(protocol.SaveFailed(reason=str(outcome)))
            return
        self._rollbacks = 0
        self._committed = outcome.commit
        self.generation = outcome.commit.generation
        self._announce(outcome)

    def _announce(self, saved: Saved) -> None:
        commit = saved.commit
        self._job.send(
            protocol.Committed(
                generation=commit.generation,
                step=commit.step,
                digest=commit.digest,
                size_bytes=commit.size_bytes,
                stall_s=saved.stall_s,
                total_s=saved.total_s,
            )
        )
