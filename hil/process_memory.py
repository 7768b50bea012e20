"""Memory of another process, found by its content and changed from outside: how a particle hits a worker.

The kernel offers a process's memory as ``/proc/PID/mem`` and its layout as ``/proc/PID/maps`` to whoever may trace
it. The bench may: its workers descend from it, which Yama's ptrace scope 1 allows (scope 2 needs CAP_SYS_PTRACE,
scope 3 forbids it). The process is neither stopped nor told, and nothing in it is hooked.

A tensor is found by its bytes, so it must hold still and its content must be known: served weights do, which are
those of a checkpoint; the weights of a training worker move with every step, so from outside they cannot be found.
The search goes in pieces of at most ``STEP_BYTES`` a call, so that who calls it keeps time, and looks at no more
than ``SEARCH_BYTES_MAX`` in all. Weights on a GPU are in no memory of the process and are not found.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

STEP_BYTES: Final = 16 << 20
"""Memory that one ``step`` reads: a few milliseconds."""
SEARCH_BYTES_MAX: Final = 64 << 30
PROBE_BYTES: Final = 256
"""A place is looked at closely when it begins like the content that is sought."""
CONTENT_BYTES_MAX: Final = 256 << 20
PLACES_MAX: Final = 16
"""Copies of a content that are noted; a process keeps few."""


class MemoryDenied(Exception):
    """The memory of a process cannot be reached; the text is one line that says what to do."""


class Place(msgspec.Struct, frozen=True):
    """Where a content was found: its name and its first byte."""

    name: str
    address: int


class ProcessMemory:
    """The memory of one process, open for reading and writing."""

    def __init__(self, pid: int) -> None:
        """Raises ``MemoryDenied``."""
        self.pid = pid
        try:
            self._file = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise MemoryDenied(_denied(pid, error)) from None

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)

    def read(self, address: int, size: int) -> bytes:
        """Bytes from an address; fewer, or none, where the memory ends or is gone. Raises ``MemoryDenied``."""
        try:
            return os.pread(self._file, size, address)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EFAULT):
                return b""  # It was unmapped while we looked.
            raise MemoryDenied(_denied(self.pid, error)) from None

    def write(self, address: int, data: bytes) -> None:
        """Change bytes in place. Raises ``MemoryDenied`` when they are not all written."""
        try:
            written = os.pwrite(self._file, data, address)
        except OSError as error:
            raise MemoryDenied(_denied(self.pid, error)) from None
        if written != len(data):
            raise MemoryDenied(f"process {self.pid}: {written} of {len(data)} bytes at {address:#x} were written")

    def flip(self, address: int, mask: bytes) -> tuple[bytes, bytes]:
        """XOR bytes with a mask; what was there, and what is read back. Raises ``MemoryDenied``."""
        old = self.read(address, len(mask))
        if len(old) != len(mask):
            raise MemoryDenied(f"process {self.pid}: the memory at {address:#x} is gone")
        self.write(address, bytes(a ^ b for a, b in zip(old, mask, strict=True)))
        return old, self.read(address, len(mask))


def writable_regions(pid: int) -> list[tuple[int, int]]:
    """Private writable memory without a file behind it: (start, end) of heap and anonymous mappings.

    Raises ``MemoryDenied``.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError as error:
        raise MemoryDenied(_denied(pid, error)) from None
    found = []
    for line in lines:
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) > 5 else ""
        if fields[1] == "rw-p" and (not name or name == "[heap]" or name.startswith("[anon")):
            start, _, end = fields[0].partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


class Search:
    """A search for contents in a process, a piece at a time; ``places`` are what was found so far."""

    def __init__(self, memory: ProcessMemory, contents: Mapping[str, bytes]) -> None:
        """Raises ``ValueError`` for a content too short to be told apart or too long to be read at once."""
        for name, content in contents.items():
            if not PROBE_BYTES <= len(content) <= CONTENT_BYTES_MAX:
                raise ValueError(
                    f"{name}: {len(content)} bytes; {PROBE_BYTES} to {CONTENT_BYTES_MAX} bytes can be searched for"
                )
        self.places: list[Place] = []
        self.searched_bytes = 0
        self._memory = memory
        self._contents = dict(contents)
        self._pieces = self._divided()

    def step(self) -> bool:
        """Search the next piece; True when there is none left. Raises ``MemoryDenied``."""
        piece = next(self._pieces, None)
        if piece is None or len(self.places) >= PLACES_MAX:
            return True
        start, size = piece
        data = self._memory.read(start, size)
        self.searched_bytes += size
        for name, content in self._contents.items():
            offset = data.find(content[:PROBE_BYTES])
            while offset >= 0:
                if self.still_there(place := Place(name, start + offset)) and place not in self.places:
                    self.places.append(place)
                offset = data.find(content[:PROBE_BYTES], offset + 1)
        return False

    def still_there(self, place: Place) -> bool:
        """Whether a place holds all of its content now."""
        content = self._contents[place.name]
        return self._memory.read(place.address, len(content)) == content

    def _divided(self) -> Iterator[tuple[int, int]]:
        """Pieces that overlap by a probe, so that nothing lies on a seam."""
        left = SEARCH_BYTES_MAX
        for start, end in writable_regions(self._memory.pid):
            while start < end and left > 0:
                size = min(STEP_BYTES + PROBE_BYTES - 1, end - start)
                yield start, size
                start += STEP_BYTES
                left -= size


def _denied(pid: int, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"process {pid}: its memory may not be touched ({error.strerror}); the bench must be its ancestor and "
            "kernel.yama.ptrace_scope at most 1, or it needs CAP_SYS_PTRACE"
        )
    return f"process {pid}: its memory cannot be reached ({error.strerror})"
