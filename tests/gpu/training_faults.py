"""Guarded trainings of a few steps, their undisturbed twins, and what disturbs them."""

import contextlib

import pytest
import torch
from msgspec.structs import replace
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.workloads import guarded_step, train
from flightsw.gpu.workloads.compute_path import ComputePath
from flightsw.gpu.workloads.guarded import Guarded
from flightsw.link.integrity import Level

STEPS = 3
PARTS = 4
"""Two micro-batches of two parts each."""
WEIGHT = "model.blocks.0.expand.weight"
REPAIRED, RUN_AGAIN = ("digest", "repaired"), ("replay", "recomputed")

_twins = {}


def twin(spec, count=STEPS):
    """The journal of the run that nobody disturbs and nobody guards."""
    if count not in _twins:
        _twins[count] = journal_of_the_twin(spec, count)
    return _twins[count]


def journal_of_the_twin(spec, count):
    trainer = train.prepare(spec)
    digests = []
    while len(digests) < count:
        if trainer.micro_batch():
            digests.append(trainer.digest())
    return digests


def flip(tensor, word=5, bit=20):
    """Turn one bit of a tensor's memory over, as an upset does: nothing of torch sees it."""
    words = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).view(torch.int32)
    words[word] ^= 1 << bit


class OneFault(TorchDispatchMode):
    """Damage the result of the n-th operation of a name, once: bit 20 of a word behind its middle."""

    def __init__(self, name, number):
        super().__init__()
        self.name, self.left = name, number
        self.fired = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.name in func._schema.name:
            self.left -= 1
            if self.left == 0:
                target = args[0][0] if "_fused_" in self.name else result
                target = target[0] if isinstance(target, tuple) else target
                with _disable_current_modes():  # A guard below must not take it for an operation of the program.
                    words = target.detach().reshape(-1).view(torch.int32)
                    words[len(words) * 5 // 8 + 3 if len(words) > 8 else 0] ^= 1 << 20
                self.fired += 1
        return result


class Above:
    """The compute path's guard with something between it and the program: what the program gets back."""

    def __init__(self, passes, mode):
        self.passes, self.mode = passes, mode

    level = property(lambda self: self.passes.level, lambda self, level: setattr(self.passes, "level", level))
    checks = property(lambda self: self.passes.checks)
    keeps_gradients = property(lambda self: self.passes.keeps_gradients)

    @contextlib.contextmanager
    def running(self, *, everything=False, adds=False):
        with self.passes.running(everything=everything, adds=adds), self.mode:
            yield

    def look_at_gradients(self):
        self.passes.look_at_gradients()

    def settle(self):
        return self.passes.settle()

    def renew(self):
        self.passes.renew()


class Run:
    """A guarded training and its findings."""

    def __init__(self, spec, level=Level.STORM, above=None, blind=False):
        self.trainer = train.prepare(spec)
        self.found = []
        passes = ComputePath(self.trainer.model, level, self.found.append, compiled=blind)
        if above is not None:
            passes = Above(passes, above)
        self.guarded = Guarded(self.trainer, passes, level, self.found.append, exact=spec.deterministic)
        self.journal = []
        self.turns = 0

    def turn(self):
        self.turns += 1
        if self.guarded.turn():
            self.journal.append(self.trainer.digest())

    def until(self, step, parts=0):
        """To the boundary after ``step``, and some parts further."""
        while self.trainer.step < step:
            self.turn()
        for _ in range(parts):
            self.turn()
        return self

    def finish(self, step=STEPS):
        return self.until(step).journal

    def outcomes(self):
        return {(finding.detector, finding.outcome) for finding in self.found}


def sampled(monkeypatch: pytest.MonkeyPatch, **changes):
    """Level STORM with other counts."""
    levels = {**LEVELS, Level.STORM: replace(LEVELS[Level.STORM], **changes)}
    monkeypatch.setattr(guarded_step, "LEVELS", levels)
