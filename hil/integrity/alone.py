"""Which detector notices a fault when it is the only one: ``alone.csv`` beside the ledger.

In the protected run the first detector that speaks has the fault repaired or repeated, so those that come later
never see it. What each is worth by itself is found by running the same injection once for every detector, with all
others off. That is done for harmful faults only.
"""

import csv
from pathlib import Path
from types import TracebackType
from typing import Final, Self

FILE: Final = "alone.csv"
HEADER: Final = ("id", "detectors")
JOIN: Final = "+"


class Alone:
    """The file being written; a torn last line is passed over by ``read``."""

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        begun = path.exists() and path.stat().st_size > 0
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if not begun:
            self._writer.writerow(HEADER)

    def add(self, injection_id: str, detectors: tuple[str, ...]) -> None:
        """Note who noticed."""
        self._writer.writerow((injection_id, JOIN.join(detectors) or "none"))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read(folder: Path) -> dict[str, frozenset[str]]:
    """Detectors that noticed, by injection; empty when there is no file."""
    path = folder / FILE
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    found = {}
    for row in csv.reader(lines[1:]):
        if len(row) == len(HEADER):
            found[row[0]] = frozenset(row[1].split(JOIN)) - {"none"}
    return found
