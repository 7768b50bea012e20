"""Faults while answers are computed: the flight's own server, and no wrong answer gets out of it.

The real ``Server`` serves a round of requests on a trained model; one fault hits weights, the key-value cache or
the arithmetic of a pass while it does. Every reply is held against the undisturbed twin's: *released* is one that
is not marked as failed, *tainted* one that was released and has another text. The same faults at level off say
which of them would have let a wrong answer out.

Operations are hit below the guard, for the guard enters a pass inside the server (``serve-float32``); or, of decode
steps, within the engine, which runs under the guard and hands them over (``serve-told``). Not every step will do:
a server looks at a pass or runs it twice, whichever is cheaper on the machine (``model_watch``). ``LOOKED_AT`` are
the steps that a new server always looks at.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Final, Literal, cast

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import Generate, InferSpec, IntegrityReport, Reply
from flightsw.gpu.workloads.gpt import GPT
from flightsw.gpu.workloads.infer import Server
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.served import GptEngine, Model
from flightsw.link.integrity import Level

from .injection import Fired, Injection, SubjectInfo
from .injector import NeverFired, Shot, inject
from .ledger_table import Effect, End, Outcome
from .plan import PlanError
from .survey import survey
from .targets import TARGETS, Subject, key_value_cache
from .testees import Roster

ROWS: Final = 2
LEVEL: Final = Level.STORM
REQUESTS: Final = (
    Generate(request=0, prompt="import os\n", max_tokens=12, temperature=0.7, top_k=0, seed=3),
    Generate(request=1, prompt="def main(", max_tokens=8, temperature=0.8, top_k=0, seed=5),
    Generate(request=2, prompt="class Test(unittest.TestCase):\n", max_tokens=12, temperature=1.0, top_k=9, seed=7),
)
INTEGRITY: Final[dict[Level, Literal["off", "storm"]]] = {Level.OFF: "off", Level.STORM: "storm"}
TURNS_MAX: Final = 4000
HIT_TURNS: Final = range(2, 8)
"""Memory is hit after one of these turns of the server's loop."""
TOLD: Final = "serve-told"
SUBJECTS: Final = ("serve-float32", TOLD)
LOOKED_AT: Final = (0, 2, 4, 8)
"""Decode steps since the server began."""
EXCEPTION: Final = "exception"
"""Named as a detector where a fault ended the worker."""
_numbers: Final = itertools.count(1)


