"""The model that is served: put under watch, replaced by a newer one, got again when its memory is damaged.

**Hot swap.** A newer model serves once nothing runs on the old one and nothing of it is held. While it waits,
``waits`` says so, and its owner admits no request: an answer is of one generation, the one it names.

**In memory as at its source.** Digests are taken of what lies in memory, then the memory is held against the
source, so that what hit it in between is seen by one of the two. What differs is loaded again.
"""

import time
from typing import Final, NamedTuple

from flightsw.gpu import protocol
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.tally import Tally
from flightsw.gpu.protocol import InferSpec
from flightsw.gpu.workloads.generation import Batch
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.model_watch import ModelWatch
from flightsw.gpu.workloads.served import Model
from flightsw.gpu.workloads.sources import Source
from flightsw.link.integrity import Level

POLL_S: Final = 1.0
"""Time between two looks for a newer checkpoint."""
RELOADS_MAX: Final = 3
"""Attempts to get a model into memory as its source has it."""


class Serving(NamedTuple):
    """A model, the batch that runs on it and the watch over both."""

    model: Model
    batch: Batch
    watch: ModelWatch


class ModelAtHand:
    """At first there is none. ``tally`` has the level at which a model is watched."""

    def __init__(self, spec: InferSpec, source: Source, job: Job, tally: Tally) -> None:
        self.serving: Serving | None = None
        """None while there is no model."""
        self._next: Model | None = None
        self._spec = spec
        self._source = source
        self._job = job
        self._tally = tally
        # A job that begins at off computes as torch does, bit for bit; the level does not change how it computes.
        self._wide = False if tally.level is Level.OFF else None
        self._looked_at_s = time.monotonic()

    @property
    def model(self) -> Model | None:
        """The model itself."""
        return self.serving.model if self.serving else None

    @property
    def running(self) -> int:
        """Rows in which something runs."""
        return self.serving.batch.running if self.serving else 0

    @property
    def waits(self) -> bool:
        """Whether a newer model waits for the end of what runs and is held."""
        return self._next is not None

    def begin(self) -> None:
        """Load what there is, waiting for it."""
        self._next = self._source.first()
        self._swap()

    def look_for_newer(self, *, held: int) -> None:
        """Ask the source, not too often, and serve what it has given once none of the ``held`` answers is left."""
        now_s = time.monotonic()
        if self._next is None and now_s - self._looked_at_s >= POLL_S:
            self._looked_at_s = now_s
            self._next = self._source.newer()
        if not (held or self.running):
            before = self._generation
            self._swap()
            self._announce(before)

    def reload(self) -> None:
        """Get the model again from its source; there may be none afterwards."""
        before = self._generation
        self.serving = self._next = None
        model = self._source.again()
        if model is not None:
            self._install(model)
        self._announce(before)

    @property
    def _generation(self) -> int:
        return self.serving.model.generation if self.serving else -1

    def _swap(self) -> None:
        if self._next is not None:
            model, self._next = self._next, None
            self._install(model)

    def _announce(self, before: int) -> None:
        """Say which generation serves, when it is another one than before."""
        model = self.model
        if model is not None and model.generation != before:
            self._job.send(protocol.Swapped(generation=model.generation, step=model.step))

    def _install(self, model: Model) -> None:
        """Put a model under watch: digests of what is in memory, then the memory against its source.

        Raises ``JobFault`` when it cannot be got into memory unchanged.
        """
        for _ in range(RELOADS_MAX):
            watch = ModelWatch(model.engine, self._tally.level, self._tally, self._wide)
            flaw = model.flaw()
            if not flaw:
                self.serving = Serving(model, Batch(model.engine, self._spec.batch_max, watch), watch)
                return
            self._tally.add(Finding(detector="digest", outcome="contained", where="loaded weights", detail=flaw))
            again = self._source.again()
            if again is None:
                return
            model = again
        raise JobFault(
            "memory", f"{self._spec.model} was loaded {RELOADS_MAX} times and never as its source has it: {flaw}"
        )
