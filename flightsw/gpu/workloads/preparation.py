"""What a training begins with: a trainer at step 0 as its specification asks for, its guard, and its journal."""

import io
import os
from typing import TextIO

import torch

from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.compute_path import ComputePath
from flightsw.gpu.workloads.guarded import Guarded
from flightsw.gpu.workloads.job import JobFault, pick_device
from flightsw.gpu.workloads.recipe import make_deterministic, model_config
from flightsw.gpu.workloads.trainer import Trainer
from flightsw.link.integrity import Level


def prepare(spec: TrainSpec) -> Trainer:
    """A trainer at step 0 on the device the specification asks for. Raises ``JobFault``."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    if spec.deterministic:
        make_deterministic(compiled=spec.compile)
    context = model_config(spec.preset).context
    return Trainer(spec, corpus.load(spec.corpus, context), pick_device(spec.device))


def guard(trainer: Trainer, spec: TrainSpec, level: Level, report: Report) -> Guarded:
    """The trainer under integrity; its state is good now: just made, or restored from a verified checkpoint."""
    passes = ComputePath(trainer.model, level, report, compiled=spec.compile)
    return Guarded(trainer, passes, level, report, exact=spec.deterministic)


def open_journal(path: str, *, fresh: bool) -> TextIO:
    """The journal, begun anew or continued; lines are written out at once, without a path they go nowhere.

    Raises ``JobFault``.
    """
    try:
        fd = os.open(path or os.devnull, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND), 0o600)
    except OSError as error:
        raise JobFault("journal", f"{path}: {error.strerror}") from None
    return io.TextIOWrapper(open(fd, "wb", buffering=0), encoding="ascii", write_through=True)
