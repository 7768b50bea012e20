"""The key-value cache: digests come from what is written, whatever the order, and see what was hit afterwards."""

import contextlib
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.digest import digest
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.kv import Place, Rows
from flightsw.gpu.integrity.kv_caches import gpt_rows, watch
from flightsw.gpu.integrity.kv_slots import Group, Token, laid_out, run_sums, token_sums
from flightsw.gpu.workloads.gpt import GPT, PADDING, Cache, GPTConfig

CONFIG = GPTConfig(layers=2, heads=3, width=30, context=300)
ROWS = 3


@pytest.fixture(params=["native", "plain"], autouse=True)
def form(request):
    """Everything holds with the processor's kernel and without it."""
    if request.param == "native":
        pytest.importorskip("numba")
    with kernels.plain() if request.param == "plain" else contextlib.nullcontext():
        yield


class Served:
    """A small model that writes into a watched cache."""

    def __init__(self, config: GPTConfig = CONFIG, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(1)
        self.model = GPT(config).eval()
        self.cache = Cache(config, ROWS, dtype=dtype)
        self.findings: list[Finding] = []
        self.rows = gpt_rows(self.cache, self.findings.append)
        self.lengths = [0] * ROWS
        self._draw = random.Random(2)

    @torch.inference_mode()
    def feed(self, **counts: int) -> None:
        """So many tokens to each row, by name ``r0`` …; the row that is given fewer is padded."""
        rows = [int(name[1:]) for name in counts]
        longest = max(counts.values())
        positions = [
            [self.lengths[row] + at if at < count else PADDING for at in range(longest)]
            for row, count in zip(rows, counts.values(), strict=True)
        ]
        tokens = torch.tensor([[self._draw.randrange(256) for _ in range(longest)] for _ in rows])
        chosen = None if rows == list(range(ROWS)) else torch.tensor(rows)
        self.model.forward_cached(tokens, self.cache, torch.tensor(positions), chosen)
        for row, count in zip(rows, counts.values(), strict=True):
            self.lengths[row] += count

    def hit(self, store: Tensor, row: int, slot: int, element: int = 0, mask: int = 0x10) -> None:
        """XOR the lowest byte of one element."""
        place = (row * store.stride(0) + slot * store.stride(2) + element) * store.element_size()
        torch.empty(0, dtype=torch.uint8).set_(store.untyped_storage())[place] ^= mask

    def good(self) -> list[bool]:
        return [self.rows.verify(row, self.lengths[row]) for row in range(ROWS)]


def filled(dtype: torch.dtype = torch.float32) -> Served:
    served = Served(dtype=dtype)
    served.feed(r0=40, r1=64, r2=3)
    for _ in range(6):
        served.feed(r0=1, r1=1, r2=1)
    return served


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("heads", [1, 3, 30])
def test_rows_of_any_shape_verify_as_they_were_written(dtype: torch.dtype, heads: int) -> None:
    served = Served(GPTConfig(layers=2, heads=heads, width=30, context=300), dtype)
    assert served.good() == [True] * ROWS
    for counts in ({"r0": 5, "r1": 64, "r2": 1}, {"r1": 60}, {"r2": 64, "r0": 3}, {"r0": 1, "r1": 1, "r2": 1}):
        served.feed(**counts)
        assert served.good() == [True] * ROWS
    for _ in range(4):
        served.feed(r1=40)
    assert served.lengths[1] == 285  # More than one chunk.
    assert served.good() == [True] * ROWS
    assert served.findings == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["keys", "values"])
@pytest.mark.parametrize(("layer", "slot", "element"), [(0, 0, 0), (1, 69, 9), (1, 33, 4)])
def test_a_hit_word_is_put_right_and_the_row_does_not_pass(
    dtype: torch.dtype, kind: str, layer: int, slot: int, element: int
) -> None:
    served = filled(dtype)
    store = getattr(served.cache, kind)[layer]
    before = store.clone()
    served.hit(store, 1, slot, element)
    assert served.good() == [True, False, True]
    assert torch.equal(store, before)
    assert [(found.outcome, found.where) for found in served.findings] == [
        ("repaired", f"{kind} of layer {layer}, row 1, slots 0 to 69")
    ]
    assert served.good() == [True, False, True]
    assert len(served.findings) == 1
    served.lengths[1] = 0
    served.feed(r1=9)
    assert served.good() == [True] * ROWS


