"""The Triton kernels, run by Triton's interpreter on the CPU.

``test_integrity_kernels`` runs this file in a process of its own: the interpreter has to be chosen before Triton is
loaded, and whoever loads torch's compiler in the same process loads Triton.
"""

import pytest
import torch
from test_integrity_guarded_adamw import (
    BETAS,
    EPSILON,
    RATE,
    assert_same,
    blocks_that_differ,
    bytes_of,
    copy_of,
    draw,
    flip,
    slot_of,
    unguarded,
)

from flightsw.gpu.integrity import kernels, kernels_adamw, kernels_digest, kernels_gemm
from flightsw.gpu.integrity.adamw_slot import KINDS
from flightsw.gpu.integrity.damage import compare, located
from flightsw.gpu.integrity.digest import BLOCK_BYTES, BLOCK_WORDS, block_count, digest
from flightsw.gpu.integrity.guarded_adamw import GuardedAdamW, marked

TILES = {kernels_digest: 1024, kernels_adamw: 256}


@pytest.fixture(autouse=True)
def tiles(request, monkeypatch):
    """The interpreter takes a millisecond a tile: large ones, unless a test is about the flown size."""
    if "flown" not in request.keywords:
        for module in TILES:
            monkeypatch.setattr(module, "TILE", 8192)


@pytest.fixture
def on_the_kernel(monkeypatch):
    """As on a card: the update asks for a kernel and gets it."""
    monkeypatch.setattr(kernels, "adamw", lambda device: kernels_adamw)


def by_kernel(memory):
    sums = torch.empty((block_count(memory.numel()), 3), dtype=torch.int64)
    kernels_digest.digest_into(memory, sums)
    return sums


def random_bytes(size, seed=1):
    return torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.flown
@pytest.mark.parametrize("size", [0, 1, 3, 4, 4095, 4096, 4097, 12_345, BLOCK_BYTES, BLOCK_BYTES + 4098])
def test_digests_are_those_of_the_plain_form(size):
    assert [module.TILE for module in TILES] == list(TILES.values())
    assert torch.equal(by_kernel(random_bytes(size)), digest(random_bytes(size)))


@pytest.mark.parametrize("fill", [0, 0x7F, 0x80, 0xFF])
def test_extreme_words_wrap_alike(fill):
    memory = torch.full((2 * BLOCK_BYTES + 6,), fill, dtype=torch.uint8)
    memory[3::4] = fill
    assert torch.equal(by_kernel(memory), digest(memory))


def test_memory_between_words_is_read_alike():
    memory = random_bytes(10_003)
    assert torch.equal(by_kernel(memory[2:]), digest(memory[2:]))


