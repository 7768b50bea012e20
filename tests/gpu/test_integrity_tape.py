"""The tape: in a pass without gradients results are looked at late, from their making to their last reading."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flightsw.gpu.integrity import kernels, tape
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.late_looks import KINDS, takes
from flightsw.gpu.integrity.tape import NOTED_BYTES_MAX, NOTES_MAX
from tests.gpu.looking import ALL, looked_at, same
from tests.gpu.struck_mode import LARGEST, Damage, Struck, flip, strike, value

pytestmark = pytest.mark.skipif(
    kernels.native(torch.device("cpu"), "native_late") is None, reason="the tape needs Numba (extra native)"
)

GENERATOR = torch.Generator().manual_seed(1)
X, W, C, V = (torch.randn(shape, generator=GENERATOR) for shape in ((32, 24), (24, 40), (40,), (24,)))
B1, B2 = (torch.randn(shape, generator=GENERATOR) for shape in ((3, 20, 12), (3, 12, 18)))
Q = torch.randn(2, 2, 16, 8, generator=GENERATOR)
MASK = torch.ones(16, 16, dtype=torch.bool).tril()
ROWS = torch.tensor([3, 1, 3])
ATTENTION = "scaled_dot_product_attention"

WORK: dict[str, tuple[str, Callable[[], Any]]] = {
    "linear": ("linear", lambda: F.linear(X, W.t().contiguous(), C)),
    "linear of few rows": ("linear", lambda: F.linear(X[:2], W.t().contiguous(), C)),
    "linear of a transposed operand": ("linear", lambda: F.linear(X.t().contiguous().t(), W.t(), C)),
    "mm": ("mm", lambda: torch.mm(X, W)),
    "addmm": ("addmm", lambda: torch.addmm(C, X, W, beta=0.5, alpha=-2.0)),
    "bmm": ("bmm", lambda: torch.bmm(B1, B2)),
    "baddbmm": ("baddbmm", lambda: torch.baddbmm(B1[:, :, :1], B1, B2)),
    "gelu, tanh": ("gelu", lambda: F.gelu(X, approximate="tanh")),
    "gelu, exact": ("gelu", lambda: F.gelu(X)),
    "layer norm": ("layer_norm", lambda: F.layer_norm(X, (24,))),
    "layer norm, affine": ("layer_norm", lambda: F.layer_norm(X, (24,), V, V + 1.0)),
    "layer norm of all": ("layer_norm", lambda: F.layer_norm(X, (32, 24), eps=1e-3)),
    "embedding": ("embedding", lambda: F.embedding(ROWS, X)),
    "add": ("add", lambda: X + X),
    "add of a row": ("add", lambda: V + X),
    "add, scaled": ("add", lambda: torch.add(X, X, alpha=3.0)),
    "add of another layout": ("add", lambda: X.t() + V[:, None]),
    "mul": ("mul", lambda: X * V),
    "mul by a number": ("mul", lambda: X * 3.0),
    "attention, causal": (ATTENTION, lambda: F.scaled_dot_product_attention(Q, Q, Q, is_causal=True)),
    "attention, masked": (ATTENTION, lambda: F.scaled_dot_product_attention(Q, Q, Q, MASK)),
    "attention of one token": (ATTENTION, lambda: F.scaled_dot_product_attention(Q[:, :, :1], Q, Q)),
    "reshaped copy": ("reshape", lambda: X.t().reshape(6, 128)),
    "reshaped copy of heads": ("reshape", lambda: Q.transpose(1, 2).reshape(2, 16, 16)),
    "reshaped copy of some columns": ("reshape", lambda: X[:, :9].reshape(9, 32)),
    "contiguous copy": ("contiguous", lambda: Q[:, 1:, ::3].contiguous()),
    "contiguous copy of five dimensions": ("contiguous", lambda: Q[None].transpose(0, 3).contiguous()),
    "to another dtype": ("to", lambda: X.to(torch.float64)),
}  # fmt: skip
"""What is done, and which operation of it is struck: whole, in inference mode."""
BIT_BY_BIT = (
    "add", "mul", "embedding", "reshaped copy", "reshaped copy of heads", "reshaped copy of some columns",
    "contiguous copy", "contiguous copy of five dimensions", "to another dtype", "gelu, exact",
)  # fmt: skip
SPARSE = torch.eye(24).to_sparse()
ODD: dict[str, Callable[[], Any]] = {
    "sparse sum": lambda: (SPARSE + SPARSE).to_dense(),
    "sparse product by element": lambda: (SPARSE * SPARSE).to_dense(),
    "sparse product by a number": lambda: (SPARSE * 2.0).to_dense(),
    "sparse to another dtype": lambda: SPARSE.to(torch.float64).to_dense(),
    "dropout of a sparse one": lambda: torch.ops.aten.dropout(SPARSE, 0.5, False).to_dense(),
    "a sparse one written while others are noted": lambda: (X + X, torch.eye(24).to_sparse().mul_(2.0).to_dense()),
}
"""Tensors that have no elements in one piece of memory."""
REMADE: dict[str, Callable[[torch.Tensor], Any]] = {
    "smaller": lambda x: x.resize_(4),
    "larger": lambda x: x.resize_(80, 80),
    "other memory": lambda x: x.set_(torch.randn(3, 3)),
    "other memory, same shape": lambda x: x.set_(torch.randn(32, 24)),
}
FAULTS: dict[str, Damage] = {
    "exponent": flip(30),
    "sign": flip(31),
    "mantissa": flip(21),
    "nan": value(math.nan),
    "huge": value(1e36),
}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", WORK)
def test_sound_work_keeps_every_bit_and_raises_nothing(name: str, context: Any) -> None:
    work = WORK[name][1]
    with context():
        result, findings, settled, mode = looked_at(work)
        assert same(result, work())
    assert (findings, settled, mode.tally.doubts) == ([], True, 0)
    assert mode.tally.checks > 0


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WORK)
@torch.inference_mode()
def test_a_struck_result_taints_the_pass(name: str, fault: str, above: bool) -> None:
    """Below: arithmetic that went wrong; above: a result that was hit on its way. It is in use in either case."""
    operation, work = WORK[name]
    with Struck(operation, FAULTS[fault]):
        if same(work(), WORK[name][1]()) and fault != "nan":
            pytest.skip("this fault changes nothing here")
    _, findings, settled, _ = looked_at(work, Struck(operation, FAULTS[fault]), above=above)
    assert not settled
    assert {found.outcome for found in findings} == {"contained"}


@pytest.mark.parametrize("name", BIT_BY_BIT)
@torch.inference_mode()
def test_what_is_formed_again_is_held_to_the_last_bit(name: str) -> None:
    operation, work = WORK[name]
    assert not looked_at(work, Struck(operation, flip(0), nth=0))[2]


@pytest.mark.parametrize("element", [0, 7, 8, 255, 511])
@torch.inference_mode()
def test_a_copy_of_heads_is_held_to_the_last_bit_wherever_it_is_hit(element: int) -> None:
    operation, work = WORK["reshaped copy of heads"]
    assert not looked_at(work, Struck(operation, flip(0, element), nth=0))[2]


COPIED: dict[str, tuple[torch.Tensor, int | None]] = {
    "heads of tokens": (Q.transpose(1, 2), 0),
    "four dimensions in another order": (Q.permute(2, 0, 1, 3), 0),
    "some columns": (X[:, 3:12], 0),
    "every second row": (X[::2], 0),
    "a row over and over": (V.expand(3, 24), 0),
    "rows longer than a page": (torch.randn(3, 2100, generator=GENERATOR)[:, :2001], 0),
    "one column": (X[:, 4:5], 0),
    "nothing": (X[:0, :9], 0),
    "columns for rows": (X.t(), None),
    "elements apart": (X[:, 0], None),
    "five dimensions": (Q[None].transpose(0, 3), None),
    "another dtype": (X.to(torch.float64)[:, :9], None),
    "negated when read": (torch._neg_view(X)[:, :9], None),
}


@pytest.mark.parametrize("kind", ["reshape", "contiguous"])
@pytest.mark.parametrize("name", COPIED)
def test_copies_of_rows_have_a_look_of_their_own_and_others_are_done_again(name: str, kind: str) -> None:
    source, expected = COPIED[name]
    look = KINDS[f"aten::{kind}"].look
    assert look is not None
    copy = torch.empty(source.shape, dtype=source.dtype).copy_(source)
    assert look(copy, (source,), {}) == expected
    for element in range(0, copy.numel() if expected == 0 else 0, 7):
        strike(flip(0, element), copy)
        assert look(copy, (source,), {}) == 1, element
        strike(flip(0, element), copy)


@torch.inference_mode()
def test_a_result_is_watched_until_its_last_reading() -> None:
    """Damage after the first consumer has read it, before the second one does."""

    def work() -> Any:
        made = X + X
        first = made * 2.0
        strike(flip(3, 100), made)
        return first, made * 3.0

    assert not looked_at(work)[2]


@torch.inference_mode()
def test_an_operand_that_is_hit_between_two_operations_is_seen_by_its_producer() -> None:
    def work() -> Any:
        normed = F.layer_norm(X, (24,))
        strike(flip(16, 5), normed)
        return F.linear(normed, W.t().contiguous())

    _, findings, settled, _ = looked_at(work)
    assert not settled
    assert [found.detector for found in findings] == ["repeat"]


@torch.inference_mode()
def test_numbers_of_the_host_are_watched_from_when_they_become_a_tensor() -> None:
    def work() -> Any:
        index = torch.tensor([3, 1, 3])
        strike(flip(1, 0), index)
        return F.embedding(index, X)

    _, findings, settled, _ = looked_at(work)
    assert not settled
    assert [found.detector for found in findings] == ["transit"]


LARGE = torch.randn(NOTED_BYTES_MAX // 4 // 1024 // 2 + 8, 1024, generator=GENERATOR)


KEPT: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    "itself": lambda made: made,
    "through a view": lambda made: made[5:],
    "not at all": lambda made: None,
}


@pytest.mark.parametrize("seen", KEPT)
@torch.inference_mode()
def test_what_leaves_the_window_is_digested_where_somebody_may_still_read_it(seen: str) -> None:
    keep = KEPT[seen]

    def work() -> Any:
        kept = keep(LARGE + 1.0)
        last = LARGE * 2.0
        for _ in range(4):
            last = LARGE * 2.0
        if kept is None:
            return last
        strike(flip(0, 7777), kept)
        return last, kept * 2.0

    _, findings, settled, _ = looked_at(work)
    assert settled == (seen == "not at all")
    assert [found.detector for found in findings] == ([] if settled else ["transit"])


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window with room for ten results: those that leave it leave several at a time."""
    monkeypatch.setattr(tape, "NOTED_BYTES_MAX", 10 * X.nbytes)


