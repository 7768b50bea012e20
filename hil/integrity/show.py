"""The campaign in words: progress, one injection, the account as a table for a terminal."""

from pathlib import Path
from typing import Final

from .account import Account, Line
from .campaign import Progress
from .injection import Fired, Injection
from .ledger import CSV
from .ledger_table import EFFECTS, End
from .tally import Figure

MARK: Final = {True: "met", False: "MISSED", None: "not judged"}


def progress(at: Progress) -> str:
    """One line with the time that is left."""
    left = "" if at.left_s is None else f", {_duration(at.left_s)} left"
    return (
        f"{at.done:4.0%}{left}  {at.group}: {at.harmful} of {at.quota} harmful in {at.injections}"
        f"{f', {at.uncaught} NOT CAUGHT' if at.uncaught else ''}"
    )


def replay(injection: Injection, fired: Fired, end: End, alone: tuple[str, ...]) -> list[str]:
    """Everything about one injection."""
    changes = [
        f"  element {element}: {old:#x} → {new:#x}"
        for element, old, new in zip(fired.elements, fired.old, fired.new, strict=True)
    ]
    return [
        f"injection  {injection.id}",
        f"fault      {injection.shape} of {fired.dtype}, bits {list(injection.bits)}, "
        f"{fired.words32} words of memory",
        f"where      {fired.where}, pass {injection.occasion}"
        + (f", operation {injection.call}" if injection.operation else ""),
        *changes,
        f"effect     {end.effect} (unprotected)",
        f"outcome    {end.outcome} at level {end.level}"
        + (", repaired in place" if end.repaired else "")
        + (", A WRONG RESULT WAS RELEASED" if end.released else ""),
        f"noticed    {', '.join(end.detectors) or 'by nobody'}; alone: {', '.join(alone) or 'nobody'}",
        *([f"detail     {end.detail}"] if end.detail else []),
    ]


def lines(found: Account, folder: Path) -> list[str]:
    """The account, for a terminal."""
    said = []
    if found.ending != "whole":
        said.append(f"{found.ending.upper()}: {found.reason}")
    said.append(f"{found.injections} injections, seed {found.seed}, commit {found.commit or 'unknown'}")
    said += table(found.by_target)
    said += [_figure(figure) for figure in found.figures]
    said.append(f"ledger   {folder / CSV}")
    said.append(f"report   {folder / 'report.json'}\npage     {folder / 'report.html'}")
    return said


def table(some: tuple[Line, ...]) -> list[str]:
    """Counts by target and dtype."""
    head = ["part", "target", "dtype", "faults", *EFFECTS, "harmful caught", "alone"]
    body = [
        [
            line.part if line.injector == "own" else f"{line.part} ({line.injector})",
            *line.values,
            str(line.count.total),
            *(str(line.count.effects[effect]) for effect in EFFECTS),
            str(line.count.coverage),
            " ".join(f"{name} {100.0 * share.value:.0f}" for name, share in line.count.alone.items()),
        ]
        for line in some
    ]
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *body]
    ]


def _figure(figure: Figure) -> str:
    sign = "≥" if figure.better == "higher" else "≤"
    value = "–" if figure.value is None else f"{figure.value:.4g}"
    return (
        f"{figure.id:<20} {value} {figure.unit}  (goal {sign} {figure.goal:g}: {MARK[figure.met]})  {figure.text}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60.0:.0f} min" if seconds >= 90.0 else f"{seconds:.0f} s"
