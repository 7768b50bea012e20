"""Small durable state: two copies of every fact, so that one can be torn, flipped or cut short.

A copy is one file, ``KEY.a`` or ``KEY.b`` (big-endian):

    magic 4 · format 2 · key length 2 · version 8 · payload length 4 │ key │ payload │ CRC-32 4

*version* grows with each save; reading takes the highest version whose CRC holds, and the CRC covers all that
precedes it, key included, so that a file under a wrong name is no copy. A save rewrites first the copy
that is older or bad, then the other. Each is a temporary file, flush, fsync, rename and fsync of the
directory. At every instant at least one whole copy is on the disk.

What is wrong with a copy is told as text and never raised: the caller reports it and flies on.
"""

import contextlib
import os
import zlib
from pathlib import Path
from struct import Struct as ByteLayout
from typing import Final

import msgspec

PAYLOAD_BYTES_MAX: Final = 1 << 20
COPIES: Final = ("a", "b")
KEY_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")

_MAGIC: Final = b"GSAT"
_FORMAT: Final = 1
_HEAD: Final = ByteLayout(">4sHHQI")
_CRC: Final = ByteLayout(">I")
_COPY_BYTES_MAX: Final = _HEAD.size + 255 + PAYLOAD_BYTES_MAX + _CRC.size


class Loaded(msgspec.Struct, frozen=True):
    """What a key holds. ``payload`` is None when no copy is whole; ``faults`` tells of each bad copy."""

    payload: bytes | None
    version: int
    faults: tuple[str, ...]


class Store:
    """Keys and payloads below one directory, which must exist."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, key: str) -> Loaded:
        """The newest whole copy of a key. A key that was never saved has no payload and no faults."""
        best: tuple[int, bytes] | None = None
        faults = []
        for name in COPIES:
            version, payload, fault = self._read(key, name)
            if fault:
                faults.append(fault)
            if payload is not None and (best is None or version > best[0]):
                best = (version, payload)
        return Loaded(best[1], best[0], tuple(faults)) if best else Loaded(None, 0, tuple(faults))

    def save(self, key: str, payload: bytes) -> str:
        """Write both copies; the answer is "" or the reason why a copy could not be written."""
        if len(payload) > PAYLOAD_BYTES_MAX or not key or not KEY_CHARACTERS.issuperset(key):
            return f"key {key!r} with {len(payload)} bytes refused; allowed are {PAYLOAD_BYTES_MAX} bytes"
        versions = {name: self._version(key, name) for name in COPIES}
        version = max(versions.values()) + 1
        copy = _encode(key, version, payload)
        faults = []
        for name in sorted(COPIES, key=versions.__getitem__):
            try:
                write_durably(self._path(key, name), copy)
            except OSError as error:
                faults.append(f"{self._path(key, name).name}: {error.strerror or error}")
        return "; ".join(faults)

    def _version(self, key: str, name: str) -> int:
        version, payload, _ = self._read(key, name)
        return version if payload is not None else 0

    def _path(self, key: str, name: str) -> Path:
        return self._directory / f"{key}.{name}"

    def _read(self, key: str, name: str) -> tuple[int, bytes | None, str]:
        path = self._path(key, name)
        try:
            with path.open("rb") as file:
                data = file.read(_COPY_BYTES_MAX + 1)
        except FileNotFoundError:
            return 0, None, ""
        except OSError as error:
            return 0, None, f"{path.name}: {error.strerror or error}"
        version, payload = _decode(key, data)
        return version, payload, "" if payload is not None else f"{path.name}: corrupt copy of {len(data)} bytes"


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file so that after a power cut it holds either all of the old or all of the new bytes."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _encode(key: str, version: int, payload: bytes) -> bytes:
    name = key.encode()
    body = _HEAD.pack(_MAGIC, _FORMAT, len(name), version, len(payload)) + name + payload
    return body + _CRC.pack(zlib.crc32(body))


def _decode(key: str, data: bytes) -> tuple[int, bytes | None]:
    if not _HEAD.size + _CRC.size <= len(data) <= _COPY_BYTES_MAX:
        return 0, None
    magic, format_, name_bytes, version, payload_bytes = _HEAD.unpack_from(data)
    end = _HEAD.size + name_bytes + payload_bytes
    if magic != _MAGIC or format_ != _FORMAT or len(data) != end + _CRC.size:
        return 0, None
    if zlib.crc32(data[:end]) != _CRC.unpack_from(data, end)[0]:
        return 0, None
    if data[_HEAD.size : _HEAD.size + name_bytes] != key.encode():
        return 0, None
    return version, data[_HEAD.size + name_bytes : end]
