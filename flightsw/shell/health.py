"""The daemon's own health, from the kernel: resident memory, processor time, free disk, about once a second.

Read from ``/proc`` and ``statvfs`` directly; a library for three numbers would be a tenth of the memory budget.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

import msgspec

from flightsw.core.inputs import Health

INTERVAL_S: Final = 1.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class HealthMeter:
    """Keeps the last reading; ``read`` renews it when it is older than ``INTERVAL_S``."""

    def __init__(self, directory: Path, at_s: float) -> None:
        self._directory = directory
        self._due_s = at_s
        self._read_s = at_s
        self._cpu_s = time.process_time()
        self._frames_skipped = 0
        self._health = Health()

    def read(
        self,
        at_s: float,
        *,
        late_s: float,
        skipped: int,
        radio_frames_bad: int,
        avionics_frames_bad: int,
        watchdog_kicks: int,
        unclean_boots: int,
        watchdog_confirmed: bool | None,
        watchdog_fault: str,
    ) -> Health:
        """Health of this frame; ``skipped`` is what this frame skipped, the result counts them all."""
        self._frames_skipped += skipped
        if at_s >= self._due_s:
            self._renew(at_s)
        return msgspec.structs.replace(
            self._health,
            frame_late_s=late_s,
            frames_skipped=self._frames_skipped,
            radio_frames_bad=radio_frames_bad,
            avionics_frames_bad=avionics_frames_bad,
            watchdog_kicks=watchdog_kicks,
            watchdog_confirmed=watchdog_confirmed,
            watchdog_fault=watchdog_fault,
            unclean_boots=unclean_boots,
        )

    def _renew(self, at_s: float) -> None:
        cpu_s = time.process_time()
        elapsed_s = at_s - self._read_s
        cpu_fraction = (cpu_s - self._cpu_s) / elapsed_s if elapsed_s > 0.0 else float("nan")
        self._due_s, self._read_s, self._cpu_s = at_s + INTERVAL_S, at_s, cpu_s
        self._health = Health(
            rss_mb=rss_mb(), cpu_fraction=cpu_fraction, disk_free_mb=disk_free_mb(self._directory)
        )


def rss_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes), NaN where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES / 1e6
    return float("nan")


def disk_free_mb(directory: Path) -> float:
    """Space that this process may still use where ``directory`` lies, in MB, NaN when it cannot be asked."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(directory)
        return disk.f_bavail * disk.f_frsize / 1e6
    return float("nan")
