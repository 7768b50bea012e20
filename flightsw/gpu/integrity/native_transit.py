"""Kernels for the processor: digests of results on their way (``transit``), and readings that form one by the way.

Memory goes by in pieces of whole rows of the digest that stay in the first cache: whoever reads a piece for
something else adds it to a digest before or after (``add_piece``), and asks for the next one while it works. Two
rows are taken at a time: four would be added a little faster, but then two pieces do not fit the cache together.

Addresses and counts are the caller's promise, see ``native``.
"""

from typing import Any, Final

import numpy as np

from flightsw.gpu.integrity.native import compiled, floats_at, words_at
from flightsw.gpu.integrity.native_vectors import FLOAT_BYTES, LINE_BYTES, PIECE, ask_for, inlined
from flightsw.gpu.integrity.transit import COLUMNS, WORD_BYTES

PIECE_ROWS: Final = 2
PIECE_WORDS: Final = PIECE_ROWS * COLUMNS
"""Words that are read together: 16 KiB."""
PIECE_FLOATS: Final = 2 * PIECE_WORDS
PIECE_BYTES: Final = WORD_BYTES * PIECE_WORDS
NONE: Final = 0
"""Address of a digest that nobody wants."""


@inlined
def ask_for_next(place: int) -> None:
    """Of memory that is read ``PIECE`` floats at a time, while it is digested piece by piece: what comes one piece
    of the digest after these is wanted soon."""
    for line in range(0, PIECE * FLOAT_BYTES, LINE_BYTES):
        ask_for(place + PIECE_BYTES + line)


@compiled
def add_piece(piece: Any, found: Any) -> None:
    """Add a piece of up to ``PIECE_WORDS`` words, whose first is of the first column, to the column sums."""
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
    one, two = floats_at(memory, 2 * words), floats_at(addend, 2 * words)
    source, added, count = words_at(memory, words), words_at(addend, words), min(words, COLUMNS)
    old, other, new = words_at(held, count), words_at(brought, count), words_at(made, count)
    piece = np.empty(2 * PIECE_WORDS, np.float32)
    if words > COLUMNS:
        old[:] = 0
        other[:] = 0
        new[:] = 0
    for start in range(0, words, PIECE_WORDS):
        a, b = one[2 * start : 2 * (start + PIECE_WORDS)], two[2 * start : 2 * (start + PIECE_WORDS)]
        for j in range(a.size):
            piece[j] = a[j] + b[j]
        sums = piece[: a.size].view(np.int64)
        if words > COLUMNS:
            add_piece(source[start : start + PIECE_WORDS], old)
            add_piece(added[start : start + PIECE_WORDS], other)
            add_piece(sums, new)
        else:
            old[:] = source
            other[:] = added
            new[:] = sums
        for j in range(a.size):
            a[j] += b[j]


@compiled
def _digest(source: Any, found: Any) -> None:
    if source.size <= COLUMNS:
        found[:] = source
        return
    found[:] = 0
    for start in range(0, source.size, PIECE_WORDS):
        add_piece(source[start : start + PIECE_WORDS], found)
