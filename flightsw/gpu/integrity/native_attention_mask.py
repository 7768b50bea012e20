"""What of a mask a chunk of a prompt sees: a vector of rows for itself, key by key.

Most of a mask says nothing. Of what came before a chunk all of its rows see everything, of its own tokens those
that come after a row are hidden from it; so of each vector of rows there are two places. Before ``clear`` nothing
is added to any score; from ``until`` on every row's is −∞, and no score is made. What lies between is turned, so
that it lies as scores do: (keys, ``FLOATS``) of each vector.

Only −∞ hides. A finite number, as small as it may be, is added: where it is added to every key of a row it hides
none.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.forward_attention import NO_MASK
from flightsw.gpu.integrity.native import compiled_fast
from flightsw.gpu.integrity.native_attention_table import CAUSAL, MASKED, ZERO, Floats, Table, mask_row
from flightsw.gpu.integrity.native_registers import FLOATS, VECTORS
from flightsw.gpu.integrity.native_vectors import wide

Words = NDArray[np.int64]
_HIDDEN: Final = np.float32(-np.inf)


@compiled_fast
def show(
    table: Table, b: int, h: int, first: int, lanes: int, count: int, room: Floats, shown: Floats, far: int,
    clear: Words, until: Words,
) -> None:  # fmt: skip
    """What is added to scores, of each vector (keys, FLOATS): 0 before ``clear``, and from ``until`` on −∞."""
    for v in range(VECTORS):
        begin = v * FLOATS
        mine = min(FLOATS, max(lanes - begin, 0))
        if mine == 0:
            clear[v], until[v] = 0, 0
        elif table[MASKED] != NO_MASK:
            low, high = count, 0
            for lane in range(mine):
                row = mask_row(table, b, h, first + begin + lane, room)
                low = min(low, _leading(row[:count]))
                high = max(high, _seen(row[:count]))
            clear[v], until[v] = min(low, high), high
            for lane in range(mine):
                row = mask_row(table, b, h, first + begin + lane, room)
                for i in range(clear[v], high):
                    shown[v * far + i * FLOATS + lane] = row[i]
        elif table[CAUSAL]:
            low, high = min(count, first + begin), min(count, first + begin + mine)
            clear[v], until[v] = low, high
            for i in range(low, high):
                for lane in range(FLOATS):
                    hidden = i > first + begin + lane
                    shown[v * far + i * FLOATS + lane] = _HIDDEN if hidden else ZERO
        else:
            clear[v], until[v] = count, count


@compiled_fast
def add(scores: Floats, shown: Floats) -> None:
    """What is shown to scores, in place; both (n,)."""
    wide()
    for i in range(scores.size):
        scores[i] += shown[i]


@compiled_fast
def _leading(row: Floats) -> int:
    """Up to where all are zero, in whole vectors."""
    for begin in range(0, row.size - row.size % FLOATS, FLOATS):
        piece, other = row[begin : begin + FLOATS], 0
        for i in range(FLOATS):
            other += piece[i] != 0
        if other:
            return int(begin)
    return int(row.size - row.size % FLOATS)


@compiled_fast
def _seen(row: Floats) -> int:
    """From where on all are −∞."""
    stop = row.size
    while stop > 0 and row[stop - 1] == -np.inf:
        stop -= 1
    return int(stop)
