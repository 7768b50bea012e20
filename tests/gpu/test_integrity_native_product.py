"""Products read by the processor's kernels: the same verdicts and the same digests as torch's operators give."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flightsw.gpu.integrity import checksum, kernels, native_product, transit
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.native_product import Kept
from flightsw.gpu.integrity.products import Product
from flightsw.gpu.integrity.verdicts import Look

pytest.importorskip("numba")

ALL = Look(checksum=True, repeat=True, transit=True)


def turned(matrix: Tensor) -> Tensor:
    """The same values, column after column in memory."""
    return matrix.t().contiguous().t()


def margin(product: Product, y: Tensor, *, kept: bool = False) -> tuple[float, float]:
    """Lowest and highest of bound − difference, as the kernels find them."""
    reader = native_product.reader(product)
    assert reader is not None, "a product that kernels read"
    limits = checksum.bounds(product.x.shape[-1], y.shape[-1], y.dtype)
    sums = checksum.sums_of(product.w)
    held = Kept(product.w, 0, sums, sums.scale.item()) if kept else None
    addend = native_product.addend_of(product, y.shape[-1])
    low_high, digests, found = reader.read(
        y, held, addend, limits.likely, limits, [True] * len(reader.reads), digest=True
    )
    for tensor, digest in zip(reader.reads, digests, strict=True):
        if kept and tensor is product.w:
            continue
        assert digest is not None
        assert torch.equal(digest, transit.digest(tensor.untyped_storage()))
    if found is not None:
        assert torch.equal(found, transit.digest(y.untyped_storage()))
    return low_high


def reference(product: Product, y: Tensor) -> tuple[float, float]:
    """The same in torch's operators."""
    sums = checksum.sums_of(product.w)
    limits = checksum.bounds(product.x.shape[-1], y.shape[-1], y.dtype)
    found = checksum.residual(y, product.x, sums, product.addend, limits, product.alpha, product.beta)
    low, high = checksum.margin(found, sums.scale * limits.likely).tolist()
    return low, high


@settings(max_examples=150, deadline=None)
@given(
    *[st.integers(1, 90)] * 3, st.booleans(), st.booleans(), st.sampled_from(["none", "vector", "one"]),
    st.booleans(), st.integers(-12, 9), st.integers(0, 2**31),
)  # fmt: skip
def test_sound_products_pass_with_the_margin_of_the_plain_form(
    m: int, k: int, n: int, x_turned: bool, w_turned: bool, addend: str, kept: bool, scale: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator) * 10.0**scale
    w = torch.randn(k, n, generator=generator)
    c = {"none": None, "vector": torch.randn(n), "one": torch.randn(1)}[addend]
    x, w = turned(x) if x_turned else x, turned(w) if w_turned else w
    alpha, beta = (1.0, 1.0) if c is None else (0.5, -2.0)
    y = x @ w if c is None else torch.addmm(c, x, w, alpha=alpha, beta=beta)
    product = Product(x, w, c, alpha, beta)
    found, expected = margin(product, y, kept=kept), reference(product, y)
    assert checksum.sound(*found)
    # Bounds are the same; differences are rounding, of which no two orders of summation have the same.
    assert found == pytest.approx(expected, abs=0.5 * expected[1])


# Rows on both sides of four at a time, columns on both sides of what is read so.
SHAPES = [(2, 1, 1), (40, 300, 700), (700, 40, 300), (1500, 700, 3), (3, 5001, 2)]
SHAPES += [(10, 1030, 1101), (5, 1024, 2048)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("x_turned", [False, True])
@pytest.mark.parametrize("w_turned", [False, True])
def test_every_row_of_large_operands_is_read(shape: tuple[int, int, int], x_turned: bool, w_turned: bool) -> None:
    m, k, n = shape
    x, w = torch.randn(m, k), torch.randn(k, n)
    product = Product(turned(x) if x_turned else x, turned(w) if w_turned else w)
    y = x @ w
    assert checksum.sound(*margin(product, y))
    size = (x.norm() * w.norm() / math.sqrt(m * n)).item()
    for row in {0, m // 2, m - 1}:
        damaged = y.clone()
        damaged[row, n - 1] += 0.1 * size
        assert not checksum.sound(*margin(product, damaged)), row
    for operand in (product.x, product.w):
        kept = operand.clone()
        operand[-1, -1] += 1e3
        assert not checksum.sound(*margin(product, y))
        operand.copy_(kept)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "w", "y"])
def test_what_is_not_a_number_or_has_overflowed_passes_nowhere(value: float, where: str) -> None:
    x, w = torch.randn(40, 30), torch.randn(30, 50)
    y = x @ w
    {"x": x, "w": w, "y": y}[where][7, 7] = value
    assert not checksum.sound(*margin(Product(x, w), y if where == "y" else x @ w))


NOT_READ: dict[str, Callable[[], Product]] = {
    "half precision": lambda: Product(torch.ones(4, 4).bfloat16(), torch.ones(4, 4).bfloat16()),
    "double precision": lambda: Product(torch.ones(4, 4).double(), torch.ones(4, 4).double()),
    "a batch of matrices": lambda: Product(torch.ones(2, 4, 4), torch.ones(2, 4, 4)),
    "a part of x": lambda: Product(torch.ones(4, 8)[:, :4], torch.ones(4, 4)),
    "every other row of w": lambda: Product(torch.ones(4, 4), torch.ones(8, 4)[::2]),
    "an addend that is a matrix": lambda: Product(torch.ones(4, 4), torch.ones(4, 4), torch.ones(4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_READ)
def test_what_is_no_whole_matrix_of_float32_is_left_to_the_plain_form(case: str) -> None:
    assert native_product.reader(NOT_READ[case]()) is None


def test_without_kernels_nothing_is_read_here() -> None:
    with kernels.plain():
        assert native_product.reader(Product(torch.ones(4, 4), torch.ones(4, 4))) is None


@pytest.mark.parametrize("side", ["x", "w"])
@pytest.mark.parametrize("plain", [False, True])
def test_damage_on_the_way_is_seen_by_the_reading_of_the_product(side: str, plain: bool) -> None:
    a, b = torch.randn(64, 96), torch.randn(96, 128)
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(ALL)
    with mode:
        x, w = a + 1.0, b * 2.0
    struck = x if side == "x" else w
    struck.view(torch.int32)[33, 44] ^= 1  # The lowest bit: no sum of floats can see it.
    if plain:
        with kernels.plain(), mode:
            torch.mm(x, w)
    else:
        with mode:
            torch.mm(x, w)
    assert [finding.detector for finding in findings] == ["transit"]
    mode.finish()
    assert not mode.settle()
