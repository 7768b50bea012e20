"""Continuous batching: an answer does not depend on its batch mates, and the window rule is what is written."""

from collections import Counter
from math import inf, nan

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flightsw.gpu.protocol import Generate
from flightsw.gpu.workloads import seal
from flightsw.gpu.workloads.draws import TEMPERATURE_MIN, Draw, agreed, picks
from flightsw.gpu.workloads.generation import REQUEST_TOKENS_MAX, Batch, refusal
from flightsw.gpu.workloads.gpt import GPT, PRESETS, GPTConfig
from flightsw.gpu.workloads.sequence import FILL_TOKENS_MAX, uniform
from flightsw.gpu.workloads.served import GptEngine

CPU = torch.device("cpu")


def request(number: int, prompt: str = "satellite", **changes: object) -> Generate:
    values = {"max_tokens": 20, "temperature": 0.9, "top_k": 0, "seed": 100 + number} | changes
    return Generate(request=number, prompt=prompt, **values)


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(7)
    model = GPT(PRESETS["micro"].model).eval()
    with torch.no_grad():  # Fresh weights are nearly uniform; sharper ones make a wrong cache visible.
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model


def finished(batch: Batch, requests: list[Generate], stagger: int = 1) -> dict[int, tuple[str, list[int]]]:
    """Run them all, admitting one every ``stagger`` micro-batches while rows are free."""
    waiting, done, turn = list(requests), {}, 0
    while waiting or batch.running:
        if waiting and batch.free and turn % stagger == 0:
            batch.admit(waiting.pop(0), arrived_s=0.0)
        drawn, sequences = batch.advance()
        assert 0 <= drawn <= batch.running + len(sequences)
        done |= {s.request.request: (s.finish, s.generated) for s in sequences}
        turn += 1
    return done


REQUESTS = [
    request(0),
    request(1, "a", max_tokens=1),
    request(2, "over the context " * 9, max_tokens=50),
    request(3, "greedy", temperature=0.0, max_tokens=33),
    request(4, "x" * 32, top_k=5, max_tokens=70),
    request(5, "y" * 31, top_k=1),
    request(6, "größer als ASCII", temperature=2.0),
]


@pytest.mark.parametrize(("rows", "stagger"), [(1, 1), (3, 1), (8, 1), (8, 4)])
def test_batched_equals_alone(model: GPT, rows: int, stagger: int) -> None:
    alone = {one.request: finished(Batch(GptEngine(model, 1, CPU), 1), [one])[one.request] for one in REQUESTS}
    assert finished(Batch(GptEngine(model, rows, CPU), rows), REQUESTS, stagger) == alone
    assert {number: len(tokens) for number, (_, tokens) in alone.items()} == {
        one.request: one.max_tokens for one in REQUESTS
    }


def test_same_seed_same_text_other_seed_other_text(model: GPT) -> None:
    batch = Batch(GptEngine(model, 4, CPU), 4)
    done = finished(batch, [request(0, seed=1), request(1, seed=1), request(2, seed=2)])
    assert done[0] == done[1]
    assert done[0] != done[2]


