"""The training job, as the worker runs it, and its undisturbed twin."""

import os
from collections.abc import Callable

from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.preparation import guard, open_journal, prepare
from flightsw.gpu.workloads.session import Session
from flightsw.gpu.workloads.trainer import NonFinite
from flightsw.gpu.workloads.warm_up import warm_up
from flightsw.link.integrity import Level


def run(spec: TrainSpec, job: Job) -> None:
    """Train until stopped or done, and leave a checkpoint behind. Raises ``JobFault``."""
    warm_up()
    session = Session(spec, job)
    try:
        trainer = session.trainer
        job.ready(pid=os.getpid(), device=trainer.device, step=trainer.step, generation=session.generation)
        while not job.stopping and session.trainer.step < spec.max_steps:
            for message in job.messages():
                session.handle(message)
            session.save_if_due()
            session.tell()
            if job.pacer.wait_turn():
                session.turn()
        session.finish()
    finally:
        session.close()


def run_solo(spec: TrainSpec, stopping: Callable[[], bool]) -> None:
    """The undisturbed twin: train unpaced from step 0, writing the journal; checkpoints are never touched.

    No integrity, whatever the specification says. Raises ``JobFault``.
    """
    if spec.micro_batch_target_s and not spec.micro_batch_split:
        raise JobFault("spec", "a twin needs the micro_batch_split of the run it repeats, not micro_batch_target_s")
    trainer = prepare(spec)
    # For the arithmetic of half precision, which belongs to the job and not to the level.
    guarded = guard(trainer, spec, Level.OFF, lambda finding: None)
    with open_journal(spec.journal, fresh=True) as journal:
        while not stopping() and trainer.step < spec.max_steps:
            try:
                if guarded.turn():
                    journal.write(f"{trainer.step} {trainer.digest()}\n")
            except NonFinite as error:
                raise JobFault("non_finite", str(error)) from None
