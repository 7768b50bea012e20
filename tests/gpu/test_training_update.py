"""Errors of the update itself: the rehearsal and the update against each other, and against a third try."""

import pytest
import torch

from flightsw.gpu.integrity import kernels
from flightsw.gpu.workloads.guarded import Damaged
from tests.gpu.training_faults import PARTS, OneFault, Run, flip, sampled, twin


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_whichever_of_the_results_of_an_update_is_wrong_the_right_one_is_kept(storm_spec, number, plain):
    """The rehearsal of a chunk, or the update itself; there are two chunks."""
    straight = twin(storm_spec, 2)
    run = Run(storm_spec).until(1, PARTS)
    with OneFault("aten::_fused_adamw_", number) as fault:
        run.turn()
    assert fault.fired == 1
    assert run.finish(2) == straight
    assert ("repeat", "recomputed") in run.outcomes()


class Misread:
    """The processor's update reads gradients wrongly in some of its calls; memory is as it was."""

    def __init__(self, kernel, numbers):
        self._kernel, self._numbers = kernel, numbers
        self.scalars, self.same_as_torch = kernel.scalars, kernel.same_as_torch
        self.calls = 0

    def advance(self, rows, *arguments, **named):
        self.calls += 1
        if self.calls not in self._numbers:
            return self._kernel.advance(rows, *arguments, **named)
        wrong = rows[1].clone()
        flip(wrong, word=len(wrong) // 2 + self.calls, bit=24)
        return self._kernel.advance((rows[0], wrong, *rows[2:]), *arguments, **named)


def misread(monkeypatch, *numbers):
    """From now on the processor's kernel fails in these of its calls."""
    kernel = kernels.native(torch.device("cpu"), "native_adamw")
    if not (kernel and kernel.same_as_torch()):
        pytest.skip("this machine's torch rounds otherwise than the kernel, which is not used then")
    wrong = Misread(kernel, numbers)
    monkeypatch.setattr(kernels, "native", lambda device, name, ask=kernels.native: (
        wrong if name == "native_adamw" else ask(device, name)))  # fmt: skip
    return wrong


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_whichever_call_of_the_processor_s_update_is_wrong_the_right_result_is_kept(
    storm_spec, monkeypatch, number
):
    """Two groups are rehearsed, then updated."""
    straight = twin(storm_spec, 2)
    run = Run(storm_spec, blind=True).until(1, PARTS)
    kernel = misread(monkeypatch, number)
    run.turn()
    assert kernel.calls == 4
    assert run.finish(2) == straight
    assert [(finding.detector, finding.outcome) for finding in run.found] == [("repeat", "recomputed")]


def test_an_update_of_which_no_two_results_agree_is_damage(storm_spec, monkeypatch):
    run = Run(storm_spec, blind=True).until(1, PARTS)
    misread(monkeypatch, 1, 3)
    with OneFault("aten::_fused_adamw_", 1), pytest.raises(Damaged, match="no two of 3 results"):
        run.turn()


def test_an_update_that_is_not_rehearsed_believes_the_kernel(storm_spec, monkeypatch):
    """Which shows that it is the kernel's bits that count, and the rehearsal that saw the error."""
    sampled(monkeypatch, repeat_every=0)
    run = Run(storm_spec, blind=True).until(1, PARTS)
    kernel = misread(monkeypatch, 1)
    assert run.finish(2) != twin(storm_spec, 2)
    assert kernel.calls == 2
    assert run.found == []
