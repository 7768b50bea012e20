"""The account of a campaign: figures, tables and circumstances, from a folder's ledger and measurements.

``report.json`` is this; the page is made from it. A campaign that was interrupted has an account, too, and it says
so: its figures are of the faults that were there, and its bounds are as wide as few faults make them.
"""

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from hil import machine

from . import measurements
from .measurements import Measurements
from .tally import Count, Figure, Row, coverage_figures, grouped, rows

FILE: Final = "report.json"
Ending = Literal["whole", "partial", "invalid"]
"""invalid: a fault never fired, or the campaign could not be carried out; ``reason`` says what."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a part's rows under some values of columns."""

    part: str
    injector: str
    values: tuple[str, ...]
    count: Count


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one campaign."""

    command: str
    commit: str
    """As it was when this run of the campaign began: whoever commits meanwhile changes nothing that runs."""
    machine: dict[str, str]
    versions: dict[str, str]
    seed: int
    ending: Ending
    reason: str
    injections: int
    injectors: tuple[str, ...]
    figures: tuple[Figure, ...]
    by_target: tuple[Line, ...]
    """By target and dtype."""
    by_cell: tuple[Line, ...]
    """By target, dtype and shape."""
    by_prior: tuple[Line, ...]
    """By prior and dtype."""
    measured: Measurements

    @property
    def missed(self) -> list[Figure]:
        """Figures that did not reach their goal."""
        return [figure for figure in self.figures if figure.met is False]

    @property
    def exit_code(self) -> int:
        """0 all that was judged is met · 1 a goal was missed · 2 invalid · 130 interrupted."""
        if self.ending == "invalid":
            return 2
        if self.missed:
            return 1
        return 130 if self.ending == "partial" else 0


def account(folder: Path, *, command: str, commit: str, seed: int, ending: Ending, reason: str = "") -> Account:
    """Count a folder; ``commit`` is that of the sources that ran. Raises ``LedgerError``."""
    some = rows(folder)
    measured = measurements.load(folder)
    return Account(
        command=command,
        commit=commit,
        machine=machine.machine(),
        versions=machine.versions(),
        seed=seed,
        ending=ending,
        reason=reason,
        injections=len(some),
        injectors=tuple(sorted({row.injector for row in some})),
        figures=(*coverage_figures(some), *measured.figures()),
        by_target=_lines(some, "target", "dtype"),
        by_cell=_lines(some, "target", "dtype", "shape"),
        by_prior=_lines(some, "prior", "dtype"),
        measured=measured,
    )


def write(found: Account, folder: Path) -> None:
    """``report.json``, whole or not at all."""
    temporary = folder / f"{FILE}.tmp"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    os.replace(temporary, folder / FILE)


def _lines(some: list[Row], *keys: str) -> tuple[Line, ...]:
    return tuple(
        Line(part=part, injector=injector, values=tuple(values), count=counted)
        for (part, injector, *values), counted in grouped(some, "part", "injector", *keys)
    )
