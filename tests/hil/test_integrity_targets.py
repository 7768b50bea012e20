"""Targets: how each is reached in real subjects, that memory is hit unseen, what is said where there is none."""

import pytest
import torch
from torch import nn

from flightsw.gpu.workloads.gpt import GPT, Cache, GPTConfig
from hil.integrity.bits import Unreachable, hit, offset_bytes, read, write
from hil.integrity.injection import TARGET_NAMES, Injection, NoSuchTarget
from hil.integrity.injector import inject
from hil.integrity.shapes import DTYPES
from hil.integrity.survey import survey
from hil.integrity.targets import (
    TARGETS,
    Subject,
    key_value_cache,
    random_words,
    torch_optimiser,
)

CONFIG = GPTConfig(layers=2, heads=2, width=32, context=32)


def plan(**fields: object) -> Injection:
    """One flip of bit 3 in the middle of a tensor."""
    return Injection(
        **{  # type: ignore[arg-type]
            "id": "1.0.even.t", "subject": "t", "prior": "even", "seed": 1, "index": 0, "target": "weights",
            "layer": "weight", "operation": "", "call": 0, "occasion": 0, "dtype": "float32",
            "shape": "single_bit", "bits": (3,), "stride": 0, "words": 1, "place": 0.5, **fields,
        }
    )  # fmt: skip


def trained() -> Subject:
    torch.manual_seed(1)
    model = GPT(CONFIG)
    optimiser = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(256, (2, 8))
    model(tokens, tokens)[1].backward()
    optimiser.step()
    return Subject(
        name="trained",
        module=model,
        optimiser=torch_optimiser(optimiser, model),
        inputs=lambda: [("tokens", tokens)],
        generators=lambda: {"host": torch.default_generator},
    )


@pytest.mark.parametrize("name", DTYPES)
def test_a_flip_is_one_bit_in_every_dtype(name: str) -> None:
    memory = torch.arange(64, dtype=torch.uint8).view(DTYPES[name]) if name != "bool" else torch.ones(64).bool()
    before = memory.view(torch.uint8).clone()
    bit = 0 if name == "bool" else 3
    fired = hit(memory, plan(dtype=name, bits=(bit,)), "here")
    changed = (before ^ memory.view(torch.uint8)).nonzero().flatten().tolist()
    place = fired.elements[0] * memory.element_size()
    assert changed == [place]
    assert int(before[place] ^ memory.view(torch.uint8)[place]) == 1 << bit
    assert fired.old[0] ^ fired.new[0] == 1 << bit
    assert read(memory, fired.elements[0]) == fired.new[0]
    assert fired.words32 == 1
    assert fired.changed


@pytest.mark.parametrize(
    ("tensor", "element"),
    [
        (torch.arange(24.0).view(4, 6).t(), 7),
        (torch.arange(24.0).view(4, 6)[1:, ::2], 5),
        (torch.arange(24.0)[3:].expand(2, 21), 30),
        (torch.tensor(3.0), 0),
        (torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1), 11),
    ],
    ids=["transposed", "sliced", "expanded", "scalar", "permuted"],
)
def test_elements_count_row_by_row_whatever_the_strides(tensor: torch.Tensor, element: int) -> None:
    wanted = float(tensor.flatten()[element])
    raw = torch.tensor([read(tensor, element)], dtype=torch.int32).view(torch.float32)
    assert float(raw) == wanted
    write(tensor, element, 0x42280000)
    assert float(tensor.flatten()[element]) == 42.0
    assert offset_bytes(tensor, element) % 4 == 0


def test_damage_moves_no_version_and_disturbs_no_backward() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    loss = (weight * weight).sum()
    version = weight._version
    hit(weight, plan(bits=(31,)), "weight")
    assert weight._version == version
    loss.backward()  # An in-place change that torch knew of would be an error here.
    # The saved tensor is the memory that was hit, as it would be in flight.
    assert torch.equal(weight.grad, 2 * weight.detach())
    with torch.inference_mode():
        made = torch.ones(3)
        hit(made, plan(), "inside")
    assert hit(made, plan(), "outside").changed


