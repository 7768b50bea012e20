"""Loading and dumping of tables: from pieces to an image that may be activated, and back.

A load goes one way, and every step can be repeated:

    EMPTY ── begin ──► STAGED ── validate ──► VALIDATED ── activate ──► EMPTY
               ▲          │  ▲                    │
               └─ begin   │  └──── a piece ───────┤        discard leads to EMPTY from everywhere
                          └──────── discard ──────┘

*begin* announces size and CRC-32 of the image. *Pieces* may come at any offset, in any order and more than once:
the load remembers which octets it has, as one bit for each. *validate* looks at completeness, then CRC, then asks
the check of the table's kind; a fault leaves the load as it is, so that missing or bad pieces can be sent again. A
piece that comes after validation takes the verdict back. What is active is not touched before *activate*.

Memory is bounded by ``LOADS_MAX`` images and ``DUMPS_MAX`` snapshots. Nothing here knows a vehicle: the kinds of
tables, and what activating does, stand behind ``table_handler``.
"""

import zlib
from enum import IntEnum, unique
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.tables import PIECE_BYTES_MAX

LOADS_MAX: Final = 4
"""Loads open at the same time; one more is refused as BUSY."""
DUMPS_MAX: Final = 4
"""Dumps under way at the same time; one more is refused as BUSY."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pace of dumps."""

    dump_packets_per_frame: Annotated[int, Meta(ge=1, le=32)] = 2
    """Packets of dumps in one frame; what the radio cannot take comes by playback."""


@unique
class Phase(IntEnum):
    """How far an open load is; a table without one is EMPTY."""

    STAGED = 1
    VALIDATED = 2


class Load(Struct, frozen=True, kw_only=True):
    """One open load: announced size and CRC-32, the image so far, one bit for each octet that has come."""

    table: str
    size_bytes: int
    crc32: int
    image: bytes
    covered: int = 0
    phase: Phase = Phase.STAGED
    summary: str = ""

    @property
    def missing_bytes(self) -> int:
        """Octets that have not come yet."""
        return self.size_bytes - self.covered.bit_count()

    @property
    def first_gap(self) -> int:
        """Offset of the first octet that has not come; the size when all have."""
        return (~self.covered & (self.covered + 1)).bit_length() - 1


class Dump(Struct, frozen=True):
    """One dump under way: the telecommand that asked for it, code of the table, a snapshot, and packets sent.

    An empty table is one packet without data: that there is nothing is an answer too.
    """

    command: int
    table: int
    image: bytes
    crc32: int
    sent: int = 0

    @property
    def packets(self) -> int:
        """Packets of the whole dump."""
        return max(1, -(-len(self.image) // PIECE_BYTES_MAX))

    @property
    def done(self) -> bool:
        """Whether all of it has been sent."""
        return self.sent >= self.packets


class Piece(Struct, frozen=True):
    """One packet of a dump."""

    table: int
    offset: int
    total: int
    crc32: int
    data: bytes


class State(Struct, frozen=True):
    """Open loads and dumps, oldest first."""

    loads: tuple[Load, ...] = ()
    dumps: tuple[Dump, ...] = ()


IDLE: Final = State()


def load_of(state: State, table: str) -> Load | None:
    """The open load of a table."""
    return next((load for load in state.loads if load.table == table), None)


def begin(state: State, table: str, size_bytes: int, crc32: int) -> State | None:
    """Open a load, or start it again; None when ``LOADS_MAX`` others are open."""
    return opened(state, Load(table=table, size_bytes=size_bytes, crc32=crc32, image=bytes(size_bytes)))


def whole(table: str, image: bytes) -> Load:
    """A load whose image has come in one piece."""
    return Load(
        table=table,
        size_bytes=len(image),
        crc32=zlib.crc32(image),
        image=image,
        covered=(1 << len(image)) - 1,
    )


def opened(state: State, load: Load) -> State | None:
    """The state with this load, in place of one of the same table; None when ``LOADS_MAX`` others are open."""
    others = tuple(other for other in state.loads if other.table != load.table)
    return None if len(others) >= LOADS_MAX else replace(state, loads=(*others, load))


def put(load: Load, offset: int, data: bytes) -> Load:
    """The load with one more piece, which must lie within its size; a verdict is taken back."""
    end = offset + len(data)
    assert end <= load.size_bytes, "the caller has checked the bounds"
    image = b"".join((load.image[:offset], data, load.image[end:]))
    bits = ((1 << len(data)) - 1) << offset
    return replace(load, image=image, covered=load.covered | bits, phase=Phase.STAGED, summary="")


def fault(load: Load) -> str:
    """Why the octets of a load are not the image that was announced, or ""."""
    if missing := load.missing_bytes:
        return f"{missing} of {load.size_bytes} octets are missing, the first at offset {load.first_gap}"
    if (found := zlib.crc32(load.image)) != load.crc32:
        return f"CRC-32 of the image is 0x{found:08X}, announced was 0x{load.crc32:08X}"
    return ""


def changed(state: State, load: Load) -> State:
    """The state with an open load changed."""
    return replace(state, loads=tuple(load if other.table == load.table else other for other in state.loads))


def closed(state: State, table: str) -> State:
    """The state without the load of a table."""
    return replace(state, loads=tuple(load for load in state.loads if load.table != table))


def dump(state: State, command: int, table: int, image: bytes) -> State | None:
    """Start a dump; None when ``DUMPS_MAX`` are under way."""
    if len(state.dumps) >= DUMPS_MAX:
        return None
    return replace(state, dumps=(*state.dumps, Dump(command, table, image, zlib.crc32(image))))


def dump_of(state: State, command: int) -> Dump | None:
    """The dump that a telecommand has asked for, until the frame after its last packet."""
    return next((dump for dump in state.dumps if dump.command == command), None)


def step(state: State, config: Config) -> tuple[State, tuple[Piece, ...]]:
    """The packets of dumps in this frame, oldest dump first; a dump that was done before is forgotten."""
    room = config.dump_packets_per_frame
    pieces: list[Piece] = []
    dumps: list[Dump] = []
    for dump in state.dumps:
        if dump.done:
            continue
        while room > len(pieces) and not dump.done:
            offset = dump.sent * PIECE_BYTES_MAX
            data = dump.image[offset : offset + PIECE_BYTES_MAX]
            pieces.append(Piece(dump.table, offset, len(dump.image), dump.crc32, data))
            dump = replace(dump, sent=dump.sent + 1)
        dumps.append(dump)
    return replace(state, dumps=tuple(dumps)), tuple(pieces)
