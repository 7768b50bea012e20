"""An archive opened for reading, also while a station writes it.

Only what every question to an archive needs: the file, its schema, and the rows of a statement within a span of
mission time. The questions themselves are in ``packet_reader``, ``series_reader``, ``record_reader`` and
``table_reader``.
"""

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from .archive import SCHEMA_OLDEST, SCHEMA_VERSION
from .errors import GroundError


class ArchiveFile:
    """Read-only view; raises ``GroundError`` when the file is missing or no archive of this schema."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise GroundError(f"no archive {path}: start a station with ground listen, or name one with --archive")
        try:
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0
            )
            row = self._database.execute("SELECT value FROM meta WHERE key='schema_version'").fetchone()
        except sqlite3.Error as error:
            raise GroundError(f"archive {path}: {error}") from None
        if row is None or row[0] not in range(SCHEMA_OLDEST, SCHEMA_VERSION + 1):
            self._database.close()
            raise GroundError(
                f"archive {path} has schema {row and row[0]},"
                f" this program reads {SCHEMA_OLDEST} to {SCHEMA_VERSION}"
            )
        self.schema = int(row[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def _select(
        self,
        statement: str,
        order: str,
        since: float | None,
        until: float | None,
        last: int | None,
        where: str = "1",
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of a statement that has a column ``world_s``, within the times, the last ones, in ascending
        order."""
        bounds = [f"world_s {sign} {time!r}" for sign, time in ((">=", since), ("<=", until)) if time is not None]
        descending = ", ".join(f"{column} DESC" for column in order.split(", "))
        newest = f"SELECT * FROM ({statement}) WHERE {' AND '.join([where, *bounds])} ORDER BY {descending} LIMIT ?"
        return self._rows(f"SELECT * FROM ({newest}) ORDER BY {order}", -1 if last is None else last)

    def _rows(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise GroundError(f"archive {self.path}: {error}") from None


def real(value: float | None) -> float:
    """A number column as a float; NaN where the archive has no valid value."""
    return math.nan if value is None else value
