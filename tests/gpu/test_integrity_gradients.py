"""A gradient read once for dx = g w, dw = gᵀ x and db = Σ g: the same faults are seen as by three readings."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flightsw.gpu.integrity import checksum, gradients, native_product, transit
from flightsw.gpu.integrity.checked import Checked
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.gradients import Gradient
from flightsw.gpu.integrity.native_product import Reader
from flightsw.gpu.integrity.products import Product
from flightsw.gpu.integrity.verdicts import Look
from tests.gpu.struck_mode import LARGEST, Struck, flip

pytest.importorskip("numba")

ALL = Look(checksum=True, repeat=True, transit=True)
UNIT, FLOOR = 1e-5, 1e-30
# Rows and columns of g, columns of x: on both sides of four rows, of a block of columns, of a digest.
SHAPES = [(2, 3, 2), (3, 2, 5), (37, 70, 33), (64, 512, 512), (6, 1030, 9), (130, 520, 300)]


class Layer:
    """Operands and results of the three operations."""

    def __init__(self, rows: int, columns: int, inner: int) -> None:
        self.g, self.x, self.w = torch.randn(rows, columns), torch.randn(rows, inner), torch.randn(columns, inner)
        self.dx, self.dw, self.db = self.g @ self.w, self.g.t() @ self.x, self.g.sum(0)

    def reader(self, x: Tensor, w: Tensor) -> Reader:
        reader = native_product.reader(Product(x, w))
        assert reader is not None
        return reader

    def first(self) -> tuple[gradients.Read, Gradient]:
        reader, limits = (
            self.reader(self.g, self.w),
            checksum.bounds(self.g.shape[1], self.w.shape[1], torch.float32),
        )
        looks = [True] * len(reader.reads)
        kept = native_product.kept(self.w)
        return gradients.read(reader, self.dx, kept, limits.likely, limits, looks, digest=True)

    def again(self, gradient: Gradient) -> gradients.Read:
        reader, limits = self.reader(self.g.t(), self.x), checksum.bounds(len(self.g), len(self.dw), torch.float32)
        looks = [one is self.x for one in reader.reads]
        assert gradients.can_read_again(reader, gradient, looks)
        return gradients.read_again(reader, gradient, self.dw, limits.likely, looks, digest=True)

    def verdicts(self) -> list[bool]:
        """Of dx, dw and db."""
        (of_dx, _, _), gradient = self.first()
        of_dw, _, _ = self.again(gradient)
        of_db = gradients.columns_wrong(gradient, self.db, UNIT, FLOOR)
        return [checksum.sound(*of_dx), checksum.sound(*of_dw), of_db == 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_sound_ones_pass_and_all_digests_are_those_of_transit(shape: tuple[int, int, int]) -> None:
    layer = Layer(*shape)
    assert layer.verdicts() == [True] * 3
    (_, digests, made), gradient = layer.first()
    _, digests_again, made_again = layer.again(gradient)
    readable = [(layer.g, digests), (layer.x, digests_again)]
    for tensor, found in [(one, [made]) for one in (layer.dx,)] + [(layer.dw, [made_again])] + readable:
        if transit.readable(tensor):
            assert any(
                sums is not None and torch.equal(sums, transit.digest(tensor.untyped_storage())) for sums in found
            )
    sums = layer.g.double().sum(0).numpy()
    assert gradient.across[0] == pytest.approx(sums, abs=1e-4)
    assert gradient.across[1] == pytest.approx(layer.g.double().abs().sum(0).numpy(), abs=1e-4)


def wrong(name: str, place: tuple[int, ...]) -> Callable[[Layer], None]:
    def damage(layer: Layer) -> None:
        getattr(layer, name)[place] += 30.0

    return damage


# (what is wrong, which of the three verdicts say so)
WRONG = (
    ("an element of dx", wrong("dx", (0, 0)), [False, True, True]),
    ("the last element of dx", wrong("dx", (-1, -1)), [False, True, True]),
    ("an element of dw", wrong("dw", (0, -1)), [True, False, True]),
    ("the last element of dw", wrong("dw", (-1, -1)), [True, False, True]),
    ("an element of x", wrong("x", (-1, 0)), [True, False, True]),
    ("an element of db", wrong("db", (-1,)), [True, True, False]),
    ("an element of g before all is read", wrong("g", (-1, -1)), [False, False, False]),
)


@pytest.mark.parametrize(("damage", "expected"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
@pytest.mark.parametrize("shape", [(37, 70, 33), (6, 1030, 9), (130, 520, 300)])
def test_what_is_wrong_is_seen(
    shape: tuple[int, int, int], damage: Callable[[Layer], None], expected: list[bool]
) -> None:
    layer = Layer(*shape)
    damage(layer)
    assert layer.verdicts() == expected


def test_a_result_that_is_no_number_passes_nowhere() -> None:
    layer = Layer(37, 70, 33)
    layer.dw[3, 3] = layer.db[7] = layer.dx[1, 1] = torch.nan
    assert layer.verdicts() == [False] * 3


# (what came between the two readings, whether the first one counts still)
BETWEEN = (
    ("nothing", lambda layer: None, True),
    ("a write through torch", lambda layer: layer.g.mul_(1.0), False),
    ("another gradient", lambda layer: setattr(layer, "g", layer.g.clone()), False),
)


@pytest.mark.parametrize(("between", "counts"), [row[1:] for row in BETWEEN], ids=[row[0] for row in BETWEEN])
def test_a_gradient_counts_while_its_memory_is_as_it_was(between: Callable[[Layer], None], counts: bool) -> None:
    layer = Layer(37, 70, 33)
    _, gradient = layer.first()
    between(layer)
    reader = layer.reader(layer.g.t(), layer.x)
    assert gradients.can_read_again(reader, gradient, [False] * len(reader.reads)) is counts


# (operation of the backward passes of two linear layers, shape of its result)
OPERATIONS = (("mm", (70, 130)), ("mm", (64, 130)), ("mm", (130, 96)), ("sum", (1, 64)), ("sum", (1, 130)))


@pytest.mark.parametrize(("operation", "shape"), OPERATIONS)
@pytest.mark.parametrize("above", [False, True])
def test_a_fault_in_a_backward_pass_is_seen(operation: str, shape: tuple[int, int], above: bool) -> None:
    layers = nn.Sequential(nn.Linear(96, 130), nn.Linear(130, 64))
    x = torch.randn(70, 96, requires_grad=True)
    findings: list[Finding] = []
    struck: list[Tensor] = []

    def strike(tensor: Tensor) -> None:
        if tensor.shape == shape and not struck:
            struck.append(tensor)
            flip(29, LARGEST)(tensor)

    mode, fault = Checked(findings.append), Struck(operation, strike, times=1000)
    mode.know(layers.named_parameters())
    mode.begin(ALL)
    with mode if above else fault, fault if above else mode:
        layers(x).backward(torch.randn(70, 64))
    mode.finish()
    assert struck
    assert mode.settle() is not above
    assert {finding.outcome for finding in findings} == {"contained" if above else "recomputed"}


def test_gradients_have_the_bits_of_an_unwatched_pass() -> None:
    layers = nn.Sequential(nn.Linear(96, 130), nn.Linear(130, 64))
    x, ahead = torch.randn(70, 96), torch.randn(70, 64)
    found: list[list[np.ndarray]] = []
    for watched in (False, True):
        findings: list[Finding] = []
        mode = Checked(findings.append)
        mode.know(layers.named_parameters())
        mode.begin(ALL)
        layers.zero_grad()
        if watched:
            with mode:
                layers(x).backward(ahead)
        else:
            layers(x).backward(ahead)
        mode.finish()
        assert mode.settle()
        assert findings == []
        found.append([one.grad.numpy().copy() for one in layers.parameters() if one.grad is not None])
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.view(np.int32), other.view(np.int32))
