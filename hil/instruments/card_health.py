"""What ails a simulated card: ECC counts, XID reports, and whether it has fallen off the bus.

The bench injects, the simulated NVML and the flight in virtual time show. Volatile ECC counts begin anew when the
card gets its power back, and so does a card that had fallen off the bus (XID 79): until then it does not answer.
XID reports are counted on: how many a listener is told depends on when it registered.
"""

from typing import Final, Literal

FALLEN_OFF_THE_BUS: Final = 79
XIDS_KEPT: Final = 8
XID_MAX: Final = 65_535

EccKind = Literal["corrected", "uncorrected"]


class CardHealth:
    """Counters of one card; ``xids`` are the newest reports, oldest first."""

    def __init__(self) -> None:
        self.ecc_corrected = 0
        self.ecc_uncorrected = 0
        self.xids: tuple[int, ...] = ()
        self.xid_count = 0
        self.lost = False
        self.powered = True

    def ecc(self, kind: EccKind, count: int) -> None:
        """``count`` more errors of this kind."""
        if kind == "corrected":
            self.ecc_corrected += count
        else:
            self.ecc_uncorrected += count

    def xid(self, number: int) -> None:
        """The driver reports this XID; 79 is the last that is heard of the card until its power is cycled."""
        if not 0 < number <= XID_MAX:
            raise ValueError(f"XID {number}: must be 1 to {XID_MAX}")
        self.xids = (*self.xids, number)[-XIDS_KEPT:]
        self.xid_count += 1
        if number == FALLEN_OFF_THE_BUS:
            self.lost = True

    def rail(self, powered: bool) -> None:
        """The card's power as it is now."""
        if powered and not self.powered:
            self.ecc_corrected = self.ecc_uncorrected = 0
            self.lost = False
        self.powered = powered
