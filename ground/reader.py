"""The whole archive to read: packets, parameters and records in one view, and what the file tells of itself.

A file that another dictionary has written is read as far as both know; ``notices`` says that it is one.
"""

from flightsw.link.dictionary import DICTIONARY_HASH

from .packet_reader import PacketReader
from .record_reader import RecordReader
from .series_reader import SeriesReader
from .table_reader import TableReader


class ArchiveReader(PacketReader, SeriesReader, RecordReader, TableReader):
    """Read-only view; raises ``GroundError`` when the file is missing or no archive of this schema."""

    def counter(self, name: str) -> int:
        """A counter of the station, kept over its restarts."""
        return next((int(value) for (value,) in self._rows("SELECT value FROM counters WHERE name=?", name)), 0)

    def dictionaries(self) -> list[str]:
        """Hashes of the dictionaries that wrote this archive."""
        return [hash for (hash,) in self._rows("SELECT hash FROM dictionaries ORDER BY first_used_s")]

    def notices(self) -> list[str]:
        """What a reader should know about this file: dictionaries other than ours."""
        others = [hash for hash in self.dictionaries() if hash != DICTIONARY_HASH]
        return [f"archive written with dictionary {hash}, this program has {DICTIONARY_HASH}" for hash in others]