def test_a_not_a_number_is_put_right_bit_by_bit() -> None:
    served = filled()
    store = served.cache.keys[0]
    words = torch.empty(0, dtype=torch.int32).set_(store.untyped_storage())
    before = words.clone()
    for value in (0x7F800001, 0x7FC00000, -1, 0):
        words[3 * store.stride(2) + 2] = value
        assert not served.rows.verify(0, served.lengths[0])
        assert torch.equal(words, before)
    assert [found.outcome for found in served.findings] == ["repaired"] * 4


def test_two_hit_words_stay() -> None:
    served = filled()
    for slot in (3, 30):
        served.hit(served.cache.values[1], 0, slot)
    assert served.good() == [False, True, True]
    assert [found.outcome for found in served.findings] == ["open"]
    assert served.rows.hits == 1


def test_what_is_in_no_row_does_not_matter() -> None:
    served = filled()
    for slot in (served.lengths[0], CONFIG.context):
        served.hit(served.cache.keys[0], 0, slot)
    assert served.good() == [True] * ROWS


def test_a_hit_between_two_passes_is_seen_after_more_was_written() -> None:
    served = filled()
    served.hit(served.cache.keys[1], 2, 4)
    served.feed(r0=1, r1=1, r2=1)
    assert served.good() == [True, True, False]


def test_a_pass_that_is_run_again_counts_once() -> None:
    served = filled()
    for counts in ({"r0": 1, "r1": 1, "r2": 1}, {"r0": 7}, {"r1": 2, "r2": 9}):
        lengths = list(served.lengths)
        for _ in range(3):
            served.lengths = list(lengths)
            served.feed(**counts)
        assert served.good() == [True] * ROWS
    served.lengths[2] = 0
    for _ in range(2):
        served.lengths[2] = 0
        served.feed(r2=5)
    assert served.good() == [True] * ROWS
    served.hit(served.cache.keys[0], 2, 4)
    assert served.good() == [True, True, False]


def write_a_gap(served: Served) -> None:
    served.lengths[1] += 1
    served.feed(r1=1)


def go_back(served: Served) -> None:
    served.lengths[1] -= 3
    served.feed(r1=1)


def look_away(served: Served) -> None:
    served.rows.watching = False
    served.feed(r1=1)
    served.rows.watching = True
    served.feed(r1=1)


def break_off(served: Served) -> None:
    served.rows.begin([1], [[served.lengths[1]]])
    served.feed(r0=1)


@pytest.mark.parametrize("step", [write_a_gap, go_back, look_away, break_off])
def test_what_was_not_seen_in_order_is_unknown_until_the_row_starts_anew(step: Callable[[Served], None]) -> None:
    served = filled()
    step(served)
    assert served.good() == [True, False, True]
    assert [found.outcome for found in served.findings] == ["open"]
    assert "nothing is known" in served.findings[0].detail
    served.lengths[1] = 0
    served.feed(r1=4)
    assert served.good() == [True] * ROWS


def test_another_length_than_was_written() -> None:
    served = filled()
    assert not served.rows.verify(0, served.lengths[0] - 1)


def test_a_cache_without_an_observer_holds_the_same() -> None:
    one, other = filled(), Served()
    other.cache.observer = None
    other.feed(r0=40, r1=64, r2=3)
    for _ in range(6):
        other.feed(r0=1, r1=1, r2=1)
    assert all(torch.equal(a, b) for a, b in zip(one.cache.keys, other.cache.keys, strict=True))


