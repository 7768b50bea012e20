"""Faults in gradients, between backward pass and update: the flight's own trainer, guarded as it flies.

Gradients live between the operations that ``protect`` sees and the update that verifies memory, so they are the
training guard's business: bands of loss, norm and update around the last clean steps, replay of a step that is
suspect, what lies at rest between two parts. Each trial is a new ``Trainer`` that has made ``PAST_STEPS`` clean
steps under the guard, so that the bands know what is normal; one of the next steps has the fault, and the model is
judged on windows that it does not train on.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import torch

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads.compute_path import ComputePath
from flightsw.gpu.workloads.guarded import Damaged, Guarded
from flightsw.gpu.workloads.trainer import NonFinite, Trainer
from flightsw.link.integrity import Level

from . import judging
from .injection import Fired, Injection
from .injector import Shot, inject
from .judging import Observation, observe
from .ledger_table import End
from .plan import PlanError
from .subjects import ROWS, windows
from .survey import survey
from .targets import Subject
from .testees import Roster

LEVEL: Final = Level.STORM
PAST_STEPS: Final = 24
STEPS: Final = 3
SPEC: Final = TrainSpec(preset="micro", batch_size=8, learning_rate=1e-3, seed=1)


class _Passes(ComputePath):
    """The trainer's guard of the compute path, with a shot above it while there is one."""

    shot: Shot | None = None

    @contextmanager
    def running(self, *, everything: bool = False, adds: bool = False) -> Iterator[None]:
        shot = self.shot
        below, above = (shot.below(), shot.above()) if shot else (nullcontext(), nullcontext())
        with below, super().running(everything=everything, adds=adds), above:
            yield


class Bench:
    """A trainer with a past, at a level."""

    def __init__(self, roster: Roster, level: Level) -> None:
        self.findings: list[Finding] = []
        self._roster = roster
        self.trainer = Trainer(SPEC, roster.corpus, torch.device("cpu"))
        self.trainer.model.load_state_dict(roster.model.state_dict())
        self.passes = _Passes(self.trainer.model, level, self.findings.append, compiled=False)
        self.guarded = Guarded(self.trainer, self.passes, level, self.findings.append)
        self.steps(PAST_STEPS)

    def steps(self, count: int) -> None:
        """So many optimiser steps. Raises ``NonFinite``, ``Damaged``."""
        end = self.trainer.step + count
        while self.trainer.step < end:
            self.guarded.turn()

    def subject(self) -> Subject:
        """How faults reach it."""
        return Subject(name="trainer-float32", module=self.trainer.model)

    def run(self, shot: Shot | None = None) -> Observation:
        """The judged steps, with the fault; then the model on other windows."""
        self.passes.shot = shot
        try:
            self.steps(STEPS)
        except NonFinite as error:
            return Observation(ending="error", detail=str(error))
        except Damaged:
            return Observation(ending="withheld")
        finally:
            self.passes.shot = None
        judged = windows(self._roster.corpus, ROWS, self.trainer.config.context + 1, self._roster.seed - 1)
        with torch.no_grad():
            logits, loss = self.trainer.model(judged[:, :-1], judged[:, 1:])
        return observe(logits, float(loss))


class Trial:
    """The trainer; each injection has one of its own."""

    def __init__(self, roster: Roster, subject: str) -> None:
        if subject != "trainer-float32":
            raise PlanError(f'subject "{subject}" is unknown; training is that of trainer-float32')
        self._roster = roster
        self._twin = Bench(roster, Level.OFF).run()
        clean = Bench(roster, LEVEL)
        if clean.run() != self._twin or clean.findings:
            raise PlanError(f"the undisturbed trainer does not repeat itself at level {LEVEL.name.lower()}")
        bare = Bench(roster, Level.OFF)
        self.info = survey(bare.subject(), lambda: bare.trainer.run_part(), STEPS)

    def one(self, injection: Injection) -> tuple[Fired, End]:
        """Inject, judge. Raises ``NeverFired``."""
        bare = Bench(self._roster, Level.OFF)
        shot = inject(injection, bare.subject())
        effect = judging.effect(self._twin, bare.run(shot))
        shot.evidence()
        bench = Bench(self._roster, LEVEL)
        shot = inject(injection, bench.subject())
        seen = bench.run(shot)
        fired = shot.evidence()
        refused = seen.ending in ("withheld", "error")
        detectors = list(dict.fromkeys(finding.detector for finding in bench.findings))
        if refused and not detectors:
            detectors = ["guard"]
        verdict = judging.verdict(self._twin, None if refused else seen, noticed=bool(detectors))
        return fired, End(
            outcome=verdict.outcome,
            effect=effect,
            level=LEVEL.name.lower(),
            detectors=tuple(detectors),
            released=verdict.released,
            latency_passes=0 if detectors else -1,
            detail=(seen.detail or "; ".join(f"{f.outcome} {f.where}: {f.detail}" for f in bench.findings))[:200],
        )

    def alone(self, injection: Injection) -> tuple[str, ...] | None:
        """A guarded trainer is one system: nobody looked."""
        return None
