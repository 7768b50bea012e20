"""Results on disk: one JSON line for each finished piece of work, so that an interrupted run goes on where it was.

What a result depends on is in its ``version``: a number of the yardstick for what the governors do not touch
(clairvoyant, bound), and a digest of a governor's sources for its runs. A line of
another version is passed over, never deleted: an older commit finds its results again. A last line that an
interruption cut short is passed over too.

A file is written by one process only; the command holds a lock on its folder.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

PROJECT: Final = Path(__file__).resolve().parents[2]
YARDSTICK_VERSION: Final = "1"
"""Raise it when a change may move a scenario, the plant, a clairvoyant value or a bound."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What every record has."""

    scenario: int
    version: str


T = TypeVar("T", bound=Line)


class Records(Generic[T]):
    """The records of one file and one version, by scenario."""

    def __init__(self, path: Path, kind: type[T], version: str) -> None:
        self.path, self._version = path, version
        self._decoder, self._encoder = msgspec.json.Decoder(kind), msgspec.json.Encoder()
        self.found: dict[int, T] = {}
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                record = self._decoder.decode(line)
            except msgspec.MsgspecError:
                continue
            if record.version == version:
                self.found[record.scenario] = record

    def add(self, record: T) -> None:
        """Keep a record, on disk before it returns."""
        self.found[record.scenario] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line feed first: the file may end in a line that was cut short.
        with self.path.open("ab") as file:
            file.write(b"\n" + self._encoder.encode(record))

    def missing(self, wanted: Iterable[int]) -> list[int]:
        """Those of ``wanted`` that are not there yet."""
        return [number for number in wanted if number not in self.found]


def digest_of(*folders_and_files: str) -> str:
    """Digest of source files, given relative to the project: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in folders_and_files:
        path = PROJECT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(PROJECT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