def long_work() -> torch.Tensor:
    """Four operations, six times over."""
    x = X
    for _ in range(6):
        x = F.gelu(F.layer_norm(x + X, (24,)) * X, approximate="tanh")
    return x


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("nth", range(6))
@pytest.mark.parametrize("operation", ["add", "layer_norm", "mul", "gelu"])
@torch.inference_mode()
def test_what_leaves_the_window_is_looked_at_wherever_it_was_in_it(operation: str, nth: int, above: bool) -> None:
    _, findings, settled, _ = looked_at(long_work, Struck(operation, flip(30), nth), above=above)
    assert not settled
    assert {found.outcome for found in findings} == {"contained"}


@pytest.mark.usefixtures("narrow")
@torch.inference_mode()
def test_what_leaves_the_window_together_is_sound_and_every_operation_is_looked_at_once() -> None:
    result, findings, settled, mode = looked_at(long_work)
    assert (findings, settled, mode.tally.doubts) == ([], True, 0)
    assert same(result, long_work())
    assert mode.tally.checks >= 24


@pytest.mark.usefixtures("narrow")
@torch.inference_mode()
def test_an_operand_with_a_digest_is_verified_before_its_last_reader_leaves_the_window() -> None:
    def work() -> torch.Tensor:
        kept = X + 1.0
        for _ in range(12):
            last = X * V
        strike(flip(0, 77), kept)
        # Sound of what it has read; nobody else knows the operand any more when the pass ends.
        kept * V
        del kept
        for _ in range(12):
            last = X * V
        return last

    _, findings, settled, _ = looked_at(work)
    assert not settled
    assert [found.detector for found in findings] == ["transit"]


