"""Operations that a model hands over: what is told is what would have been seen, and is looked at as hard."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flightsw.gpu.integrity import kernels, operations, tape
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.kv_caches import gpt_rows
from flightsw.gpu.integrity.operations import Cover
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.integrity.told import OPERATIONS
from flightsw.gpu.workloads.gpt import GPT, PADDING, Cache, GPTConfig
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import LARGEST, Struck, flip

pytestmark = pytest.mark.skipif(
    kernels.native(torch.device("cpu"), "native_table") is None, reason="the tape needs Numba (extra native)"
)

CONFIG = GPTConfig(layers=2, heads=3, width=48, context=40)
ROWS = 3
Pass = tuple[list[list[int]], list[list[int]], list[int] | None]
"""Tokens, positions, rows."""
FIRST: Pass = ([[3]] * ROWS, [[0]] * ROWS, None)
PASSES: dict[str, list[Pass]] = {
    "steps": [([[token]] * ROWS, [[at]] * ROWS, None) for at, token in enumerate((3, 1, 4, 1, 5))],
    "chunks": [
        ([[2, 7, 1], [8, 2, 8], [1, 8, 2]], [[0, 1, 2]] * ROWS, None),
        ([[8, 4], [5, 9], [0, 4]], [[3, 4], [3, PADDING], [3, 4]], None),
    ],
    "some rows": [([[1], [2]], [[0], [0]], [2, 0]), ([[3, 6], [4, 7]], [[1, 2], [1, 2]], [2, 0])],
}


class Served:
    """A model with a watched cache, guarded or not; a first pass, which is followed layer by layer, is over."""

    def __init__(self, *, guarded: bool = True, left: bool = True) -> None:
        torch.manual_seed(5)
        self.model = GPT(CONFIG).eval().requires_grad_(False)
        self.cache = Cache(CONFIG, ROWS)
        self.findings: list[Finding] = []
        self.guard = protect(self.model, level=Level.STORM, report=self.findings.append) if guarded else None
        if self.guard is not None:
            self.rows = gpt_rows(self.cache, self.findings.append)
            assert self.rows.log is not None
            self.guard.mode.hand_over(self.rows.log)
            if left:
                self.guard.mode.leave((*self.cache.keys, *self.cache.values))
        self.lengths = [0] * ROWS
        self.run([FIRST])

    def feed(self, name: str, *after: TorchDispatchMode) -> list[torch.Tensor]:
        """Logits of the passes of that name, with modes entered after the guard's own."""
        return self.run(PASSES[name], *after)

    def run(self, passes: list[Pass], *after: TorchDispatchMode) -> list[torch.Tensor]:
        """Logits of some passes."""
        logits = []
        for tokens, positions, rows in passes:
            for row, places in zip(rows or range(ROWS), positions, strict=True):
                self.lengths[row] = max(places) + 1 if PADDING not in places else places.index(PADDING) + places[0]
            with torch.inference_mode(), self.guard.running() if self.guard else nullcontext():
                for mode in after:
                    mode.__enter__()
                logits.append(self.model.forward_cached(tokens, self.cache, positions, rows))
                for mode in reversed(after):
                    mode.__exit__(None, None, None)
        return logits

    def counts(self, work: Callable[[], Any]) -> Counter[Any]:
        """Operations that are no views, as the guard has counted them."""
        assert self.guard is not None
        before = self.guard.mode.seen
        work()
        found: Counter[Any] = Counter()
        for (func, cover, _), count in (self.guard.mode.seen - before).items():
            if cover not in (Cover.VIEW, Cover.GIVEN):
                found[func] += count
        return found

    def sound(self) -> bool:
        """Whether all may be used: passes, and rows of the cache."""
        assert self.guard is not None
        settled = self.guard.settle()
        return all([settled, *(self.rows.verify(row, length) for row, length in enumerate(self.lengths))])


class Seen(TorchDispatchMode):
    """Counts operations that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Any] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operations.cover_of(func, "cpu", deterministic=False) not in (Cover.VIEW, Cover.GIVEN):
            self.found[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[False, True], ids=["wide window", "narrow window"], autouse=True)
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the narrow one most notes are looked at before the pass ends."""
    if request.param:
        monkeypatch.setattr(tape, "NOTED_BYTES_MAX", 2000)


@contextmanager
def hooked(place: Callable[[], Any]) -> Iterator[None]:
    handle = place()
    try:
        yield
    finally:
        handle.remove()


def nothing(*given: Any) -> None:
    """A hook that changes nothing."""


WAYS: dict[str, Callable[[Served], AbstractContextManager[Any]]] = {
    "told": lambda served: nullcontext(),
    "a module with a hook": lambda served: hooked(
        lambda: served.model.blocks[1].attention.qkv.register_forward_hook(nothing)  # type: ignore[union-attr]
    ),
    "a hook on all modules": lambda served: hooked(lambda: nn.modules.module.register_module_forward_hook(nothing)),
}


