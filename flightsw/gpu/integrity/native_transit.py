"""Kernels for the processor: digests of results on their way (``transit``), and readings that form one by the way.

Whoever reads memory for something else has a piece of it in a cache. It adds that to a digest before
(``add_piece``: two rows of the digest, so that the next two, which are asked for meanwhile, fit the first cache,
too) or after (``follow``). Several rows are taken at a time where they can be: the column sums are then read and
written once for all of them, and memory that goes by in four places at once comes half as fast again as in one.

Addresses and counts are the caller's promise, see ``native``.
"""

from typing import Any, Final

import numpy as np

from flightsw.gpu.integrity.native import compiled, floats_at, words_at
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, wide
from flightsw.gpu.integrity.transit import COLUMNS

PIECE_ROWS: Final = 2
PIECE_WORDS: Final = PIECE_ROWS * COLUMNS
"""Words that are read together: 16 KiB."""
ROW_FLOATS: Final = 2 * COLUMNS
"""Of one row: what is read together where several memories go by side by side."""


@compiled
def add_piece(piece: Any, found: Any) -> None:
    """Add a piece of up to ``PIECE_WORDS`` words, whose first is of the first column, to the column sums."""
    wide()
    if piece.size == PIECE_WORDS:
        first, second = piece[:COLUMNS], piece[COLUMNS:]
        for j in range(COLUMNS):
            found[j] += first[j] + second[j]
        return
    for start in range(0, piece.size, COLUMNS):
        words = piece[start : start + COLUMNS]
        for j in range(words.size):
            found[j] += words[j]


@compiled
def _add_four(piece: Any, found: Any) -> None:
    """As ``add_piece``, four rows."""
    wide()
    first, second = piece[:COLUMNS], piece[COLUMNS : 2 * COLUMNS]
    third, fourth = piece[2 * COLUMNS : 3 * COLUMNS], piece[3 * COLUMNS :]
    for j in range(COLUMNS):
        found[j] += (first[j] + second[j]) + (third[j] + fourth[j])


@compiled
def digest_into(memory: int, words: int, sums: int) -> None:
    """Digest of ``words`` words into ``sums``: ``COLUMNS`` column sums, or the words themselves if fewer."""
    _digest(words_at(memory, words), words_at(sums, min(words, COLUMNS)))


@compiled
def matches(memory: int, words: int, sums: int) -> bool:
    """Whether the digest of ``words`` words is the one in ``sums``."""
    source, expected = words_at(memory, words), words_at(sums, min(words, COLUMNS))
    if words > COLUMNS:
        found = np.empty(COLUMNS, np.int64)
        _digest(source, found)
        source = found
    differences = 0
    for j in range(source.size):
        differences |= source[j] ^ expected[j]
    return differences == 0


@compiled
def same_into(memory: int, other: int, words: int, sums: int) -> bool:
    """Whether two memories have the same ``words`` words; the digest of the first one into ``sums``."""
    source, copy = words_at(memory, words), words_at(other, words)
    found = words_at(sums, min(words, COLUMNS))
    differences = 0
    if words > COLUMNS:
        found[:] = 0
    for start in range(0, words, PIECE_WORDS):
        one, two = source[start : start + PIECE_WORDS], copy[start : start + PIECE_WORDS]
        for j in range(one.size):
            differences |= one[j] ^ two[j]
        if words > COLUMNS:
            add_piece(one, found)
        else:
            found[:] = one
    return differences == 0


@compiled
def add_into(memory: int, addend: int, words: int, held: int, brought: int, made: int) -> None:
    """Add ``words`` words of float32 pairs to a memory. Digests of both as they were, into ``held`` and
    ``brought``, and of the sums, into ``made``: those are formed twice, once for the digest and once for memory."""
    wide()
    one, two = floats_at(memory, 2 * words), floats_at(addend, 2 * words)
    source, added, count = words_at(memory, words), words_at(addend, words), min(words, COLUMNS)
    old, other, new = words_at(held, count), words_at(brought, count), words_at(made, count)
    old[:] = 0
    other[:] = 0
    new[:] = 0
    sums = np.empty(ROW_FLOATS, np.float32)
    formed = sums.view(np.int64)
    for start in range(0, words, COLUMNS):
        a, b = one[2 * start : 2 * (start + COLUMNS)], two[2 * start : 2 * (start + COLUMNS)]
        for j in range(a.size):
            sums[j] = a[j] + b[j]
        was, comes = source[start : start + COLUMNS], added[start : start + COLUMNS]
        for j in range(was.size):
            old[j] += was[j]
            other[j] += comes[j]
            new[j] += formed[j]
        for j in range(a.size):
            a[j] += b[j]


@compiled
def follow(memory: int, done: int, reached: int, sums: int) -> int:
    """Add to a digest the whole rows of a memory of floats that lie between the first ``done`` and ``reached`` of
    them; how many are done now. Nothing where nobody wants it (``sums`` 0)."""
    if sums == 0:
        return done
    found = words_at(sums, COLUMNS)
    while done + 4 * ROW_FLOATS <= reached:
        _add_four(words_at(memory + done * FLOAT_BYTES, 4 * COLUMNS), found)
        done += 4 * ROW_FLOATS
    while done + ROW_FLOATS <= reached:
        add_piece(words_at(memory + done * FLOAT_BYTES, COLUMNS), found)
        done += ROW_FLOATS
    return done


@compiled
def follow_to_end(memory: int, done: int, size: int, sums: int) -> None:
    """Add the last ones, an even number, which are less than a row."""
    if sums != 0:
        add_piece(words_at(memory + done * FLOAT_BYTES, (size - done) // 2), words_at(sums, COLUMNS))


@compiled
def begin_digest(sums: int) -> None:
    """A digest of nothing, where one is wanted."""
    if sums != 0:
        found = words_at(sums, COLUMNS)
        found[:] = 0


@compiled
def _digest(source: Any, found: Any) -> None:
    if source.size <= COLUMNS:
        found[:] = source
        return
    found[:] = 0
    whole = source.size // (4 * COLUMNS) * (4 * COLUMNS)
    for start in range(0, whole, 4 * COLUMNS):
        _add_four(source[start : start + 4 * COLUMNS], found)
    add_piece(source[whole:], found)
