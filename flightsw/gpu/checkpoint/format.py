"""One generation on disk: raw tensors behind a manifest, every byte under a digest, no code inside.

    magic            8 bytes   b"GPUSATCK"
    version          u32       1
    manifest length  u32       at most MANIFEST_BYTES_MAX
    manifest digest  16 bytes  xxh3-128 over magic, version, length and manifest
    manifest         JSON      ``Manifest``
    tensors                    raw little-endian bytes in manifest order, no gaps, up to the end of the file

The manifest holds each tensor's xxh3-128. Header digest, tensor digests and the exact file size leave no byte
uncovered, so a flip anywhere is found by reading; torch.save, safetensors and DCP load 97 to 99 % of such flips
silently. A reader allocates nothing before the manifest's digest and sizes agree with the file.

xxh3-128 finds damage, not forgery: a checkpoint folder is private to its job (0700).
"""

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from struct import Struct as ByteLayout
from typing import Annotated, Final

import msgspec
import torch
import xxhash
from msgspec import Meta
from torch import Tensor

MAGIC: Final = b"GPUSATCK"
VERSION: Final = 1
HEADER: Final = ByteLayout("<8sII")
DIGEST_BYTES: Final = 16
MANIFEST_BYTES_MAX: Final = 8 << 20
TENSORS_MAX: Final = 65_536
CHUNK_BYTES: Final = 4 << 20
STATE_PREFIXES: Final = ("model.", "optimiser.")
"""What the state digest covers: the weights and what the optimiser knows about them."""

DTYPES: Final = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
_DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}

Facts = dict[str, str | int | float]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]


class Corrupt(Exception):
    """A generation on disk is not what was written; the text says in what way."""


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor: where it goes (name), what it is, and the digest of its bytes."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    dtype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**40)], ...], Meta(max_length=8)]
    digest: Digest

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a generation is. ``digest`` is the state digest; ``facts`` what the workload needs to rebuild itself."""

    generation: Annotated[int, Meta(ge=0, lt=2**53)]
    step: Annotated[int, Meta(ge=0, lt=2**53)]
    digest: Digest
    facts: Facts
    tensors: Annotated[tuple[TensorEntry, ...], Meta(max_length=TENSORS_MAX)]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous host tensor, without copying."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def tensor_digest(tensor: Tensor) -> str:
    """xxh3-128 of a tensor's bytes as an entry holds it, of any device."""
    return xxhash.xxh3_128_hexdigest(tensor_bytes(tensor.detach().cpu().contiguous()))


def describe(tensors: Mapping[str, Tensor]) -> tuple[TensorEntry, ...]:
    """Entries of host tensors in name order, digests computed now."""
    return tuple(
        TensorEntry(
            name=name,
            dtype=_DTYPE_NAMES[tensors[name].dtype],
            shape=tuple(tensors[name].shape),
            digest=xxhash.xxh3_128_hexdigest(tensor_bytes(tensors[name])),
        )
        for name in sorted(tensors)
    )


def state_digest(entries: tuple[TensorEntry, ...]) -> str:
    """xxh3-128 over name, type, shape and digest of every weight and optimiser tensor, in name order.

    Two runs with equal state digests hold the same training state bit for bit.
    """
    digest = xxhash.xxh3_128()
    for entry in entries:
        if entry.name.startswith(STATE_PREFIXES):
            digest.update(f"{entry.name} {entry.dtype} {list(entry.shape)} {entry.digest}\n".encode())
    return digest.hexdigest()


def write(path: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> int:
    """Write a new file, mode 0600, and make it durable; returns its size. Raises ``OSError``.

    The page cache is asked to forget the file, so that reading it back reads the medium where the system allows.
    """
    body = msgspec.json.encode(manifest)
    if len(body) > MANIFEST_BYTES_MAX:
        raise ValueError(f"manifest of {len(body)} bytes, at most {MANIFEST_BYTES_MAX} are allowed")
    head = HEADER.pack(MAGIC, VERSION, len(body))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(head + xxhash.xxh3_128_digest(head + body) + body))
        for entry in manifest.tensors:
            _write_all(file.fileno(), tensor_bytes(tensors[entry.name]))
        os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.tell()


