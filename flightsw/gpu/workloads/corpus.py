"""Bytes to train on: a text file, a folder of text files, or the running Python's own standard library.

The default needs no download and exists wherever this program runs. Files are read in sorted order up to
a bound and joined, so that one machine always gives the same corpus; its xxh3-128 goes into every checkpoint,
because a resumed run is the undisturbed one only on the same bytes.
"""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import torch
import xxhash
from torch import Tensor

from flightsw.gpu.workloads.job import JobFault

CORPUS_BYTES_MAX: Final = 64 << 20
"""Most bytes taken from a given file or folder."""
LIBRARY_BYTES_MAX: Final = 4 << 20
"""Most bytes taken from the standard library."""
FILES_MAX: Final = 20_000
"""Most files looked at in a folder."""
WINDOWS_MIN: Final = 16
"""A corpus holds at least this many training windows."""
LIBRARY_SKIPS: Final = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib"})
FAULT: Final = "corpus"


class Corpus(msgspec.Struct, frozen=True):
    """``tokens`` is uint8 (size,); ``digest`` its xxh3-128 in hex; ``source`` says where it is from."""

    tokens: Tensor
    digest: str
    source: str


def load(path: str, context: int) -> Corpus:
    """Read the corpus at ``path``; empty is the standard library. ``JobFault("corpus")`` when it cannot serve.

    ``context`` is the window of the model that will read it, in bytes.
    """
    root = Path(path) if path else Path(sysconfig.get_path("stdlib"))
    try:
        data = _read(root, library=not path)
    except OSError as error:
        raise JobFault(FAULT, f"{root}: {error.strerror}; give a readable text file or folder") from None
    needed = WINDOWS_MIN * (context + 1)
    if len(data) < needed:
        what = "has no text" if not data else f"has {len(data)} bytes of text"
        raise JobFault(FAULT, f"{root}: {what}; a context of {context} needs at least {needed} bytes")
    tokens = torch.frombuffer(data, dtype=torch.uint8)
    return Corpus(tokens, xxhash.xxh3_128_hexdigest(data), str(root))


def _read(root: Path, *, library: bool) -> bytearray:
    if root.is_file():
        with open(root, "rb") as file:
            return bytearray(file.read(CORPUS_BYTES_MAX))
    bound = LIBRARY_BYTES_MAX if library else CORPUS_BYTES_MAX
    data = bytearray()
    for file_path in _files(root, suffix=".py" if library else "", skips=LIBRARY_SKIPS if library else frozenset()):
        try:
            with open(file_path, "rb") as file:
                text = file.read(bound - len(data))
        except OSError:
            if library:
                continue  # A file of a system's Python that this user may not read is no loss.
            raise
        if b"\0" in text:
            continue  # Binary.
        data += text
        if len(data) >= bound:
            break
    return data


def _files(root: Path, *, suffix: str, skips: frozenset[str]) -> Iterator[Path]:
    """Regular files below ``root`` in a fixed order, hidden ones left out; ``OSError`` when it is no folder."""
    seen = 0
    for folder, folders, names in os.walk(root, onerror=_raise if not suffix else None):
        folders[:] = sorted(name for name in folders if name not in skips and not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(suffix) and not name.startswith(".") and path.is_file():
                yield path
                seen += 1
                if seen >= FILES_MAX:
                    return


def _raise(error: OSError) -> None:
    raise error