@torch.inference_mode()
def test_of_a_long_pass_no_more_than_the_window_is_kept_alive() -> None:
    alive: list[int] = []

    def work() -> None:
        made = [(LARGE + 1.0).untyped_storage()._weak_ref() for _ in range(12)]
        stores = [torch.UntypedStorage._new_with_weak_ptr(one) for one in made]
        alive.append(sum(one is not None for one in stores))
        for one in made:
            torch.UntypedStorage._free_weak_ref(one)

    assert looked_at(work)[2]
    assert 1 <= alive[0] <= 3


@torch.inference_mode()
def test_small_results_of_large_operands_keep_no_more_alive() -> None:
    alive: list[int] = []

    def work() -> None:
        made = []
        for _ in range(12):
            # Done twice, not noted; only what is noted holds it after this.
            large = torch.relu(LARGE)
            made.append(large.untyped_storage()._weak_ref())
            large[:1, :4] * 2.0
            del large
        stores = [torch.UntypedStorage._new_with_weak_ptr(one) for one in made]
        alive.append(sum(one is not None for one in stores))
        for one in made:
            torch.UntypedStorage._free_weak_ref(one)

    assert looked_at(work)[2]
    assert alive[0] <= 3


@torch.inference_mode()
def test_there_are_no_more_notes_than_the_window_has() -> None:
    alive: list[int] = []

    def work() -> None:
        made = [(C + 1.0).untyped_storage()._weak_ref() for _ in range(NOTES_MAX + 50)]
        stores = [torch.UntypedStorage._new_with_weak_ptr(one) for one in made]
        alive.append(sum(one is not None for one in stores))
        for one in made:
            torch.UntypedStorage._free_weak_ref(one)

    assert looked_at(work)[2]
    assert alive == [NOTES_MAX]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ODD)