def read(path: Path, keep: Callable[[str], bool]) -> tuple[Manifest, dict[str, Tensor]]:
    """Check a whole generation and return the tensors whose names ``keep`` accepts, on the host.

    Raises ``Corrupt`` for any damage and ``OSError`` when the file cannot be read at all.
    """
    with open(path, "rb", buffering=0) as file:
        manifest = _read_manifest(file.fileno())
        tensors: dict[str, Tensor] = {}
        scratch = bytearray(CHUNK_BYTES)
        for entry in manifest.tensors:
            if keep(entry.name):
                tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
                digest = _read_into(file.fileno(), tensor_bytes(tensor), entry.name)
                tensors[entry.name] = tensor
            else:
                digest = _skim(file.fileno(), entry.size_bytes, scratch, entry.name)
            if digest != entry.digest:
                raise Corrupt(f"tensor {entry.name} does not match its digest")
    return manifest, tensors


def _read_manifest(fd: int) -> Manifest:
    size = os.fstat(fd).st_size
    head = os.read(fd, HEADER.size)
    if len(head) < HEADER.size:
        raise Corrupt(f"cut off after {size} bytes, inside the header")
    magic, version, length = HEADER.unpack(head)
    if magic != MAGIC:
        raise Corrupt("not a checkpoint: the first bytes are wrong")
    if version != VERSION:
        raise Corrupt(f"format version {version} is unknown; this program reads {VERSION}")
    if length > MANIFEST_BYTES_MAX:
        raise Corrupt(f"manifest length {length} is over {MANIFEST_BYTES_MAX}")
    digest = os.read(fd, DIGEST_BYTES)
    body = bytearray(length) if HEADER.size + DIGEST_BYTES + length <= size else bytearray()
    if not body:
        raise Corrupt(f"cut off after {size} bytes, inside the manifest")
    _read_into(fd, memoryview(body), "manifest")
    if xxhash.xxh3_128_digest(head + body) != digest:
        raise Corrupt("manifest does not match its digest")
    return _checked(bytes(body), size - HEADER.size - DIGEST_BYTES - length)


def _checked(body: bytes, tensor_size: int) -> Manifest:
    """Parse a manifest whose digest is right and hold it against the file's size."""
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Corrupt(f"manifest: {error}") from None
    for entry in manifest.tensors:
        if entry.dtype not in DTYPES:
            raise Corrupt(f"tensor {entry.name} has the unknown type {entry.dtype[:32]!r}")
    if len({entry.name for entry in manifest.tensors}) != len(manifest.tensors):
        raise Corrupt("manifest names a tensor twice")
    expected = sum(entry.size_bytes for entry in manifest.tensors)
    if expected != tensor_size:
        raise Corrupt(f"{tensor_size} bytes of tensors where the manifest has {expected}")
    if state_digest(manifest.tensors) != manifest.digest:
        raise Corrupt("state digest does not match the tensors' digests")
    return manifest


def _write_all(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view[:CHUNK_BYTES]) :]


def _read_into(fd: int, view: memoryview, name: str) -> str:
    """Fill ``view`` and return the digest of what came."""
    digest = xxhash.xxh3_128()
    while view:
        count = os.readv(fd, [view[:CHUNK_BYTES]])
        if count == 0:
            raise Corrupt(f"cut off inside {name}")
        digest.update(view[:count])
        view = view[count:]
    return digest.hexdigest()


def _skim(fd: int, size: int, scratch: bytearray, name: str) -> str:
    """Digest of the next ``size`` bytes, which nobody keeps."""
    digest = xxhash.xxh3_128()
    while size:
        view = memoryview(scratch)[: min(size, len(scratch))]
        count = os.readv(fd, [view])
        if count == 0:
            raise Corrupt(f"cut off inside {name}")
        digest.update(view[:count])
        size -= count
    return digest.hexdigest()
