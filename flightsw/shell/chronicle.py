"""The chronicle of one life: the boot record while the daemon flies, and the pulse beside it.

It reads what the lives before left behind, counts this boot, writes the record when a counter in it changes and the
pulse once a second (both on the store's thread), and at the end how it ended.
"""

import logging
import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from flightsw.core.correlation import UNSYNCHRONISED
from flightsw.core.executive import Vehicle

from . import boot_record, last_words, pulse
from .boot_record import BOOT_KEY, BootRecord, End
from .pulse import Context, Pulse, PulseFile
from .store import Store
from .store_writer import StoreWriter

PULSE_INTERVAL_S: Final = 1.0

_log: Final = logging.getLogger("flightd")


class Chronicle:
    """What this life knows of the ones before, and what it leaves to the next one."""

    def __init__(self, store: Store, state_dir: Path, *, recorded_boot: int, crash_loop_boots: int) -> None:
        words, stall = last_words.take(os.environ, state_dir)
        if stall:
            _log.error("the last boot was stuck or broken; its threads stood here:\n%s", stall)
        self._store = store
        self.boot = boot_record.begin(
            store,
            recorded_boot=recorded_boot,
            crash_loop_boots=crash_loop_boots,
            kernel_boot=boot_record.kernel_boot_id(),
            last_words=words,
            pulse=pulse.read(state_dir / pulse.FILE_NAME),
        )
        self._record = self.boot.record
        self._pulse = PulseFile(state_dir / pulse.FILE_NAME)
        self._pulse_due_s = float("-inf")
        self._vehicle: Vehicle | None = None

    @property
    def unclean_boots(self) -> int:
        """Unclean boots in a row, as the record has it."""
        return self._record.unclean_in_a_row

    def count_unclean_boots(self, count: int, writer: StoreWriter) -> None:
        """Write the record with this number of unclean boots in a row."""
        record = self._record = msgspec.structs.replace(self._record, unclean_in_a_row=count)
        writer.order(BOOT_KEY, lambda: boot_record.write(self._store, record))

    def beat(self, vehicle: Vehicle, at_s: float, writer: StoreWriter) -> None:
        """Note down how the vehicle is, once a second."""
        self._vehicle = vehicle
        if at_s < self._pulse_due_s:
            return
        self._pulse_due_s = at_s + PULSE_INTERVAL_S
        noted = Pulse(self._record.boot_count, context(vehicle))
        writer.order(pulse.FILE_NAME, lambda: self._pulse.write(noted))

    def close(self, end: End | Literal["failed"], reason: str) -> str:
        """Write how this life ended, when nobody else writes any more; returns a fault or ""."""
        self._pulse.close()
        last = Context() if self._vehicle is None else context(self._vehicle)
        return boot_record.write(self._store, _ended(self._record, end, reason, last))


def context(vehicle: Vehicle) -> Context:
    """How the vehicle is."""
    clock = vehicle.correlation
    return Context(
        uptime_s=vehicle.now_s - vehicle.boot_s,
        mode=vehicle.mode.mode.name,
        safe_cause=vehicle.mode.cause or "",
        tai_s=None if clock.quality == UNSYNCHRONISED else clock.tai_s,
    )


def _ended(record: BootRecord, end: End | Literal["failed"], reason: str, last: Context) -> BootRecord:
    short = reason[: boot_record.REASON_CHARACTERS_MAX]
    return msgspec.structs.replace(record, end=end, reason=short, context=last)
