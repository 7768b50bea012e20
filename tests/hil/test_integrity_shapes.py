"""Fault shapes: what each does to the bits of every dtype, how often it comes, and that ids replay draws."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hil.integrity.injection import Injection, NoSuchTarget, Site, SubjectInfo, draw
from hil.integrity.shapes import (
    DTYPES,
    EVEN,
    FORMATS,
    PRIORS,
    PUBLISHED,
    SHAPES,
    UNIFORM_BIT,
    NoShape,
    Pattern,
    damaged,
    draw_pattern,
    dtype_named,
    elements_hit,
    format_of,
    mask_of,
    shapes_of,
)
from hil.integrity.streams import Origin, origin_of

VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DRAWS = 20_000


@pytest.mark.parametrize("name", DTYPES)
def test_the_format_is_that_of_the_dtype(name: str) -> None:
    dtype, form = dtype_named(name), format_of(dtype_named(name))
    assert torch.empty(0, dtype=dtype).element_size() == form.size_bytes
    assert (form.nan is not None) is (dtype.is_floating_point)
    if form.nan is not None:
        raw = torch.tensor([form.nan - (1 << form.bits if form.nan >> (form.bits - 1) and form.bits > 8 else 0)])
        value = raw.to(VIEWS[form.size_bytes]).view(dtype)
        assert bool(value.float().isnan())


@pytest.mark.parametrize(
    ("pattern", "dtype", "old", "new"),
    [
        (Pattern(shape="nullify"), torch.float32, 0x3F80_0000, 0),
        (Pattern(shape="nullify"), torch.int8, 0xFF, 0),
        (Pattern(shape="nan"), torch.bfloat16, 0x3F80, 0x7FC0),
        (Pattern(shape="nan"), torch.float8_e4m3fn, 0x01, 0x7F),
        (Pattern(shape="single_bit", bits=(30,)), torch.float32, 0x3F80_0000, 0x7F80_0000),
        (Pattern(shape="single_bit", bits=(63,)), torch.int64, 1, 0x8000_0000_0000_0001),
        (Pattern(shape="multi_bit", bits=(0, 15)), torch.float16, 0x3C00, 0xBC01),
        (Pattern(shape="byte_contiguous", bits=(8, 9, 10)), torch.bfloat16, 0x3F80, 0x3880),
        (Pattern(shape="strided", bits=(3,), stride=4, words=2), torch.uint8, 0x08, 0x00),
    ],
)  # fmt: skip
def test_what_a_shape_makes_of_an_element(pattern: Pattern, dtype: torch.dtype, old: int, new: int) -> None:
    assert damaged(pattern, format_of(dtype), old) == new


@pytest.mark.parametrize(
    ("pattern", "place", "elements", "hit"),
    [
        (Pattern(shape="single_bit", bits=(0,)), 0.0, 10, (0,)),
        (Pattern(shape="nan"), 0.999, 10, (9,)),
        (Pattern(shape="nullify"), 0.5, 1, (0,)),
        (Pattern(shape="strided", bits=(0,), stride=4, words=2), 0.0, 10, (0, 4)),
        (Pattern(shape="strided", bits=(0,), stride=4, words=2), 0.999, 10, (5, 9)),
        (Pattern(shape="strided", bits=(0,), stride=2, words=3), 0.4, 10, (2, 4, 6)),
        # A cache that is shorter than it was when the fault was drawn.
        (Pattern(shape="strided", bits=(0,), stride=4, words=4), 0.999, 5, (0, 4)),
        (Pattern(shape="strided", bits=(0,), stride=8, words=2), 0.3, 5, (1,)),
    ],
)
def test_where_a_shape_hits(pattern: Pattern, place: float, elements: int, hit: tuple[int, ...]) -> None:
    assert elements_hit(pattern, place, elements) == hit


@given(st.integers(), st.sampled_from(sorted(DTYPES)), st.integers(1, 5000), st.floats(0.0, 1.0, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_every_draw_is_what_its_name_says(seed: int, name: str, elements: int, place: float) -> None:
    dtype = dtype_named(name)
    form = format_of(dtype)
    pattern = draw_pattern(random.Random(seed), EVEN, dtype, elements)
    hit = elements_hit(pattern, place, elements)
    assert pattern.shape in shapes_of(dtype)
    assert all(0 <= element < elements for element in hit)
    assert all(0 <= bit < form.bits for bit in pattern.bits)
    match pattern.shape:
        case "single_bit":
            assert len(pattern.bits) == len(hit) == 1
        case "multi_bit":
            assert 2 <= len(set(pattern.bits)) <= 4
        case "byte_contiguous":
            assert len(pattern.bits) >= 2
            assert len({bit // 8 for bit in pattern.bits}) == 1
        case "strided":
            assert len(pattern.bits) == 1
            assert len(hit) == pattern.words >= 2
            assert {b - a for a, b in pairwise(hit)} == {pattern.stride}
        case _:
            assert not pattern.bits


def test_the_published_shares() -> None:
    assert sum(PUBLISHED.shares.values()) == pytest.approx(1.0)
    assert PUBLISHED.shares["nullify"] == 0.51
    assert PUBLISHED.shares["nan"] == 0.01
    several = sum(PUBLISHED.shares[shape] for shape in ("multi_bit", "byte_contiguous", "strided"))
    assert several / (several + PUBLISHED.shares["single_bit"]) == pytest.approx(0.60)
    assert PUBLISHED.shares["byte_contiguous"] / several == pytest.approx(0.75)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_shapes_come_by_their_shares(prior: object) -> None:
    rng = random.Random(5)
    seen = Counter(draw_pattern(rng, prior, torch.float32, 1000).shape for _ in range(DRAWS))
    total = sum(prior.shares.values())
    for shape in SHAPES:
        share = prior.shares.get(shape, 0.0) / total
        # Five standard deviations of a binomial number.
        assert abs(seen[shape] / DRAWS - share) <= 5 * (share * (1 - share) / DRAWS) ** 0.5, shape


def test_the_uniform_prior_takes_every_bit_alike() -> None:
    rng = random.Random(5)
    seen = Counter(draw_pattern(rng, UNIFORM_BIT, torch.bfloat16, 9).bits[0] for _ in range(DRAWS))
    assert set(seen) == set(range(16))
    assert all(abs(count - DRAWS / 16) < 5 * (DRAWS / 16) ** 0.5 for count in seen.values())


def test_integers_have_no_nan_and_get_the_other_shapes() -> None:
    rng = random.Random(5)
    seen = Counter(draw_pattern(rng, PUBLISHED, torch.int8, 100).shape for _ in range(2000))
    assert set(seen) == set(SHAPES) - {"nan"}
    assert {draw_pattern(rng, EVEN, torch.float32, 1).shape for _ in range(500)} == set(SHAPES) - {"strided"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw_pattern(random.Random(1), EVEN.only("nan"), torch.int8, 9), "can be hit by nullify"),
        (lambda: draw_pattern(random.Random(1), EVEN.only("strided"), torch.int8, 1), "1 elements of torch.int8"),
        (lambda: UNIFORM_BIT.only("nan"), 'no shape "nan"; it has single_bit'),
        (lambda: format_of(torch.complex64), "there are float64"),
        (lambda: dtype_named("float12"), 'dtype "float12" is unknown'),
        (lambda: mask_of((16,), FORMATS[torch.bfloat16]), "0 to 15"),
        (lambda: damaged(Pattern(shape="nan"), FORMATS[torch.int32], 1), "an integer has no NaN"),
    ],
)
def test_what_does_not_exist_is_one_line(call: object, says: str) -> None:
    with pytest.raises(NoShape, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


INFO = SubjectInfo(
    name="micro",
    sites=(
        Site(target="weights", layer="blocks.0.a", dtype="float32", elements=1000),
        Site(target="weights", layer="blocks.1.b", dtype="bfloat16", elements=500),
        Site(target="activations", layer="blocks.0", dtype="float32", elements=64, operation="gelu", call=3),
    ),
    passes=4,
    calls=7,
)


def test_one_injection_is_replayed_from_its_id() -> None:
    drawn = [draw(7, index, INFO, PUBLISHED) for index in range(50)]
    again = draw(7, 31, INFO, PUBLISHED)
    assert again == drawn[31]
    origin = origin_of(drawn[31].id)
    assert origin == Origin(seed=7, index=31, prior="published", subject="micro")
    assert draw(origin.seed, origin.index, INFO, PRIORS[origin.prior]) == drawn[31]
    assert draw(8, 31, INFO, PUBLISHED) != drawn[31]
    assert len({injection.place for injection in drawn}) == 50


def test_sites_are_drawn_by_size_and_targets_alike() -> None:
    drawn: list[Injection] = [draw(1, index, INFO, UNIFORM_BIT) for index in range(4000)]
    targets = Counter(injection.target for injection in drawn)
    layers = Counter(injection.layer for injection in drawn if injection.target == "weights")
    assert targets["weights"] / 4000 == pytest.approx(0.5, abs=0.04)
    assert layers["blocks.0.a"] / targets["weights"] == pytest.approx(0.8, abs=0.04)
    assert {injection.occasion for injection in drawn} == {0, 1, 2, 3}
    assert {injection.call for injection in drawn if injection.target == "activations"} == {3}
    assert {injection.call for injection in drawn if injection.target == "weights"} == set(range(7))
    between = [draw(1, index, INFO.at_the_beginning(), UNIFORM_BIT) for index in range(200)]
    assert {injection.call for injection in between if injection.target == "weights"} == {0}


def test_a_narrowed_draw_says_so_in_its_id() -> None:
    narrow = INFO.only(target="weights", layer="blocks.1.*")
    injection = draw(1, 0, narrow, EVEN.only("strided", strided_words_max=2))
    assert injection.id == "1.0.even:strided:2.micro:target=weights,layer=blocks.1.*"
    assert origin_of(injection.id).subject == narrow.name
    assert injection.layer == "blocks.1.b"
    assert injection.words == 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: INFO.only(target="kv_cache"), "target=kv_cache does not exist in subject micro; it has weights"),
        (lambda: INFO.only(dtype="int8"), "it has weights, activations of bfloat16, float32"),
        (lambda: draw(1, 0, SubjectInfo(name="void", sites=()), EVEN), "nothing that can be hit"),
    ],
)
def test_a_target_that_does_not_exist_lists_what_there_is(call: object, says: str) -> None:
    with pytest.raises(NoSuchTarget, match=says):
        call()


@pytest.mark.parametrize("text", ["", "1.2.3", "x.0.even.micro", "1.0.e ven.micro", "1.0.even.mic\nro"])
def test_a_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"SEED\.INDEX\.PRIOR\.SUBJECT"):
        origin_of(text)


@pytest.mark.parametrize(
    "fields", [{"seed": -1}, {"index": 10**9}, {"prior": "a.b"}, {"subject": "a b"}, {"subject": ""}]
)
def test_an_origin_is_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Origin(**{"seed": 1, "index": 0, "prior": "even", "subject": "micro", **fields})
