"""All of the resident state held against its digests, in bounded pieces, of which one fits between two turns.

What may be put right is put right on the way (``Resident.verify``). A verification that is begun anew forgets what
it has seen: what it says is of the time since then.
"""

from typing import Final

from flightsw.gpu.integrity.resident import Resident

UNIT_BLOCKS: Final = {"cpu": 64, "cuda": 4096}
"""Digest blocks that are verified in one piece: 16 MiB on a processor, 1 GiB on a card; some milliseconds."""


class Unrepairable(Exception):
    """State is damaged and cannot be put right from its digests."""


class StateVerification:
    """Of ``resident``, on a device of this type; begins at the first block."""

    def __init__(self, resident: Resident, device: str) -> None:
        self.complete = 0
        """How often all of the state was verified."""
        self.checks = 0
        """Blocks verified."""
        self._resident = resident
        self._unit_blocks = UNIT_BLOCKS[device]
        self._next = 0

    @property
    def done(self) -> bool:
        """Whether all blocks have been verified since the beginning."""
        return self._next >= self._resident.blocks

    def restart(self) -> None:
        """From the first block again."""
        self._next = 0

    def piece(self) -> bool:
        """Verify the next piece; whether it was the last one. Raises ``Unrepairable``."""
        count = min(self._unit_blocks, self._resident.blocks - self._next)
        self.checks += count
        if not self._resident.verify(self._next, count):
            names = ", ".join(sorted(self._resident.damaged)) or "resident state"
            raise Unrepairable(f"{names} cannot be repaired")
        self._next += count
        self.complete += self.done
        return self.done

    def made_elsewhere(self) -> None:
        """An update has verified all blocks as it read them."""
        self.checks += self._resident.blocks
        self.complete += 1