def test_a_flip_of_any_bit_of_a_last_word_is_seen():
    memory = random_bytes(4 * 1024 + 3)
    good = by_kernel(memory)
    for bit in range(24):
        memory[-1 - bit // 8] ^= 1 << bit % 8
        (damage,) = compare(good, by_kernel(memory))
        assert damage.word == 1024
        memory[-1 - bit // 8] ^= 1 << bit % 8


SHAPES = ((3,), (7, 5), (BLOCK_WORDS + 13,), (300, 110))
DAMAGED = ((7, 5), (BLOCK_WORDS + 13,))


@pytest.mark.flown
def test_a_small_update_by_tiles_of_the_flown_size(on_the_kernel):
    check_updates(((3,), (7, 110), (256,), (257, 2)), turns=2)


def test_updates_are_torch_s_and_digests_those_of_what_is_in_memory(on_the_kernel):
    check_updates(SHAPES, turns=2)


def check_updates(shapes, turns):
    """The interpreter rounds the product of a fused multiply-add, a card does not: hence near, not equal."""
    slots = [slot_of(shape, 10 * number) for number, shape in enumerate(shapes)]
    expected = [copy_of(slot) for slot in slots]
    update = GuardedAdamW(slots, betas=BETAS, epsilon=EPSILON)
    for turn in range(turns):
        gradients = [draw(shape, 100 * turn + number) for number, shape in enumerate(shapes)]
        outcome = update.step(gradients, RATE)
        unguarded(expected, gradients)
        assert not outcome.unusable
        assert not outcome.differences.any()
        for slot, other in zip(slots, expected, strict=True):
            assert blocks_that_differ(slot) == []
            for mine, their in zip(slot.tensors, other.tensors, strict=True):
                torch.testing.assert_close(mine, their, rtol=2e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # A damaged weight is no number.
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize(("number", "index"), [(0, 34), (1, BLOCK_WORDS + 5)])
def test_a_block_that_did_not_match_is_marked_for_ever(on_the_kernel, kind, number, index):
    slots = [slot_of(shape, 10 * at) for at, shape in enumerate(DAMAGED)]
    twin = [copy_of(slot) for slot in slots]
    gradients = [draw(shape, at) for at, shape in enumerate(DAMAGED)]
    flip(slots[number].tensors[KINDS.index(kind)], index)
    block = index // BLOCK_WORDS
    update, unhurt = (GuardedAdamW(some, betas=BETAS, epsilon=EPSILON) for some in (slots, twin))
    for turn in range(2):
        outcome, _ = update.step(gradients, RATE), unhurt.step(gradients, RATE)
        assert outcome.unusable
        named = [(place.slot, place.kind, place.block) for place, row in
                 zip(update.places, outcome.differences, strict=True) if row.any()]  # fmt: skip
        if turn == 0:
            assert named == [(number, kind, block)]
            (row,) = outcome.differences.any(dim=1).nonzero().flatten().tolist()
            assert located(block, outcome.differences[row].tolist()).word == index
        else:
            assert named == [(number, each, block) for each in KINDS[:3]]
        assert blocks_that_differ(slots[number]) == [(each, block) for each in KINDS[:3]]
        for at, slot in enumerate(slots):
            for sums in slot.digests[:3]:
                assert marked(sums).nonzero().flatten().tolist() == ([block] if at == number else [])
        untouched = [at for at in range(len(DAMAGED)) if at != number]
        assert_same([slots[at] for at in untouched], [twin[at] for at in untouched])


def test_a_mark_is_not_undone_by_damage():
    """Whatever one word does, the marked digest never matches and is never taken for a word to put back."""
    memory = bytes_of(draw((40,), 1))
    sums = digest(memory)
    sums[0, 2] += 1
    words = memory.view(torch.int32)
    for index in range(40):
        for bit in range(31):
            words[index] ^= 1 << bit
            (damage,) = compare(sums, digest(memory))
            assert not damage.repairable
            words[index] ^= 1 << bit


def test_a_lost_count_marks_every_block_of_its_parameter(on_the_kernel):
    slots = [slot_of((7, 5), 0), slot_of((9,), 1)]
    flip(slots[0].step, 0, bit=20)
    slots[0].digests[3][0, 1] += 1
    outcome = GuardedAdamW(slots, betas=BETAS, epsilon=EPSILON).step([draw((7, 5), 3), draw((9,), 4)], RATE)
    assert outcome.unusable
    assert all(marked(sums).all() for sums in slots[0].digests)
    assert not any(marked(sums).any() for sums in slots[1].digests)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 70, 3), (130, 64, 129), (64, 200, 300)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_their_row_sums_before_rounding(dtype, m, k, n, transposed):
    a = draw((m, k), 1, dtype)
    b = draw((n, k), 2, dtype).T if transposed else draw((k, n), 2, dtype)
    bias = draw((n,), 3, dtype) if transposed else None
    found, sums = kernels_gemm.mm(a, b, bias)
    exact = a.double() @ b.double() + (0 if bias is None else bias.double())
    assert found.dtype is dtype
    # The interpreter cuts bfloat16 off where a card rounds it.
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=1e-4)
    size = (a.double().abs() @ b.double().abs()).sum(dim=1) + n
    assert ((sums - exact.sum(dim=1)).abs() <= 1e-6 * size).all()
    if n > 100:
        # The sums are not those of the rounded results, which are hundreds of times coarser.
        assert (found.double().sum(dim=1) - exact.sum(dim=1)).abs().max() > 20 * (
            sums - exact.sum(dim=1)
        ).abs().max()


def test_an_empty_product():
    found, sums = kernels_gemm.mm(torch.zeros(0, 3, dtype=torch.bfloat16), torch.zeros(3, 4, dtype=torch.bfloat16))
    assert found.shape == (0, 4)
    assert sums.shape == (0,)
