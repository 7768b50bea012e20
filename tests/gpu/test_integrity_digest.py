"""The digest: its definition, what it must see, what it must repair, and what it must not claim to repair."""

import contextlib
import itertools
import random

import pytest
import torch

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.damage import Damage, compare, located, repair
from flightsw.gpu.integrity.digest import BLOCK_BYTES, BLOCK_WORDS, block_count, digest_all
from flightsw.gpu.integrity.digest import digest as digest_bytes


@pytest.fixture(params=["native", "plain"], autouse=True)
def form(request):
    """Everything holds with the processor's kernel and without it."""
    if request.param == "native":
        pytest.importorskip("numba")
    with kernels.plain() if request.param == "plain" else contextlib.nullcontext():
        yield


def digest(words: torch.Tensor) -> torch.Tensor:
    return digest_bytes(words.view(torch.uint8))


def random_words(count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, (count,), generator=generator, dtype=torch.int64).to(torch.int32)


def by_definition(words: torch.Tensor) -> list[list[int]]:
    """The sums with Python's own integers, wrapped to signed 64 bits."""
    sums = []
    for start in range(0, words.numel(), BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS].tolist()
        raw = [sum(x * (i + 1) ** power for i, x in enumerate(block)) for power in range(3)]
        sums.append([(value + 2**63) % 2**64 - 2**63 for value in raw])
    return sums


SIZES = (0, 1, 15, 16, 17, 127, 128, 129, 1000, BLOCK_WORDS - 1, BLOCK_WORDS, BLOCK_WORDS + 1, 2 * BLOCK_WORDS + 77)


@pytest.mark.parametrize("count", SIZES)
def test_sums_are_those_of_the_definition(count: int) -> None:
    words = random_words(count)
    assert digest(words).tolist() == by_definition(words)
    assert len(digest(words)) == block_count(4 * count)


@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1, -1, 0])
def test_extreme_words_are_summed_exactly(value: int) -> None:
    words = torch.full((BLOCK_WORDS,), value, dtype=torch.int32)
    assert digest(words).tolist() == by_definition(words)