def test_tensors_of_other_layouts_are_checked_as_they_are_computed(name: str, context: Any) -> None:
    with context():
        result, findings, settled, _ = looked_at(ODD[name])
        assert same(result, ODD[name]())
    assert (findings, settled) == ([], True)


def test_a_tensor_without_memory_is_not_noted() -> None:
    nothing = torch.empty(4, 4, device="meta")
    for name in ("add", "mul", "layer_norm", "gelu", "embedding", "linear", "to"):
        kind = KINDS[f"aten::{name}"]
        assert not takes(kind, (nothing, nothing), {}), name
    assert not takes(KINDS["aten::add"], (X, nothing), {})


PADDING = torch.arange(9) >= torch.tensor([[9], [4], [6]])
MODELS: dict[str, Callable[[], Any]] = {
    "gates that are changed in place, in parts": lambda: torch.nn.GRU(9, 13, batch_first=True),
    "sequences of other lengths in one nested tensor": lambda: torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(12, 2, 24, batch_first=True), 1
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MODELS)
def test_sound_models_keep_every_bit_and_raise_nothing(name: str, context: Any) -> None:
    torch.manual_seed(2)
    model = MODELS[name]().eval()
    masked = {"src_key_padding_mask": PADDING} if "nested" in name else {}

    def work() -> Any:
        done = model(x, **masked)
        return done[0] if isinstance(done, tuple) else done

    for seed in range(4):
        x = torch.randn(3, 9, 12 if masked else 9, generator=torch.Generator().manual_seed(seed))
        with context():
            result, findings, settled, _ = looked_at(work)
            assert same(result, work())
        assert (findings, settled) == ([], True)


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "held"])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_rows_that_do_not_lie_in_order_come_from_the_kernel_of_an_unguarded_pass(
    trained: bool, axes: tuple[int, int], biased: bool
) -> None:
    """For weights that want gradients torch makes one product of them, else many, which may round otherwise."""
    x, weight = torch.randn(3, 9, 9).transpose(*axes), torch.randn(39, 9).requires_grad_(trained)
    bias = torch.randn(39) if biased else None

    def work() -> Any:
        return F.linear(x, weight, bias)

    with torch.inference_mode():
        result, findings, settled, _ = looked_at(work)
        assert same(result, work())
        assert (findings, settled) == ([], True)
        if trained:
            assert not looked_at(work, Struck("mm", flip(30)))[2], "and its parts are looked at"


@pytest.mark.parametrize("name", REMADE)
@torch.inference_mode()
def test_memory_that_is_noted_is_looked_at_before_its_tensor_is_given_other(name: str) -> None:
    def work() -> Any:
        operand = X.clone()
        made = operand + X, torch.mm(operand, W)
        REMADE[name](operand)
        return made

    def hit() -> Any:
        operand = X + X
        strike(flip(30, 9), operand)
        REMADE[name](operand)

    result, findings, settled, _ = looked_at(work)
    assert same(result, work())
    assert (findings, settled) == ([], True)
    assert not looked_at(hit)[2]


@torch.inference_mode()
def test_an_operand_that_was_changed_behind_torchs_back_taints_and_raises_nothing() -> None:
    def work() -> Any:
        operand = X.clone()
        made = torch.mm(operand, W), operand + X
        operand.data = torch.randn(2, 2)
        return made

    result, findings, settled, _ = looked_at(work)
    assert same(result, work())
    assert not settled
    assert any("cannot be done again" in found.detail for found in findings)


