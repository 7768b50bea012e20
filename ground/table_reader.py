"""Dumped tables in an archive: pieces put together again and held against their CRC.

Pieces come live, late, played back and twice, and those of several dumps of one table lie side by side. What tells
them apart is what each piece says of the whole: size and CRC-32. Pieces that say the same are of the same image,
whichever dump brought them, so a later dump fills the holes of an earlier one.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from flightsw.link.tables import IMAGE_BYTES_MAX

from .archive_file import ArchiveFile, real


class Piece(NamedTuple):
    """One archived piece of a dump."""

    boot: int
    sequence: int
    world_s: float
    offset: int
    total: int
    crc32: int
    data: bytes


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a table as far as it has come; ``image`` is None until it is whole and its CRC holds.

    ``boot``, ``sequence`` and ``world_s`` (mission time) are those of its newest piece.
    """

    boot: int
    sequence: int
    world_s: float
    total: int
    crc32: int
    received: int
    image: bytes | None


class TableReader(ArchiveFile):
    """Questions about dumped tables."""

    def dumps(self, code: int) -> list[Dump]:
        """Every image of a table that was dumped, by boot and sequence of its newest piece."""
        if self.schema < 2:
            return []
        return put_together(
            Piece(boot, sequence, real(world_s), offset, total, crc32, bytes(data))
            for boot, sequence, world_s, offset, total, crc32, data in self._rows(
                "SELECT p.boot, p.sequence, t.world_s, t.offset, t.total, t.crc32, t.data FROM table_pieces t"
                " JOIN packets p ON p.id = t.packet WHERE t.code = ?",
                code,
            )
        )


def put_together(pieces: Iterable[Piece]) -> list[Dump]:
    """Images from pieces in any order; what lies outside of its own image is no piece of it."""
    images: dict[tuple[int, int], list[Piece]] = {}
    for piece in pieces:
        if piece.offset >= 0 and piece.offset + len(piece.data) <= piece.total <= IMAGE_BYTES_MAX:
            images.setdefault((piece.total, piece.crc32), []).append(piece)
    found = []
    for (total, crc32), parts in images.items():
        octets, known = bytearray(total), bytearray(total)
        for piece in parts:
            end = piece.offset + len(piece.data)
            octets[piece.offset : end] = piece.data
            known[piece.offset : end] = b"\x01" * len(piece.data)
        received = known.count(1)
        whole = received == total and zlib.crc32(octets) == crc32
        boot, sequence, world_s = max(piece[:3] for piece in parts)
        image = bytes(octets) if whole else None
        found.append(
            Dump(
                boot=boot,
                sequence=sequence,
                world_s=world_s,
                total=total,
                crc32=crc32,
                received=received,
                image=image,
            )
        )
    return sorted(found, key=lambda dump: (dump.boot, dump.sequence))
