"""Products under the checks: bounds that learn, sums of weights that age, and checks before rounding."""

import pytest
import torch
from torch.nn import functional as F

from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.verdicts import Look
from tests.gpu.kinds_of_work import B1, B2, C, W, X
from tests.gpu.looking import ALL, looked_at, same
from tests.gpu.struck_mode import LARGEST, Struck, flip


def test_operands_of_equal_elements_are_doubts_and_no_findings() -> None:
    """Correlated rounding can cross the likely bound; the certain one and an equal repetition clear it."""
    x, w = torch.full((20, 30_000), 0.1), torch.full((30_000, 300), 0.3)
    result, findings, settled, mode = looked_at(lambda: (x @ w, x @ w)[1])
    assert same(result, x @ w)
    assert (findings, settled) == ([], True)
    assert mode.tally.doubts <= 1, "the bound of that product has learnt"


def test_a_weight_damaged_after_its_sums_were_taken_taints_the_pass() -> None:
    weight = torch.randn(24, 40)
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.know([("the weight", weight)])
    mode.begin(ALL)
    with mode:
        torch.mm(X, weight)
    mode.finish()
    assert mode.settle()
    flip(27, 77)(weight)
    mode.begin(ALL)
    with mode:
        torch.mm(X, weight)
    mode.finish()
    assert not mode.settle()
    assert "the weight" in findings[0].where
    weight.data.copy_(torch.randn(24, 40))
    mode.renew(now=True)
    mode.begin(ALL)
    with mode:
        torch.mm(X, weight)
    mode.finish()
    assert mode.settle()


def test_an_announced_version_of_a_weight_is_summed_anew() -> None:
    weight = torch.randn(24, 40)
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.know([("weight", weight)])
    for _ in range(2):
        mode.begin(ALL)
        with mode:
            torch.mm(X, weight)
        mode.finish()
        assert mode.settle()
        weight.mul_(1.5)
    assert findings == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mm", "addmm", "bmm", "linear"])
def test_wide_products_are_checked_before_rounding(dtype: torch.dtype, kind: str) -> None:
    x, w, c, b1, b2 = (tensor.to(dtype) for tensor in (X, W, C, B1, B2))
    work = {
        "mm": lambda: torch.mm(x, w),
        "addmm": lambda: torch.addmm(c, x, w),
        "bmm": lambda: torch.bmm(b1, b2),
        "linear": lambda: F.linear(x, w.t(), c),
    }[kind]
    with torch.inference_mode():
        plain = work()
        off, _, _, _ = looked_at(work, wide=True, look=Look())
        result, findings, settled, _ = looked_at(work, wide=True)
        assert (result.dtype, findings, settled) == (dtype, [], True)
        assert same(result, off), "the level changes no bit"
        assert torch.allclose(result.float(), plain.float(), rtol=0.02, atol=0.02)
        # One unit in the last place of bf16, which a check after rounding cannot see: in the sum before rounding.
        struck = Struck("bmm" if kind == "bmm" else "mm", flip(16, LARGEST))
        result, findings, settled, _ = looked_at(work, struck, wide=True)
    assert (settled, [found.detector for found in findings]) == (True, ["checksum"])
    assert same(result, off)
