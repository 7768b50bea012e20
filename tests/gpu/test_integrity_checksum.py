"""The checked product: no clean one is condemned, whatever shapes and scales; a fault of some bounds is seen."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.gpu.integrity import checksum
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.verdicts import Look

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = st.integers(1, 70)


def judged(
    y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, addend: torch.Tensor | None = None, beta: float = 1.0
) -> tuple[bool, bool]:
    """Whether y = β c + x w passes the likely and the certain bound."""
    sums = checksum.sums_of(w)
    limits = checksum.bounds(x.shape[-1], y.shape[-1], y.dtype)
    found = checksum.residual(y, x, sums, addend, limits, 1.0, beta)
    likely = checksum.margin(found, sums.scale * limits.likely)
    certain = checksum.margin(found, sums.norm * limits.certain)
    return checksum.sound(*likely.tolist()), checksum.sound(*certain.tolist())


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from(DTYPES), st.integers(-6, 4), st.booleans(), st.integers(0, 2**31))
def test_random_products_pass_both_bounds(
    m: int, k: int, n: int, dtype: torch.dtype, scale: int, shifted: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = -4 if dtype is torch.float16 else -6
    factor = 10.0 ** (max(scale, low) if dtype is not torch.float16 else min(max(scale, low), 1))
    x = ((torch.randn(m, k, generator=generator) + 2.0 * shifted) * factor).to(dtype)
    w = (torch.randn(k, n, generator=generator) + 1.0 * shifted).to(dtype)
    c = torch.randn(n, generator=generator).to(dtype)
    assert judged(x @ w, x, w) == (True, True)
    assert judged(torch.addmm(c, x, w), x, w, c) == (True, True)


@pytest.mark.parametrize("scale", [1e-35, 1e-22, 1e-20, 1.0, 1e15])
@pytest.mark.parametrize("transposed", [False, True])
def test_scales_whose_squares_leave_the_range(scale: float, transposed: bool) -> None:
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(1)) * scale
    x = x.t().contiguous().t() if transposed else x
    w = torch.randn(200, 50, generator=torch.Generator().manual_seed(2))
    assert judged(x @ w, x, w) == (True, True)


@pytest.mark.parametrize("k", [1, 16, 1000, 20_000])
def test_operands_that_are_all_equal_pass_the_certain_bound(k: int) -> None:
    """Rounding errors are as correlated as can be: the worst case of a clean product."""
    x, w = torch.full((5, k), 0.1), torch.full((k, 33), 0.3)
    assert judged(x @ w, x, w)[1]


@pytest.mark.parametrize("layout", ["rows", "transposed", "strided", "batched"])
def test_row_norms_are_the_norms_in_every_layout(layout: str) -> None:
    x = torch.randn(700, 600)
    if layout == "transposed":
        x = torch.randn(600, 700).t()
    elif layout == "strided":
        x = torch.randn(700, 1200)[:, ::2]
    elif layout == "batched":
        x = torch.randn(3, 70, 60)
    expected = x.double().square().sum(-1, keepdim=True).sqrt()
    assert torch.allclose(checksum.row_norms(x).double(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "k", "n"), [(8, 64, 32), (64, 512, 512), (3, 2048, 100)])
def test_a_fault_of_two_bounds_is_seen_in_any_element(dtype: torch.dtype, m: int, k: int, n: int) -> None:
    """Power: what moves a row sum by twice the bound cannot hide behind rounding that stays below half of it."""
    generator = torch.Generator().manual_seed(m)
    x = torch.randn(m, k, generator=generator).to(dtype)
    w = (torch.randn(k, n, generator=generator) / math.sqrt(k)).to(dtype)
    y = x @ w
    sums = checksum.sums_of(w)
    limits = checksum.bounds(k, n, dtype)
    bound = checksum.row_norms(x.to(sums.rows.dtype)) * sums.scale * limits.likely
    for row in range(m):
        bad = y.clone()
        moved = bad[row, row % n].double() + 2.0 * bound[row, 0].double()
        bad[row, row % n] = moved
        assert judged(bad, x, w)[0] is False, row
    # And the bound is worth having: a small part of a row, not of the size of its elements' sum.
    assert float(bound.max()) < (0.01 if dtype in (torch.float32, torch.float64) else 8.0) * math.sqrt(n)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e36, 3e38])
def test_a_result_that_overflows_its_own_norm_is_an_alarm(number: float) -> None:
    """The trap: divided by the float32 norm of the damaged row, 1e36 would count as nothing."""
    x, w = torch.randn(4, 16), torch.randn(16, 8)
    y = x @ w
    y[2, 3] = number
    assert judged(y, x, w) == (False, False)


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("where", ["x", "w", "c"])
def test_an_operand_without_a_finite_norm_is_an_alarm(where: str, number: float) -> None:
    operands = {"x": torch.randn(4, 16), "w": torch.randn(16, 8), "c": torch.randn(8)}
    operands[where][0] = number
    y = torch.addmm(operands["c"], operands["x"], operands["w"])
    assert judged(y, operands["x"], operands["w"], operands["c"]) == (False, False)


@pytest.mark.parametrize("shape", [(), (7,), (1,), (5, 1), (5, 7), (1, 7)])
@pytest.mark.parametrize("beta", [1.0, -2.5, 0.0])
def test_addends_of_every_shape(shape: tuple[int, ...], beta: float) -> None:
    x, w, c = torch.randn(5, 9), torch.randn(9, 7), torch.randn(shape) + 3.0
    y = beta * c + x @ w
    assert judged(y, x, w, c, beta) == (True, True)
    y[4, 6] += 0.1
    assert judged(y, x, w, c, beta)[0] is False


def test_a_weight_that_differs_from_its_sums_is_an_alarm() -> None:
    x, w = torch.randn(4, 16), torch.randn(16, 8)
    sums, limits = checksum.sums_of(w), checksum.bounds(16, 8, torch.float32)
    w[3, 3] += 0.5
    found = checksum.residual(x @ w, x, sums, None, limits)
    assert not checksum.sound(*checksum.margin(found, sums.scale * limits.likely).tolist())


@pytest.mark.parametrize("shape", [(3, 8), (40, 600), (2, 40, 600)])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_norms_of_a_screen_are_lower_bounds(shape: tuple[int, ...], strided: bool, size: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * size
    x = x.transpose(-1, -2).contiguous().transpose(-1, -2) if strided else x
    assert (checksum.part_norms(x) <= checksum.row_norms(x) * 1.00001).all()
    part, whole = checksum.sums_of(x.transpose(-1, -2), screen=True), checksum.sums_of(x.transpose(-1, -2))
    assert torch.equal(part.rows, whole.rows)
    assert (part.scale <= whole.scale).all()
    assert (part.norm <= whole.norm).all()


def test_what_a_screen_does_not_clear_is_held_to_the_whole_bound() -> None:
    """All of x is in the columns that the screen does not read."""
    torch.manual_seed(0)
    x, w = torch.randn(20, 600), torch.randn(600, 30)
    x[:, : 600 // checksum.PART] = 0.0
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True))
    with mode:
        assert torch.equal(torch.mm(x, w), x @ w)
    mode.finish()
    assert (mode.settle(), findings, mode.tally.doubts) == (True, [], 0)
