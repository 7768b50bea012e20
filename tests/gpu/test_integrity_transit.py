"""Transit: digests of storages, what they see, and that they keep nothing alive."""

import gc

import pytest
import torch

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.transit import (
    COLUMNS,
    FRESH_OPERATIONS,
    Transit,
    dense,
    digest,
    digest_if_same,
    matches,
)

WORDS = [1, 2, COLUMNS - 1, COLUMNS, COLUMNS + 1, 3 * COLUMNS + 17]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("tail", [0, 1, 7])
def test_any_single_flip_is_seen(words: int, tail: int) -> None:
    memory = torch.randint(0, 256, (words * 8 + tail,), dtype=torch.uint8)
    good = digest(memory.untyped_storage())
    for place in {0, words * 4, words * 8 + tail - 1}:
        for bit in (0, 7):
            memory[place] ^= 1 << bit
            assert not torch.equal(digest(memory.untyped_storage()), good), (place, bit)
            memory[place] ^= 1 << bit
    assert torch.equal(digest(memory.untyped_storage()), good)


@pytest.mark.parametrize("stride_bytes", [8, 64, 128, 4096, 32768, 65536])
def test_the_same_bit_in_two_words_of_a_power_of_two_stride_is_seen(stride_bytes: int) -> None:
    """A single sum of words misses this when the two bits differ, and always in the sign."""
    memory = torch.randint(0, 256, (20 * COLUMNS * 8,), dtype=torch.uint8)
    good, single = digest(memory.untyped_storage()), memory.view(torch.int64).sum()
    for place in (7, stride_bytes + 7):
        memory[place] ^= 0x80
    assert torch.equal(memory.view(torch.int64).sum(), single)
    assert not torch.equal(digest(memory.untyped_storage()), good)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
def test_a_view_belongs_to_its_storage(dtype: torch.dtype) -> None:
    transit, base = Transit(), torch.ones(6, 5).to(dtype)
    transit.produced(base)
    view = base.t()[1:, 2:]
    held = transit.held(view) or pytest.fail("not watched")
    transit.tick()
    sums = transit.due(held)
    assert sums is not None
    assert torch.equal(sums, digest(view.untyped_storage()))


def test_a_look_is_fresh_for_a_few_operations_and_then_not() -> None:
    transit, tensor = Transit(), torch.ones(8)
    transit.produced(tensor)
    held = transit.held(tensor) or pytest.fail("not watched")
    transit.tick()
    assert transit.due(held) is not None
    for _ in range(FRESH_OPERATIONS):
        transit.tick()
        assert transit.due(held) is None
    transit.tick()
    assert transit.due(held) is not None


def test_nothing_lives_longer_for_being_watched_and_what_lives_is_looked_at_in_the_end() -> None:
    transit, dead, kept = Transit(), torch.ones(8), torch.ones(8)
    transit.produced(dead)
    transit.produced(kept)
    transit.tick()
    del dead
    gc.collect()
    kept.untyped_storage()[0] = 5
    ((sums, storage),) = transit.remaining()
    assert not torch.equal(sums, digest(storage))


def test_a_freed_storage_is_not_taken_for_a_new_one() -> None:
    transit = Transit()
    for number in range(200):
        tensor = torch.full((16,), float(number))
        assert transit.held(tensor) is None
        transit.produced(tensor)
    assert len(transit) == 200


def test_what_has_no_bytes_of_its_own_is_not_watched() -> None:
    cases = [torch.ones(0), torch.ones(4)[:2], torch.eye(2).to_sparse(), torch.ones(2, device="meta")]
    assert [dense(tensor) for tensor in cases] == [False] * 4
    assert [dense(torch.ones(3)), dense(torch.ones(3, 4).t()), dense(torch.ones(1).expand(4))] == [
        True,
        True,
        False,
    ]


WORDS = (1, 2, COLUMNS - 1, COLUMNS, COLUMNS + 1, 4 * COLUMNS, 4 * COLUMNS + 1, 9 * COLUMNS - 5)


@pytest.mark.parametrize("words", WORDS)
def test_kernels_give_the_digest_of_the_plain_form(words: int) -> None:
    pytest.importorskip("numba")
    memory = torch.randint(-(2**63), 2**63 - 1, (words,), dtype=torch.int64)
    storage = memory.untyped_storage()
    with kernels.plain():
        plain = digest(storage)
        assert not matches(storage, plain), "there is no kernel to say so"
        assert digest_if_same(memory, memory.clone()) is None
    assert torch.equal(digest(storage), plain)
    assert matches(storage, plain)
    same = digest_if_same(memory, memory.clone())
    assert same is not None
    assert torch.equal(same, plain)
    for word in {0, words // 2, words - 1}:
        damaged = memory.clone()
        damaged[word] ^= 1 << 40
        assert not matches(damaged.untyped_storage(), plain)
        assert digest_if_same(memory, damaged) is None
