"""The machine clock, and the pace of the minor frame on it.

``now_s`` is the monotonic clock: it never jumps, so every timer of the daemon lives on it. ``Metronome`` gives
deadlines on an absolute grid, so that frames do not drift by what they take; a frame that comes too late for
whole periods skips them and counts, because running them in a burst would only make it later.
"""

import asyncio
import math
import time

import msgspec


def now_s() -> float:
    """Seconds of the monotonic machine clock; the zero is arbitrary."""
    return time.monotonic()


class Beat(msgspec.Struct, frozen=True):
    """One awaited deadline: lateness of the wake-up in seconds, and periods skipped before it."""

    late_s: float
    skipped: int


class Metronome:
    """Deadlines at ``start_s + n · period_s``."""

    def __init__(self, period_s: float, start_s: float) -> None:
        self._period_s = period_s
        self._next_s = start_s

    def skip(self, at_s: float) -> int:
        """Leave out deadlines that are a whole period or more in the past; returns how many."""
        missed = math.floor((at_s - self._next_s) / self._period_s)
        if missed <= 0:
            return 0
        self._next_s += missed * self._period_s
        return missed

    async def wait(self) -> Beat:
        """Sleep to the next deadline and move on by one period."""
        skipped = self.skip(now_s())
        await asyncio.sleep(max(0.0, self._next_s - now_s()))
        late_s = max(0.0, now_s() - self._next_s)
        self._next_s += self._period_s
        return Beat(late_s, skipped)
