"""Attention's forward result against its operands: sound ones pass, of whatever numbers; struck ones do not."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flightsw.gpu.integrity import forward_attention, kernels
from flightsw.gpu.workloads.gpt import Cache, GPTConfig
from tests.gpu.struck_mode import flip, value

pytestmark = pytest.mark.skipif(
    kernels.native(torch.device("cpu"), "native_attention_exact") is None,
    reason="these kernels are compiled by Numba",
)

FORWARD: Final = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BATCH, HEADS = 2, 3


class Case(SimpleNamespace):
    """A call and its result."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool
    scale: float | None
    out: Tensor

    def wrong(self, out: Tensor | None = None) -> int | None:
        return forward_attention.wrong(
            self.out if out is None else out,
            self.query,
            self.key,
            self.value,
            self.mask,
            is_causal=self.causal,
            scale=self.scale,
        )

    def computed(self, **changed: Tensor) -> Tensor:
        """The result of the same call of other operands."""
        query, key, value_ = (changed.get(name, getattr(self, name)) for name in ("query", "key", "value"))
        mask = changed.get("mask", self.mask)
        if mask is not None and mask.dtype is torch.bool:
            mask = torch.where(mask, 0.0, -math.inf)
        if mask is not None and mask.dim() == 4:
            mask = mask.expand(-1, -1, query.shape[2], key.shape[2])
        out: Tensor = FORWARD(query, key, value_, 0.0, self.causal, attn_mask=mask, scale=self.scale)[0]
        return out


Masks = Callable[[int, int], Tensor | None]


def sees(rows: int, keys: int, part: float, *lead: int) -> Tensor:
    return torch.rand(*lead, rows, keys) < part


MASKS: Final[dict[str, Masks]] = {
    "none": lambda rows, keys: None,
    "bool": lambda rows, keys: sees(rows, keys, 0.7, BATCH, 1),
    "of heads": lambda rows, keys: sees(rows, keys, 0.7, BATCH, HEADS),
    "of none": lambda rows, keys: sees(rows, keys, 0.02, 1, 1),
    "two sides": lambda rows, keys: sees(rows, keys, 0.7),
    "of one row": lambda rows, keys: sees(1, keys, 0.7, BATCH, 1),
    "turned": lambda rows, keys: sees(keys, rows, 0.7, BATCH, 1).transpose(2, 3),
    "added": lambda rows, keys: torch.randn(BATCH, HEADS, rows, keys) * 3.0,
    "added, turned": lambda rows, keys: torch.randn(1, 1, keys, rows).transpose(2, 3),
    "hidden": lambda rows, keys: torch.where(sees(rows, keys, 0.7, 1, HEADS), 0.0, -math.inf),
    "far below": lambda rows, keys: torch.where(sees(rows, keys, 0.7, BATCH, 1), 0.0, -1e9),
}

SIZES: Final[dict[str, tuple[float, float, float, float]]] = {
    # Size of queries, of keys, of values, and what is added to all of them.
    "noise": (1.0, 1.0, 1.0, 0.0),
    "peaked": (10.0, 10.0, 1.0, 0.0),
    "steep": (30.0, 1.0, 1.0, 0.0),
    "small": (1e-4, 1e-4, 1e-4, 0.0),
    "tiny": (1e-15, 1e-15, 1e-15, 0.0),
    "large values": (1.0, 1.0, 1e12, 0.0),
    "shifted": (1.0, 1.0, 1.0, 1.0),
    "equal": (0.0, 0.0, 0.0, 0.7),
    "nothing": (0.0, 0.0, 0.0, 0.0),
}

SHAPES: Final = [
    # Rows, keys, width.
    (1, 1, 64),
    (1, 200, 64),
    (1, 37, 24),
    (2, 513, 64),
    (3, 9, 1),
    (4, 5, 64),
    (16, 16, 24),
    (64, 70, 64),
    (65, 130, 64),
    (130, 33, 96),
]


