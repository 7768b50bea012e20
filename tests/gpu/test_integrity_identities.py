"""What results of operations that are no products have to be: sound ones are within bounds, struck ones are not."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from flightsw.gpu.integrity import checksum, identities, kernels, transit
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.operations import ON_PROCESSOR, Cover, cover_of
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.integrity.reading import Reading
from flightsw.gpu.integrity.verdicts import Look
from flightsw.gpu.workloads.gpt import GPT, GPTConfig
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import Struck, flip, value

aten = torch.ops.aten

pytestmark = pytest.mark.skipif(
    kernels.native(torch.device("cpu"), "native_norm") is None, reason="these kernels are compiled by Numba"
)

Call = tuple[Any, tuple[Any, ...], Any]
"""Operator, arguments, and the forward result where its check is paid, too."""


def noise(*shape: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype) * size


def add(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.add.Tensor, (noise(rows, columns, size=size, dtype=dtype), noise(rows, columns, dtype=dtype)), None


def add_row(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.add.Tensor, (noise(columns, dtype=dtype), noise(2, rows, columns, size=size, dtype=dtype)), None


def add_transposed(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.add.Tensor, (noise(columns, rows, size=size).t(), noise(columns, rows).t()), None


def mul(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.mul.Tensor, (noise(rows, columns, size=size, dtype=dtype), noise(columns, dtype=dtype)), None


def scaled(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.mul.Tensor, (noise(rows, columns, size=size, dtype=dtype), 0.1), None


def embedding(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.embedding.default, (noise(9, columns, size=size), torch.randint(9, (2, rows))), None


def column_sums(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.sum.dim_IntList, (noise(rows, columns, size=size, dtype=dtype), [0], True), None


def batch_sums(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.sum.dim_IntList, (noise(3, rows, columns, size=size, dtype=dtype), [1, 0]), None


def layer_norm(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    x = noise(2, rows, columns, size=size, dtype=dtype) + 0.7 * size
    return aten.native_layer_norm.default, (x, [columns], *affine(columns, dtype), 1e-5), None


def bare_norm(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.native_layer_norm.default, (noise(rows, columns, size=size), [columns], None, None, 1e-5), None


def layer_norm_backward(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    _, args, _ = layer_norm(rows, columns, size, dtype)
    _, mean, rstd = aten.native_layer_norm(*args)
    gradient = noise(*args[0].shape, dtype=dtype)
    given = (gradient, *args[:2], mean, rstd, *args[2:4], [True, True, True])
    return aten.native_layer_norm_backward.default, given, None


def bare_norm_backward(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    _, args, _ = bare_norm(rows, columns, size, dtype)
    _, mean, rstd = aten.native_layer_norm(*args)
    given = (noise(rows, columns), *args[:2], mean, rstd, None, None, [True, False, False])
    return aten.native_layer_norm_backward.default, given, None


def gelu_backward(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    x = noise(2, rows, columns, size=size, dtype=dtype)
    return aten.gelu_backward.default, (noise(*x.shape, dtype=dtype), x), aten.gelu(x, approximate="tanh")


def gelu(rows: int, columns: int, size: float, dtype: torch.dtype) -> Call:
    return aten.gelu.default, (noise(2, rows, columns, size=size, dtype=dtype),), None


def affine(columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return 1.0 + noise(columns, size=0.1, dtype=dtype), noise(columns, dtype=dtype)


CASES: dict[str, Callable[[int, int, float, torch.dtype], Call]] = {
    made.__name__: made
    for made in (
        add,
        add_row,
        add_transposed,
        mul,
        scaled,
        embedding,
        column_sums,
        batch_sums,
        layer_norm,
        bare_norm,
        layer_norm_backward,
        bare_norm_backward,
        gelu,
        gelu_backward,
    )
}
EXACT = {"add", "add_row", "add_transposed", "mul", "scaled", "embedding"}
WITHOUT_FLOAT64 = EXACT | {"gelu"}
SHAPES = [(1, 1), (1, 9), (3, 2), (5, 64), (33, 70), (70, 768), (260, 33), (2, 5000)]


def options(func: Any) -> dict[str, Any]:
    return {"approximate": "tanh"} if "gelu" in func._schema.name else {}


def computed(call: Call) -> Any:
    func, args, _ = call
    return func(*args, **options(func))


def margin(call: Call, result: Any) -> list[float] | None:
    func, args, forward = call
    wanted = readable(call, result)
    reading = Reading(wanted)
    found = identities.margin(func, result, args, options(func), forward=forward, reading=reading)
    for tensor in wanted:
        assert_digest(reading.digest(tensor), tensor)
    return None if found is None else found.tolist()


def readable(call: Call, result: Any) -> list[torch.Tensor]:
    """Operands and results whose digests a check may form by the way."""
    return [*identities.reads(*call[:2]), *(one for one in tensors(result) if transit.readable(one))]


def assert_digest(found: torch.Tensor | None, tensor: torch.Tensor) -> None:
    assert found is None or torch.equal(found, transit.digest(tensor.untyped_storage()))


# Of the operands that are read from their first byte to their last, and of the result as large as they are.
DIGESTS = {"add": 3, "add_transposed": 3, "layer_norm": 2, "layer_norm_backward": 3, "gelu_backward": 3}


@pytest.mark.parametrize("shape", [(70, 768), (33, 70), (9, 700), (2, 5000)])
@pytest.mark.parametrize("name", DIGESTS)
def test_one_reading_gives_the_verdict_and_all_digests(name: str, shape: tuple[int, int]) -> None:
    pytest.importorskip("numba")
    call = CASES[name](*shape, 1.0, torch.float32)
    result = computed(call)
    wanted = readable(call, result)
    reading = Reading(wanted)
    func, args, forward = call
    found = identities.margin(func, result, args, options(func), forward=forward, reading=reading)
    assert found is not None
    assert checksum.sound(*found.tolist())
    read = [tensor for tensor in wanted if reading.digest(tensor) is not None]
    assert len(read) == DIGESTS[name]
    for tensor in read:
        assert_digest(reading.digest(tensor), tensor)
        assert reading.address(tensor) == 0, "each is given once"


def test_a_sum_of_a_tensor_and_itself_is_digested_once() -> None:
    pytest.importorskip("numba")
    x = torch.randn(70, 768)
    reading = Reading([x])
    found = identities.margin(torch.ops.aten.add.Tensor, x + x, (x, x), {}, reading=reading)
    assert found is not None
    assert checksum.sound(*found.tolist())
    assert_digest(reading.digest(x), x)


def passes(call: Call, result: Any) -> bool:
    found = margin(call, result)
    assert found is not None, "no check where there has to be one"
    return checksum.sound(*found)


def tensors(result: Any) -> list[torch.Tensor]:
    return [one for one in (result if isinstance(result, tuple | list) else (result,)) if one is not None]


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-3, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_sound_results_pass(name: str, shape: tuple[int, int], size: float) -> None:
    torch.manual_seed(0)
    for _ in range(3):
        call = CASES[name](*shape, size, torch.float32)
        assert passes(call, computed(call))


@pytest.mark.parametrize("name", [name for name in CASES if name not in WITHOUT_FLOAT64])
def test_sound_results_pass_in_float64(name: str) -> None:
    torch.manual_seed(0)
    for shape, size in itertools.product(SHAPES, (1e-3, 1.0, 1e3)):
        call = CASES[name](*shape, size, torch.float64)
        assert passes(call, computed(call)) or call[1][0].dtype is torch.float32


@pytest.mark.parametrize("name", sorted(EXACT))
def test_sound_exact_results_of_odd_numbers_pass(name: str) -> None:
    torch.manual_seed(0)
    call = CASES[name](40, 70, 1e-40, torch.float32)
    for place, number in enumerate((math.inf, -math.inf, -0.0, 0.0)):
        call[1][0][..., place] = number
    assert passes(call, computed(call))


BITS = {
    # The lowest bit of a result of usual size that is always seen.
    "gelu": 10,
    "gelu_backward": 15,
    "layer_norm": 10,
    "bare_norm": 10,
    "layer_norm_backward": 15,
    "bare_norm_backward": 15,
    "column_sums": 16,
    "batch_sums": 16,
}


@pytest.mark.parametrize("name", CASES)
def test_a_struck_result_does_not_pass_whichever_of_them_it_is(name: str) -> None:
    torch.manual_seed(0)
    call = CASES[name](33, 70, 1.0, torch.float32)
    result = computed(call)
    for tensor in tensors(result):
        usual = (tensor.abs() > 0.3 * tensor.abs().median()).flatten().nonzero().flatten()
        for step, bit in enumerate([31, 30, 26, 23, BITS.get(name, 0)] * 3):
            place = int(usual[(7919 * step) % len(usual)])
            # Memory of a transposed result is in another order; any element will do.
            flip(bit, place)(tensor)
            assert not passes(call, result), (bit, place)
            flip(bit, place)(tensor)
    assert passes(call, result)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e36])
@pytest.mark.parametrize("name", CASES)
def test_a_result_that_is_not_a_number_or_huge_does_not_pass(name: str, number: float) -> None:
    torch.manual_seed(0)
    call = CASES[name](33, 70, 1.0, torch.float32)
    for which in range(len(tensors(computed(call)))):
        result = computed(call)
        value(number, 29)(tensors(result)[which])
        assert not passes(call, result)


OPERANDS = {
    "add": (0, 1),
    "add_row": (0, 1),
    "mul": (0, 1),
    "scaled": (0,),
    "embedding": (0,),
    "column_sums": (0,),
    "layer_norm": (0, 2, 3),
    "layer_norm_backward": (0, 1, 3, 4, 5),
    "gelu": (0,),
    "gelu_backward": (0, 1),
}


@pytest.mark.parametrize(("name", "which"), [(name, one) for name, them in OPERANDS.items() for one in them])
def test_a_result_of_a_misread_operand_does_not_pass(name: str, which: int) -> None:
    torch.manual_seed(0)
    call = CASES[name](33, 70, 1.0, torch.float32)
    operand = call[1][which]
    element = (operand.flatten()[:32].abs() - 1.0).abs().argmin()
    flip(22, int(element))(operand)
    result = computed(call)
    flip(22, int(element))(operand)
    if name == "embedding" and not (call[1][1] == 0).any():
        pytest.skip("nobody has asked for that row")
    assert not passes(call, result)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (1e-3, 1.0), (0.0, 1.001)])
def test_moments_that_are_wrong_throughout_do_not_pass(shift: float, stretch: float) -> None:
    torch.manual_seed(0)
    call = layer_norm(33, 70, 1.0, torch.float32)
    x, _, weight, bias, _ = call[1]
    _, mean, rstd = computed(call)
    mean[1, 3] += shift
    rstd[1, 3] *= stretch
    assert passes(call, ((x - mean) * rstd * weight + bias, mean, rstd)) is (shift == 0.0 and stretch == 1.0)


def test_a_struck_forward_result_does_not_pass() -> None:
    torch.manual_seed(0)
    call = gelu_backward(33, 70, 1.0, torch.float32)
    result = computed(call)
    flip(20, 99)(call[2])
    assert not passes(call, result)


def test_gelu_passes_everywhere() -> None:
    for x in (
        torch.linspace(-12.0, 12.0, 300_001),
        torch.linspace(-1e-35, 1e-35, 3001),
        torch.tensor([1e20, -1e20]),
    ):
        call: Call = (aten.gelu.default, (x,), None)
        assert passes(call, computed(call))
    for line in (torch.linspace(-9.0, 9.0, 300_001), torch.linspace(-1e-35, 1e-35, 3001), torch.zeros(50)):
        call = (aten.gelu_backward.default, (torch.randn(line.shape), line), aten.gelu(line, approximate="tanh"))
        assert passes(call, computed(call))


X, ROW = torch.randn(12, 24), torch.randn(24)
NORM = aten.native_layer_norm


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (aten.add.Tensor, (X, X), {"alpha": 2}),
        (aten.add.Tensor, (X, 1.0), {}),
        (aten.add.Tensor, (X, X.double()), {}),
        (aten.add.Tensor, (X.bfloat16(), X.bfloat16()), {}),
        (aten.add.Tensor, (X, X[:, :1]), {}),
        (aten.add.Tensor, (X, X.view(24, 12).t()), {}),
        (aten.add.Tensor, (X[:, :12], X[:, 12:]), {}),
        (aten.add.Tensor, (X[:0], X[:0]), {}),
        (aten.add.Tensor, (X.int(), X.int()), {}),
        (aten.mul.Tensor, (X.to(torch.complex64), 2.0), {}),
        (aten.mul.Tensor, (X, X.double()), {}),
        (aten.sum.default, (X,), {}),
        (aten.sum.dim_IntList, (X, [1]), {}),
        (aten.sum.dim_IntList, (X, [0, 1]), {}),
        (aten.sum.dim_IntList, (X, [0]), {"dtype": torch.float64}),
        (aten.sum.dim_IntList, (X.t(), [0]), {}),
        (aten.sum.dim_IntList, (torch.tensor(2.0), [0]), {}),
        (aten.native_layer_norm.default, (X.t(), [12], None, None, 1e-5), {}),
        (aten.native_layer_norm.default, (X.bfloat16(), [24], None, None, 1e-5), {}),
        (aten.gelu_backward.default, (X, X), {"approximate": "tanh"}),
        (aten.gelu.default, (X.double(),), {"approximate": "tanh"}),
        (aten.gelu.default, (X.t(),), {"approximate": "tanh"}),
        (aten.gelu.default, (X,), {}),
        (aten.relu.default, (X,), {}),
    ],
)
def test_what_has_no_check_here_says_so(func: Any, args: Any, kwargs: Any) -> None:
    assert identities.margin(func, func(*args, **kwargs), args, kwargs) is None


@pytest.mark.parametrize("name", [name for name in CASES if name != "gelu_backward"])
def test_without_kernels_there_is_none(name: str) -> None:
    call = CASES[name](5, 6, 1.0, torch.float32)
    with kernels.plain():
        assert margin(call, computed(call)) is None


@pytest.mark.parametrize(
    ("operator", "cover"),
    [
        (aten.add.Tensor, Cover.IDENTITY),
        (aten.mul.Tensor, Cover.IDENTITY),
        (aten.sum.dim_IntList, Cover.IDENTITY),
        (aten.embedding.default, Cover.IDENTITY),
        (aten.native_layer_norm.default, Cover.IDENTITY),
        (aten.native_layer_norm_backward.default, Cover.IDENTITY),
        (aten.add.out, Cover.CHANGE),
        (aten.sum.IntList_out, Cover.CHANGE),
        (aten.add_.Tensor, Cover.CHANGE),
    ],
)
def test_forms_that_write_and_other_devices_follow_the_rules(operator: Any, cover: Cover) -> None:
    assert cover_of(operator, "cpu", deterministic=False) is cover
    other = Cover.CHANGE if cover is Cover.CHANGE else Cover.REPEAT
    assert cover_of(operator, "cuda", deterministic=False) is other


def test_every_operator_of_the_table_has_a_check() -> None:
    assert frozenset(identities.CHECKS) == ON_PROCESSOR


def looked_at(work: Callable[[], Any], *struck: Struck) -> tuple[Any, list[Finding], bool, Checked]:
    findings: list[Finding] = []
    mode = Checked(findings.append)
    mode.begin(Look(checksum=True, repeat=True, transit=True))
    for entered in [*struck, mode]:
        entered.__enter__()
    try:
        result = work()
    finally:
        for entered in [mode, *reversed(struck)]:
            entered.__exit__(None, None, None)
        mode.finish()
    return result, findings, mode.settle(), mode


@pytest.mark.parametrize("name", [name for name in CASES if name != "gelu_backward"])
def test_under_the_checks_it_is_done_once_and_again_when_struck(name: str) -> None:
    torch.manual_seed(0)
    call = CASES[name](33, 70, 1.0, torch.float32)
    operation = call[0]._schema.name.removeprefix("aten::")
    expected = tensors(computed(call))
    once = Struck(operation, flip(30), nth=1)
    result, findings, settled, mode = looked_at(lambda: computed(call), once)
    assert all(torch.equal(a, b) for a, b in zip(tensors(result), expected, strict=True))
    assert (findings, settled, once.fired, mode.tally.doubts) == ([], True, 0, 0)
    result, findings, settled, _ = looked_at(lambda: computed(call), Struck(operation, flip(30)))
    assert all(torch.equal(a, b) for a, b in zip(tensors(result), expected, strict=True))
    assert (settled, [(one.detector, one.outcome) for one in findings]) == (True, [("repeat", "recomputed")])


@pytest.mark.parametrize("number", [math.inf, math.nan, 3e38, 1e-45])
@pytest.mark.parametrize("name", [name for name in CASES if name != "gelu_backward"])
def test_sound_results_of_odd_numbers_are_never_findings(name: str, number: float) -> None:
    torch.manual_seed(0)
    call = CASES[name](33, 70, 1.0, torch.float32)
    for operand in tensors(call[1][:2]):
        if isinstance(operand, torch.Tensor) and operand.is_floating_point():
            operand[..., ::5] = number
    result, findings, settled, _ = looked_at(lambda: computed(call))
    expected = computed(call)
    assert (findings, settled) == ([], True)
    for one, other in zip(tensors(result), tensors(expected), strict=True):
        assert torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


@pytest.mark.parametrize("bare", [False, True])
def test_a_protected_training_step_gives_the_same_bits_without_a_doubt(bare: bool) -> None:
    model = GPT(GPTConfig(layers=2, heads=2, width=64, context=32))
    idx = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(1))

    def step() -> list[torch.Tensor]:
        model.zero_grad(set_to_none=True)
        _, loss = model(idx[:, :-1], idx[:, 1:])
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    expected = step()
    findings: list[Finding] = []
    guard = protect(model, level=Level.STORM, report=findings.append)

    def protected() -> list[torch.Tensor]:
        with guard.running():
            return step()

    if bare:
        with kernels.plain():
            result = protected()
    else:
        result = protected()
    assert guard.settle()
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    assert (findings, guard.tally.doubts) == ([], 0)
    # A second pass of accumulated gradients, and one whose norm is off.
    with Struck("native_layer_norm", flip(20, 5)), guard.running():
        struck = step()
    assert guard.settle()
    assert all(torch.equal(a, b) for a, b in zip(struck, expected, strict=True))
    assert [one.outcome for one in findings] == ["recomputed"]
    guard.close()


def test_layer_norm_of_a_module_goes_through_it() -> None:
    x = torch.randn(6, 32, requires_grad=True)
    norm = torch.nn.LayerNorm(32)

    def work() -> Any:
        return torch.autograd.grad(F.layer_norm(x * 1.0, (32,), norm.weight, norm.bias).square().sum(), x)[0]

    again = Struck("native_layer_norm_backward", flip(30), nth=1)
    result, findings, settled, mode = looked_at(work, again)
    assert torch.equal(result, work())
    assert (findings, settled, again.fired, mode.tally.doubts) == ([], True, 0, 0)
