"""GELU's backward operation, checked by an identity that holds only when the forward one was sound, too.

For the tanh form, with y = gelu(x), r = y/x = (1 + tanh u(x)) / 2, and so

    gelu'(x)  =  r + 2 y (1 − r) u'(x),        u'(x) = √(2/π) (1 + 3·0.044715 x²)

whatever way y was computed. The backward result b has to be g · gelu'(x). It computes its own tanh from x and never
reads y: an error of either side shows. No function is evaluated, only five multiplications and a division.

*Bound*: |b − g gelu'(x)| ≤ λ u |g|. The largest difference of a sound element is 44 u, near |x| = 4.6, where 1 − r
is a difference of nearly equal numbers; λ = ``GELU_SLACK``. A change of y by a relative δ moves gelu' by about δ,
but near |x| = 0.9, where gelu' as a function of r is flat, only by about δ²: there it is seen from some percent on.
Kernels of the processor hold every element to it. The plain form holds rows, ‖b − g gelu'(x)‖ ≤ λ u ‖g‖, and does
not see what changes an element whose gradient is nothing beside the others of its row.

*Without a backward pass* a kernel forms x (1 + tanh u) / 2 itself, with a rational function in place of tanh:
|y − …| ≤ ``FORWARD_SLACK`` u |x|. That costs a fifth of a second run. Other dtypes than float32 are done twice.
"""

import math
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.checksum import TINY, UNIT
from flightsw.gpu.integrity.reading import Reading

GELU_SLACK: Final = 128.0
PIECE_ELEMENTS: Final = 1 << 15
"""Elements that are looked at together: all of them and what is made of them stay in a core's own cache."""
CUBIC: Final = 3 * 0.044715
ROOT: Final = math.sqrt(2.0 / math.pi)
NOTHING: Final = {torch.float32: 1e-36, torch.float64: 1e-300}
"""Added to x and, by half, to y: at x = 0 their ratio is 1/2; any other that is not next to it stays."""

FORWARD_SLACK: Final = 8.0
"""A sound element differs by less than 3 u |x|, measured on 4 million from −12 to 12."""
TOP: Final = 7.90531110763549805
"""Where tanh is one, and its rational function in float32, too."""
ABOVE: Final = (
    4.89352455891786e-03,
    6.37261928875436e-04,
    1.48572235717979e-05,
    5.12229709037114e-08,
    -8.60467152213735e-11,
    2.00018790482477e-13,
    -2.76076847742355e-16,
)
"""Of u, u³ … u¹³, over ``BELOW`` of 1, u² … u⁶: the rational function for tanh in Eigen (MathFunctionsImpl.h)."""
BELOW: Final = (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
FORWARD_NUMBERS: Final = np.array(
    (ROOT, ROOT * CUBIC / 3, 0.5, FORWARD_SLACK * UNIT[torch.float32], TINY, TOP, *ABOVE, *BELOW), np.float32
)
"""What the kernel of the forward operation is told."""


def forward_margin(result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Lowest and highest of bound − difference of ``gelu``; None where there is no kernel for it."""
    x = args[0]
    native = kernels.native(x.device, "native_pointwise")
    if native is None or x.dtype is not torch.float32 or kwargs.get("approximate") != "tanh":
        return None
    if not x.is_contiguous() or not result.is_contiguous():
        return None
    arrays = [one.detach().numpy().reshape(-1) for one in (x, result)]
    wrong = native.gelu_forward_differs(*arrays, FORWARD_NUMBERS)
    return torch.tensor((-wrong, 0.0), dtype=torch.float64)


def margin(y: Tensor, result: Tensor, args: tuple[Any, ...], *, reading: Reading, waiting: bool) -> Tensor | None:
    """Lowest and highest of bound − difference of ``gelu_backward``, ``y`` being the forward result.

    With kernels it is minus the number of elements beyond their bound. None where rows are not in one piece.
    ``waiting``: no verdict may be read on the way."""
    gradient, x = args[:2]
    operands = (y, x, gradient, result)
    if not all(one.is_contiguous() and one.dtype is x.dtype and one.shape == x.shape for one in operands):
        return None
    if native := kernels.native(x.device, "native_pointwise"):
        arrays = [one.detach().numpy().reshape(-1) for one in operands]
        numbers = (ROOT, ROOT * CUBIC, 2.0, GELU_SLACK * UNIT[x.dtype], NOTHING[x.dtype], TINY)
        addresses = [reading.address(one) for one in (x, gradient, result)]
        wrong = native.gelu_differs(*arrays, np.array(numbers, arrays[0].dtype), *addresses)
        return torch.tensor((-wrong, 0.0), dtype=torch.float64)
    columns = x.shape[-1] if x.dim() else 1
    y, x, gradient, result = (tensor.view(-1, columns) for tensor in operands)
    margins = _margins(y, x, gradient, result, zeros=waiting)
    if not waiting and not margins.min() >= 0.0:
        # An x = 0, of which there is hardly ever one, gives 0/0. Only these rows are looked at again.
        rows = (~(margins >= 0.0)).nonzero().view(-1)
        margins[rows] = _margins(y[rows], x[rows], gradient[rows], result[rows], zeros=True)
    return torch.stack(torch.aminmax(margins))


def _margins(y: Tensor, x: Tensor, gradient: Tensor, result: Tensor, *, zeros: bool) -> Tensor:
    """Bound − difference of each row (M,) of operands (M, N), piece by piece."""
    rows = max(1, PIECE_ELEMENTS // x.shape[1])
    root = torch.tensor(ROOT, dtype=x.dtype, device=x.device)
    made = torch.empty((3, min(rows, len(x)), x.shape[1]), dtype=x.dtype, device=x.device)
    differences = torch.empty(len(x), dtype=x.dtype, device=x.device)
    sizes = torch.empty_like(differences)
    for start in range(0, len(x), rows):
        piece = slice(start, start + rows)
        y_, x_, gradient_ = y[piece], x[piece], gradient[piece]
        ratio, left, slope = made[:, : len(x_)].unbind()
        torch.div(y_, x_, out=ratio)
        if zeros:
            ratio.masked_fill_(x_ == 0, 0.5)
        torch.addcmul(y_, y_, ratio, value=-1.0, out=left)
        torch.addcmul(root, x_, x_, value=CUBIC * ROOT, out=slope)
        ratio.addcmul_(left, slope, value=2.0)
        torch.addcmul(result[piece], gradient_, ratio, value=-1.0, out=left)
        torch.linalg.vector_norm(left, dim=1, out=differences[piece])
        torch.linalg.vector_norm(gradient_, dim=1, out=sizes[piece])
    return sizes.mul_(GELU_SLACK * UNIT[x.dtype]).add_(TINY).sub_(differences)