@pytest.mark.parametrize("prompt", ["a", "b" * 31, "c" * 32, "d" * 33, "e" * 200])
def test_greedy_follows_the_uncached_model_through_window_restarts(model: GPT, prompt: str) -> None:
    context = model.config.context
    window = list(prompt.encode())
    window = window if len(window) <= context else window[-(context // 2) :]
    expected = []
    with torch.inference_mode():
        for _ in range(80):
            token = int(model(torch.tensor([window]))[0][0, -1].argmax())
            expected.append(token)
            window.append(token)
            if len(window) > context:
                window = window[-(context // 2) :]
    one = request(0, prompt, temperature=0.0, max_tokens=80)
    assert finished(Batch(GptEngine(model, 2, CPU), 2), [one])[0] == ("length", expected)


def test_a_row_leaves_nothing_to_its_next_owner(model: GPT) -> None:
    engine = GptEngine(model, 2, CPU)
    for store in engine.cache.values:
        store[0].fill_(nan)
    engine.release(0)
    # The longer mate makes the pass read slots of row 0 that its new owner has not written.
    assert engine.fill([0, 1], [0, 0], [[1, 2], [3] * 20]).isfinite().all()


def test_long_prompts_are_fed_in_bounded_chunks() -> None:
    config = GPTConfig(layers=1, heads=1, width=8, context=4 * FILL_TOKENS_MAX)
    engine = GptEngine(GPT(config), 1, CPU)
    batch = Batch(engine, 1)
    batch.admit(request(0, "p" * (3 * FILL_TOKENS_MAX), max_tokens=2), arrived_s=0.0)
    drawn = [batch.advance()[0] for _ in range(4)]
    assert drawn == [0, 0, 1, 1]


# --- seals over host memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 4096])
def test_random_numbers_again_are_those_that_were_drawn(count: int) -> None:
    generator = torch.Generator().manual_seed(11)
    drawn = [uniform(0.5, generator) for _ in range(count)]
    assert seal.uniforms(11, count) == drawn
    assert uniform(0.0, generator) is None, "the likeliest token needs none"


def test_a_seal_does_not_mind_how_tokens_are_cut() -> None:
    tokens = [3, 0, 255, 262_143, 7]
    whole = seal.grown(seal.EMPTY, tokens)
    for cut in range(len(tokens) + 1):
        assert seal.grown(seal.grown(seal.EMPTY, tokens[:cut]), tokens[cut:]) == whole
    assert seal.grown(seal.EMPTY, tokens[::-1]) != whole


HURT = {
    "nothing": (lambda sequence: None, ""),
    "a token of the answer": (lambda s: s.generated.__setitem__(1, s.generated[1] ^ 4), "tokens of the answer"),
    "a token left out": (lambda s: s.generated.pop(), "tokens of the answer"),
    "a token of the window": (lambda s: s.window.__setitem__(2, s.window[2] ^ 4), "on their way to the model"),
    "how much was fed": (lambda s: setattr(s, "fed", s.fed - 1), "on their way to the model"),
    "the generator, and a draw": (
        lambda s: (s.generator.manual_seed(1), s.number(1)),
        "the random generator",
    ),
    "the request": (
        lambda s: setattr(s, "request", msgspec.structs.replace(s.request, temperature=0.8)),
        "the request itself",
    ),
}


@pytest.mark.parametrize("name", HURT)
@pytest.mark.parametrize("tokens", [5, 40], ids=["first window", "after a restart"])
def test_flaws_of_host_memory_are_named(model: GPT, name: str, tokens: int) -> None:
    hurt, named = HURT[name]
    engine = GptEngine(model, 1, CPU)
    batch = Batch(engine, 1)
    one = request(0, max_tokens=99)
    batch.admit(one, arrived_s=0.0)
    (sequence,) = batch.sequences
    while len(sequence.generated) < tokens:
        batch.advance()
    hurt(sequence)
    flaw = sequence.flaw(engine.encode(one.prompt))
    assert named in flaw
    assert bool(named) == bool(flaw)


class Scripted:
    """An engine whose logits are given: row → list of rows of logits."""

    context, fill_rows_max, stop_tokens = 16, 8, frozenset({3})

    def __init__(self, script: dict[int, list[list[float]]]) -> None:
        self.script = script
        self.released: list[int] = []

    def encode(self, text: str) -> list[int]:
        return [0]

    def text(self, tokens) -> str:
        return ",".join(map(str, tokens))

    def fill(self, rows, starts, chunks):
        return torch.tensor([self.script[row].pop(0) for row in rows])

    def step(self, rows, positions, tokens):
        return self.fill(rows, positions, tokens)

    def undo(self) -> None:
        raise AssertionError("nobody watches")

    def release(self, row: int) -> None:
        self.released.append(row)


def test_an_answer_with_non_finite_logits_is_not_released() -> None:
    good, bad, infinite = [0.0, 9.0, 0.0, 0.0], [0.0, nan, 0.0, 0.0], [0.0, inf, 0.0, 0.0]
    batch = Batch(Scripted({0: [good, bad], 1: [good, good], 2: [infinite]}), 3)
    done = finished(batch, [request(n, temperature=0.0, max_tokens=2) for n in range(3)], stagger=1)
    assert {number: finish for number, (finish, _) in done.items()} == {0: "failed", 1: "length", 2: "failed"}


def test_stop_token_ends_and_is_no_part_of_the_answer() -> None:
    one, stop = [0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]
    engine = Scripted({0: [one, one, stop]})
    batch = Batch(engine, 1)
    assert finished(batch, [request(0, temperature=0.0, max_tokens=9)]) == {0: ("stop", [1, 1])}
    assert (engine.released, batch.free) == ([0], 1)


def pick(logits: np.ndarray, temperature: float, top_k: int, number: float) -> int:
    (token,) = picks(logits[None], [Draw(temperature, top_k, number)])
    return token


def plainly(logits: np.ndarray, draw: Draw) -> int:
    """One row, by what the draw means: sort, sum up, look the number up."""
    if draw.temperature <= 0.0:
        return int(np.argmax(logits))
    places = np.arange(logits.size)
    if 0 < draw.top_k < logits.size:
        places = np.argsort(-logits, kind="stable")[: draw.top_k]
    values = logits[places].astype(np.float64)
    weights = np.cumsum(np.exp((values - values.max()) / max(draw.temperature, TEMPERATURE_MIN)))
    return int(places[min(np.searchsorted(weights, draw.number * weights[-1], side="right"), len(places) - 1)])


NUMBERS = st.floats(0.0, 1.0)
DRAWS = st.builds(
    Draw,
    st.sampled_from([0.0, 5e-324, 1e-3, 0.5, 0.8, 1.0, 1.3, 50.0]),
    st.sampled_from([0, 1, 2, 5, 40, 999]),
    NUMBERS,
)


@given(
    st.lists(DRAWS, min_size=1, max_size=20),
    st.sampled_from([2, 5, 31, 256, 1000]),
    st.integers(0, 2**32),
    st.data(),
)
def test_rows_drawn_together_are_drawn_as_each_alone(
    draws: list[Draw], size: int, seed: int, data: st.DataObject
) -> None:
    """Logits of all magnitudes, some of them equal."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(draws), size)).astype(np.float32) * 10.0 ** rng.integers(-3, 3)
    if data.draw(st.booleans(), label="ties"):
        logits = np.round(logits)
    expected = [plainly(row, draw) for row, draw in zip(logits, draws, strict=True)]
    assert picks(logits, draws) == expected


def test_draw_follows_the_distribution() -> None:
    logits = torch.tensor([1.0, 2.0, 0.0, -inf, 1.5])
    generator = torch.Generator().manual_seed(3)
    count = 5_000
    for temperature, top_k in ((1.0, 0), (0.5, 0), (1.3, 3)):
        kept = logits if not top_k else torch.where(logits >= logits.topk(top_k).values[-1], logits, -inf)
        expected = torch.softmax(kept.double() / temperature, 0)
        drawn = Counter(
            pick(
                logits.numpy(), temperature, top_k, float(torch.rand((), dtype=torch.float64, generator=generator))
            )
            for _ in range(count)
        )
        for token, share in enumerate(expected.tolist()):
            # Five standard deviations of a binomial share.
            assert abs(drawn[token] / count - share) <= 5 * (share * (1 - share) / count) ** 0.5


@pytest.mark.parametrize(
    ("temperature", "top_k"), [(0.0, 0), (0.0, 2), (1e-300, 0), (5e-324, 0), (2.0, 1)], ids=str
)
def test_draw_is_the_likeliest(temperature: float, top_k: int) -> None:
    logits = np.array([0.0, 3.0, 2.9], np.float32)
    assert {pick(logits, temperature, top_k, number / 50) for number in range(50)} == {1}


def test_of_equal_logits_at_the_edge_the_earlier_belong() -> None:
    logits = np.array([1.0, 2.0, 1.0, 1.0, 2.0], np.float32)
    assert {pick(logits, 1.0, 3, number / 100) for number in range(100)} == {0, 1, 4}


@pytest.mark.parametrize(
    ("runs", "expected"),
    [([5, 5], (5, 2)), ([5, 6, 5], (5, 3)), ([6, 5, 5], (5, 3)), ([4, 5, 6], (None, 3))],
    ids=str,
)
def test_a_choice_is_what_two_runs_agree_on(runs: list[int], expected: tuple[int | None, int]) -> None:
    made = iter(runs)
    assert agreed(lambda: next(made)) == expected
    assert list(made) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": REQUEST_TOKENS_MAX + 1}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": nan}, "temperature"),
        ({"temperature": inf}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({}, ""),
    ],
    ids=str,
)
def test_refusals_name_the_argument(changes: dict[str, object], named: str) -> None:
    reason = refusal(request(0, **changes))
    assert reason.startswith(named)
    assert bool(reason) == bool(named)
