"""Operations that may happen once only: changes in place, stores, random numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.gpu.kinds_of_work import C, Q, W, X
from tests.gpu.looking import looked_at, same
from tests.gpu.struck_mode import Struck, flip


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("add_", lambda t: t.add_(1.0)),
        ("mul_", lambda t: t[3:].mul_(2.0)),
        ("index_put_", lambda t: t.index_put_((torch.tensor([1, 1]),), torch.ones(24), accumulate=True)),
        ("native_batch_norm", lambda t: F.batch_norm(X, t[0], t[1].abs(), training=True)),
        ("addmm", lambda t: torch.addmm(C, X, W, out=torch.empty(32, 40))),
    ],
)
def test_changes_in_place_happen_once_and_a_struck_one_taints(name: str, work: Callable[[Any], Any]) -> None:
    start = torch.randn(32, 24)
    plain, checked, struck = (start.clone() for _ in range(3))
    expected = work(plain)
    result, findings, settled, _ = looked_at(lambda: work(checked))
    assert same(plain, checked)
    assert same(result, expected)
    assert (findings, settled) == ([], True)
    _, findings, settled, _ = looked_at(lambda: work(struck), Struck(name, flip(22)))
    assert findings
    assert not settled or same(struck, plain)


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("copy_", lambda t: t[:, 2:5].copy_(torch.ones(32, 3))),
        ("index_put_", lambda t: t.index_put_((torch.tensor([4, 2]),), torch.ones(2, 24))),
        ("fill_", lambda t: t.fill_(3.0)),
        ("zero_", lambda t: t.zero_()),
    ],
)
def test_a_struck_store_is_stored_again(name: str, work: Callable[[torch.Tensor], Any]) -> None:
    plain, target = torch.zeros(32, 24), torch.zeros(32, 24)
    work(plain)
    place = 4 * 24 + 3 if name == "index_put_" else 0
    struck = Struck(name, flip(30, place))
    _, findings, settled, _ = looked_at(lambda: work(target), struck)
    assert same(plain, target)
    assert settled
    assert [found.outcome for found in findings] == ["recomputed"]


@pytest.mark.parametrize(
    "work",
    [
        lambda: F.dropout(X, 0.4),
        lambda: torch.rand(9),
        lambda: torch.randn(4, generator=torch.Generator().manual_seed(3)),
        lambda: torch.empty(50).uniform_(),
        lambda: torch.bernoulli(torch.full((40,), 0.5)),
        lambda: torch.randperm(17),
        lambda: F.scaled_dot_product_attention(Q, Q, Q, dropout_p=0.3),
    ],
    ids=["dropout", "rand", "own generator", "uniform_", "bernoulli", "randperm", "attention"],
)
def test_random_operations_draw_once(work: Callable[[], Any]) -> None:
    torch.manual_seed(7)
    expected = work()
    after = torch.get_rng_state()
    torch.manual_seed(7)
    result, findings, settled, mode = looked_at(work)
    assert same(result, expected)
    assert torch.equal(torch.get_rng_state(), after)
    assert (findings, settled) == ([], True)
    assert mode.tally.checks > 0


def test_a_struck_random_operation_gives_the_numbers_that_were_due() -> None:
    torch.manual_seed(7)
    expected = torch.rand(9)
    torch.manual_seed(7)
    result, findings, settled, _ = looked_at(lambda: torch.rand(9), Struck("rand", flip(22)))
    assert (torch.equal(result, expected), settled, len(findings)) == (True, True, 1)