@pytest.mark.parametrize("write", [lambda x: x.add_(1.0), lambda x: x.copy_(C[:24]), lambda x: x.zero_()])
@torch.inference_mode()
def test_before_somebody_writes_into_noted_memory_it_is_looked_at(write: Callable[[torch.Tensor], Any]) -> None:
    def sound() -> Any:
        made = X + X
        write(made)
        return made * 2.0

    def hit() -> Any:
        made = X + X
        strike(flip(2, 9), made)
        write(made)
        return made * 2.0

    assert same(looked_at(sound)[0], sound())
    assert looked_at(sound)[2]
    assert not looked_at(hit)[2]


@torch.inference_mode()
def test_an_operand_that_is_written_after_it_was_read_was_looked_at_before() -> None:
    store = torch.zeros(32, 24)

    def work() -> Any:
        read = store + X
        store.copy_(read)
        return store * 2.0

    _, findings, settled, _ = looked_at(work)
    assert (findings, settled) == ([], True)


@torch.inference_mode()
def test_a_value_leaves_for_the_host_only_after_a_look_at_what_it_came_from() -> None:
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(ALL)
    with Struck("mul", flip(30)), mode:
        made = X * V
        assert not findings
        made.sum().item()
        assert findings
    mode.finish()
    assert not mode.settle()


@torch.no_grad()
def test_what_is_drawn_is_done_again_with_its_generator_put_back() -> None:
    torch.manual_seed(1)
    expected = F.dropout(X, 0.5, training=True)
    torch.manual_seed(1)
    result, findings, settled, _ = looked_at(lambda: F.dropout(X, 0.5, training=True))
    assert same(result, expected)
    assert (findings, settled) == ([], True)
    assert not looked_at(lambda: F.dropout(X, 0.5, training=True), Struck("bernoulli_", flip(30)))[2]


def test_with_gradients_nothing_is_noted() -> None:
    """There a struck product is computed again on the spot."""
    _, findings, settled, _ = looked_at(lambda: torch.mm(X, W), Struck("mm", flip(30)))
    assert settled
    assert [found.outcome for found in findings] == ["recomputed"]


@torch.inference_mode()
def test_a_product_whose_rounding_is_correlated_is_a_doubt_and_no_alarm() -> None:
    ones = torch.full((64, 4096), 1.0 + 2.0**-23)
    _, findings, settled, mode = looked_at(lambda: [torch.mm(ones, ones.t()) for _ in range(4)])
    assert (findings, settled) == ([], True)
    assert mode.tally.checks >= 4


def test_the_table_names_operators_that_exist() -> None:
    for name in KINDS:
        assert hasattr(torch.ops.aten, name.removeprefix("aten::")), name


# The norm of which only the result is at hand.


def _norms(rows: int, columns: int, scale: float, offset: float, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * scale + offset
    return x, torch.randn(columns, generator=generator), torch.randn(columns, generator=generator)


@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 7, 96, 768, 4097]),
    st.sampled_from([1e-20, 1e-6, 1.0, 1e4, 1e12]),
    st.sampled_from([0.0, 1.0, 1e3]),
    st.integers(0, 999),
)
@torch.inference_mode()
def test_sound_norms_pass(rows: int, columns: int, scale: float, offset: float, seed: int) -> None:
    x, weight, bias = _norms(rows, columns, scale, offset * scale, seed)
    _, findings, settled, mode = looked_at(lambda: F.layer_norm(x, (columns,), weight, bias))
    assert (findings, settled, mode.tally.doubts) == ([], True, 0)


@pytest.mark.parametrize("bit", [16, 20, 22, 23, 26, 30, 31])
@torch.inference_mode()
def test_a_flip_of_any_element_of_a_norm_is_seen_from_a_hundredth_of_it(bit: int) -> None:
    x, weight, bias = _norms(16, 768, 3.0, 0.5, 5)
    for element in range(0, 16 * 768, 997):
        done = looked_at(lambda: F.layer_norm(x, (768,), weight, bias), Struck("layer_norm", flip(bit, element)))
        assert not done[2], element


@torch.inference_mode()
def test_a_flip_of_a_large_element_of_a_norm_is_seen_from_a_16_000th_of_it() -> None:
    x, weight, bias = _norms(16, 768, 3.0, 0.5, 5)
    assert not looked_at(lambda: F.layer_norm(x, (768,), weight, bias), Struck("layer_norm", flip(9, LARGEST)))[2]
