"""The open ledger of a campaign: every injection that was begun, and its one end.

    injections.csv          a row for every injection that ended, appended as it ends
    injections.begun        an id a line for every injection that was begun, written before it is
    injections.parquet      the same rows, written at the close where pyarrow is installed (extra ``campaign``)
    injections.txt          what the columns mean

A row is appended by one write to a file opened for appending and is there for every reader at once, so a campaign
that is killed leaves a ledger that can be read; a row that was torn by a power cut is cut off when the ledger is
opened again, and its injection is open. ``close`` refuses a ledger in which an injection that was begun has not
ended, and ``end`` refuses a second end, an end without a beginning, and a fault that never fired.
"""

import csv
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .injection import Fired, Injection
from .ledger_table import COLUMNS, LIST, NAMES, SCHEMA, Cell, Column, End, LedgerError, check, manual, row_of

STEM: Final = "injections"
BEGUN: Final = f"{STEM}.begun"
CSV: Final = f"{STEM}.csv"
PARQUET: Final = f"{STEM}.parquet"
MANUAL: Final = f"{STEM}.txt"
OPEN_SHOWN: Final = 5
HEADER: Final = ",".join(NAMES) + "\n"
EXTRA: Final = "campaign"


class Ledger:
    """A ledger that is being written. One writer at a time; anybody may read."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in a folder, or begin one. Raises ``LedgerError`` when it holds another schema."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        _replace(folder / MANUAL, manual().encode())
        begun = _whole_lines(folder / BEGUN)
        if not _whole_lines(folder / CSV):
            _replace(folder / CSV, HEADER.encode())
        self._ended = {str(row["id"]) for row in read(folder)}
        self._begun = set(begun) | self._ended
        self._begun_file = os.open(folder / BEGUN, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._csv_file = os.open(folder / CSV, os.O_WRONLY | os.O_APPEND)

    @property
    def open_ids(self) -> frozenset[str]:
        """Injections that were begun and have not ended."""
        return frozenset(self._begun - self._ended)

    @property
    def ended_ids(self) -> frozenset[str]:
        """Injections that have ended: a campaign that goes on skips them."""
        return frozenset(self._ended)

    def begin(self, injection: Injection) -> None:
        """Note that an injection is about to be tried; an open one may be tried again. Raises ``LedgerError``."""
        if injection.id in self._ended:
            raise LedgerError(f"injection {injection.id} has ended already; an id is used once")
        if injection.id not in self._begun:
            _append(self._begun_file, injection.id + "\n")
            self._begun.add(injection.id)

    def end(self, injection: Injection, fired: Fired | None, end: End, injector: str = "own") -> None:
        """Note how it ended. Raises ``LedgerError``; then nothing was written."""
        if injection.id not in self._begun:
            raise LedgerError(f"injection {injection.id} ends without having been begun")
        if injection.id in self._ended:
            raise LedgerError(f"injection {injection.id} has ended already; it ends as exactly one outcome")
        if fired is None:
            raise LedgerError(f"injection {injection.id} never fired: the run is invalid, it has no outcome")
        _append(self._csv_file, _line(row_of(injection, fired, end, injector)))
        self._ended.add(injection.id)

    def close(self) -> Path | None:
        """Validate all of it, make it durable, write Parquet where that can be; the Parquet file, or None.

        Raises ``LedgerError`` for injections without an end. Files are closed in any case; what was written stays.
        """
        for file in (self._begun_file, self._csv_file):
            os.fsync(file)
            os.close(file)
        validate(self.folder)
        return write_parquet(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        os.close(self._begun_file)  # The campaign failed: its own error counts, the ledger stays as it is.
        os.close(self._csv_file)


def validate(folder: Path) -> int:
    """Check every row and that every id that was begun has exactly one end; the number of rows.

    Raises ``LedgerError``.
    """
    seen: set[str] = set()
    for row in read(folder):
        if row["id"] in seen:
            raise LedgerError(f"{folder / CSV}: injection {row['id']} has two ends")
        seen.add(str(row["id"]))
    missing = sorted(set(_lines(folder / BEGUN)) - seen)
    if missing:
        more = f" and {len(missing) - OPEN_SHOWN} more" if len(missing) > OPEN_SHOWN else ""
        raise LedgerError(
            f"{folder / CSV}: {len(missing)} injections were begun and have no end "
            f"({', '.join(missing[:OPEN_SHOWN])}{more}); run the campaign again, it takes them up"
        )
    return len(seen)


def read(folder: Path) -> Iterator[dict[str, Cell]]:
    """Rows of a ledger, typed and checked; a torn last row is left out. Raises ``LedgerError``."""
    path = folder / CSV
    lines = _lines(path)
    if not lines or lines[0] != HEADER.rstrip("\n"):
        raise LedgerError(
            f"{path}: its first line is not that of schema {SCHEMA}; begin a ledger in another folder"
        )
    for number, cells in enumerate(csv.reader(lines[1:]), 2):
        if len(cells) != len(COLUMNS):
            raise LedgerError(f"{path}:{number}: {len(cells)} cells, schema {SCHEMA} has {len(COLUMNS)}")
        try:
            row = {column.name: _parsed(column, cell) for column, cell in zip(COLUMNS, cells, strict=True)}
            check(row)
        except LedgerError as error:
            raise LedgerError(f"{path}:{number}: {error}") from None
        yield row


def write_parquet(folder: Path) -> Path | None:
    """The ledger as Parquet, made anew as a whole; None where pyarrow is not installed."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    kinds = {
        "text": arrow.string(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "truth": arrow.bool_(),
        "list": arrow.list_(arrow.string()),
    }
    fields = [
        arrow.field(column.name, kinds[column.kind], nullable=False, metadata={"text": column.text})
        for column in COLUMNS
    ]
    rows = [
        {column.name: _items(row[column.name]) if column.kind == "list" else row[column.name] for column in COLUMNS}
        for row in read(folder)
    ]
    table = arrow.Table.from_pylist(rows, schema=arrow.schema(fields, metadata={"schema": SCHEMA}))
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    path = folder / PARQUET
    _replace(path, sink.getvalue())
    return path


def _items(cell: Cell) -> list[str]:
    return str(cell).split(LIST) if cell else []


def _parsed(column: Column, cell: str) -> Cell:
    try:
        if column.kind == "integer":
            return int(cell)
        if column.kind == "number":
            return float(cell)
    except ValueError:
        raise LedgerError(f"{column.name} = {cell!r} is no {column.kind}") from None
    if column.kind == "truth":
        if cell not in ("true", "false"):
            raise LedgerError(f"{column.name} = {cell!r} is neither true nor false")
        return cell == "true"
    return cell


def _line(row: dict[str, Cell]) -> str:
    text = io.StringIO()
    cells = [str(value).lower() if isinstance(value, bool) else value for value in row.values()]
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _append(file: int, line: str) -> None:
    """One line, by one write."""
    data = line.encode()
    if os.write(file, data) != len(data):
        raise LedgerError("the ledger's disk is full; the last row is torn and will be cut off at the next opening")


def _lines(path: Path) -> list[str]:
    """Whole lines of a file; none when it is not there. What follows the last line break was torn."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text.split("\n")[:-1]


def _whole_lines(path: Path) -> list[str]:
    """Whole lines of a file, from which a torn last one is cut off."""
    lines = _lines(path)
    if path.exists() and path.stat().st_size != sum(len(line.encode()) + 1 for line in lines):
        _replace(path, "".join(f"{line}\n" for line in lines).encode())
    return lines


def _replace(path: Path, data: bytes) -> None:
    """Write a whole file so that a reader, or a power cut, finds the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
