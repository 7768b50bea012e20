"""The training job: a ``Trainer`` that is paced, saved, stopped and rolled back.

A non-finite loss is a symptom of damaged state (an upset in memory) or of a broken recipe. The job reports
it, goes back to the last verified generation and repeats the steps in between: damage is gone then, a broken recipe
comes back. ``ROLLBACKS_MAX`` in a row without a new checkpoint tell the two apart, and the job gives up.

A checkpoint that was asked for at a step that is already committed is answered with that generation again: asking
twice in an eclipse must not push older generations out of the ring.
"""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TextIO

import torch

from flightsw.gpu import protocol
from flightsw.gpu.actuators.pieces import pieces_for
from flightsw.gpu.checkpoint.ring import Commit, Rejection, Ring, SaveError
from flightsw.gpu.checkpoint.saver import Saved, Saver
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.job import Job, JobFault, pick_device
from flightsw.gpu.workloads.trainer import NonFinite, Trainer, Unfit, make_deterministic, model_config

ROLLBACKS_MAX: Final = 3
SAVE_WAIT_S: Final = 60.0
"""How long the end of the job waits for a checkpoint that is being written."""
SLOW_MICRO_BATCHES: Final = 5
"""Consecutive micro-batches over the bound that make a fault; a single one may be the machine's doing."""


def run(spec: TrainSpec, job: Job) -> None:
    """Train until stopped or done, and leave a checkpoint behind. Raises ``JobFault``."""
    session = Session(spec, job)
    try:
        trainer = session.trainer
        job.ready(pid=os.getpid(), device=trainer.device, step=trainer.step, generation=session.generation)
        while not job.stopping and session.trainer.step < spec.max_steps:
            for message in job.messages():
                session.handle(message)
            session.save_if_due()
            if job.pacer.wait_turn():
                session.turn()
        session.finish()
    finally:
        session.close()


def run_solo(spec: TrainSpec, stopping: Callable[[], bool]) -> None:
    """The undisturbed twin: train unpaced from step 0, writing the journal; checkpoints are never touched.

    Raises ``JobFault``.
    """
    if spec.micro_batch_target_s and not spec.micro_batch_split:
        raise JobFault("spec", "a twin needs the micro_batch_split of the run it repeats, not micro_batch_target_s")
    trainer = prepare(spec)
    with open_journal(spec.journal, fresh=True) as journal:
        while not stopping() and trainer.step < spec.max_steps:
            try:
                if trainer.micro_batch():
                    journal.write(f"{trainer.step} {trainer.digest()}\n")
            except NonFinite as error:
                raise JobFault("non_finite", str(error)) from None


def prepare(spec: TrainSpec) -> Trainer:
    """A trainer at step 0 on the device the specification asks for. Raises ``JobFault``."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    if spec.deterministic:
        make_deterministic(compiled=spec.compile)
    context = model_config(spec.preset).context
    return Trainer(spec, corpus.load(spec.corpus, context), pick_device(spec.device))


def open_journal(path: str, *, fresh: bool) -> TextIO:
    """The journal, begun anew or continued; lines are written out at once, without a path they go nowhere.

    Raises ``JobFault``.
    """
    try:
        fd = os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND), 0o600)
    except OSError as error:
        raise JobFault("journal", f"{path}: {error.strerror}") from None
    return io.TextIOWrapper(open(fd, "wb", buffering=0), encoding="ascii", write_through=True)


class Session:
    """One run of the job: its trainer, its ring and its saver, rebuilt together by a rollback."""

    def __init__(self, spec: TrainSpec, job: Job) -> None:
        if not spec.checkpoint_dir:
            raise JobFault("spec", "checkpoint_dir is empty; a training job needs a folder for its checkpoints")
        self._spec = spec
        self._job = job
        self._ring = Ring(Path(spec.checkpoint_dir), spec.generations)
        self._rollbacks = 0
        self._split = 0
        self._whole_s = 0.0
        self._slow = 0
        self._slow_reported = False
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
        elif self._spec.micro_batch_target_s and not self._spec.micro_batch_split:
            self._split = self._split or self.trainer.fitting_split(self._spec.micro_batch_target_s)
            self.trainer.split = self._split
            print(f"train: micro-batches in {self._split} parts each", file=sys.stderr)
        self._saver = Saver(self._ring, self.trainer.live(), self._report_saved, self._job.pacer.wake)
        self._show_progress()

    def handle(self, message: protocol.ToChild) -> None:
        """Act on a message from the daemon."""
        match message:
            case protocol.Checkpoint():
                self._saver.request()
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
                stepped = self.trainer.micro_batch(self._saver.fence, pieces)
        except NonFinite as error:
            self._roll_back(str(error))
            return
        self._whole_s = self._job.micro_batch_last_s * self.trainer.cut
        if stepped:
            self._show_progress()
            if self._spec.journal:
                self._journal.write(f"{self.trainer.step} {self.trainer.digest()}\n")
        self._watch_speed()

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
        self._saver.snapshot(self.trainer.step, self.trainer.facts(), self.trainer.random_states)

    def _roll_back(self, cause: str) -> None:
        self._saver.drain(SAVE_WAIT_S)
        self._rollbacks += 1
        if self._rollbacks > ROLLBACKS_MAX:
            raise JobFault("non_finite", f"{cause}; {ROLLBACKS_MAX} rollbacks did not help, the job ends")
        self._saver.close()
        self._begin()
        place = f"generation {self.generation}" if self.generation >= 0 else "the start, there is no checkpoint"
        reason = f"{cause}; rolled back to {place} (step {self.trainer.step}), the job goes on"
        self._job.send(protocol.Fault(code="non_finite", reason=reason))

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
