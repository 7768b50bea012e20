"""Damage while answers are computed: every reply is the undisturbed answer or says that it failed.

Each injection serves a handful of requests on a fresh server over a sharp little model, hits one target once at a
moment drawn from the seed, and holds every reply against the undisturbed twin's. The same faults with the gate off
must let wrong answers out, or the tests would prove nothing.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity.levels import LEVELS
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import Generate, InferSpec, IntegrityReport, Reply, Swapped, Vigilance
from flightsw.gpu.workloads import draws, generation, infer, model_at_hand, model_watch, release
from flightsw.gpu.workloads.gpt import GPT, PRESETS
from flightsw.gpu.workloads.infer import Server
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.model_watch import ModelWatch
from flightsw.gpu.workloads.release import PATIENCE, Patience
from flightsw.gpu.workloads.sequence import Sequence
from flightsw.gpu.workloads.served import GptEngine, Model
from flightsw.link.integrity import Level

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


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_at_hand, "POLL_S", 0.0)
    monkeypatch.setattr(infer, "IDLE_S", 0.0)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    bench = Bench("off")
    bench.serve()
    return [reply.text for reply in bench.answers]


# --- faults ------------------------------------------------------------------------------------------------------


def words_of(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's memory as 32-bit words; writing there moves no version of it."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).view(torch.int32)


def mask(rng: random.Random) -> int:
    """High bits mostly, so that answers move; single, several, or all of a word."""
    shape = rng.choice(("single", "several", "byte"))
    if shape == "single":
        return 1 << rng.choice((22, 23, 24, 25, 26, 27, 28, 29, 30, 31))
    if shape == "several":
        return rng.getrandbits(32) | 1 << 27
    return 0xFF << rng.choice((16, 24))


def signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def hit_weight(bench: Bench, rng: random.Random, words: int = 1) -> bool:
    weight = rng.choice([one for one in bench.engine.module.parameters() if one.dim() > 1]).detach()
    # The last rows of the position table are not read by these short answers; the rest is.
    first = rng.randrange(weight.numel() // 2)
    for place in range(first, first + words):
        words_of(weight)[place] ^= signed(mask(rng))
    return True


def hit_weights(bench: Bench, rng: random.Random) -> bool:
    return hit_weight(bench, rng, words=3)


def hit_cache(bench: Bench, rng: random.Random) -> bool:
    """One word, the signs of a head in one slot, or the signs of a whole row in one layer."""
    running = [one for one in bench.sequences() if not one.finish and one.fed]
    if len(running) < ROWS:
        return False
    cache = bench.engine.cache
    store = rng.choice((cache.keys, cache.values))[rng.randrange(CONFIG.layers)]
    row, head, slot = (
        rng.randrange(ROWS),
        rng.randrange(CONFIG.heads),
        rng.randrange(min(one.fed for one in running)),
    )
    words = words_of(store).view(store.shape)[row]
    match rng.choice(("word", "head", "row")):
        case "word":
            words[head, slot, rng.randrange(store.shape[3])] ^= signed(mask(rng))
        case "head":
            words[head, slot] ^= -(1 << 31)
        case _:
            words[:, : slot + 1] ^= -(1 << 31)
    return True


def hit_tokens(bench: Bench, rng: random.Random) -> bool:
    sequences = bench.sequences()
    if not sequences:
        return False
    tokens = rng.choice(sequences).generated
    tokens[rng.randrange(len(tokens))] ^= 1 << rng.randrange(8)
    return True


def hit_window(bench: Bench, rng: random.Random) -> bool:
    """The token that is fed next."""
    running = [one for one in bench.sequences() if not one.finish]
    if not running:
        return False
    rng.choice(running).window[-1] ^= 1 << rng.randrange(8)
    return True


def hit_generator(bench: Bench, rng: random.Random) -> bool:
    running = [one for one in bench.sequences() if not one.finish and one.request.temperature]
    if not running:
        return False
    generator = rng.choice(running).generator
    state = generator.get_state()
    # The Mersenne Twister's words lie behind a head of 24 bytes, eight bytes each; the low four hold the value.
    for word in range(624):
        state[24 + 8 * word + 3] ^= 1 << rng.randrange(8)
    generator.set_state(state)
    return True


RESIDENT = {
    "weight": hit_weight,
    "weights": hit_weights,
    "cache": hit_cache,
    "tokens": hit_tokens,
    "window": hit_window,
    "generator": hit_generator,
}


class Arithmetic(TorchDispatchMode):
    """Hits the raw result of the n-th operation that matches, once, below whatever guards it."""

    def __init__(self, matches: Callable[[str, torch.Tensor], bool], count: int, rng: random.Random) -> None:
        super().__init__()
        self.matches, self.left, self.rng = matches, count, rng
        self.fired = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        one = result[0] if isinstance(result, tuple) and result else result
        if not self.fired and isinstance(one, torch.Tensor) and self.matches(func._schema.name, one):
            self.left -= 1
            if self.left < 0:
                self.fired = True
                self.hit(one)
        return result

    def hit(self, result: torch.Tensor) -> None:
        words = words_of(result)
        if result.dtype is torch.int64:
            words[2 * self.rng.randrange(len(words) // 2)] ^= 1 << self.rng.randrange(6)  # A byte stays one.
        else:
            for place in [self.rng.randrange(len(words)) for _ in range(self.rng.choice((1, 4)))]:
                words[place] ^= signed(mask(self.rng))


PRODUCTS = ("aten::linear", "aten::mm", "aten::addmm", "aten::bmm")
OTHERS = ("aten::gelu", "aten::native_layer_norm", "aten::layer_norm", "aten::add", "aten::embedding")
LAST = ("aten::index", "aten::select")  # Of a chunk, of a decode step.
OPERATIONS: dict[str, Callable[[str, torch.Tensor], bool]] = {
    "products": lambda name, result: name in PRODUCTS and result.numel() > 0,
    "activations": lambda name, result: name.startswith((*OTHERS, "aten::_scaled_dot_product", "aten::scaled")),
    "logits": lambda name, result: name in LAST and result.shape[-1:] == (CONFIG.vocabulary,),
}

PLACES = {"products": 90, "activations": 90, "logits": 15, "draws": 25}
"""Matching operations of which one is hit; a round has at least as many."""


def draw_hit(bench: Bench, rng: random.Random) -> bool:
    """Serve once while one draw gives another token; whether it fired."""
    left = rng.randrange(PLACES["draws"])

    def struck(*arguments: Any) -> list[int]:
        nonlocal left
        tokens = draws.picks(*arguments)
        if 0 <= left < len(tokens):
            tokens[left] ^= 1 << rng.randrange(6)
        left -= len(tokens)
        return tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "picks", struck)
        bench.serve()
    return left < 0


def hits_of(target: str, bench: Bench, rng: random.Random) -> bool:
    """Serve once while one injection of ``target`` happens; whether it fired."""
    if target in RESIDENT:
        turn = rng.randrange(2, 7)
        return bench.serve(lambda now: now >= turn, lambda: RESIDENT[target](bench, rng))
    if target == "draws":
        return draw_hit(bench, rng)
    with Arithmetic(OPERATIONS[target], rng.randrange(PLACES[target]), rng) as mode:
        bench.serve()
    return mode.fired


def outcomes(target: str, level: str, count: int, expected: list[str], tainted_max: int = 0) -> Counter[str]:
    """What came out of ``count`` injections into one server: replies that are right, failed, tainted.

    With ``tainted_max`` that many tainted ones are enough.
    """
    found: Counter[str] = Counter()
    bench = Bench(level)
    for seed in range(count):
        rng = random.Random(f"{target} {seed}")
        if level == "off":  # Damage stays in its weights; give each injection a model of its own.
            bench = Bench(level)
        found["fired"] += hits_of(target, bench, rng)
        for reply, text in zip(bench.answers, expected, strict=True):
            failed = reply.finish == "failed"
            found["failed" if failed else "right" if reply.text == text else "tainted"] += 1
        if 0 < tainted_max <= found["tainted"]:
            break
    report = bench.report
    found["detected"] = report.detected
    assert report.open == 0, "the server sees to everything itself"
    return found


TARGETS = (*RESIDENT, *OPERATIONS, "draws")


def expected_level(target: str) -> str:
    return "standard" if target in RESIDENT else "storm"


@pytest.mark.parametrize("target", TARGETS)
def test_no_tainted_answer_is_released(target: str, expected: list[str]) -> None:
    count = 40 if target in RESIDENT else 16  # 304 in all; thousands are the campaign's.
    found = outcomes(target, expected_level(target), count, expected)
    assert found["tainted"] == 0, found
    assert found["fired"] >= count - 4, found
    assert found["right"] == len(REQUESTS) * count, f"one hit is mended, and the answer is right: {found}"
    assert found["detected"] >= (count // 2 if target in RESIDENT else 4), found


@pytest.mark.parametrize("target", TARGETS)
def test_with_the_gate_off_wrong_answers_get_out(target: str, expected: list[str]) -> None:
    found = outcomes(target, "off", 12, expected, tainted_max=2)
    assert found["tainted"] >= 2, found


MUTANTS = {
    "released before the weights were looked at": ("weight", ModelWatch, "clean_since", lambda watch, mark: True),
    "row not verified": ("cache", ModelWatch, "row", lambda watch, row, length: ""),
    "host memory not sealed": ("generator", Sequence, "flaw", lambda sequence, prompt: ""),
    "any run will do": ("products", model_watch, "_agreed", lambda runs, wanted: True),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_gate_with_a_hole_lets_wrong_answers_out(
    name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, owner, attribute, hole = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, hole)
    assert outcomes(target, expected_level(target), 10, expected, tainted_max=1)["tainted"] > 0


# --- ends and changes --------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held answers wait for ever while there is other work, and scrubbing gets nowhere by itself."""
    for level in Level:
        monkeypatch.setitem(PATIENCE, level, Patience(wait_s=1e9, share=1.0))
        monkeypatch.setitem(LEVELS, level, msgspec.structs.replace(LEVELS[level], scrub_share=0.0))


