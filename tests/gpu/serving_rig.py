"""A server on a real job over a sharp little model, in this process, and the requests that it is given."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
import torch

from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import Generate, InferSpec, IntegrityReport, Reply
from flightsw.gpu.workloads import infer, model_at_hand
from flightsw.gpu.workloads.gpt import GPT, PRESETS
from flightsw.gpu.workloads.infer import Server
from flightsw.gpu.workloads.job import Job
from flightsw.gpu.workloads.sequence import Sequence
from flightsw.gpu.workloads.served import GptEngine, Model

CPU = torch.device("cpu")
CONFIG = PRESETS["micro"].model
ROWS = 2
REQUESTS = (
    Generate(request=0, prompt="orbit", max_tokens=9, temperature=0.8, top_k=0, seed=5),
    Generate(request=1, prompt="a", max_tokens=6, temperature=0.0, top_k=0, seed=0),
    Generate(request=2, prompt="over the context " * 3, max_tokens=12, temperature=1.2, top_k=9, seed=7),
)
TURNS_MAX = 3000
NUMBERS = itertools.count(1)


def sharp_gpt() -> GPT:
    torch.manual_seed(7)
    model = GPT(CONFIG).eval()
    with torch.no_grad():  # Fresh weights are nearly uniform; sharper ones make damage visible.
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model


class Shelf:
    """A source of the same model, always fresh from a state that no injection reaches."""

    def __init__(self) -> None:
        self.state = {name: tensor.clone() for name, tensor in sharp_gpt().state_dict().items()}
        self.next: list[Model] = []
        self.gone = False

    def first(self) -> Model | None:
        return None if self.gone else self.model(1)

    def again(self) -> Model | None:
        return self.first()

    def newer(self) -> Model | None:
        return self.next.pop() if self.next else None

    def model(self, generation: int) -> Model:
        module = GPT(CONFIG)
        module.load_state_dict(self.state)
        return Model(GptEngine(module, ROWS, CPU), generation, generation, lambda: self.flaw(module))

    def flaw(self, module: GPT) -> str:
        good = all(torch.equal(tensor, self.state[name]) for name, tensor in module.state_dict().items())
        return "" if good else "weights differ from the shelf's"

    def close(self) -> None:
        pass


@dataclass
class Bench:
    """A server on a real job; ``replies`` by request, ``turn`` once."""

    level: str
    shelf: Shelf = field(default_factory=Shelf)

    def __post_init__(self) -> None:
        self.requests: list[Generate] = []
        self.sent: list[object] = []
        self.job = Job(self.sent.append, Pacer(1.0), Meter())
        self.server = Server(InferSpec(batch_max=ROWS, integrity=self.level), self.job, self.shelf)
        self.server.begin(CPU)

    @property
    def engine(self) -> GptEngine:
        return self.server.model.engine

    @property
    def replies(self) -> dict[int, Reply]:
        found = [message for message in self.sent if isinstance(message, Reply)]
        assert len({reply.request for reply in found}) == len(found), "one reply per request"
        return {reply.request: reply for reply in found}

    @property
    def answers(self) -> list[Reply]:
        """Replies in the order of ``REQUESTS``."""
        return [self.replies[one.request] for one in self.requests]

    @property
    def report(self) -> IntegrityReport:
        """Totals at the end."""
        self.server.fail_all("the end")
        return [message for message in self.sent if isinstance(message, IntegrityReport)][-1]

    def sequences(self) -> list[Sequence]:
        """Whatever is on its way, running or held, and has tokens."""
        return [one for one in self.server.sequences if one.generated]

    def serve(self, at: Callable[[int], bool] = lambda turn: False, hit: Callable[[], bool] = bool) -> bool:
        """All requests to their replies; ``hit`` once, at the first turn that ``at`` accepts and where it can."""
        # Numbers of their own: one bench serves many rounds.
        self.requests = [msgspec.structs.replace(one, request=next(NUMBERS)) for one in REQUESTS]
        self.sent.clear()
        for one in self.requests:
            self.job.post(one)
        done = False
        for turn in range(TURNS_MAX):
            if len(self.replies) == len(REQUESTS):
                return done
            self.server.turn()
            if not done and at(turn):
                done = hit()
        raise AssertionError(f"never; sent {self.sent}")


def without_waiting(patch: pytest.MonkeyPatch) -> None:
    """An idle server does not sleep, and looks for a newer model in each turn."""
    patch.setattr(model_at_hand, "POLL_S", 0.0)
    patch.setattr(infer, "IDLE_S", 0.0)


@functools.cache
def undisturbed() -> tuple[str, ...]:
    """Texts that answer ``REQUESTS``."""
    bench = Bench("off")
    bench.serve()
    return tuple(reply.text for reply in bench.answers)