def test_memories_together_have_the_sums_of_each() -> None:
    sizes = (5, 0, 4 * BLOCK_WORDS, 3, 200_000, 1, 150_001, 4 * BLOCK_WORDS + 2, 100_000, 9 * BLOCK_WORDS)
    memories = [random_words(-(-size // 4), seed).view(torch.uint8)[:size] for seed, size in enumerate(sizes)]
    assert torch.equal(digest_all(memories), torch.cat([digest_bytes(memory) for memory in memories]))


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_memory_may_begin_between_words(offset: int) -> None:
    memory = random_words(BLOCK_WORDS + 9).view(torch.uint8)
    assert torch.equal(digest_bytes(memory[offset:]), digest_bytes(memory[offset:].clone()))


@pytest.mark.parametrize("count", SIZES)
def test_no_memory_has_an_odd_sum_of_the_second_and_third(count: int) -> None:
    sums = digest(random_words(count, seed=count))
    assert not (sums[:, 1] + sums[:, 2]).bitwise_and(1).any()


def test_every_double_flip_of_a_512_bit_block_is_seen() -> None:
    """All 130,816 pairs: flips of different bits add up, so each pair's difference is the sum of two real ones."""
    words = random_words(16)
    good = digest(words)
    singles = []
    for index, bit in itertools.product(range(16), range(32)):
        flipped = words.clone()
        flipped[index] ^= -(2**31) if bit == 31 else 1 << bit
        singles.append(digest(flipped)[0] - good[0])
    differences = torch.stack(singles)
    first, second = torch.combinations(torch.arange(512)).unbind(dim=1)
    pairs = differences[first] + differences[second]
    assert len(pairs) == 130_816
    assert int(pairs[:, :2].eq(0).all(dim=1).sum()) == 0


@pytest.mark.parametrize("seed", range(40))
def test_damage_of_one_word_is_located_and_repaired(seed: int) -> None:
    draw = random.Random(seed)
    words = random_words(draw.choice(SIZES[1:]), seed)
    before, good = words.clone(), digest(words)
    index = draw.randrange(words.numel())
    words[index] = (int(words[index]) + draw.randrange(1, 2**32) + 2**31) % 2**32 - 2**31
    (damage,) = compare(good, digest(words))
    assert damage.word == index
    repair(words.view(torch.uint8), damage)
    assert torch.equal(words, before)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("count", [2, 3])
def test_damage_of_more_words_is_seen_and_never_repaired(seed: int, count: int) -> None:
    draw = random.Random(1000 + seed)
    words = random_words(5000, seed)
    good = digest(words)
    for index in draw.sample(range(5000), count):
        words[index] = int(words[index]) ^ (1 << draw.randrange(31))
    assert compare(good, digest(words)) == [Damage(0)]


def test_each_block_is_judged_for_itself() -> None:
    words = random_words(3 * BLOCK_WORDS)
    good = digest(words)
    words[5] += 1
    words[2 * BLOCK_WORDS + 7] -= 1
    found = compare(good, digest(words))
    assert [damage.word for damage in found] == [5, 2 * BLOCK_WORDS + 7]


def test_undamaged_memory_is_no_damage() -> None:
    words = random_words(1000)
    assert compare(digest(words), digest(words)) == []


@pytest.mark.parametrize(
    "difference",
    [
        (0, 5, 5),  # Two words that cancel in the first sum.
        (3, 7, 9),  # No whole place.
        (3, 0, 0),  # Place 0 does not exist.
        (3, -6, 12),  # Nor do negative ones.
        (1, BLOCK_WORDS + 1, (BLOCK_WORDS + 1) ** 2),  # Past the end of the block.
        (2, 10, 51),  # The third sum disagrees.
        (1 << 32, 1 << 32, 1 << 32),  # More than a word can change.
    ],
)
def test_what_is_not_one_word_is_not_located(difference: tuple[int, int, int]) -> None:
    assert located(4, difference) == Damage(4)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4 * BLOCK_WORDS + 3])
def test_memory_need_not_be_whole_words(size: int) -> None:
    memory = torch.arange(size, dtype=torch.int64).add(7).to(torch.uint8)
    before, good = memory.clone(), digest_bytes(memory)
    memory[-1] ^= 0x41
    (damage,) = compare(good, digest_bytes(memory))
    repair(memory, damage)
    assert torch.equal(memory, before)


@pytest.mark.parametrize(
    ("size", "damage"),
    [
        (4, Damage(0, 0, -1)),  # 2³¹ is no 32-bit value.
        (7, Damage(0, 1, 1 << 24)),  # The last word has three bytes only.
        (4, Damage(0, 1, 1)),  # There is no such word.
    ],
)
def test_a_repair_that_gives_no_word_is_refused(size: int, damage: Damage) -> None:
    memory = torch.tensor([255, 255, 255, 127, 1, 2, 3][:size], dtype=torch.uint8)
    before = memory.clone()
    with pytest.raises(ValueError, match="not that of one word"):
        repair(memory, damage)
    assert torch.equal(memory, before)


@pytest.mark.parametrize(
    "memory",
    [
        torch.zeros(8, dtype=torch.int8),
        torch.zeros((2, 4), dtype=torch.uint8),
        torch.zeros(16, dtype=torch.uint8)[::2],
    ],
    ids=["int8", "matrix", "strided"],
)
def test_memory_that_is_no_row_of_bytes(memory: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="bytes in one contiguous row"):
        digest_bytes(memory)


LENGTHS = (*range(18), *(4 * count + rest for count in (127, 128, 129, 4095, 4096, 4097, 8192, 20_000, BLOCK_WORDS)
                         for rest in range(-1, 4)), BLOCK_BYTES + 4096 * 4 - 1, 3 * BLOCK_BYTES + 515)  # fmt: skip


@pytest.mark.parametrize("fill", [None, 0x00, 0x7F, 0x80, 0xFF], ids=["random", "0", "7f", "80", "ff"])
def test_every_form_gives_the_same_sums(fill: int | None) -> None:
    """Whatever the length and where the memory begins; with a byte of ``fill`` on top, words are extreme."""
    row = random_words(-(-(max(LENGTHS) + 8) // 4)).view(torch.uint8)
    if fill is not None:
        row = torch.full_like(row, 0xFF * (fill == 0x7F))
        row[3::4] = fill
    memories = [row[offset : offset + size] for size in LENGTHS for offset in range(5)]
    with kernels.plain():
        expected = digest_all(memories)
    assert torch.equal(digest_all(memories), expected)