LONG = Generate(request=0, prompt="long", max_tokens=100, temperature=0.8, top_k=0, seed=3)


def with_one_held(level: str = "standard") -> Bench:
    """A long answer runs, a short one is held."""
    bench = Bench(level)
    bench.job.post(LONG)
    bench.job.post(msgspec.structs.replace(REQUESTS[1], request=1))
    for _ in range(TURNS_MAX):
        if any(one.finish for one in bench.server.sequences):
            return bench
        bench.server.turn()
    raise AssertionError("never held")


def turns(bench: Bench, until: Callable[[], bool]) -> None:
    for _ in range(TURNS_MAX):
        if until():
            return
        bench.server.turn()
    raise AssertionError(f"never; sent {bench.sent}")


@pytest.mark.usefixtures("patient")
def test_a_held_answer_is_failed_at_the_end_not_released() -> None:
    bench = with_one_held()
    assert bench.replies == {}
    bench.server.fail_all("the job was stopped")
    assert {number: (reply.finish, reply.text, reply.tokens) for number, reply in bench.replies.items()} == {
        0: ("failed", "the job was stopped", 0),
        1: ("failed", "the job was stopped", 0),
    }
    assert bench.job.progress.pending == 0


@pytest.mark.usefixtures("patient")
def test_a_swap_waits_for_held_answers_and_hurries_them(expected: list[str]) -> None:
    bench = with_one_held()
    bench.shelf.next.append(bench.shelf.model(2))
    turns(bench, lambda: any(isinstance(message, Swapped) for message in bench.sent))
    kinds = [type(message) for message in bench.sent if isinstance(message, Reply | Swapped)]
    assert kinds == [Reply, Reply, Swapped]
    assert {reply.generation for reply in bench.replies.values()} == {1}
    assert bench.replies[1].text == expected[1]


