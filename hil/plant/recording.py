"""Recordings of truth: a CSV file with a column for everything a step sets and everything that follows from it.

    with Recording(path) as record:
        record.add(plant.step(1.0, loads))

Names are those of ``Truth``; a vector has three columns, lists are joined by semicolons. ``Record`` reads it back,
and reads other tables too, a real satellite's telemetry or the truth of a run's evidence: ``world_s`` is needed, a
number that has no column is NaN, which a sensor passes on as "no value".
"""

import csv
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from .truth import PLACED, STEPPED, Known, Place, Truth

ROWS_MAX: Final = 10_000_000
BYTES_MAX: Final = 1 << 30
VECTOR: Final = ("position_x_km", "position_y_km", "position_z_km")


def _station(text: str) -> tuple[str, float]:
    """A station and its elevation in degrees."""
    name, _, elevation = text.partition("=")
    return name, float(elevation)


# How one item of a list is read.
LISTS: Final[dict[str, Callable[[str], object]]] = {
    "switches_on": str,
    "radiator_nodes_degc": float,
    "visible": _station,
}
COLUMNS: Final = (
    *(c for name in STEPPED for c in (VECTOR if name == "position_km" else (name,))),
    *PLACED,
)
# What the truth of a run's evidence calls otherwise.
SYNONYMS: Final = {"gpu_rail_power_w": "gpu_power_w"}


class Recording:
    """Writes truth to a file, a row for each call of ``add``."""

    def __init__(self, path: Path) -> None:
        """Raises ``ValueError`` when the file cannot be made."""
        try:
            self._file = path.open("w", encoding="ascii", newline="")
        except OSError as error:
            raise ValueError(f"recording {path}: {error.strerror}") from None
        self._path, self._rows = path, 0
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def add(self, truth: Truth) -> None:
        """Write one row; ``ValueError`` past ``ROWS_MAX``."""
        if self._rows >= ROWS_MAX:
            raise ValueError(f"recording {self._path}: holds {ROWS_MAX} rows, no more are written")
        self._rows += 1
        x, y, z = truth.position_km
        row: list[object] = []
        for name in (*STEPPED, *PLACED):
            value = getattr(truth, name)
            if name == "position_km":
                row += [repr(x), repr(y), repr(z)]
            elif name == "visible":
                row.append(";".join(f"{station}={elevation!r}" for station, elevation in value))
            elif name in LISTS:
                row.append(";".join(str(item) for item in value))
            else:
                row.append(repr(float(value)))
        self._writer.writerow(row)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class Record:
    """A table of truth in order of time."""

    def __init__(self, columns: Mapping[str, Sequence[object]], source: str) -> None:
        """``source`` names it in complaints. Raises ``ValueError`` for a table that cannot be played."""
        self.source = source
        self.times_s = self._numbers(columns, "world_s")
        if not self.times_s:
            raise ValueError(f"recording {source}: no rows")
        if not all(map(isfinite, self.times_s)):
            raise ValueError(f"recording {source}: world_s is not finite everywhere")
        for row, (before_s, after_s) in enumerate(zip(self.times_s, self.times_s[1:], strict=False), start=2):
            if after_s <= before_s:
                raise ValueError(f"recording {source}: row {row}: world_s {after_s:g} is not after {before_s:g}")
        names = {name: SYNONYMS.get(name, name) if name not in columns else name for name in COLUMNS}
        self._columns: dict[str, list[float]] = {
            name: self._numbers(columns, there)
            for name, there in names.items()
            if name not in LISTS and there in columns
        }
        self._lists = {name: self._cells(columns, name) for name in LISTS if name in columns}
        lengths = {*map(len, self._columns.values()), *map(len, self._lists.values())}
        if len(lengths) != 1:
            raise ValueError(f"recording {source}: columns of different lengths")

    @property
    def start_s(self) -> float:
        """World time of the first row."""
        return self.times_s[0]

    @property
    def end_s(self) -> float:
        """World time of the last row."""
        return self.times_s[-1]

    def index(self, world_s: float) -> int:
        """The row that holds at ``world_s``, which is not before the first."""
        return max(0, bisect_right(self.times_s, world_s) - 1)

    def number(self, name: str, index: int) -> float:
        """One number of a row; NaN when there is no such column."""
        return self._columns[name][index] if name in self._columns else nan

    def cells(self, name: str, index: int) -> tuple[Any, ...]:
        """One list of a row; empty when there is no such column."""
        return self._lists[name][index] if name in self._lists else ()

    def truth(self, index: int) -> Truth:
        """One row as truth."""
        values: list[object] = []
        for name in STEPPED:
            if name == "position_km":
                values.append(tuple(self.number(axis, index) for axis in VECTOR))
            elif name in LISTS:
                values.append(self.cells(name, index))
            elif name == "gpu_rail_on":
                values.append(self.number(name, index) != 0.0)
            else:
                values.append(self.number(name, index))
        place = Place(
            self.number("latitude_deg", index),
            self.number("longitude_deg", index),
            self.number("altitude_km", index),
            self.number("proton_flux_cm2_s", index),
            self.cells("visible", index),
        )
        return Truth(Known(place), *values)  # type: ignore[arg-type]

    def _cells(self, columns: Mapping[str, Sequence[object]], name: str) -> list[tuple[Any, ...]]:
        found = []
        for row, cell in enumerate(columns[name], start=1):
            items = str(cell).split(";") if cell else []
            try:
                found.append(tuple(LISTS[name](item) for item in items))
            except ValueError:
                raise ValueError(f"recording {self.source}: row {row}, {name}: {cell!r} is no such list") from None
        return found

    def _numbers(self, columns: Mapping[str, Sequence[object]], name: str) -> list[float]:
        if name not in columns:
            raise ValueError(f"recording {self.source}: no column {name}")
        found = []
        for row, cell in enumerate(columns[name], start=1):
            try:
                found.append(float(cell) if isinstance(cell, str | int | float) and cell != "" else nan)
            except ValueError:
                raise ValueError(f"recording {self.source}: row {row}, {name}: {cell!r} is no number") from None
        return found


def read_record(path: Path) -> Record:
    """A record from a CSV file; ``ValueError`` with one line when it cannot be read or played."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise ValueError(f"recording {path}: over {BYTES_MAX} bytes")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise ValueError(f"recording {path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"recording {path}: no CSV text: {error}") from None
    if not rows:
        raise ValueError(f"recording {path}: empty")
    head, body = rows[0], rows[1:]
    for number, row in enumerate(body, start=1):
        if len(row) != len(head):
            raise ValueError(f"recording {path}: row {number} has {len(row)} cells, the head has {len(head)}")
    return Record({name: [row[place] for row in body] for place, name in enumerate(head)}, str(path))
