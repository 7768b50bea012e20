"""Raw tensors of a committed checkpoint, as the bench reads them: a reader of its own, for a witness shares no code
with what it watches.

The file is ``magic 8 · version u32 · length u32 · digest 16 · manifest JSON · tensors`` in manifest order, without
gaps (``flightsw.gpu.checkpoint.format`` writes it). Only what is needed to find a tensor's bytes is read, and
nothing is verified: what the bench takes from a damaged file it will simply not find in memory.
"""

import math
from pathlib import Path
from struct import Struct
from typing import Any, Final

import msgspec

MAGIC: Final = b"GPUSATCK"
HEADER: Final = Struct("<8sII16s")
MANIFEST_BYTES_MAX: Final = 8 << 20
ELEMENT_BYTES: Final = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "uint8": 1}


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor in the file; ``offset`` is that of its first byte."""

    name: str
    dtype: str
    offset: int
    size_bytes: int

    @property
    def element_bytes(self) -> int:
        """Size of an element."""
        return ELEMENT_BYTES[self.dtype]


def stored_tensors(path: Path) -> list[Stored]:
    """Tensors of a checkpoint. Raises ``ValueError`` with one line when the file is none."""
    try:
        with path.open("rb") as file:
            magic, _, length, _ = HEADER.unpack(file.read(HEADER.size))
            if magic != MAGIC or length > MANIFEST_BYTES_MAX:
                raise ValueError("no checkpoint")
            manifest: dict[str, Any] = msgspec.json.decode(file.read(length))
        offset = HEADER.size + length
        found = []
        for entry in manifest["tensors"]:
            size_bytes = math.prod(entry["shape"]) * ELEMENT_BYTES[entry["dtype"]]
            found.append(
                Stored(name=str(entry["name"]), dtype=entry["dtype"], offset=offset, size_bytes=size_bytes)
            )
            offset += size_bytes
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    except Exception as error:
        raise ValueError(f"{path.name}: it is no checkpoint that the bench can read ({error})") from None
    return found


def raw_bytes(path: Path, tensor: Stored) -> bytes:
    """Bytes of a tensor. Raises ``ValueError`` when the file does not have them all."""
    try:
        with path.open("rb") as file:
            file.seek(tensor.offset)
            data = file.read(tensor.size_bytes)
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    if len(data) != tensor.size_bytes:
        raise ValueError(f"{path.name}: {tensor.name} is cut off")
    return data
