"""Kernel for the processor: results of attention against its operands, a projection of every row.

Keys and values are read once for ``LANES`` rows of a chunk of a prompt, which lie side by side in whatever is made
of them, vector by vector. See ``forward_attention`` for the form and its bounds, ``native_attention_table`` for its
table. Here is what is done in which order; its parts are what a chunk sees of a mask (``native_attention_mask``),
scores and projections (``native_attention_products``), softmax (``native_weighing``), and the verdict
(``native_attention_verdict``).

*What is hidden is left out.* Of a chunk's own tokens half are hidden from each other, and a tile of scores of which
a vector of rows sees none is not made for that vector. Nor is anything added where all are seen.

*Heads go innermost*: those of a row lie side by side, and one mask is for all of them, as a rule. So what was made
of keys and values is kept for each head. Of causal attention the next rows see a few keys more, and only these are
read anew.
"""

import numpy as np

from flightsw.gpu.integrity.native import compiled_fast
from flightsw.gpu.integrity.native_attention_mask import add, show
from flightsw.gpu.integrity.native_attention_products import (
    longest_key,
    project_results,
    project_values,
    score,
    turn_rows,
)
from flightsw.gpu.integrity.native_attention_table import (
    BATCH,
    CAUSAL,
    HEADS,
    KEY,
    KEYS,
    MASK,
    QUERY,
    ROWS,
    VALUE,
    WIDTH,
    Floats,
    Table,
    longer,
    place_of,
    step_of,
)
from flightsw.gpu.integrity.native_attention_verdict import alike, all_alike
from flightsw.gpu.integrity.native_registers import FLOATS, VECTORS
from flightsw.gpu.integrity.native_registers import KEYS as TILE_KEYS
from flightsw.gpu.integrity.native_tiles import LANES
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, address_of, wide
from flightsw.gpu.integrity.native_weighing import SUMS, weigh


@compiled_fast
def projections_differ(
    table: Table,
    weights: Floats,
    scale: float,
    of_score: float,
    of_exp: float,
    of_mean: float,
    of_element: float,
) -> int:
    """Rows of a result whose projection on ``weights`` (D,) is beyond its bound. Keys and values are read once for
    ``LANES`` rows, which lie side by side in whatever is made of them.

    ``of_element``: what single elements of a mean, and of values, may be off beside Σ|v w|; the others as those of
    ``rows_differ``.
    """
    wide()
    rows, heads, keys, width = table[ROWS], table[HEADS], table[KEYS], table[WIDTH]
    few = np.empty(FLOATS, np.float32)
    # With room for a vector that is not full.
    along, sizes = np.empty((heads, keys + FLOATS), np.float32), np.empty((heads, keys), np.float32)
    longest, widest = np.empty(heads, np.float32), np.empty(heads, np.float32)
    found, squares = np.empty((heads, LANES), np.float32), np.empty(LANES, np.float32)
    turned, room = np.empty(width * LANES, np.float32), np.zeros(keys, np.float32)
    # Of each vector of rows: what is added to scores, and scores, key by key; where anything is, and up to where
    # any key is seen.
    far = (keys + TILE_KEYS) * FLOATS
    shown, scores = np.zeros(VECTORS * far, np.float32), np.empty(VECTORS * far, np.float32)
    clear, until = np.empty(VECTORS, np.int64), np.empty(VECTORS, np.int64)
    sums = np.empty((SUMS, LANES), np.float32)
    wrong = 0
    for b in range(table[BATCH]):
        known = 0
        longest[:] = 0
        widest[:] = 0
        for first in range(0, rows, LANES):
            lanes = min(LANES, rows - first)
            count = min(keys, first + lanes) if table[CAUSAL] else keys
            project_results(table, b, first, lanes, weights, found)
            for h in range(heads):
                key, value = place_of(table, KEY, b, h, 0), place_of(table, VALUE, b, h, 0)
                if h == 0 or table[MASK + 2] != 0:
                    show(table, b, h, first, lanes, count, room, shown, far, clear, until)
                turn_rows(place_of(table, QUERY, b, h, first), step_of(table, QUERY), lanes, scale, turned, squares)
                if known < count:
                    new = longest_key(key, step_of(table, KEY), known, count, width, few)
                    longest[h] = longer(longest[h], new)
                    new = project_values(
                        value, step_of(table, VALUE), known, count, weights, along[h], sizes[h], few
                    )
                    widest[h] = longer(widest[h], new)
                then = (b, h + 1) if h + 1 < heads else (min(b + 1, table[BATCH] - 1), 0)
                next_key = place_of(table, KEY, then[0], then[1], 0)
                next_value = place_of(table, VALUE, then[0], then[1], 0)
                score(
                    turned, key, step_of(table, KEY), count, until, scores, far, next_key, next_value,
                    step_of(table, VALUE),
                )  # fmt: skip
                for v in range(VECTORS):
                    mine = scores[v * far + clear[v] * FLOATS : v * far + until[v] * FLOATS]
                    add(mine, shown[v * far + clear[v] * FLOATS : v * far + until[v] * FLOATS])
                    at = address_of(scores) + v * far * FLOAT_BYTES
                    out = address_of(sums) + v * FLOATS * FLOAT_BYTES
                    weigh(at, address_of(along[h]), address_of(sizes[h]), until[v], out)
                relative = of_score, of_exp, of_mean, of_element
                if not all_alike(found[h, :lanes], squares, sums, longest[h], widest[h], relative):
                    for lane in range(lanes):
                        wrong += not alike(
                            table, b, h, first + lane, count, scale, found[h, lane], squares[lane], sums[:, lane],
                            longest[h], widest[h], relative,
                        )  # fmt: skip
            known = count
    return wrong