def test_a_nullified_zero_fired_and_changed_nothing() -> None:
    fired = hit(torch.zeros(4), plan(shape="nullify", bits=()), "zeros")
    assert not fired.changed
    assert fired.words32 == 0


def test_words_are_those_of_the_memory() -> None:
    fired = hit(torch.full((8,), 1.0, dtype=torch.float64), plan(dtype="float64", bits=(0, 63)), "both halves")
    assert fired.words32 == 2
    strided = plan(dtype="bfloat16", shape="strided", stride=1, words=2, place=0.0)
    pair = hit(torch.zeros(8, dtype=torch.bfloat16), strided, "one word")
    assert pair.elements == (0, 1)
    assert pair.words32 == 1


@pytest.mark.parametrize(
    ("tensor", "fields", "says"),
    [
        (torch.zeros(0), {}, "has no element to hit"),
        (torch.zeros(3, device="meta"), {}, "has no element to hit"),
        (torch.eye(3).to_sparse(), {}, "layout torch.sparse_coo"),
        (torch.zeros(3, dtype=torch.bfloat16), {}, "holds torch.bfloat16, the injection is for float32"),
    ],
)
def test_what_has_no_bits_is_one_line(tensor: torch.Tensor, fields: dict[str, object], says: str) -> None:
    with pytest.raises(Unreachable, match=says):
        hit(tensor, plan(**fields), "it")


def test_every_name_has_its_row() -> None:
    assert tuple(TARGETS) == TARGET_NAMES


@pytest.mark.parametrize(
    ("target", "layer", "dtype"),
    [
        ("weights", "blocks.1.expand.weight", "float32"),
        ("optimiser", "norm.weight.exp_avg_sq", "float32"),
        ("gradients", "blocks.0.attention.qkv.bias", "float32"),
        ("input_data", "tokens", "int64"),
        ("random_state", "host", "int32"),
    ],
)
def test_memory_is_reached_in_a_subject_in_training(target: str, layer: str, dtype: str) -> None:
    subject = trained()
    state = torch.get_rng_state()
    fired = inject(plan(target=target, layer=layer, dtype=dtype), subject).strike()
    if target == "random_state":
        difference = (state ^ torch.get_rng_state()).nonzero()
        assert len(difference) == 1
        torch.set_rng_state(state)
        return
    tensor = (
        dict(subject.module.named_parameters())[layer].grad
        if target == "gradients"
        else subject.memory(target)[layer]
    )
    assert read(tensor, fired.elements[0]) == fired.new[0] == fired.old[0] ^ 8


def test_every_word_of_the_random_state_is_one_that_draws_use() -> None:
    """torch refuses none of these states, and a hit in the word that is drawn next changes the draw."""
    generator = torch.Generator().manual_seed(3)
    torch.randint(9, (624 * 2,), generator=generator)
    clean = torch.Generator()
    clean.set_state(generator.get_state())
    state, words = random_words(generator)
    assert len(words) == 624
    assert words.dtype is torch.int32
    words ^= 1 << 20
    generator.set_state(state)
    drawn = [torch.randint(2**31, (600,), generator=g) for g in (generator, clean)]
    assert (drawn[0] != drawn[1]).all()


def test_the_cache_is_a_target_where_it_is_used() -> None:
    cache = Cache(CONFIG, 2)
    model = GPT(CONFIG).eval()
    with torch.inference_mode():
        model.forward_cached(torch.randint(256, (2, 5)), cache, torch.arange(5).expand(2, -1))
    whole, used = dict(key_value_cache(cache)), dict(key_value_cache(cache, lambda: 5))
    assert set(whole) == {f"layer {layer} {what}" for layer in range(2) for what in ("keys", "values")}
    assert whole["layer 0 keys"].shape[2] == 33
    assert used["layer 0 keys"].shape[2] == 5
    subject = Subject(name="serving", module=model, cache=lambda: key_value_cache(cache, lambda: 5))
    before = cache.values[1].clone()
    inject(plan(target="kv_cache", layer="layer 1 values", place=0.999), subject).strike()
    rows = (before != cache.values[1]).nonzero().tolist()
    assert rows == [[1, 1, 4, 15]]


