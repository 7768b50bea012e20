"""Resident state: what was hit is put right, what is no damage is told apart, no digest is believed blindly."""

import gc
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flightsw.gpu.integrity.digest import BLOCK_BYTES, BLOCK_WORDS
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.regions import regions_of, weights
from flightsw.gpu.integrity.resident import Resident


class Watched:
    """Some tensors under a Resident, the findings, and memory that radiation reaches: not through the tensor."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.findings: list[Finding] = []
        self.resident = Resident(regions_of(tensors.items()), self.findings.append)
        self.resident.adopt()

    def memory(self, name: str) -> Tensor:
        return torch.empty(0, dtype=torch.uint8).set_(self.tensors[name].untyped_storage())

    def hit(self, name: str, byte: int, mask: int = 0x10) -> None:
        self.memory(name)[byte] ^= mask

    @property
    def outcomes(self) -> list[str]:
        return [finding.outcome for finding in self.findings]


def several() -> Watched:
    """Three blocks, one word, and 77 bytes."""
    torch.manual_seed(3)
    return Watched(
        weight=torch.randn(2 * BLOCK_WORDS + 100), step=torch.tensor(7.0), mask=torch.ones(77, dtype=torch.bool)
    )


def test_undamaged_state_is_good_and_nothing_is_said() -> None:
    watched = several()
    assert watched.resident.verify()
    assert watched.resident.blocks == 5
    assert (watched.findings, watched.resident.damaged, watched.resident.hits) == ([], frozenset(), 0)


def test_nothing_is_known_before_the_first_adoption() -> None:
    kept = torch.ones(3)
    resident = Resident(regions_of([("kept", kept)]), lambda finding: None)
    resident.adopt_update()
    resident.adopt_emitted()
    assert not resident.verify()
    assert resident.damaged == {"kept"}


def integers(dtype: torch.dtype) -> Tensor:
    return torch.arange(1, 101).to(dtype)


DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.uint8,
    torch.int16, torch.int64, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_hit_of_any_type_is_put_right_and_reported(dtype: torch.dtype) -> None:
    watched = Watched(it=integers(dtype))
    before = watched.memory("it").clone()
    watched.hit("it", 41)
    assert watched.resident.verify()
    assert torch.equal(watched.memory("it"), before)
    assert [(found.outcome, found.where) for found in watched.findings] == [("repaired", "it")]
    assert (watched.resident.hits, watched.resident.repairs) == (1, 1)
    assert watched.resident.verify()
    assert len(watched.findings) == 1


@pytest.mark.parametrize(
    "view", [lambda base: base.t(), lambda base: base[::2], lambda base: base[3:, 1:]], ids=["t", "step", "part"]
)
def test_memory_around_a_view_is_guarded_too(view: Callable[[Tensor], Tensor]) -> None:
    base = torch.randn(10, 10)
    watched = Watched(it=view(base))
    before = base.clone()
    for byte in (0, 399):
        watched.hit("it", byte)
        assert watched.resident.verify()
    assert torch.equal(base, before)


def test_hits_of_several_blocks_are_put_right_in_one_look() -> None:
    watched = several()
    for name, byte in (("weight", 5), ("weight", BLOCK_BYTES + 9), ("step", 2), ("mask", 76)):
        watched.hit(name, byte)
    assert watched.resident.verify()
    assert watched.outcomes == ["repaired"] * 4
    assert float(watched.tensors["step"]) == 7.0


def test_two_words_of_one_block_stay_damaged_until_they_are_old_again() -> None:
    watched = several()
    watched.hit("weight", 8)
    watched.hit("weight", 4000)
    assert not watched.resident.verify()
    assert not watched.resident.verify(0, 1)
    assert watched.resident.verify(1)
    assert watched.resident.damaged == {"weight"}
    assert watched.outcomes == ["open"]
    watched.hit("weight", 8)
    assert watched.resident.verify()
    assert watched.resident.damaged == frozenset()
    assert watched.outcomes == ["open", "repaired"]


def test_a_new_hit_of_damaged_memory_is_a_new_finding() -> None:
    watched = several()
    for byte in (8, 4000, 5000):
        watched.hit("weight", byte)
        watched.resident.verify()
    assert watched.outcomes == ["repaired", "repaired", "repaired"]
    for byte in (8, 4000):
        watched.hit("weight", byte)
    watched.resident.verify()
    watched.hit("weight", 5000)
    watched.resident.verify()
    watched.resident.verify()
    assert watched.outcomes[3:] == ["open", "open"]
    assert watched.resident.hits == 5


def test_adoption_of_what_the_owner_restored() -> None:
    watched = several()
    watched.hit("weight", 8)
    watched.hit("weight", 4000)
    watched.resident.verify()
    watched.tensors["weight"].zero_()
    watched.resident.adopt()
    assert watched.resident.verify()
    assert watched.resident.damaged == frozenset()


@pytest.mark.parametrize("column", [0, 1, 2, slice(None)], ids=["S1", "S2", "S3", "all"])
@pytest.mark.parametrize("name", ["weight", "step", "mask"])
@pytest.mark.parametrize("value", [0, -1, None], ids=["zero", "ones", "flip"])
def test_a_hit_digest_never_changes_good_memory(name: str, column: int | slice, value: int | None) -> None:
    watched = several()
    before = watched.memory(name).clone()
    row = watched.resident.digests(list(watched.tensors).index(name))[0]
    where = "weight, block 0" if name == "weight" else name
    row[column] = row[column] ^ 0x400 if value is None else value
    assert watched.resident.verify()
    assert torch.equal(watched.memory(name), before)
    assert [(found.outcome, found.where) for found in watched.findings] == [("repaired", f"digest of {where}")]
    assert watched.resident.hits == 0
    # The digest is whole again: the next hit of the memory is seen and put right.
    watched.hit(name, 1)
    assert watched.resident.verify()
    assert torch.equal(watched.memory(name), before)


def test_memory_and_its_digest_both_hit_are_left_alone() -> None:
    watched = several()
    watched.resident.digests(1)[0] = 0
    watched.hit("step", 0)
    held = watched.memory("step").clone()
    assert not watched.resident.verify()
    assert torch.equal(watched.memory("step"), held)
    assert watched.outcomes == ["open"]
    assert "both hit" in watched.findings[0].detail


@pytest.mark.parametrize("change", [lambda it: it.add_(1), lambda it: it[0].fill_(3.5)], ids=["all", "one word"])
def test_a_change_by_the_program_is_told_apart_and_never_taken_back(change: Callable[[Tensor], Tensor]) -> None:
    watched = several()
    change(watched.tensors["weight"])
    wanted = watched.tensors["weight"].clone()
    assert not watched.resident.verify()
    assert not watched.resident.verify()
    assert torch.equal(watched.tensors["weight"], wanted)
    assert watched.resident.damaged == {"weight"}
    assert watched.outcomes == ["open"]
    assert "did not announce" in watched.findings[0].detail
    watched.resident.adopt()
    assert watched.resident.verify()


def test_statistics_that_a_forward_pass_writes_are_verified_before_and_adopted_after_it() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    resident, findings = guarded(module)
    statistics = [index for index, region in enumerate(resident.regions) if region.name.startswith("buffer")]
    for _ in range(3):
        assert all(resident.verify(*resident.span(index)) for index in statistics)
        module(torch.randn(8, 4))
        resident.adopt_update(statistics)
        assert resident.verify()
        resident.regions[statistics[0]].memory[5] ^= 8
    assert resident.verify(*resident.span(statistics[0]))
    assert [found.outcome for found in findings] == ["repaired"] * 3


def test_a_write_of_the_same_values_is_no_change() -> None:
    watched = several()
    watched.tensors["weight"].mul_(1.0)
    assert watched.resident.verify()
    assert watched.findings == []


def test_an_announced_update_is_good() -> None:
    watched = several()
    for index in range(3):
        watched.tensors["weight"].add_(1)
        watched.resident.adopt_update([0] if index else None)
        watched.hit("weight", 12)
        assert watched.resident.verify()
    assert watched.outcomes == ["repaired"] * 3


def test_what_is_made_of_damage_stays_damaged() -> None:
    watched = several()
    watched.hit("weight", 8)
    watched.hit("weight", 4000)
    watched.resident.verify()
    watched.tensors["weight"].add_(1)
    watched.resident.adopt_update()
    assert not watched.resident.verify()
    assert watched.resident.damaged == {"weight"}
    watched.resident.adopt()
    assert watched.resident.verify()


def test_digests_that_a_kernel_emitted() -> None:
    watched, after = several(), several()
    watched.tensors["weight"].add_(1)
    after.tensors["weight"].add_(1)
    after.resident.adopt()
    watched.resident.digests(0).copy_(after.resident.digests(0))
    watched.resident.adopt_emitted([0])
    assert watched.resident.verify()
    watched.hit("weight", 12)
    assert watched.resident.verify()
    assert watched.outcomes == ["repaired"]


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(5, 5)
        self.head = torch.nn.Linear(5, 5, bias=False)
        self.head.weight = self.inner.weight
        self.register_buffer("seen", torch.zeros(3))


def guarded(module: torch.nn.Module) -> tuple[Resident, list[Finding]]:
    findings: list[Finding] = []
    resident = Resident(regions_of(weights(module)), findings.append)
    resident.adopt()
    return resident, findings


def replace_data(module: Small) -> None:
    module.inner.weight.data = torch.ones(5, 5)


def shrink(module: Small) -> None:
    module.inner.weight.untyped_storage().resize_(4)


@pytest.mark.parametrize(
    ("change", "damaged"),
    [
        (lambda module: module.to(torch.bfloat16), 3),
        (replace_data, 1),
        (shrink, 1),
    ],
    ids=["to", "data", "resize"],
)
def test_other_memory_is_not_verified_until_it_is_adopted(change: Callable[[Small], object], damaged: int) -> None:
    module = Small()
    resident, findings = guarded(module)
    change(module)
    assert not resident.verify()
    assert len(resident.damaged) == damaged
    assert all(found.outcome == "open" and "its owner" in found.detail for found in findings)
    assert len(findings) == damaged
    if damaged == 1 and module.inner.weight.untyped_storage().nbytes() == 4:
        module.inner.weight.untyped_storage().resize_(100)
    resident.adopt(regions_of(weights(module)))
    assert resident.verify()
    assert len(resident.regions) == 3
    assert len(findings) == damaged
    index = resident.index_of(module.inner.weight)
    assert index is not None
    assert resident.regions[index].names == ("weight inner.weight", "weight head.weight")
    resident.regions[index].memory[3] ^= 2
    assert resident.verify()
    assert findings[-1].outcome == "repaired"


def test_memory_moved_to_nowhere_is_named() -> None:
    module = Small()
    resident, _ = guarded(module)
    module.to("meta")
    assert not resident.verify()
    assert len(resident.damaged) == 3
    resident.adopt(regions_of(weights(module)))
    assert (resident.blocks, resident.verify(), resident.damaged) == (0, True, frozenset())
    assert sorted(name for name, _ in resident.left_out) == [
        "buffer seen", "weight head.weight", "weight inner.bias", "weight inner.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("adopt", [True, False])
def test_freed_memory_is_let_go_of_and_named(adopt: bool) -> None:
    kept, freed = torch.ones(5), torch.ones(9)
    resident = Resident(regions_of([("kept", kept), ("freed", freed)]), lambda finding: None)
    resident.adopt()
    assert resident.size_bytes == 56
    del freed
    gc.collect()
    if not adopt:
        assert not resident.verify()
        assert resident.damaged == {"freed"}
        assert resident.regions[1].size_bytes == 0
    resident.adopt()
    assert resident.verify()
    assert resident.size_bytes == 20
    assert [name for name, _ in resident.left_out] == ["freed"]
    assert resident.damaged == frozenset()


def test_other_regions_are_adopted_in_place_of_the_old_ones() -> None:
    watched = several()
    watched.hit("weight", 8)
    watched.hit("weight", 4000)
    watched.resident.verify()
    other = torch.randn(40)
    watched.resident.adopt(regions_of([("other", other), ("none", torch.empty(0))]))
    assert watched.resident.verify()
    assert [region.name for region in watched.resident.regions] == ["other"]
    assert [name for name, _ in watched.resident.left_out] == ["none"]


def test_a_copy_made_for_the_call_is_guarded_while_its_memory_is_held() -> None:
    parameter = torch.nn.Parameter(torch.ones(5))
    findings: list[Finding] = []
    resident = Resident(regions_of([("it", parameter.detach())]), findings.append)
    resident.adopt()
    resident.regions[0].memory[2] ^= 1
    assert resident.verify()
    assert torch.equal(parameter, torch.ones(5))


def test_state_made_and_adopted_in_inference_mode() -> None:
    with torch.inference_mode():
        watched = several()
        assert watched.resident.verify()
    watched.hit("weight", 77)
    assert watched.resident.verify()
    watched.resident.adopt_update()
    with torch.inference_mode():
        watched.hit("weight", 77)
        assert watched.resident.verify()
    assert watched.outcomes == ["repaired", "repaired"]


def test_a_flood_of_damage_is_bounded_in_findings() -> None:
    tensors = {f"weight {index}": torch.randn(4) for index in range(100)}
    watched = Watched(**tensors)
    for name in tensors:
        watched.hit(name, 0)
        watched.hit(name, 4)
    assert not watched.resident.verify()
    assert len(watched.resident.damaged) == 100
    assert len(watched.findings) == 65
    assert "more than 64" in watched.findings[-1].detail


def test_double_flips_of_512_bits_are_put_right_or_left_open() -> None:
    """A sample of the 130,816 pairs through ``verify``; the benchmark goes through all of them."""
    words = torch.randint(-(2**31), 2**31 - 1, (16,), dtype=torch.int64).to(torch.int32)
    watched = Watched(words=words)
    draw = random.Random(5)
    memory, before = watched.memory("words"), watched.memory("words").clone()
    for one, other in draw.sample(list(itertools.combinations(range(512), 2)), 500):
        for bit in (one, other):
            memory[bit // 8] ^= 1 << bit % 8
        same_word = one // 32 == other // 32
        assert watched.resident.verify() is same_word
        assert torch.equal(memory, before) is same_word
        memory.copy_(before)
        assert watched.resident.verify()
    assert watched.resident.hits == 500
