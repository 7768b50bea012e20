"""Every fault of the long mission, and the order in which they come.

The order is a seeded deck: the whole table is shuffled and dealt, and only then shuffled again, so each row comes
before any comes a second time, and one seed is one order. A row that makes no sense at its time (a short circuit
in the dark) is passed over and kept for the next time.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from . import endurance_faults_bus, endurance_faults_fdir, endurance_faults_link, endurance_faults_work
from .endurance_fault import Fault
from .endurance_world import World

FAULTS: Final[tuple[Fault, ...]] = (
    *endurance_faults_bus.ROWS,
    *endurance_faults_work.ROWS,
    *endurance_faults_fdir.ROWS,
    *endurance_faults_link.ROWS,
)


class Deck:
    """Deals rows of a table in an order that ``random`` decides."""

    def __init__(self, rows: Sequence[Fault], random: Random) -> None:
        if not rows:
            raise ValueError("a deck of no faults")
        self._rows, self._random = tuple(rows), random
        self._cards: list[Fault] = []

    def deal(self, world: World, active: set[str]) -> Fault | None:
        """The next row that is ready and not active, or None when no row of the table is."""
        for more in (False, True):
            if more:
                if len(self._cards) > len(self._rows):
                    return None
                self._cards += self._random.sample(self._rows, len(self._rows))
            for index, row in enumerate(self._cards):
                if row.name not in active and row.ready.seen(world):
                    return self._cards.pop(index)
        return None
