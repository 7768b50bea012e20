"""Faults while answers are computed: the flight's own server, and no wrong answer gets out of it.

The real ``Server`` serves a round of requests on a trained model; one fault hits weights, the key-value cache or
the arithmetic of a pass while it does. Every reply is held against the undisturbed twin's: *released* is one that
is not marked as failed, *tainted* one that was released and has another text. The same faults at level off say
which of them would have let a wrong answer out.

Operations are hit below the guard, for the guard enters a pass inside the server, where nobody else can follow.
"""

import itertools
from contextlib import ExitStack
from typing import Any, Final, Literal, cast

import msgspec
import torch

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
_numbers: Final = itertools.count(1)


class Shelf:
    """A source of the same model, each time from weights that no fault reaches."""

    def __init__(self, model: GPT) -> None:
        self._config = model.config
        self._state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def first(self) -> Model | None:
        """The model."""
        module = GPT(self._config)
        module.load_state_dict(self._state)
        return Model(GptEngine(module, ROWS, torch.device("cpu")), 1, 1, lambda: self._flaw(module))

    def again(self) -> Model | None:
        """The same anew."""
        return self.first()

    def newer(self) -> Model | None:
        """There is no newer one."""

    def close(self) -> None:
        """Nothing to close."""

    def _flaw(self, module: GPT) -> str:
        good = all(torch.equal(tensor, self._state[name]) for name, tensor in module.state_dict().items())
        return "" if good else "weights differ from the shelf's"


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one round of requests: text of each reply, None for one that failed."""

    texts: tuple[str | None, ...]
    findings: int
    """Of the integrity layer, in this round."""
    detector: str


class Bench:
    """A server on a real job."""

    def __init__(self, shelf: Shelf, level: Level) -> None:
        self._sent: list[Any] = []
        self._job = Job(self._sent.append, Pacer(1.0), Meter())
        spec = InferSpec(batch_max=ROWS, integrity=INTEGRITY[level])
        self.server = Server(spec, self._job, shelf)
        self.server.begin(torch.device("cpu"))
        self._detected = 0

    def subject(self) -> Subject:
        """How faults reach it; the engine is looked up at the moment of the hit, for it may be another by then."""
        return Subject(
            name="serve-float32",
            weights=lambda: self._engine().module.named_parameters(),
            cache=lambda: key_value_cache(self._engine().cache),
        )

    def serve(self, shot: Shot | None = None, turn: int = -1) -> Round:
        """All requests to their replies; memory is hit after that turn."""
        wanted = [msgspec.structs.replace(one, request=next(_numbers)) for one in REQUESTS]
        self._sent.clear()
        for request in wanted:
            self._job.post(request)
        within = shot is not None and TARGETS[shot.injection.target].reach in ("above", "below")
        with ExitStack() as stack:
            if shot is not None and within:
                stack.enter_context(shot)
            for now in range(TURNS_MAX):
                replies = {message.request: message for message in self._sent if isinstance(message, Reply)}
                if len(replies) == len(wanted):
                    break
                self.server.turn()
                if shot is not None and not within and now == turn:
                    shot.strike()
            else:
                raise PlanError(f"the server did not answer within {TURNS_MAX} turns")
        ordered = [replies[request.request] for request in wanted]
        detected, detector = self._report()
        found = Round(
            texts=tuple(None if reply.finish == "failed" else reply.text for reply in ordered),
            findings=detected - self._detected,
            detector=detector,
        )
        self._detected = detected
        return found

    def _engine(self) -> GptEngine:
        model = self.server.model
        assert model is not None, "the shelf always has one"
        return cast(GptEngine, model.engine)  # The shelf has no others.

    def _report(self) -> tuple[int, str]:
        """Findings since the server began, and the last one's detector."""
        reports = [message for message in self._sent if isinstance(message, IntegrityReport)]
        return (reports[-1].detected, reports[-1].last_detector) if reports else (self._detected, "")


class Trial:
    """The server on one model; each injection has a round of its own."""

    def __init__(self, testees: Roster, subject: str) -> None:
        if subject != "serve-float32":
            raise PlanError(f'subject "{subject}" is unknown; answers are those of serve-float32')
        self._shelf = Shelf(testees.model)
        bench = self._new(LEVEL)
        self._twin = self._new(Level.OFF).serve().texts
        clean = bench.serve()
        if clean.texts != self._twin or clean.findings or None in self._twin:
            raise PlanError(f"the undisturbed server does not repeat itself at level {LEVEL.name.lower()}")
        # Surveyed at level off: what is counted there by name is there at every level, whatever checks add to it.
        bare = self._new(Level.OFF)
        self.info: SubjectInfo = survey(bare.subject(), bare.serve)

    def one(self, injection: Injection) -> tuple[Fired, End]:
        """Inject, compare the replies. Raises ``NeverFired``."""
        effect = self._effect(injection)
        bench = self._new(LEVEL)
        shot = inject(injection, bench.subject())
        seen = bench.serve(shot, _turn(injection))
        fired = shot.evidence()
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
            detectors=((seen.detector or "finite",) if noticed else ()),
            released=tainted > 0,
            latency_passes=0 if noticed else -1,
            detail=f"{len(seen.texts) - failed} released, {tainted} tainted, {failed} failed",
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
        return Bench(self._shelf, level)


def _turn(injection: Injection) -> int:
    """After which turn memory is hit: from the place, so that an id says it all."""
    return HIT_TURNS[int(injection.place * 1e6) % len(HIT_TURNS)]