@pytest.mark.usefixtures("patient")
def test_a_full_gate_hurries_the_pass(monkeypatch: pytest.MonkeyPatch, expected: list[str]) -> None:
    monkeypatch.setattr(release, "HELD_MAX", 1)
    bench = with_one_held()
    turns(bench, lambda: 1 in bench.replies)
    assert bench.replies[1].text == expected[1]
    assert 0 not in bench.replies, "the long one runs on"


def test_a_rise_from_off_starts_anew_and_finds_old_damage(expected: list[str]) -> None:
    bench = Bench("off")
    raised = Vigilance(level="storm")

    def rise() -> bool:
        assert hit_weight(bench, random.Random(1))
        bench.job.post(raised)
        return True

    assert bench.serve(lambda turn: turn == 5, rise)
    assert [reply.text for reply in bench.answers] == expected
    report = bench.report
    assert (report.level, report.repaired, report.recomputed) == ("storm", 1, 0), "disowned, not damaged"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("words", "repaired"), [(1, 1), (3, 0)], ids=["repaired", "loaded again"])
def test_a_fall_to_off_still_passes_what_is_held(expected: list[str], words: int, repaired: int) -> None:
    bench = with_one_held()
    damaged = bench.engine
    assert hit_weight(bench, random.Random(2), words)
    bench.job.post(Vigilance(level="off"))
    turns(bench, lambda: len(bench.replies) == 2)
    assert bench.replies[1].text == expected[1], "damage of before the fall is found by the last pass"
    assert (bench.engine is damaged) == bool(repaired)
    assert bench.report.repaired == repaired


