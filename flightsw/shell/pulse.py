"""The pulse: what the daemon was doing a second ago, for the boot that follows a sudden end.

A life that is killed writes no farewell. So once a second a small file gets the boot, the uptime, the mode, the
cause of SAFE and TAI, on the store's thread and without fsync: the page cache outlives the process, and after a
power cut the file is merely old. It is context, never a fact that anything depends on; a pulse that cannot be
written or read is none.

Two slots are written in turn, each with its length and CRC-32, so that one that was cut short leaves the other:

    length 2 · CRC-32 4 · msgpack body
"""

import contextlib
import os
import zlib
from pathlib import Path
from struct import Struct as ByteLayout
from typing import Annotated, Final

import msgspec
from msgspec import Meta

SLOT_BYTES: Final = 256
SLOTS: Final = 2
FILE_NAME: Final = "pulse"

_HEAD: Final = ByteLayout(">HI")


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """How the vehicle was: uptime of the daemon, mode, cause of SAFE, TAI when it was known."""

    uptime_s: Annotated[float, Meta(ge=0.0)] = 0.0
    mode: Annotated[str, Meta(max_length=32)] = ""
    safe_cause: Annotated[str, Meta(max_length=32)] = ""
    tai_s: float | None = None


class Pulse(msgspec.Struct, frozen=True):
    """The context of a boot at some moment of its life."""

    boot: Annotated[int, Meta(ge=0)]
    context: Context


class PulseFile:
    """Writes pulses of one life; the file stays open."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._turn = 0
        with contextlib.suppress(OSError):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, pulse: Pulse) -> str:
        """Write into the slot whose turn it is; returns always "": that it fails is no fault of the flight."""
        body = msgspec.msgpack.encode(pulse)
        slot = (_HEAD.pack(len(body), zlib.crc32(body)) + body).ljust(SLOT_BYTES, b"\0")
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, slot, self._turn * SLOT_BYTES)
        self._turn = (self._turn + 1) % SLOTS
        return ""

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path) -> Pulse | None:
    """The newest whole pulse of the file, None when there is none."""
    data = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        data = file.read(SLOTS * SLOT_BYTES)
    pulses = [p for i in range(SLOTS) if (p := _decode(data[i * SLOT_BYTES : (i + 1) * SLOT_BYTES])) is not None]
    return max(pulses, key=lambda p: (p.boot, p.context.uptime_s), default=None)


def _decode(slot: bytes) -> Pulse | None:
    if len(slot) < _HEAD.size:
        return None
    size, crc = _HEAD.unpack_from(slot)
    body = slot[_HEAD.size : _HEAD.size + size]
    if len(body) != size or zlib.crc32(body) != crc:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Pulse)
    except msgspec.MsgspecError:
        return None
