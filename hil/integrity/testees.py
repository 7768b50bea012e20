"""All testees by name, made when they are first asked for, with the survey of what can be hit in each.

One seed makes them all: the model is trained once, and every testee has a copy of it.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Final, get_args

import msgspec
import torch

from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.corpus import Corpus
from flightsw.gpu.workloads.gpt import GPT
from flightsw.gpu.workloads.warm_up import warm_up

from . import subjects
from .injection import SubjectInfo
from .judging import Observation
from .plan import PlanError
from .subjects import SMALL, TRAINING_STEPS, Base
from .subjects_moving import Decode, Train
from .subjects_told import Told, Work
from .survey import survey

DROPOUT: Final = 0.1

DTYPES: Final = (torch.float32, torch.bfloat16)


def _makers() -> dict[str, Callable[["Roster"], Base]]:
    """How each testee is made, by its name."""
    found: dict[str, Callable[[Roster], Base]] = {
        "train-float32": lambda t: Train(t.model, t.corpus, t.seed),
        "train-mixed": lambda t: Train(t.model, t.corpus, t.seed, mixed=True),
        "train-dropout": lambda t: Train(t.model, t.corpus, t.seed, dropout=DROPOUT),
    }
    for work in get_args(Work):
        found[f"{work}-told"] = partial(_told, work)
    for dtype in DTYPES:
        name = subjects.dtype_name(dtype)
        found[f"gpt-{name}"] = partial(_gpt, dtype)
        found[f"stack-{name}"] = partial(_stack, dtype)
        found[f"decode-{name}"] = partial(_decode, dtype)
    return found


def _gpt(dtype: torch.dtype, t: "Roster") -> Base:
    return subjects.gpt(t.model, t.corpus, t.seed, dtype)


def _stack(dtype: torch.dtype, t: "Roster") -> Base:
    return subjects.stack(t.corpus, t.seed, dtype, t.steps)


def _decode(dtype: torch.dtype, t: "Roster") -> Base:
    return Decode(t.model, t.corpus, t.seed, dtype)


def _told(work: Work, t: "Roster") -> Base:
    return Told(t.model, t.corpus, t.seed, work)


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A testee, its undisturbed run, and what can be hit in it."""

    testee: Base
    twin: Observation
    info: SubjectInfo


class Roster:
    """Roster of one seed; ``steps`` of training before they are judged."""

    def __init__(self, seed: int, steps: int = TRAINING_STEPS) -> None:
        self.seed = seed
        self.steps = steps
        self._known: dict[str, Known] = {}
        warm_up()  # Runs are bounded in time: kernels compiled within one would make it hang.

    @cached_property
    def corpus(self) -> Corpus:
        """What they read."""
        return corpus.load("", SMALL.context)

    @cached_property
    def model(self) -> GPT:
        """The model that all of them have a copy of."""
        return subjects.trained(self.corpus, self.seed, steps=self.steps)

    def named(self, name: str) -> Known:
        """A testee by its name. Raises ``PlanError`` for an unknown one, or one that does not repeat itself."""
        makers = _makers()
        if name not in makers:
            raise PlanError(f'subject "{name}" is unknown; there are {", ".join(makers)}')
        if name not in self._known:
            self._known[name] = _known(makers[name](self))
        return self._known[name]


def _known(testee: Base) -> Known:
    testee.restore()
    twin = testee.run()
    testee.restore()
    again = testee.run()
    testee.restore()
    if twin.ending != "done" or not twin.finite or again != twin:
        why = twin.detail or again.detail or "other bits"
        raise PlanError(
            f"subject {testee.subject.name} does not repeat itself ({why}): nothing can be judged by it"
        )
    info = survey(testee.subject, testee.first_pass, testee.passes)
    testee.restore()
    return Known(testee=testee, twin=twin, info=info)