class DynamicLayer:
    def __init__(self, keys: torch.Tensor | None) -> None:
        self.keys = self.values = keys


class DynamicCache:
    layers = (DynamicLayer(torch.zeros(1, 2, 3, 4)), DynamicLayer(None))


def test_a_cache_of_layers_is_a_target_layer_by_layer() -> None:
    assert [name for name, _ in key_value_cache(DynamicCache())] == ["layer 0 keys", "layer 0 values"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"target": "kv_cache"}, r'subject bare has no "kv_cache"; it has weights, gradients, activations'),
        ({"target": "optimiser"}, r'no "optimiser"'),
        ({"target": "random_state"}, r'no "random_state"'),
        ({"target": "cosmos"}, r'target "cosmos" is unknown; there are weights, optimiser'),
        ({"layer": "ghost"}, r'no "ghost" in its weights; it has weight, bias'),
        ({"target": "gradients", "layer": "ghost"}, r'no "ghost" in its gradients; it has weight, bias'),
    ],
)
def test_a_target_that_is_not_there_lists_what_is(fields: dict[str, object], says: str) -> None:
    with pytest.raises(NoSuchTarget, match=says) as caught:
        inject(plan(**fields), Subject(name="bare", module=nn.Linear(2, 2)))
    assert "\n" not in str(caught.value)


def test_a_subject_without_a_module_has_no_gradients() -> None:
    held = torch.ones(3)
    subject = Subject(name="held", weights=lambda: [("weight", held), ("nothing", torch.empty(0))])
    assert set(subject.memory("weights")) == {"weight"}
    assert "gradients" not in set(subject.targets())
    with pytest.raises(NoSuchTarget, match=r'no "gradients"; it has weights, activations'):
        inject(plan(target="gradients"), subject)


def test_a_survey_lists_memory_and_operations() -> None:
    subject = trained()
    tokens = torch.randint(256, (2, 8))

    def one_pass() -> None:
        subject.module(tokens, tokens)[1].backward()

    info = survey(subject, one_pass, passes=3)
    assert info.targets == tuple(name for name in TARGET_NAMES if name != "kv_cache")
    assert info.passes == 3
    named = {(site.target, site.layer, site.operation, site.elements) for site in info.sites}
    assert ("weights", "blocks.0.expand.weight", "", 128 * 32) in named
    assert ("optimiser", "blocks.0.expand.weight.exp_avg", "", 128 * 32) in named
    assert ("output_before_rounding", "blocks.0.expand", "addmm", 16 * 128) in named
    assert ("output_after_rounding", "blocks.1.contract", "addmm", 16 * 32) in named
    assert ("arithmetic", "blocks.0.norm_mlp", "native_layer_norm", 16 * 32) in named
    assert ("activations", "blocks.0.norm_mlp", "native_layer_norm#1", 16) in named
    # The backward product of a layer's weight belongs to that layer.
    assert ("output_before_rounding", "blocks.0.expand", "backward:mm", 16 * 32) in named
    assert not any(site.target == "arithmetic" and "mm" in site.operation for site in info.sites)
    assert {site.call for site in info.sites if site.operation == "addmm"} == set(range(8))
    assert info.calls > len({(site.operation, site.call) for site in info.sites})
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in subject.module.modules())


def test_a_product_in_bfloat16_is_hit_in_its_float32_sum() -> None:
    layer = nn.Linear(8, 4).bfloat16()
    info = survey(Subject(name="half", module=layer), lambda: layer(torch.ones(2, 8, dtype=torch.bfloat16)))
    dtypes = {site.target: site.dtype for site in info.sites if site.operation == "addmm"}
    assert dtypes == {
        "activations": "bfloat16",
        "output_before_rounding": "float32",
        "output_after_rounding": "bfloat16",
    }


def test_a_pass_that_shows_no_operation_is_no_subject() -> None:
    with pytest.raises(ValueError, match="ran no operation that torch shows"):
        survey(Subject(name="idle"), lambda: None)