def test_layers_of_different_shapes_and_rows_that_move_through_dynamic_caches() -> None:
    """Filled alone, joined with padding in front, decoded together, cut out: the digests go with the rows."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    shapes = [(2, 8), (4, 6), (1, 5), (4, 4)]
    findings: list[Finding] = []
    where: dict[int, Place] = {}
    rows = Rows(2, 512, len(shapes), where.get, findings.append)

    def cache_of(parts: list[tuple[Tensor, Tensor]]) -> object:
        cache = transformers.DynamicCache()
        for layer, (keys, values) in enumerate(parts):
            cache.update(keys, values, layer)
        return watch(cache, rows)

    def feed(cache: object, members: list[int], starts: list[int], count: int) -> None:
        rows.begin(members, [[start + at for at in range(count)] for start in starts])
        for layer, (heads, width) in enumerate(shapes):
            new = torch.randn(2, len(members), heads, count, width).to(torch.bfloat16)
            cache.update(new[0], new[1], layer)  # type: ignore[attr-defined]
        rows.end()

    def layers(cache: object) -> list[tuple[Tensor, Tensor]]:
        return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[attr-defined]

    def padded(tensor: Tensor, length: int) -> Tensor:
        missing = length - tensor.shape[2]
        return torch.cat([tensor.new_zeros(*tensor.shape[:2], missing, tensor.shape[3]), tensor], dim=2)

    alone = {}
    for row, count in ((0, 290), (1, 12)):
        alone[row] = cache_of([])
        feed(alone[row], [row], [0], count)
        feed(alone[row], [row], [count], 3)
        where[row] = Place(layers(alone[row]), 0, 0)
        assert rows.verify(row, count + 3)
    joined = cache_of(
        [
            (torch.cat([padded(one[0], 293), two[0]]), torch.cat([padded(one[1], 293), two[1]]))
            for one, two in zip(layers(alone[1]), layers(alone[0]), strict=True)
        ]
    )
    for step in range(5):
        feed(joined, [1, 0], [15 + step, 293 + step], 1)
    where[1], where[0] = Place(layers(joined), 0, 278), Place(layers(joined), 1, 0)
    assert rows.verify(0, 298)
    assert rows.verify(1, 20)
    # Row 0 leaves; what is only padding goes with it.
    cut = cache_of([(keys[:1, :, 278:], values[:1, :, 278:]) for keys, values in layers(joined)])
    feed(cut, [1], [20], 1)
    where[1] = Place(layers(cut), 0, 0)
    assert rows.verify(1, 21)
    assert findings == []
    before = layers(cut)[1][1].clone()
    layers(cut)[1][1].view(torch.int16)[0, 3, 19, 5] ^= 1 << 14
    assert not rows.verify(1, 21)
    assert torch.equal(layers(cut)[1][1], before)
    assert [found.outcome for found in findings] == ["repaired"]
    del where[1]
    assert not rows.verify(1, 21)


@pytest.mark.parametrize("seed", range(5))
def test_random_histories_verify_and_random_hits_are_seen(seed: int) -> None:
    draw = random.Random(seed)
    served = Served()
    for _ in range(25):
        chosen = draw.sample(range(ROWS), draw.randint(1, ROWS))
        if draw.random() < 0.2:
            served.lengths[chosen[0]] = 0
        room = min(CONFIG.context - served.lengths[row] for row in chosen)
        counts = {f"r{row}": draw.choice((1, 1, 1, draw.randint(1, 64))) for row in chosen}
        if max(counts.values()) <= room:
            served.feed(**counts)
    assert served.good() == [True] * ROWS
    row = draw.choice([row for row in range(ROWS) if served.lengths[row]])
    store = draw.choice([*served.cache.keys, *served.cache.values])
    served.hit(store, row, draw.randrange(served.lengths[row]), draw.randrange(10), 1 << draw.randrange(8))
    assert served.good() == [other != row for other in range(ROWS)]
    assert [found.outcome for found in served.findings] == ["repaired"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 10), (12, 64), (1, 16), (3, 32), (5, 7), (2, 300)])
@pytest.mark.parametrize("packed", [False, True], ids=["in one piece", "between others"])
def test_slots_have_the_sums_of_their_bytes_one_after_the_other(
    dtype: torch.dtype, heads: int, width: int, packed: bool
) -> None:
    """Against ``digest``, by which a word's index counts from the beginning of its memory."""
    torch.manual_seed(heads)
    if packed:
        members = list(torch.randn(2, 6, 3, heads, width).to(dtype).permute(2, 0, 1, 3, 4))
    else:
        members = [torch.randn(2, heads, 6, width).to(dtype).transpose(1, 2) for _ in range(3)]
    tokens = [Token(0, 0, 0, 0), Token(1, 3, 1, 5), Token(0, 6, 1, 2), Token(7, 41, 0, 4)]
    chunk_slots = 4
    found = token_sums(members, laid_out(tokens), chunk_slots)
    assert found.shape == (3, len(tokens), 3)
    for member, values in enumerate(members):
        for number, token in enumerate(tokens):
            raw = values[token.line, token.place].contiguous().view(torch.uint8).flatten()
            words = torch.nn.functional.pad(raw, (0, -len(raw) % 4))
            before = torch.zeros(token.slot % chunk_slots * len(words), dtype=torch.uint8)
            assert torch.equal(found[member, number], digest(torch.cat((before, words)))[0])


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("width", [16, 5])
@pytest.mark.parametrize("first", [0, 3, 4])
def test_a_run_of_slots_has_the_sums_of_its_tokens_chunk_by_chunk(
    first: int, width: int, with_kernels: bool
) -> None:
    members = [torch.randn(1, 11, 3, width) for _ in range(2)]
    tokens = laid_out(Token(0, first + place, 0, place) for place in range(11))
    expected = torch.zeros(2, 5, 3, dtype=torch.int64)
    single = token_sums(members, tokens, 4)
    for place in range(11):
        expected[:, (first + place) // 4] += single[:, place]
    with contextlib.nullcontext() if with_kernels else kernels.plain():
        assert torch.equal(run_sums(members, first, 4, 5), expected)


def test_no_run_goes_beyond_its_chunks() -> None:
    with pytest.raises((AssertionError, IndexError)):
        run_sums([torch.randn(1, 9, 3, 8)], 0, 4, 2)


@pytest.mark.parametrize("token", [Token(0, 0, 2, 0), Token(0, 0, 0, 6)], ids=["row", "place"])
def test_no_memory_beside_the_batch_is_read(token: Token) -> None:
    with pytest.raises((AssertionError, IndexError)):
        token_sums([torch.randn(2, 6, 3, 8)], laid_out([token]), 4)


@pytest.mark.parametrize("token", [Token(2, 0, 1, 0), Token(-1, 0, 1, 0), Token(1, 400, 1, 0)], ids=str)
def test_no_sums_but_those_of_the_cache_grow(token: Token) -> None:
    group = Group(words=24, members_max=1, rows=2, slots=9, device=torch.device("cpu"))
    with pytest.raises(AssertionError, match="rows of the cache"):
        group.add([0], [torch.randn(2, 6, 3, 8)], laid_out([Token(0, 1, 0, 1), token]))
    assert not group.sums.first.any()
    assert (group.sums.complement == -1).all()


def test_what_was_added_can_be_taken_back() -> None:
    group = Group(words=24, members_max=2, rows=2, slots=9, device=torch.device("cpu"))
    members, tokens = list(torch.randn(2, 2, 6, 3, 8)), laid_out([Token(0, 1, 0, 1), Token(1, 8, 1, 5)])
    before = group.add([3, 0], members, tokens)
    sums = group.sums.first.clone()
    added = group.add([0, 3], members, tokens)
    assert not torch.equal(added, before), "each layer and kind has sums of its own"
    assert torch.equal(group.sums.complement, ~group.sums.first)
    group.take_back(added)
    assert torch.equal(group.sums.first, sums)
    assert torch.equal(group.sums.complement, ~sums)
