"""Which packets to acknowledge: what is committed to the archive, as few ranges, about once a second.

An acknowledgement is a telecommand and can be lost. Each packet is therefore named in two consecutive rounds;
adjacent sequences merge, so the second naming mostly costs nothing. When both are lost the recorder plays the
packet back, the archive finds a duplicate, and the duplicate is acknowledged again. So nothing has to be
remembered longer.

Pure: identities in, ranges out. Only the caller knows that a commit succeeded; it must not name a packet before.
"""

from typing import Final, NamedTuple

ROUND_S: Final = 1.0
RANGES_PER_ROUND_MAX: Final = 12
"""The spacecraft takes 16 telecommands in a minor frame; some room stays for the operator's."""
PENDING_MAX: Final = 10_000
"""Beyond this, which keeps a round short, packets are not acknowledged now; the recorder plays them back and
they come again."""


class Range(NamedTuple):
    """Packets of one boot and APID, both ends included."""

    boot: int
    apid: int
    first: int
    last: int


class Acknowledger:
    """Collects archived identities between two rounds."""

    def __init__(self) -> None:
        self._fresh: set[tuple[int, int, int]] = set()
        self._named_once: set[tuple[int, int, int]] = set()
        self.acknowledged = 0
        """Packets named at least once."""

    @property
    def pending(self) -> int:
        """Packets archived and not named yet."""
        return len(self._fresh)

    def archived(self, boot: int, apid: int, sequence: int) -> None:
        """This packet is durable."""
        if len(self._fresh) < PENDING_MAX:
            self._fresh.add((boot, apid, sequence))

    def next_round(self) -> list[Range]:
        """Ranges to acknowledge now, those that free most packets first; empty when there is nothing to say."""
        ranges = merge(self._fresh | self._named_once)
        ranges.sort(key=lambda r: r.last - r.first, reverse=True)
        chosen = ranges[:RANGES_PER_ROUND_MAX]
        named = {(r.boot, r.apid, sequence) for r in chosen for sequence in range(r.first, r.last + 1)}
        self._named_once = named & self._fresh
        self.acknowledged += len(self._named_once)
        self._fresh -= named
        return sorted(chosen)


def merge(identities: set[tuple[int, int, int]]) -> list[Range]:
    """Fewest ranges that hold exactly these (boot, apid, sequence)."""
    ranges: list[Range] = []
    for boot, apid, sequence in sorted(identities):
        if ranges and ranges[-1][:2] == (boot, apid) and ranges[-1].last == sequence - 1:
            ranges[-1] = ranges[-1]._replace(last=sequence)
        else:
            ranges.append(Range(boot, apid, sequence, sequence))
    return ranges
