"""Regions: one per storage, with every name; what has no bytes is named, not skipped."""

import pytest
import torch

from flightsw.gpu.integrity.damage import compare, repair
from flightsw.gpu.integrity.digest import digest
from flightsw.gpu.integrity.regions import optimiser_state, regions_of, weights


class Tied(torch.nn.Module):
    """Input and output embedding are one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))


def test_tied_weights_are_one_region_with_both_names() -> None:
    found = regions_of(weights(Tied()))
    assert [region.names for region in found.regions] == [
        ("weight embedding.weight", "weight head.weight"),
        ("buffer mask",),
    ]
    assert found.size_bytes == 7 * 4 * 4 + 3
    assert found.left_out == ()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(6, 5).t(),
        torch.randn(40)[::2],
        torch.randn(8).to(torch.bfloat16),
        torch.arange(9, dtype=torch.int8),
        torch.randn(8).to(torch.float8_e4m3fn),
        torch.tensor(3.0),
    ],
    ids=["transposed", "strided", "bf16", "int8", "fp8", "scalar"],
)
def test_any_dense_tensor_is_guarded_and_repaired_in_place(tensor: torch.Tensor) -> None:
    (region,) = regions_of([("it", tensor)]).regions
    before, good = region.memory.clone(), digest(region.memory)
    address = tensor.data_ptr() - tensor.storage_offset() * tensor.element_size()
    assert region.memory.data_ptr() == address
    region.memory[-1] ^= 0x10
    (damage,) = compare(good, digest(region.memory))
    repair(region.memory, damage)
    assert torch.equal(region.memory, before)


def test_what_cannot_be_guarded_is_named_with_its_reason() -> None:
    found = regions_of(
        [
            ("none", torch.empty(0)),
            ("sparse", torch.eye(3).to_sparse()),
            ("meta", torch.empty(3, device="meta")),
            ("dense", torch.ones(3)),
        ]
    )
    assert [name for name, _ in found.left_out] == ["none", "sparse", "meta"]
    assert all(reason for _, reason in found.left_out)
    assert [region.name for region in found.regions] == ["dense"]


def test_optimiser_state_by_name() -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    assert list(optimiser_state(optimiser)) == []
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    named = {parameter: name for name, parameter in model.named_parameters()}
    assert [name for name, _ in optimiser_state(optimiser, named)] == [
        "step of weight",
        "exp_avg of weight",
        "exp_avg_sq of weight",
        "step of bias",
        "exp_avg of bias",
        "exp_avg_sq of bias",
    ]
    assert next(optimiser_state(optimiser))[0] == "step of parameter 0"


def test_a_region_of_many_names_is_short_for_people() -> None:
    whole = torch.zeros(10)
    (region,) = regions_of((f"part {index}", whole[index:]) for index in range(5)).regions
    assert region.name == "part 0, part 1, part 2 and 2 more"
