"""The weights that an inference worker serves, found in its memory by what the checkpoints on disk say they are.

Which generation is served is not asked: one tensor of every generation in the ring is sought at once, and the
newest one that is found counts. A process may hold a content more than once (the file's copy beside the model's,
memory that was freed and not yet used again), and nobody outside can tell which copy the model reads. So every copy
of that generation is hit, in the same bit; which ones somebody puts right again is seen by looking.
"""

import random
import re
from pathlib import Path
from typing import Any, Final

from .checkpoint_file import Stored, raw_bytes, stored_tensors
from .process_memory import CONTENT_BYTES_MAX, PROBE_BYTES, Place, ProcessMemory, Search

WEIGHTS: Final = "model."
GENERATIONS_MAX: Final = 8
BYTE_BITS: Final = 8

_GENERATION: Final = re.compile(r"^gen-(\d{8,15})\.ckpt$")


class ServedWeights:
    """One bit of one weight of a worker: sought, flipped, watched. Every call is short."""

    def __init__(self, pid: int, ring: Path, rng: random.Random, bit: int = -1) -> None:
        """Choose the weight: by size among tensors, any element, ``bit`` or any for −1.

        Raises ``ValueError`` with one line when the ring holds nothing to seek, ``MemoryDenied`` when the memory is
        closed to the bench.
        """
        contents, chosen = _contents(ring, rng)
        self._bit = rng.randrange(chosen.element_bytes * BYTE_BITS) if bit < 0 else bit
        if self._bit >= chosen.element_bytes * BYTE_BITS:
            raise ValueError(f"bit {bit} does not exist; weights are {chosen.dtype}")
        self._element = rng.randrange(chosen.size_bytes // chosen.element_bytes)
        self._tensor = chosen
        self._memory = ProcessMemory(pid)
        self._search = Search(self._memory, contents)
        self._hit: dict[int, tuple[Place, bytes, bytes]] = {}
        """By address: the copy, and its byte before and after."""

    def close(self) -> None:
        """Let go of the process."""
        self._memory.close()

    def step(self) -> bool:
        """Search on; True when everything was searched. Raises ``MemoryDenied``."""
        return self._search.step()

    @property
    def searched_bytes(self) -> int:
        """Memory looked at so far."""
        return self._search.searched_bytes

    def flip(self) -> dict[str, Any] | None:
        """Flip the bit in every copy of the newest generation that was found and is still there.

        Returns the evidence; None when nothing was found, or it has gone since. Raises ``MemoryDenied``.
        """
        there = [place for place in self._search.places if self._search.still_there(place)]
        if not there:
            return None
        newest = max(there, key=lambda place: int(place.name)).name
        byte = self._element * self._tensor.element_bytes + self._bit // BYTE_BITS
        mask = bytes([1 << self._bit % BYTE_BITS])
        for place in there:
            if place.name == newest:
                self._hit[place.address + byte] = (place, *self._memory.flip(place.address + byte, mask))
        (_, old, new), *_ = self._hit.values()
        return {
            "generation": int(newest),
            "tensor": self._tensor.name.removeprefix(WEIGHTS),
            "dtype": self._tensor.dtype,
            "element": self._element,
            "bit": self._bit,
            "addresses": [hex(address) for address in self._hit],
            "old": old[0],
            "new": new[0],
            "read_back": all(now == bytes([was[0] ^ mask[0]]) for _, was, now in self._hit.values()),
        }

    def restored(self) -> int:
        """Copies that are whole again, now. Raises ``MemoryDenied`` when the process is gone.

        All of a copy is compared: the one byte may be right by chance in memory that was given to something else.
        """
        return sum(
            self._memory.read(address, 1) == old and self._search.still_there(place)
            for address, (place, old, _) in self._hit.items()
        )


def _contents(ring: Path, rng: random.Random) -> tuple[dict[str, bytes], Stored]:
    """The bytes of one tensor in every generation by its number, newest first, and the tensor."""
    files = {int(found[1]): path for path in _files(ring) if (found := _GENERATION.match(path.name))}
    if not files:
        raise ValueError(f"no generation is in {ring.name} yet")
    newest = sorted(files, reverse=True)[:GENERATIONS_MAX]
    offered = [
        tensor
        for tensor in stored_tensors(files[newest[0]])
        if tensor.name.startswith(WEIGHTS) and PROBE_BYTES <= tensor.size_bytes <= CONTENT_BYTES_MAX
    ]
    if not offered:
        raise ValueError(f"{files[newest[0]].name} holds no weights that could be sought")
    (chosen,) = rng.choices(offered, [tensor.size_bytes for tensor in offered])
    contents: dict[str, bytes] = {}
    for generation in newest:
        try:
            same = {tensor.name: tensor for tensor in stored_tensors(files[generation])}
            data = raw_bytes(files[generation], same[chosen.name])
        except (ValueError, KeyError):
            continue  # Pruned, or of another model, since it was listed.
        if any(data[:PROBE_BYTES]):  # Zeros would be found everywhere.
            contents[str(generation)] = data
    if not contents:
        raise ValueError(f"{chosen.name} holds nothing but zeros, or its files are gone")
    return contents, chosen


def _files(ring: Path) -> list[Path]:
    try:
        return list(ring.iterdir())
    except OSError:
        return []
