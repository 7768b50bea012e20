"""Faults in a server of ``serving_rig``: in what it keeps, in its arithmetic, in its draws; one a round."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.workloads import draws, generation
from tests.gpu.serving_rig import CONFIG, ROWS, Bench


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


def outcomes(target: str, level: str, count: int, expected: Sequence[str], tainted_max: int = 0) -> Counter[str]:
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
