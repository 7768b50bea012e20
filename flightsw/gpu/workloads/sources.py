"""Where served models come from: the ring of a training job, or a Hugging Face directory or file."""

from pathlib import Path
from typing import Protocol

import torch

from flightsw.gpu import protocol
from flightsw.gpu.checkpoint.ring import Rejection
from flightsw.gpu.protocol import InferSpec
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.served import Model, RingSource


class Source(Protocol):
    """Where models come from."""

    def first(self) -> Model | None:
        """The model to begin with, waiting for it; None when there is none yet."""

    def newer(self) -> Model | None:
        """A newer model when one is ready; never waits."""

    def again(self) -> Model | None:
        """The model anew from its source, waiting for it, because the one at hand is damaged; None when there is
        none to be had now. Raises ``JobFault`` when there never will be."""

    def close(self) -> None:
        """Let go of threads and files."""


def open_source(spec: InferSpec, device: torch.device, job: Job) -> Source:
    """The source that ``spec.model`` names. Raises ``JobFault``."""
    scheme, _, name = spec.model.partition(":")
    if scheme == "job" and name:
        if not spec.checkpoint_dir:
            raise JobFault("spec", f'model "{spec.model}" needs checkpoint_dir, the ring of that job')

        def report(rejection: Rejection) -> None:
            job.send(protocol.Rejected(generation=rejection.generation, reason=rejection.reason))

        return RingSource(Path(spec.checkpoint_dir), spec.batch_max, device, report)
    if scheme == "hf" and name:
        from flightsw.gpu.workloads.llm_source import LlmSource

        return LlmSource(name, spec.batch_max, device)
    raise JobFault("spec", f'model is "{spec.model}"; "job:ID", "hf:DIRECTORY", "hf:FILE.gguf" are allowed')
