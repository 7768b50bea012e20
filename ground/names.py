"""Names that an operator mistyped: the likely ones for the end of a complaint."""

from collections.abc import Collection
from difflib import SequenceMatcher
from typing import Final

NAMES_SHOWN: Final = 12
"""Longest list of names in a complaint; beyond it only likely ones are offered."""
LIKELY: Final = 0.7
"""Least likeness (Ratcliff and Obershelp) of a name that is offered."""
OFFERED: Final = 3


def likely(name: str, known: Collection[str]) -> str:
    """The end of a complaint about a name: "; did you mean …?", or all that is known when that is short."""
    matcher = SequenceMatcher()
    matcher.set_seq2(name.casefold()[:80])
    found = []
    for other in known:
        matcher.set_seq1(other.casefold())
        if matcher.quick_ratio() >= LIKELY and (likeness := matcher.ratio()) >= LIKELY:
            found.append((likeness, other))
    # Sorting keeps the order of those that are equally like it.
    found.sort(key=lambda pair: -pair[0])
    if found:
        return f"; did you mean {' or '.join(other for _, other in found[:OFFERED])}?"
    return f"; allowed are {', '.join(known)}" if 0 < len(known) <= NAMES_SHOWN else ""