def case(
    shape: tuple[int, int, int] = (1, 200, 64),
    mask: str = "none",
    size: str = "noise",
    *,
    causal: bool = False,
    scale: float | None = None,
    seed: int = 1,
) -> Case:
    """As ``gpt`` lays it out: queries a view of a packed product, keys and values a part of a cache."""
    torch.manual_seed(seed)
    rows, keys, width = shape
    q, k, v, shift = SIZES[size]
    cache = Cache(GPTConfig(layers=1, heads=HEADS, width=HEADS * max(width, 8), context=max(keys, 8)), BATCH)
    for store, factor in ((cache.keys[0], k), (cache.values[0], v)):
        store.normal_().mul_(factor).add_(shift)
    query = torch.randn(BATCH, rows, 3, HEADS, width).mul_(q).add_(shift).permute(2, 0, 3, 1, 4)[0]
    key, value_ = (store[0][:, :, :keys, :width] for store in (cache.keys, cache.values))
    made = Case(query=query, key=key, value=value_, mask=MASKS[mask](rows, keys), causal=causal, scale=scale)
    made.out = made.computed()
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", ["none", "bool", "added"])
def test_sound_results_pass(shape: tuple[int, int, int], mask: str, size: str) -> None:
    for seed in range(3):
        assert case(shape, mask, size, seed=seed).wrong() == 0