@pytest.mark.parametrize("left", [True, False], ids=["stores left", "stores looked at"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PASSES)
def test_sound_passes_keep_every_bit_and_raise_nothing(name: str, way: str, left: bool) -> None:
    plain, served = Served(guarded=False), Served(left=left)
    with WAYS[way](served):
        got = served.feed(name)
    assert all(torch.equal(one, two) for one, two in zip(got, plain.feed(name), strict=True))
    for one, two in ((served.cache.keys, plain.cache.keys), (served.cache.values, plain.cache.values)):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert served.sound()
    assert served.findings == []


@pytest.mark.parametrize("left", [True, False], ids=["stores left", "stores looked at"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PASSES)
def test_what_is_told_is_all_there_is(name: str, way: str, left: bool) -> None:
    """A mode that is entered after the guard's leaves nothing to be told, and so everything is seen."""
    told, seen = Served(left=left), Served(left=left)
    with WAYS[way](told):
        counted = told.counts(lambda: told.feed(name))
    assert counted == seen.counts(lambda: seen.feed(name, Seen()))
    assert set(counted) >= set(OPERATIONS)


@pytest.mark.parametrize("name", PASSES)
def test_a_mode_below_sees_the_operations_of_an_unguarded_pass(name: str) -> None:
    below: list[Seen] = []
    for served in (Served(), Served(guarded=False)):
        with Seen() as mode:
            served.feed(name)
        below.append(mode)
    guarded, plain = (mode.found for mode in below)
    assert {func: guarded[func] for func in OPERATIONS} == {func: plain[func] for func in OPERATIONS}


def test_operations_are_told_and_do_not_pass_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served()
    assert served.guard is not None
    mode, passed = served.guard.mode, Counter[Any]()
    own = type(mode).__torch_dispatch__

    def counted(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        passed[func] += 1
        return own(self, func, types, args, kwargs)

    monkeypatch.setattr(type(mode), "__torch_dispatch__", counted)
    served.feed("steps")
    assert not passed.keys() & set(OPERATIONS)


NTH = {"embedding": 2, "layer_norm": 5, "linear": 9, "gelu": 2, "add": 5, "scaled_dot_product_attention": 2}
"""Operations of a pass, and how many there are of each."""


@pytest.mark.parametrize("name", ["steps", "chunks"])
@pytest.mark.parametrize("operation", NTH)
def test_a_struck_result_is_found_wherever_it_is(operation: str, name: str) -> None:
    for nth in range(NTH[operation]):
        served = Served()
        with Struck(operation, flip(30, LARGEST), nth) as struck:
            served.feed(name)
        assert struck.fired
        assert not served.sound(), nth


@pytest.mark.parametrize("bit", [0, 20, 31])
@pytest.mark.parametrize("nth", [0, 1])
def test_attention_that_is_hit_after_it_was_logged_taints_the_pass(nth: int, bit: int) -> None:
    """Its next reader sees it through a view."""
    served = Served()
    assert served.guard is not None
    with Struck("reshape", flip(bit, 17), nth) as struck:
        served.feed("steps")
    assert struck.fired
    assert not served.guard.settle()
    assert "transit" in {found.detector for found in served.findings}


@pytest.mark.parametrize("name", ["steps", "chunks"])
def test_numbers_of_the_host_that_are_hit_taint_the_pass(name: str) -> None:
    """Positions and tokens, as all numbers of a pass lie in one piece."""
    for element in (2 * ROWS, 3 * ROWS):
        served = Served()
        assert served.guard is not None
        place = element * len(PASSES[name][0][0][0])
        with Struck("unbind", lambda numbers, place=place: numbers.as_strided((1,), (1,), place).bitwise_xor_(1)):
            served.feed(name)
        assert not served.guard.settle()
        assert "transit" in {found.detector for found in served.findings}


@pytest.mark.parametrize("hit", ["keys", "values"])
def test_what_is_stored_wrong_is_found_before_its_row_is_released(hit: str) -> None:
    served = Served()
    with Struck("index_put_", flip(12, 5), nth=("keys", "values").index(hit)):
        served.feed("steps")
    assert not served.sound()


@pytest.mark.parametrize("by", ["before", "a hook"])
def test_what_was_noted_of_a_cache_is_looked_at_before_it_is_written(by: str) -> None:
    """Somebody else reads the cache in the same pass; a store that follows is no damage."""
    served = Served()
    served.feed("steps")
    assert served.guard is not None

    def read(*given: Any) -> None:
        served.cache.keys[1] + 1.0

    handle = served.model.blocks[0].norm_mlp.register_forward_hook(read) if by == "a hook" else None  # type: ignore[union-attr]
    with torch.inference_mode(), served.guard.running():
        if handle is None:
            read()
        served.model.forward_cached([[7]] * ROWS, served.cache, [[5]] * ROWS)
    if handle is not None:
        handle.remove()
    assert served.guard.settle()
    assert served.findings == []


def test_nothing_is_told_of_what_is_trained_or_of_another_type() -> None:
    served = Served()
    assert served.guard is not None
    weight = served.model.tokens.weight
    asked: dict[str, Any] = {}
    with served.guard.running():
        mode = served.guard.mode
        asked |= {"float32": mode.hands(weight), "float64": mode.hands(weight.double())}
        asked["elsewhere"] = mode.hands(torch.empty(3, 3, device="meta"))
        with torch.autocast("cpu", torch.bfloat16):
            asked["cast"] = mode.hands(weight)
    asked["not running"] = served.guard.mode.hands(weight)
    assert [name for name, hands in asked.items() if hands is not None] == ["float32"]
