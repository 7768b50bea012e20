"""Looks that are made together, block by block: what each finds by itself it finds among others, in any line."""

from typing import Any, Final, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flightsw.gpu.integrity import kernels, late_rows, native_product
from flightsw.gpu.integrity.late_rows import Maker, Row
from flightsw.gpu.integrity.products import product_of
from flightsw.gpu.integrity.weights import Weights
from tests.gpu.struck_mode import flip, strike

pytestmark = pytest.mark.skipif(
    kernels.native(torch.device("cpu"), "native_table") is None, reason="the table needs Numba (extra native)"
)

LINEAR: Final = torch.ops.aten.linear.default
SUM, PRODUCT = late_rows.elementwise(late_rows.SUMS), late_rows.elementwise(late_rows.PRODUCTS)
WIDTH, WIDER, TOKENS = 24, 40, 9
HEIGHTS: Final = (1, 5, 16, 17, 40, 64)
"""Lines: one, less than a block, a block, several, with a rest or without."""
READERS: Final = {
    "embedded": {"added"},
    "added": {"with a row", "normed", "scaled"},
    "with a row": set[str](),
    "normed": {"projected"},
    "projected": {"bent"},
    "bent": set[str](),
    "scaled": {"scaled by a row"},
    "scaled by a row": set[str](),
    "by a row of blocks": set[str](),
    "of other lines": set[str](),
}
"""Results, and the looks that read them as operands."""


class Look(NamedTuple):
    """With operands, of which a row has the addresses only."""

    result: Tensor
    args: tuple[Any, ...]
    row: Row


class Chain:
    """Looks of every kind at results (``lines``, …) that are made of each other."""

    def __init__(self, lines: int) -> None:
        self.looks: dict[str, Look] = {}
        self._weights = Weights()
        generator = torch.Generator().manual_seed(lines)
        table, other, weight, addend, scale, shift, block = (
            torch.randn(shape, generator=generator)
            for shape in ((TOKENS, WIDTH), (lines, WIDTH), (WIDER, WIDTH), (WIDER,), (WIDTH,), (WIDTH,), (2, WIDTH))
        )
        index = torch.randint(TOKENS, (lines,), generator=generator)
        self._weights.know([("weight", weight), ("addend", addend)])
        x = self._put("embedded", F.embedding(index, table), late_rows.embedded, table, index)
        x = self._put("added", x + other, SUM, x, other)
        self._put("with a row", x + shift, SUM, x, shift)
        y = self._put(
            "normed", F.layer_norm(x, (WIDTH,), scale, shift), late_rows.normed, x, (WIDTH,), scale, shift
        )
        y = self._put("projected", F.linear(y, weight, addend), self._projected, y, weight, addend)
        self._put("bent", F.gelu(y, approximate="tanh"), late_rows.bent, y, approximate="tanh")
        z = self._put("scaled", x * other, PRODUCT, x, other)
        self._put("scaled by a row", z * scale, PRODUCT, z, scale)
        blocks = torch.randn((lines, 2, WIDTH), generator=generator)
        self._put("by a row of blocks", blocks * block, PRODUCT, blocks, block)
        twice = torch.cat((other, other))
        self._put("of other lines", twice + twice, SUM, twice, twice)

    @property
    def wrong(self) -> set[str]:
        """Looks that found something, made together."""
        found = late_rows.wrong([look.row for look in self.looks.values()])
        return {name for name, count in zip(self.looks, found, strict=True) if count}

    @property
    def wrong_alone(self) -> set[str]:
        """The same one by one."""
        return {name for name, look in self.looks.items() if late_rows.wrong((look.row,))[0]}

    def _put(self, name: str, result: Tensor, maker: Maker, *args: Any, **kwargs: Any) -> Tensor:
        row = maker(result, args, kwargs)
        assert row is not None, name
        self.looks[name] = Look(result, args, row)
        return result

    def _projected(self, y: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Row | None:
        product = product_of(LINEAR, args, kwargs)
        reader, kept = native_product.reader(product), self._weights.sums_of(product.w)
        assert reader is not None
        assert kept is not None
        self._weights.keep_site(LINEAR, args, y, product, reader.kernel, kept)
        return self._weights.row_of(LINEAR, args, kwargs, y)


@pytest.mark.parametrize("lines", HEIGHTS)
def test_sound_results_pass(lines: int) -> None:
    chain = Chain(lines)
    assert (chain.wrong, chain.wrong_alone) == (set(), set())


@pytest.mark.parametrize("lines", HEIGHTS)
@pytest.mark.parametrize("name", READERS)
def test_a_struck_result_is_found_by_its_look_in_whatever_line_and_by_nobody_but_its_readers(
    name: str, lines: int
) -> None:
    chain = Chain(lines)
    result = chain.looks[name].result
    for line in range(len(result)):
        good = result.clone()
        strike(flip(30, line * result[0].numel() + WIDTH // 2), result)
        # What reads it may find the difference too small for its bound, alone or not.
        assert {name} <= chain.wrong <= {name} | READERS[name], line
        assert chain.wrong == chain.wrong_alone, line
        result.copy_(good)
    assert chain.wrong == set()


@pytest.mark.parametrize("lines", HEIGHTS)
@pytest.mark.parametrize("name", ["embedded", "added", "scaled", "by a row of blocks", "of other lines"])
def test_what_is_formed_again_is_held_to_the_last_bit_of_the_last_element(name: str, lines: int) -> None:
    chain = Chain(lines)
    result = chain.looks[name].result
    strike(flip(0, result.numel() - 1), result)
    assert name in chain.wrong