@pytest.mark.parametrize("options", [{"causal": True}, {"scale": 0.9}, {"scale": -0.2}, {"scale": 0.0}], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sound_results_pass_with_options(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    assert case(shape, **options).wrong() == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_sound_results_pass_with_any_mask(mask: str, shape: tuple[int, int, int]) -> None:
    if "turned" in mask and shape[0] == 1:
        pytest.skip("there is nothing to turn")
    made = case(shape, mask)
    assert made.wrong() == 0
    # The mask is looked at: without it, or with another one, the same result is wrong.
    if mask not in ("none", "of none") and shape[1] > 1:
        other = MASKS[mask](*shape[:2])
        assert other is not None
        assert made.wrong(made.computed(mask=other)) != 0


@pytest.mark.parametrize("rows", [1, 3, 4, 64])
def test_rows_that_see_nothing_are_zero(rows: int) -> None:
    made = case((rows, 40, 64), "bool")
    assert made.mask is not None
    made.mask[1, 0, rows - 1] = False
    made.out = made.computed()
    assert not made.out[1, :, rows - 1].any()
    assert made.wrong() == 0
    for number in (1e-6, math.nan, math.inf):
        out = made.out.clone()
        out[1, 2, rows - 1, 5] = number
        assert made.wrong(out) == 1


def test_it_is_what_the_attention_of_a_model_gives() -> None:
    made = case((5, 90, 64), "bool")
    assert made.mask is not None
    with torch.no_grad():
        out = F.scaled_dot_product_attention(made.query, made.key, made.value, attn_mask=made.mask)
    assert made.wrong(out) == 0
    with torch.inference_mode():
        assert (
            made.wrong(F.scaled_dot_product_attention(made.query, made.key, made.value, attn_mask=made.mask)) == 0
        )


@pytest.mark.parametrize("rows", [1, 16])
def test_scores_too_large_for_a_bound_pass_nowhere(rows: int) -> None:
    made = case((rows, 40, 64))
    made.query, made.key = made.query * 1e3, made.key * 1e3
    assert made.wrong(made.computed()) == BATCH * HEADS * rows


@pytest.mark.parametrize("rows", [1, 16])
def test_values_too_large_for_a_bound_pass_nowhere(rows: int) -> None:
    made = case((rows, 40, 64))
    made.value = made.value * 1e38
    found = made.wrong(torch.zeros_like(made.out))
    assert found == BATCH * HEADS * rows


# Struck results.

STRUCK: Final = [(1, 200, 64), (3, 37, 24), (4, 5, 64), (64, 130, 64), (70, 70, 24)]
BITS: Final = {"exact": (31, 30, 27, 23, 20, 16), "projected": (31, 30, 27, 23, 20)}
"""Bits of an element of usual size whose flip is always seen."""


@pytest.mark.parametrize("mask", ["none", "bool"])
@pytest.mark.parametrize("shape", STRUCK, ids=str)
def test_flipped_bits_do_not_pass(shape: tuple[int, int, int], mask: str) -> None:
    made = case(shape, mask)
    usual = (made.out.abs() > made.out.abs().median()).contiguous().flatten().nonzero().flatten()
    bits = BITS["exact" if shape[0] <= forward_attention.EXACT_ROWS else "projected"]
    for step in range(60):
        out = made.out.clone(memory_format=torch.contiguous_format)
        flip(bits[step % len(bits)], int(usual[7919 * step % len(usual)]))(out)
        assert made.wrong(out) == 1, bits[step % len(bits)]
    assert made.wrong() == 0


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 3e38, -1e30])
@pytest.mark.parametrize("shape", STRUCK, ids=str)
def test_what_is_not_a_number_or_huge_does_not_pass(shape: tuple[int, int, int], number: float) -> None:
    made = case(shape, "bool")
    for element in (0, made.out.numel() // 2, made.out.numel() - 1):
        out = made.out.clone(memory_format=torch.contiguous_format)
        value(number, element)(out)
        assert made.wrong(out) == 1


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("shape", STRUCK, ids=str)
def test_results_of_misread_operands_do_not_pass(shape: tuple[int, int, int], name: str) -> None:
    made = case(shape)
    bad = getattr(made, name).clone()
    bad[1, 2, -1, 5] += 4.0
    # Of a query its row is wrong, of a key or a value all rows of the head that give it weight.
    found = made.wrong(made.computed(**{name: bad}))
    assert found == 1 if name == "query" else found is not None and 0 < found <= shape[0]


@pytest.mark.parametrize("shape", STRUCK, ids=str)
def test_one_wrong_score_does_not_pass(shape: tuple[int, int, int]) -> None:
    made = case(shape)
    rows, keys, _ = shape
    added = torch.zeros(BATCH, HEADS, rows, keys)
    added[1, 1, rows // 2, keys // 2] = 3.0
    assert made.wrong(made.computed(mask=added)) == 1


@pytest.mark.parametrize("shape", STRUCK, ids=str)
def test_a_wrong_head_does_not_pass(shape: tuple[int, int, int]) -> None:
    made = case(shape)
    for struck in (made.out[1, 1], made.out[0, 1] * 1.05, 0.0, made.out[0, 1].roll(1, dims=-1)):
        out = made.out.clone()
        out[0, 1] = struck
        found = made.wrong(out)
        assert found is not None
        # A projection on one vector does not see what happens to be at a right angle to it.
        assert shape[0] - shape[0] // 20 <= found <= shape[0]


@pytest.mark.parametrize("shape", [(64, 64, 64), (64, 130, 64), (33, 70, 24), (70, 70, 64), (20, 200, 64)], ids=str)
def test_a_chunk_sees_its_own_tokens_up_to_each_and_no_further(shape: tuple[int, int, int]) -> None:
    rows, keys, _ = shape
    made = case(shape)
    last = torch.arange(rows)[:, None] + keys - rows
    made.mask = torch.where(torch.arange(keys) <= last, 0.0, -math.inf)[None, None]
    made.out = made.computed()
    assert made.wrong() == 0
    if rows == keys:
        made.mask, made.causal = None, True
        assert made.wrong() == 0
        made.mask, made.causal = torch.where(torch.arange(keys) <= last, 0.0, -math.inf)[None, None], False
    for row in (0, 1, 5, 6, 15, 16, 17, 31, 32, rows // 2, rows - 2, rows - 1):
        if row >= rows:
            continue
        edge = int(last[row])
        for key in {0, edge // 2, edge}:
            other = made.mask.clone()
            other[..., row, key] += 5.0
            found = made.wrong(made.computed(mask=other))
            # Where there is but one key, its weight is one, whatever its score.
            assert edge == 0 or (found is not None and BATCH * HEADS - 1 <= found <= BATCH * HEADS)
        if edge + 1 < keys:
            other = made.mask.clone()
            other[..., row, edge + 1] = 5.0
            found = made.wrong(made.computed(mask=other))
            assert found is not None
            assert BATCH * HEADS - 1 <= found <= BATCH * HEADS


# Odd operands.


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("shape", [(1, 40, 64), (16, 40, 64)], ids=str)
def test_what_is_not_a_number_may_follow_from_operands(
    shape: tuple[int, int, int], name: str, number: float
) -> None:
    made = case(shape)
    getattr(made, name)[1, 2, 0, 3] = number
    made.out = made.computed()
    if made.out.isfinite().all():
        pytest.skip("a key so far away is not seen at all")
    if made.out[1, 2].isnan().all() or name == "value":
        assert made.wrong() == 0
    # Another head has no part in it.
    out = made.out.clone()
    out[0, 2, 0, 3] = number
    assert made.wrong(out) == made.wrong() + 1


@pytest.mark.parametrize("rows", [5, 16, 64])
@pytest.mark.parametrize("product", [1e38, 1e40])
def test_what_is_not_a_number_may_follow_from_a_product_of_a_key_that_is_hidden(rows: int, product: float) -> None:
    made = case((rows, 40, 64))
    made.query[1, 2] = 1e21
    made.key[1, 2] *= 1e-22
    made.key[1, 2, 35, 7] = product / 1e21
    made.mask = torch.zeros(1, 1, 1, 40)
    made.mask[..., 30:] = -math.inf
    made.out = made.computed()
    # Squares of such queries are infinite, and so are their bounds: what is finite passes nowhere.
    if product < torch.finfo(torch.float32).max:
        assert made.out.isfinite().all()
        out = made.out.clone()
        out[1, 2] = math.nan
        assert made.wrong(out) == made.wrong() == rows
    else:
        assert made.out[1, 2].isnan().all()
        assert made.wrong() == 0
        assert made.wrong(made.out.nan_to_num()) == rows


@pytest.mark.parametrize("name", ["query", "key"])
def test_rows_that_see_nothing_are_no_number_where_an_operand_is_none(name: str) -> None:
    made = case((16, 40, 64))
    made.mask = torch.full((1, 1, 1, 40), -math.inf)
    getattr(made, name)[1, 2, 0, 3] = math.nan
    made.out = made.computed()
    assert made.out[1, 2].isnan().any()
    assert made.wrong() == 0
    out = made.out.clone()
    out[0, 2, 0, 3] = math.nan
    assert made.wrong(out) == 1


NO_CHECK: Final[dict[str, Callable[[Case], tuple[Any, ...]]]] = {
    "double precision": lambda c: (c.out.double(), c.query.double(), c.key.double(), c.value.double()),
    "half precision": lambda c: (c.out.bfloat16(), c.query.bfloat16(), c.key.bfloat16(), c.value.bfloat16()),
    "mixed precision": lambda c: (c.out, c.query, c.key.double(), c.value),
    "another shape of the result": lambda c: (c.out[:, :, :, :8], c.query, c.key, c.value),
    "another width of values": lambda c: (c.out, c.query, c.key, c.value[:, :, :, :8]),
    "grouped heads": lambda c: (c.out, c.query, c.key[:, :1], c.value[:, :1]),
    "three dimensions": lambda c: (c.out[0], c.query[0], c.key[0], c.value[0]),
    "no rows": lambda c: (c.out[:, :, :0], c.query[:, :, :0], c.key, c.value),
    "no keys": lambda c: (c.out, c.query, c.key[:, :, :0], c.value[:, :, :0]),
    "keys turned": lambda c: (c.out, c.query, c.key.transpose(2, 3).contiguous().transpose(2, 3), c.value),
    "every other element": lambda c: (c.out, c.query, c.key.repeat_interleave(2, -1)[..., ::2], c.value),
    "integers": lambda c: (c.out.int(), c.query.int(), c.key.int(), c.value.int()),
    "complex numbers": lambda c: (c.out + 0j, c.query + 0j, c.key + 0j, c.value + 0j),
    "another device": lambda c: tuple(x.to("meta") for x in (c.out, c.query, c.key, c.value)),
    "sparse": lambda c: (c.out.to_sparse(), c.query.to_sparse(), c.key.to_sparse(), c.value.to_sparse()),
    "no tensor": lambda c: (None, c.query, c.key, c.value),
    "a mask of integers": lambda c: (c.out, c.query, c.key, c.value, torch.ones(4, 40, dtype=torch.int64)),
    "a mask of doubles": lambda c: (c.out, c.query, c.key, c.value, torch.ones(4, 40, dtype=torch.float64)),
    "a mask of another shape": lambda c: (c.out, c.query, c.key, c.value, torch.ones(4, 41)),
    "a mask of three dimensions": lambda c: (c.out, c.query, c.key, c.value, torch.ones(HEADS, 4, 40)),
    "a sparse mask": lambda c: (c.out, c.query, c.key, c.value, torch.ones(4, 40).to_sparse()),
    "a mask that is none": lambda c: (c.out, c.query, c.key, c.value, "mask"),
}


@pytest.mark.parametrize("name", NO_CHECK)
def test_what_has_no_check_here_says_so(name: str) -> None:
    made = case((4, 40, 64))
    assert made.wrong() == 0
    assert forward_attention.wrong(*NO_CHECK[name](made)) is None


def test_options_that_have_no_check_here_say_so() -> None:
    made = case((4, 40, 64), "bool")
    for scale in (math.nan, math.inf):
        made.scale = scale
        assert made.wrong() is None
    made.scale, made.causal = None, True
    assert made.wrong() is None
    made.mask = None
    # Of such a scale torch's kernel makes NaN of keys that are hidden.
    for scale, found in ((None, 0), (0.3, 0), (0.0, None), (-0.2, None)):
        made.scale = scale
        made.out = made.computed()
        assert made.out.isfinite().all() == (found == 0)
        assert made.wrong() == found


def test_without_kernels_there_is_none() -> None:
    made = case()
    with kernels.plain():
        assert made.wrong() is None


def test_operands_with_gradients_are_read_all_the_same() -> None:
    made = case((8, 40, 64))
    made.query = made.query.detach().requires_grad_()
    assert made.wrong() == 0


# Checkers that do not check.

MASKED, KEYS = 6, 3
"""Of a table, whether there is a mask; how many keys there are."""


def forgetful(place: int, number: int) -> Callable[[Any, Any], Any]:
    def kernel(real: Any, table: Any, *rest: Any) -> Any:
        table[place] = number
        return real(table, *rest)

    return kernel  # type: ignore[return-value]


def loose(real: Any, table: Any, *rest: Any) -> Any:
    return real(table, *rest[:-1], 1.0)


def one_way(real: Any, table: Any, *rest: Any) -> Any:
    if isinstance(rest[0], float):
        return 0
    weights = rest[0].copy()
    weights[:] = 1.0
    return real(table, weights, *rest[1:])


def swapped(made: Case) -> Tensor:
    out = made.out.clone()
    out[1, 0, -1] = made.out[1, 0, -1].roll(2)
    return out


def of_all(made: Case) -> Tensor:
    return made.computed(mask=torch.zeros(1, 1, *made.out.shape[2:3], made.key.shape[2]))


def without_last(made: Case) -> Tensor:
    hidden = torch.zeros(1, 1, made.out.shape[2], made.key.shape[2])
    hidden[..., -1] = -math.inf
    return made.computed(mask=hidden)


MUTANTS: Final[dict[str, tuple[Any, str, Callable[[Case], Tensor]]]] = {
    # A kernel that has a hole; the mask and the result that pass through it.
    "the mask is forgotten": (forgetful(MASKED, 0), "bool", of_all),
    "the last key is left out": (forgetful(KEYS, 39), "none", without_last),
    "bounds as large as values": (loose, "none", lambda made: made.out * 1.3),
    "all columns have one weight": (one_way, "none", swapped),
}


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_lets_through_what_the_check_sees(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hole, mask, struck = MUTANTS[name]
    made = case((rows, 40, 64), mask)
    assert made.wrong(struck(made)) != 0
    exact, projected = (
        kernels.native(torch.device("cpu"), f"native_attention_{form}") for form in ("exact", "projected")
    )
    assert exact is not None
    assert projected is not None
    mutant = SimpleNamespace(
        rows_differ=lambda *args: hole(exact.rows_differ, *args),
        projections_differ=lambda *args: hole(projected.projections_differ, *args),
    )
    monkeypatch.setattr(kernels, "native", lambda device, name: mutant)
    assert made.wrong(struck(made)) == 0
