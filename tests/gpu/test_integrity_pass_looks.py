"""Passes of a protected module: which are looked at, how they end, and bounds that they are held to."""

import pytest
import torch
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.protect import protect
from flightsw.link.integrity import Level
from tests.gpu.looking import mlp
from tests.gpu.struck_mode import Struck, flip


@pytest.mark.parametrize(
    ("level", "looked"), [(Level.OFF, 0), (Level.WATCH, 1), (Level.STANDARD, 2), (Level.STORM, 9)]
)
def test_a_pass_that_is_not_looked_at_is_not_touched(level: Level, looked: int) -> None:
    guard = protect(mlp(), level=level)
    entered = 0
    for _ in range(9):
        with guard.running():
            entered += _len_torch_dispatch_stack()
            guard.module(torch.ones(1, 8))
    assert (guard.passes, guard.looked, entered) == (9, looked, looked)


def test_everything_looks_at_a_pass_that_is_done_again() -> None:
    guard = protect(mlp(), level=Level.OFF)
    with guard.running(everything=True):
        guard.module(torch.ones(1, 8))
    assert (guard.looked, guard.settle()) == (1, True)
    assert guard.tally.checks > 0


def test_an_exception_leaves_the_mode_and_the_pass_is_not_settled() -> None:
    guard = protect(mlp(), level=Level.STORM)

    def fail() -> None:
        with guard.running():
            guard.module(torch.ones(20, 8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert _len_torch_dispatch_stack() == 0
    assert guard.settle() is False
    with pytest.raises(RuntimeError):
        guard.module(torch.ones(1, 9))
    assert (_len_torch_dispatch_stack(), guard.settle()) == (0, False)
    guard.module(torch.ones(1, 8))
    assert guard.settle() is True


def test_a_pass_within_a_pass_is_part_of_it() -> None:
    guard = protect(mlp(), level=Level.STORM)
    with guard.running(), guard.running():
        guard.module(torch.ones(1, 8))
        assert _len_torch_dispatch_stack() == 1
    assert (guard.passes, guard.settle()) == (1, True)


def test_results_out_of_their_calibrated_range_taint_a_pass_that_is_not_looked_at() -> None:
    torch.manual_seed(0)
    findings = list[Finding]()
    guard = protect(mlp(), level=Level.WATCH, report=findings.append)
    x = torch.randn(20, 8)
    with guard.calibrate():
        for _ in range(3):
            guard.module(x)
    assert guard.settle()
    guard.module(x)
    assert guard.settle()
    assert guard.looked == 1, "none of these passes is looked at by operations"
    with Struck("addmm", flip(30)):
        guard.module(x)
    assert not guard.settle()
    assert (findings[0].detector, findings[0].outcome, findings[0].where) == ("range", "contained", "0")
    findings.clear()
    guard.module[0].weight.data.fill_(torch.nan)
    guard.module(x)
    assert not guard.settle()
    assert {found.detector for found in findings} == {"finite"}


def test_a_range_that_a_fully_checked_pass_crosses_is_widened() -> None:
    findings = list[Finding]()
    guard = protect(mlp(), level=Level.STORM, report=findings.append)
    with guard.calibrate():
        guard.module(torch.ones(20, 8))
    guard.module(torch.full((20, 8), 50.0))
    assert guard.settle()
    assert findings == []
    guard.level = Level.WATCH
    guard.module(torch.full((20, 8), 50.0))
    assert guard.settle(), "learnt"
    guard.module(torch.full((20, 8), 5000.0))
    assert not guard.settle()
    with guard.running(everything=True):
        guard.module(torch.full((20, 8), 5000.0))
    assert guard.settle(), "done again with everything checked"
