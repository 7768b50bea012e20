"""Packets in an archive: which came, when, in which streams, and which are missing.

A packet is known by its identity (boot, APID, sequence). Mission times are in seconds; NaN where a packet carries
no valid one.
"""

from typing import NamedTuple

import msgspec

from .archive_file import ArchiveFile, real


class Identity(NamedTuple):
    """One archived packet; ``playback`` tells how its first copy came."""

    boot: int
    apid: int
    sequence: int
    playback: bool


class PacketRow(msgspec.Struct, frozen=True):
    """Header data of one archived packet; times in seconds, ``*_utc_s`` since 1970."""

    boot: int
    apid: int
    sequence: int
    service: int
    subtype: int
    world_s: float
    onboard_utc_s: float
    received_utc_s: float
    playback: bool
    bytes: int


class PacketReader(ArchiveFile):
    """Questions about packets and their streams."""

    def identities(self) -> list[Identity]:
        """Every archived packet, ordered by boot, APID and sequence."""
        return [
            Identity(boot, apid, sequence, bool(playback))
            for boot, apid, sequence, playback in self._rows(
                "SELECT boot, apid, sequence, playback FROM packets ORDER BY boot, apid, sequence"
            )
        ]

    def packets(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[PacketRow]:
        """Headers of packets, by mission time."""
        statement = (
            "SELECT boot, apid, sequence, service, subtype, world_s, onboard_utc_s, received_utc_s, playback,"
            " length(packet) AS octets, id FROM packets"
        )
        return [
            PacketRow(
                boot, apid, sequence, service, subtype, real(world_s), onboard, received, bool(playback), octets
            )
            for boot, apid, sequence, service, subtype, world_s, onboard, received, playback, octets, _ in (
                self._select(statement, "boot, world_s, id", since, until, last)
            )
        ]

    def packet(self, boot: int, apid: int, sequence: int) -> bytes | None:
        """The octets of one packet as they were received."""
        rows = list(
            self._rows("SELECT packet FROM packets WHERE boot=? AND apid=? AND sequence=?", boot, apid, sequence)
        )
        return bytes(rows[0][0]) if rows else None

    def receptions(self) -> list[tuple[float, float, bool]]:
        """(UTC of reception, mission time, playback) of every packet, in the order of reception."""
        return [
            (received, real(world_s), bool(playback))
            for received, world_s, playback in self._rows(
                "SELECT received_utc_s, world_s, playback FROM packets ORDER BY received_utc_s, id"
            )
        ]

    def world_span(self) -> tuple[float | None, float | None]:
        """First and last mission time; None in an empty archive."""
        first, last = next(self._rows("SELECT MIN(world_s), MAX(world_s) FROM packets"))
        return first, last

    def streams(self) -> list[tuple[int, int, int, int, int, int]]:
        """(boot, apid, live, playback, first, last) of every stream."""
        return [
            tuple(row)
            for row in self._rows(
                "SELECT boot, apid, SUM(playback=0), SUM(playback), MIN(sequence), MAX(sequence) FROM packets"
                " GROUP BY boot, apid"
            )
        ]

    def gaps(self, limit: int = 1000) -> list[tuple[int, int, int, int]]:
        """(boot, apid, first, last) of every run of missing sequences, at most ``limit``."""
        return [
            tuple(row)
            for row in self._rows(
                "SELECT boot, apid, sequence + 1, following - 1 FROM (SELECT boot, apid, sequence, LEAD(sequence)"
                " OVER (PARTITION BY boot, apid ORDER BY sequence) AS following FROM packets)"
                " WHERE following > sequence + 1 LIMIT ?",
                limit,
            )
        ]