class Engine(GptEngine):
    """The flight's, with ``around`` about each of the decode steps ``LOOKED_AT``. One that is run again is no other
    step, and the fault is over by then."""

    def __init__(
        self, model: GPT, rows: int, device: torch.device, around: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(model, rows, device)
        self._around = around
        self._steps = 0
        self._last: tuple[list[int], ...] = ()

    def step(self, rows: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See ``GptEngine``."""
        at_hand = (list(rows), list(positions), list(tokens))
        again, self._last = at_hand == self._last, at_hand
        number = self._steps
        self._steps += not again
        with nullcontext() if again or number not in LOOKED_AT else self._around():
            return super().step(rows, positions, tokens)


class Shelf:
    """A source of the same model, each time from weights that no fault reaches. ``shot`` is met in its steps."""

    shot: Shot | None = None

    def __init__(self, model: GPT) -> None:
        self._config = model.config
        self._state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def first(self) -> Model | None:
        """The model."""
        module = GPT(self._config)
        module.load_state_dict(self._state)
        engine = Engine(module, ROWS, torch.device("cpu"), self._above)
        return Model(engine, 1, 1, lambda: self._flaw(module))

    def again(self) -> Model | None:
        """The same anew."""
        return self.first()

    def newer(self) -> Model | None:
        """There is no newer one."""

    def close(self) -> None:
        """Nothing to close."""

    def _above(self) -> AbstractContextManager[None]:
        return self.shot.above() if self.shot is not None else nullcontext()

    def _flaw(self, module: GPT) -> str:
        good = all(torch.equal(tensor, self._state[name]) for name, tensor in module.state_dict().items())
        return "" if good else "weights differ from the shelf's"


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one round of requests: text of each reply, None for one that failed."""

    texts: tuple[str | None, ...]
    findings: int
    """Of the integrity layer, in this round."""
    detector: str
    died: str = ""
    """What ended the worker: then nothing that was not answered before will be; the daemon starts another one."""


class Bench:
    """A server on a real job."""

    def __init__(self, shelf: Shelf, level: Level, subject: str) -> None:
        self._shelf = shelf
        self._name = subject
        self._sent: list[Any] = []
        self._job = Job(self._sent.append, Pacer(1.0), Meter())
        spec = InferSpec(batch_max=ROWS, integrity=INTEGRITY[level])
        self.server = Server(spec, self._job, shelf)
        self.server.begin(torch.device("cpu"))
        self._detected = 0

    def subject(self) -> Subject:
        """How faults reach it; the engine is looked up at the moment of the hit, for it may be another by then."""
        return Subject(
            name=self._name,
            told=self._name == TOLD,
            weights=lambda: self._engine().module.named_parameters(),
            cache=lambda: key_value_cache(self._engine().cache),
        )

    def serve(self, shot: Shot | None = None, turn: int = -1) -> Round:
        """All requests to their replies; memory is hit after that turn."""
        wanted = [msgspec.structs.replace(one, request=next(_numbers)) for one in REQUESTS]
        self._sent.clear()
        for request in wanted:
            self._job.post(request)
        died = ""
        within = shot is not None and TARGETS[shot.injection.target].reach in ("above", "below")
        with ExitStack() as stack:
            if shot is not None and within and self._name == TOLD:
                stack.enter_context(shot.below())
                self._shelf.shot = shot
                stack.callback(setattr, self._shelf, "shot", None)
            elif shot is not None and within:
                stack.enter_context(shot)
            for now in range(TURNS_MAX):
                if len(self._replies()) == len(wanted):
                    break
                try:
                    self.server.turn()
                except Exception as error:  # Whatever a damaged program raises is what it did, not our fault.
                    died = f"{type(error).__name__}: {error}".splitlines()[0]
                    break
                if shot is not None and not within and now == turn:
                    shot.strike()
            else:
                raise PlanError(f"the server did not answer within {TURNS_MAX} turns")
        replies = self._replies()
        ordered = [replies.get(request.request) for request in wanted]
        detected, detector = self._report()
        found = Round(
            texts=tuple(None if one is None or one.finish == "failed" else one.text for one in ordered),
            findings=detected - self._detected,
            detector=detector,
            died=died,
        )
        self._detected = detected
        return found

    def first_step(self) -> None:
        """One decode step of all rows."""
        self._engine().step(range(ROWS), [0] * ROWS, [1] * ROWS)

    def _engine(self) -> GptEngine:
        model = self.server.model
        assert model is not None, "the shelf always has one"
        return cast(GptEngine, model.engine)  # The shelf has no others.

    def _replies(self) -> dict[int, Reply]:
        return {message.request: message for message in self._sent if isinstance(message, Reply)}

    def _report(self) -> tuple[int, str]:
        """Findings since the server began, and the last one's detector."""
        reports = [message for message in self._sent if isinstance(message, IntegrityReport)]
        return (reports[-1].detected, reports[-1].last_detector) if reports else (self._detected, "")


class Trial:
    """The server on one model; each injection has a round of its own."""

    def __init__(self, testees: Roster, subject: str) -> None:
        if subject not in SUBJECTS:
            raise PlanError(f'subject "{subject}" is unknown; answers are those of {", ".join(SUBJECTS)}')
        self._subject = subject
        self._shelf = Shelf(testees.model)
        bench = self._new(LEVEL)
        self._twin = self._new(Level.OFF).serve().texts
        clean = bench.serve()
        if clean.texts != self._twin or clean.findings or None in self._twin:
            raise PlanError(f"the undisturbed server does not repeat itself at level {LEVEL.name.lower()}")
        # Surveyed at level off: what is counted there by name is there at every level, whatever checks add to it.
        bare = self._new(Level.OFF)
        told = subject == TOLD
        self.info: SubjectInfo = survey(
            bare.subject(), bare.first_step if told else bare.serve, len(LOOKED_AT) if told else 1
        )

    def one(self, injection: Injection) -> tuple[Fired, End]:
        """Inject, compare the replies. Raises ``NeverFired``."""
        effect = self._effect(injection)
        bench = self._new(LEVEL)
        shot = inject(injection, bench.subject())
        seen = bench.serve(shot, _turn(injection))
        fired = shot.evidence(told=self._subject == TOLD)
        tainted = sum(text is not None and text != twin for text, twin in zip(seen.texts, self._twin, strict=True))
        failed = seen.texts.count(None)
        noticed = bool(seen.findings or failed)
        outcomes: dict[tuple[bool, bool], Outcome] = {
            (True, False): "detected" if failed else "corrected",
            (True, True): "detected",
            (False, False): "masked",
            (False, True): "silent",
        }
        return fired, End(
            outcome=outcomes[noticed, tainted > 0],
            effect=effect,
            level=LEVEL.name.lower(),
            detectors=((seen.detector or (EXCEPTION if seen.died else "finite"),) if noticed else ()),
            released=tainted > 0,
            latency_passes=0 if noticed else -1,
            detail=f"{len(seen.texts) - failed} released, {tainted} tainted, {failed} failed; {seen.died}"[:200],
        )

    def alone(self, injection: Injection) -> tuple[str, ...] | None:
        """A server is one system: nobody looked."""
        return None

    def _effect(self, injection: Injection) -> Effect:
        """What the fault does to a server at level off."""
        bench = self._new(Level.OFF)
        shot = inject(injection, bench.subject())
        seen = bench.serve(shot, _turn(injection))
        try:
            shot.evidence()
        except NeverFired:
            return "masked"  # At level off there is no check whose arithmetic could be hit.
        if None in seen.texts:
            return "due"
        return "masked" if seen.texts == self._twin else "sdc"

    def _new(self, level: Level) -> Bench:
        return Bench(self._shelf, level, self._subject)


def _turn(injection: Injection) -> int:
    """After which turn memory is hit: from the place, so that an id says it all."""
    return HIT_TURNS[int(injection.place * 1e6) % len(HIT_TURNS)]
