"""What the simulated card shows, in a small file that two processes map: the bench writes, NVML's stand-in reads.

The record is ``payload ‖ crc32(payload)``. A reader that catches the writer half-way sees a wrong CRC and reads
again; this needs no lock and no assumption about the order in which a processor makes stores visible.
A reader gives up after ``READ_TRIES_MAX`` and reports no value: never a torn one.
"""

import math
import mmap
import os
import zlib
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

from .card_health import XIDS_KEPT

ENVIRONMENT: Final = "GPUSAT_SIM_GPU"
READ_TRIES_MAX: Final = 64

_LAYOUT: Final = Struct(f"<4sHHddddddQQQQ{XIDS_KEPT}H")
_CRC: Final = Struct("<I")
_MAGIC: Final = b"GSIM"
_VERSION: Final = 3
FILE_BYTES: Final = _LAYOUT.size + _CRC.size


class CardState(msgspec.Struct, frozen=True, kw_only=True):
    """One instant of a card. ``powered`` False is a card that has left the bus.

    ``xids`` are the newest of ``xid_count`` XID reports, oldest first, at most ``XIDS_KEPT``.
    ``power_w`` is the sensor's last look, ``power_average_w`` its mean over a second; None is the same as
    ``power_w``.
    """

    powered: bool
    power_w: float
    die_degc: float
    memory_degc: float
    energy_j: float
    utilisation_fraction: float
    ecc_corrected: int = 0
    ecc_uncorrected: int = 0
    throttle_reasons: int = 0
    xids: tuple[int, ...] = ()
    xid_count: int = 0
    power_average_w: float | None = None


class CardFile:
    """The mapped file. ``create`` makes it for the bench, ``attach`` opens it read-only."""

    def __init__(self, path: Path, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        descriptor = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(descriptor, FILE_BYTES)
            elif os.fstat(descriptor).st_size < FILE_BYTES:
                raise ValueError(f"{path}: {os.fstat(descriptor).st_size} bytes, a card state has {FILE_BYTES}")
            self._map = mmap.mmap(descriptor, FILE_BYTES, access=mmap.ACCESS_WRITE if create else mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    def write(self, state: CardState) -> None:
        """Show ``state`` from now on."""
        body = _LAYOUT.pack(
            _MAGIC,
            _VERSION,
            int(state.powered),
            state.power_w,
            state.die_degc,
            state.memory_degc,
            state.energy_j,
            state.utilisation_fraction,
            math.nan if state.power_average_w is None else state.power_average_w,
            state.ecc_corrected,
            state.ecc_uncorrected,
            state.throttle_reasons,
            state.xid_count,
            *state.xids,
            *(0,) * (XIDS_KEPT - len(state.xids)),
        )
        self._map[:] = body + _CRC.pack(zlib.crc32(body))

    def read(self) -> CardState | None:
        """The state shown now; None when there is no whole record."""
        for _ in range(READ_TRIES_MAX):
            record = bytes(self._map[:])
            body, crc = record[: _LAYOUT.size], record[_LAYOUT.size :]
            if _CRC.unpack(crc)[0] != zlib.crc32(body):
                os.sched_yield()
                continue
            magic, version, powered, power_w, die, memory, energy_j, utilisation, average_w, *counts = (
                _LAYOUT.unpack(body)
            )
            if magic != _MAGIC or version != _VERSION:
                return None
            return CardState(
                powered=bool(powered),
                power_w=power_w,
                die_degc=die,
                memory_degc=memory,
                energy_j=energy_j,
                utilisation_fraction=utilisation,
                ecc_corrected=counts[0],
                ecc_uncorrected=counts[1],
                throttle_reasons=counts[2],
                xid_count=counts[3],
                # No XID has the number 0: it fills the places that are free.
                xids=tuple(xid for xid in counts[4:] if xid),
                power_average_w=None if math.isnan(average_w) else average_w,
            )
        return None

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
