"""The guarded update: torch's own results, digests of what was written, damage put back or named."""

import pytest
import torch

from flightsw.gpu.integrity.adamw_slot import KINDS, Slot
from flightsw.gpu.integrity.damage import compare, located
from flightsw.gpu.integrity.digest import BLOCK_WORDS, digest
from flightsw.gpu.integrity.guarded_adamw import GuardedAdamW, Outcome, Place, marked

BETAS, EPSILON, RATE = (0.9, 0.99), 1e-8, 3e-3
SHAPES = ((3,), (7, 5), (BLOCK_WORDS + 13,), (128, 512), (2, BLOCK_WORDS), (1,), (300, 100), (300, 110))


def bytes_of(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def draw(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slot_of(shape, seed, dtype=torch.float32):
    """State in the middle of a training, with digests of it."""
    tensors = (draw(shape, seed, dtype), draw(shape, seed + 1, dtype) * 0.01, draw(shape, seed + 2, dtype).square())
    tensors = (*tensors, torch.tensor(41.0 + seed))
    return Slot(
        **dict(zip(KINDS, tensors, strict=True)),
        digests=tuple(digest(bytes_of(tensor)) for tensor in tensors),
        weight_decay=0.1 if len(shape) > 1 else 0.0,
    )


def copy_of(slot):
    return Slot(
        **{kind: tensor.clone() for kind, tensor in zip(KINDS, slot.tensors, strict=True)},
        digests=tuple(sums.clone() for sums in slot.digests),
        weight_decay=slot.weight_decay,
    )


def unguarded(slots, gradients):
    """torch's own update of the same tensors, each parameter whole."""
    for slot, gradient in zip(slots, gradients, strict=True):
        slot.step.add_(1)
        torch._fused_adamw_(
            [slot.parameter], [gradient], [slot.exp_avg], [slot.exp_avg_sq], [], [slot.step],
            lr=RATE, beta1=BETAS[0], beta2=BETAS[1], weight_decay=slot.weight_decay, eps=EPSILON, amsgrad=False,
            maximize=False,
        )  # fmt: skip


def guarded(slots, gradients) -> Outcome:
    return GuardedAdamW(slots, betas=BETAS, epsilon=EPSILON).step(gradients, RATE)


def blocks_that_differ(slot):
    return [(kind, damage.block) for kind, tensor, sums in zip(KINDS, slot.tensors, slot.digests, strict=True)
            for damage in compare(sums, digest(bytes_of(tensor)))]  # fmt: skip


def assert_same(slots, expected):
    for slot, other in zip(slots, expected, strict=True):
        for kind, mine, their in zip(KINDS, slot.tensors, other.tensors, strict=True):
            assert torch.equal(bytes_of(mine), bytes_of(their)), kind


def flip(tensor, index, bit=30):
    bytes_of(tensor).view(torch.int32)[index] ^= 1 << bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_those_of_torch_and_digests_those_of_what_is_in_memory(dtype):
    slots = [slot_of(shape, 10 * number, dtype) for number, shape in enumerate(SHAPES)]
    expected = [copy_of(slot) for slot in slots]
    update = GuardedAdamW(slots, betas=BETAS, epsilon=EPSILON)
    for turn in range(3):
        gradients = [draw(shape, 100 * turn + number, dtype) for number, shape in enumerate(SHAPES)]
        outcome = update.step(gradients, RATE)
        unguarded(expected, gradients)
        assert not outcome.unusable
        assert not outcome.differences.any()
        assert len(outcome.differences) == len(update.places)
        assert_same(slots, expected)
        assert all(blocks_that_differ(slot) == [] for slot in slots)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_one_damaged_word_is_put_back_before_it_is_used(kind, number):
    slots = [slot_of(shape, 10 * at, torch.float32) for at, shape in enumerate(SHAPES)]
    expected = [copy_of(slot) for slot in slots]
    gradients = [draw(shape, at) for at, shape in enumerate(SHAPES)]
    tensor = slots[number].tensors[KINDS.index(kind)]
    index = tensor.numel() - 1
    flip(tensor, index)
    update = GuardedAdamW(slots, betas=BETAS, epsilon=EPSILON)
    outcome = update.step(gradients, RATE)
    unguarded(expected, gradients)
    assert not outcome.unusable
    assert_same(slots, expected)
    (row,) = outcome.differences.any(dim=1).nonzero().flatten().tolist()
    block = index // BLOCK_WORDS
    assert update.places[row] == Place(number, kind, block)
    assert located(block, outcome.differences[row].tolist()).word == index
    assert blocks_that_differ(slots[number]) == []


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_block_that_cannot_be_put_back_is_left_alone(kind, number):
    slots = [slot_of(shape, 10 * at) for at, shape in enumerate(SHAPES)]
    gradients = [draw(shape, at) for at, shape in enumerate(SHAPES)]
    tensor = slots[number].tensors[KINDS.index(kind)]
    flip(tensor, 0)
    flip(tensor, 2, bit=22)
    expected = [copy_of(slot) for slot in slots]
    outcome = guarded(slots, gradients)
    unguarded(expected, gradients)
    assert outcome.unusable
    assert blocks_that_differ(slots[number]) == [(kind, 0)]
    for slot, other in zip(slots, expected, strict=True):
        where = 0 if slot is not slots[number] else min(BLOCK_WORDS, slot.parameter.numel())
        assert torch.equal(slot.parameter.reshape(-1)[where:], other.parameter.reshape(-1)[where:])


def test_a_cell_that_does_not_take_its_old_value_is_not_used(monkeypatch):
    slots = [slot_of((7, 5), 0)]
    flip(slots[0].exp_avg, 3)
    before = slots[0].parameter.clone()
    # The cell is stuck.
    monkeypatch.setattr("flightsw.gpu.integrity.damage.repair", lambda memory, damage: None)
    assert guarded(slots, [draw((7, 5), 3)]).unusable
    assert torch.equal(slots[0].parameter, before)
    assert blocks_that_differ(slots[0]) == [("exp_avg", 0)]


def test_a_count_whose_digest_is_damaged_too_is_not_used():
    slots = [slot_of((7, 5), 0), slot_of((9,), 1)]
    expected = [copy_of(slot) for slot in slots]
    flip(slots[0].step, 0, bit=20)
    slots[0].digests[3][0, 1] += 1
    gradients = [draw((7, 5), 3), draw((9,), 4)]
    outcome = guarded(slots, gradients)
    unguarded(expected[1:], gradients[1:])
    assert outcome.unusable
    assert torch.equal(slots[0].parameter, expected[0].parameter)
    assert_same(slots[1:], expected[1:])
    assert marked(slots[0].digests[3]).all()
    assert not marked(slots[1].digests[0]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"exp_avg": torch.zeros(4, 4).T[:3]},
            r"exp_avg: torch.float32 \(3, 4\), parameter torch.float32 \(4, 3\)",
        ),
        ({"exp_avg_sq": torch.zeros(4, 3, dtype=torch.bfloat16)}, "exp_avg_sq: torch.bfloat16"),
        ({"exp_avg": torch.zeros(3, 4).T}, "exp_avg: not a whole storage in one piece"),
        ({"exp_avg": torch.zeros(5, 3)[:4]}, "exp_avg: not a whole storage in one piece"),
        ({"step": torch.zeros((), dtype=torch.int64)}, "step: torch.int64, 0-d: a count is one float32"),
        ({"digests": (torch.zeros((2, 3), dtype=torch.int64),) * 4}, r"int64 \(1, 3\) is needed"),
    ],
)
def test_what_cannot_be_updated_block_by_block_is_named(change, message):
    row = torch.zeros((1, 3), dtype=torch.int64)
    fields = {
        "parameter": torch.zeros(4, 3), "exp_avg": torch.zeros(4, 3), "exp_avg_sq": torch.zeros(4, 3),
        "step": torch.zeros(()), "digests": (row,) * 4,
    }  # fmt: skip
    Slot(**fields)
    with pytest.raises(ValueError, match=message):
        Slot(**{**fields, **change})
