"""Every kind of operation under the checks: same bits when sound; when struck the undisturbed bits, or a taint."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from flightsw.gpu.integrity import kernels
from tests.gpu.kinds_of_work import FAULTS, PRODUCTS, WORK
from tests.gpu.looking import ALL, looked_at, same
from tests.gpu.struck_mode import Damage, Struck, flip, nullify


@pytest.mark.parametrize("name", WORK)
def test_sound_work_keeps_every_bit_and_raises_nothing(name: str) -> None:
    result, findings, settled, mode = looked_at(WORK[name])
    assert same(result, WORK[name]())
    assert (findings, settled) == ([], True)
    assert mode.tally.checks > 0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WORK)
def test_struck_arithmetic_is_seen_and_the_undisturbed_bits_come_out(name: str, fault: str) -> None:
    result, findings, settled, _ = looked_at(WORK[name], Struck(name, FAULTS[fault]))
    expected = WORK[name]()
    if same(expected, _struck(name, FAULTS[fault])):
        pytest.skip("this fault changes nothing here")
    assert same(result, expected)
    assert settled
    detector = "checksum" if name in PRODUCTS else "repeat"
    assert [(found.detector, found.outcome) for found in findings] == [(detector, "recomputed")]


def _struck(name: str, fault: Damage) -> Any:
    with Struck(name, fault):
        return WORK[name]()


@pytest.mark.parametrize("name", [name for name in WORK if name not in PRODUCTS])
def test_a_struck_repetition_is_told_from_a_struck_result(name: str) -> None:
    with kernels.plain():  # With them most of these operations are done once.
        result, findings, settled, _ = looked_at(WORK[name], Struck(name, flip(22), nth=1))
    assert same(result, WORK[name]())
    assert settled
    assert [found.outcome for found in findings] == ["recomputed"]


@pytest.mark.parametrize("name", ["mm", "addmm", "bmm"])
def test_a_lasting_fault_of_a_product_taints_the_pass(name: str) -> None:
    _, findings, settled, _ = looked_at(WORK[name], Struck(name, flip(30), times=9))
    assert not settled
    assert [found.outcome for found in findings] == ["contained"]


def test_results_that_never_agree_taint_the_pass() -> None:
    faults = [Struck("gelu", flip(bit), nth=bit - 20) for bit in (20, 21, 22)]
    _, findings, settled, _ = looked_at(WORK["gelu"], *faults)
    assert not settled
    assert [found.outcome for found in findings] == ["contained"]


@pytest.mark.parametrize("name", WORK)
def test_damage_on_the_way_to_a_consumer_taints_the_pass(name: str) -> None:
    def consumed() -> Any:
        made = WORK[name]()
        return (made[0] if isinstance(made, tuple) else made).sum()

    _, findings, settled, _ = looked_at(consumed, Struck(name, flip(3)), above=True)
    assert not settled
    assert findings[0].detector == "transit"


def test_damage_of_the_answer_itself_is_seen_at_the_end_of_the_pass() -> None:
    _, findings, settled, _ = looked_at(WORK["mm"], Struck("mm", nullify(3, 40)), above=True)
    assert (settled, [found.detector for found in findings]) == (False, ["transit"])


@pytest.mark.parametrize(
    "operation", ["mm", "_scaled_dot_product_flash_attention_for_cpu_backward", "gelu_backward"]
)
def test_the_backward_pass_is_checked_as_the_forward_pass(operation: str) -> None:
    weight = torch.randn(16, 16, requires_grad=True)

    def work() -> Any:
        weight.grad = None
        x = F.gelu(torch.ones(2, 2, 20, 16) @ weight)
        F.scaled_dot_product_attention(x, x, x, is_causal=True).square().sum().backward()
        return weight.grad

    undisturbed = work().clone()
    result, findings, settled, _ = looked_at(work, Struck(operation, flip(30), nth=0))
    if settled:
        assert same(result, undisturbed)
    assert findings


@pytest.mark.parametrize("name", ["mm", "gelu", "add"])
def test_deferred_verdicts_are_read_at_the_settlement(name: str) -> None:
    result, findings, settled, _ = looked_at(WORK[name], deferred=True)
    assert (same(result, WORK[name]()), findings, settled) == (True, [], True)
    _, findings, settled, mode = looked_at(WORK[name], Struck(name, flip(30)), deferred=True)
    assert (settled, [found.outcome for found in findings]) == (False, ["contained"])
    # The pass that follows is looked at in place: the same fault is now put right.
    mode.begin(ALL)
    with Struck(name, flip(30)), mode:
        again = WORK[name]()
    mode.finish()
    assert mode.settle()
    assert same(again, WORK[name]())
    assert findings[-1].outcome == "recomputed"