def test_damage_twice_is_a_failure_that_says_why() -> None:
    bench = Bench("standard")
    hits = [0]

    def hit() -> bool:
        if bench.sequences():
            hit_weight(bench, random.Random(hits[0]))
            hits[0] += 1
        return False

    bench.serve(lambda turn: True, hit)
    assert hits[0] > 2
    for reply in bench.answers:
        assert (reply.finish, reply.tokens) == ("failed", 0)
        assert reply.text.endswith("no answer is released")
        assert "before that: " in reply.text
    assert bench.report.contained >= len(REQUESTS)


def test_without_a_source_to_load_from_requests_wait_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "MODEL_WAIT_MAX_S", 0.0)
    bench = Bench("standard")
    bench.shelf.gone = True
    assert bench.serve(lambda turn: turn > 2, lambda: hit_weights(bench, random.Random(3)))
    assert {reply.finish for reply in bench.answers} == {"failed"}
    assert all("no verified checkpoint" in reply.text for reply in bench.answers)


def test_a_model_that_never_loads_right_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "flaw", lambda shelf, module: "norm.weight in memory is not what was saved")
    with pytest.raises(JobFault, match="loaded 3 times and never as its source has it: norm") as caught:
        Bench("standard")
    assert caught.value.code == "memory"


def test_a_request_that_changes_while_it_waits_is_refused() -> None:
    bench = Bench("standard")
    one = msgspec.structs.replace(REQUESTS[0], request=1)
    bench.job.post(one)
    bench.server.turn()
    msgspec.structs.force_setattr(one, "seed", 6)
    turns(bench, lambda: bool(bench.replies))
    assert bench.replies[1].text == "the request itself changed in host memory; send it again"


def test_a_sound_run_reports_checks_and_no_finding(expected: list[str]) -> None:
    for level in ("off", "watch", "standard", "storm"):
        bench = Bench(level)
        bench.serve()
        assert [reply.text for reply in bench.answers] == expected, "a level changes no answer"
        report = bench.report
        assert (report.level, report.detected, report.checks > 0) == (level, 0, level != "off")
