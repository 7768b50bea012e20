"""What the two forms of attention's check share: the table that they are told by, rows of a mask, bounds.

The forms and their bounds are those of ``forward_attention``. Both are given a table of counts, addresses and
strides; what lies there is float32, along D in one piece, and that is the caller's promise.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flightsw.gpu.integrity.forward_attention import FLOAT_MASK, NO_MASK
from flightsw.gpu.integrity.native import bytes_at, compiled_fast, floats_at
from flightsw.gpu.integrity.native_vectors import AHEAD_BYTES, FLOAT_BYTES, LINE_BYTES, address_of, ask_for, inlined

BATCH, HEADS, ROWS, KEYS, WIDTH, CAUSAL, MASKED = range(7)
"""Where counts are in a table; of the last two, whether row t sees keys up to t only, and what the mask is."""
QUERY, KEY, VALUE, OUT, MASK = 7, 11, 15, 19, 23
"""Where the address of each is; its strides follow, of batch, head and row, of a mask also of keys."""
SPAN: Final = 88.0
"""How far a score may be below the largest and count: exp is nothing there."""
TOGETHER: Final = 4
"""Rows that are added up at once."""
USUAL_WIDTH: Final = 64
"""Of a head. Loops that know how long they are take half the time: compiled for this one, and for any other."""
FLOOR: Final = 1e-30
"""Of a bound, absolute: products of small numbers are not rounded by a part of themselves."""

Table = NDArray[np.int64]
Floats = NDArray[np.float32]
ZERO: Final = np.float32(0)


@compiled_fast
def place_of(table: Table, which: int, b: int, h: int, t: int) -> int:
    """Address of a row of floats."""
    elements = b * table[which + 1] + h * table[which + 2] + t * table[which + 3]
    return int(table[which] + elements * FLOAT_BYTES)


@compiled_fast
def step_of(table: Table, which: int) -> int:
    """Bytes from row to row."""
    return int(table[which + 3] * FLOAT_BYTES)


@compiled_fast
def mask_row(table: Table, b: int, h: int, t: int, room: Floats) -> Any:
    """What is added to the scores of a row: as it lies in memory, or made in ``room`` (keys,)."""
    if table[MASKED] == NO_MASK:
        return floats_at(address_of(room), room.size)
    step = table[MASK + 4]
    if table[MASKED] == FLOAT_MASK:
        begin = place_of(table, MASK, b, h, t)
        if step == 1:
            return floats_at(begin, room.size)
        for i in range(room.size):
            room[i] = floats_at(begin + i * step * FLOAT_BYTES, 1)[0]
        return floats_at(address_of(room), room.size)
    begin = table[MASK] + b * table[MASK + 1] + h * table[MASK + 2] + t * table[MASK + 3]
    if step == 1:
        shown = bytes_at(begin, room.size)
        for i in range(room.size):
            room[i] = ZERO if shown[i] else np.float32(-np.inf)
    else:
        for i in range(room.size):
            room[i] = ZERO if bytes_at(begin + i * step, 1)[0] else np.float32(-np.inf)
    return floats_at(address_of(room), room.size)


@inlined
def ask_for_row(begin: int, step: int, left: int, then: int, width: int) -> None:
    """Ask for the row that is ``AHEAD_BYTES`` after this one, or is that far in what comes ``then``."""
    ahead = AHEAD_BYTES // (width * FLOAT_BYTES) + 1
    place = begin + ahead * step if ahead < left else then + (ahead - left) * step
    for line in range(0, width * FLOAT_BYTES, LINE_BYTES):
        ask_for(place + line)


@compiled_fast
def longer(one: Any, other: Any) -> Any:
    """The larger; what is not a number stays that."""
    return one if other <= one or one != one else other


@compiled_fast
def moved_by(score: float, top: Any, of_score: float, of_exp: float) -> float:
    """By what part of itself a weight of the mean may differ between two sound forms."""
    side = of_score * score + of_exp * (abs(np.float64(top)) + SPAN)
    moved = 4.0 * side
    return moved + moved * moved if moved < 1.0 else np.inf
