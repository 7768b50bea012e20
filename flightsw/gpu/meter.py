"""The worker's side of the activity meter (layout and purpose: ``flightsw.link.meter``).

The file is mapped, so an update costs no system call and a reader in another process sees it at once. A
restarted worker goes on from what the file holds: the meter counts the card's work, not a process's.
"""

import math
import mmap
import os
import sys

from flightsw.link.meter import METER_LAYOUT


class Meter:
    """Cumulative busy time and finished micro-batches. Without a path it meters into memory of its own."""

    def __init__(self, path: str = "") -> None:
        """Raises ``OSError`` when the file cannot be made or mapped."""
        # The layout is little-endian and each half must be stored as one aligned word: a native store does both.
        assert sys.byteorder == "little", "the activity meter needs a little-endian machine"
        self._map = _mapped(path) if path else mmap.mmap(-1, METER_LAYOUT.size)
        self._busy = memoryview(self._map)[:8].cast("d")
        self._count = memoryview(self._map)[8:16].cast("Q")
        if not (math.isfinite(self._busy[0]) and self._busy[0] >= 0.0):
            self._busy[0] = 0.0

    @property
    def busy_s(self) -> float:
        """Cumulative busy seconds."""
        return self._busy[0]

    @property
    def micro_batches(self) -> int:
        """Finished micro-batches."""
        return self._count[0]

    def add(self, busy_s: float, micro_batches: int = 1) -> None:
        """``busy_s`` more seconds, in which so many micro-batches were finished."""
        self._busy[0] += busy_s
        self._count[0] = (self._count[0] + micro_batches) % 2**64


def _mapped(path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < METER_LAYOUT.size:
            os.ftruncate(fd, METER_LAYOUT.size)
        return mmap.mmap(fd, METER_LAYOUT.size)
    finally:
        os.close(fd)
