"""Results of a benchmark run: one row a figure, kept as JSON and shown as README's table.

A row is a fact with its circumstances: value, unit, goal and which side of it is better, the rival measured in the
same run, machine and date. ``out/bench/results.json`` is the newest value of every id that was measured in this
checkout; README's table keeps the rows of ids that were not measured again.
"""

import datetime
import os
import platform
import re
from pathlib import Path
from typing import Final, Literal

import msgspec

BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"
HEADER: Final = (
    "| id | value | goal | baseline in the same run | machine | date |",
    "|---|---:|---:|---|---|---|",
)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. ``goal`` and ``baseline`` are in ``unit``; ``better`` says which side of the goal is met."""

    id: str
    value: float
    unit: str
    goal: float | None
    better: Literal["lower", "higher"]
    baseline: float | None
    baseline_name: str
    machine: str
    date: str

    @property
    def met(self) -> bool:
        """Whether the goal is reached; a figure without a goal always is."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


def measured(
    id: str,
    value: float,
    unit: str,
    *,
    goal: float | None,
    better: Literal["lower", "higher"],
    baseline: float | None,
    baseline_name: str,
) -> Result:
    """A row with the machine and the date of now."""
    return Result(
        id=id,
        value=value,
        unit=unit,
        goal=goal,
        better=better,
        baseline=baseline,
        baseline_name=baseline_name,
        machine=machine_name(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def machine_name() -> str:
    """Processor, cores and interpreter, short enough for a table."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (match := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = re.sub(r"\((R|TM)\)|\bCPU\b|@.*", "", match[1])
    return f"{' '.join(model.split())}, {os.cpu_count()} cores, Python {platform.python_version()}"


def merge(path: Path, new: list[Result]) -> list[Result]:
    """Replace rows by id in the JSON file and return them all, sorted by id."""
    rows = {r.id: r for r in msgspec.json.decode(path.read_bytes(), type=list[Result])} if path.exists() else {}
    rows.update({r.id: r for r in new})
    merged = sorted(rows.values(), key=lambda r: r.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(merged), indent=1) + b"\n")
    return merged


def number(value: float | None) -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table_row(result: Result) -> str:
    """One line of README's table; a goal that was missed says so."""
    sign = "≤" if result.better == "lower" else "≥"
    goal = "–" if result.goal is None else f"{sign} {number(result.goal)}{'' if result.met else ' (missed)'}"
    baseline = "–" if result.baseline is None else f"{number(result.baseline)} ({result.baseline_name})"
    return (
        f"| `{result.id}` | {number(result.value)} {result.unit} | {goal} | {baseline} "
        f"| {result.machine} | {result.date} |"
    )


def render(readme: str, results: list[Result]) -> str:
    """README's text with the table between the markers brought up to date.

    Raises ``ValueError`` when the markers are missing.
    """
    try:
        head, rest = readme.split(BEGIN, 1)
        old, tail = rest.split(END, 1)
    except ValueError:
        raise ValueError(f"README has no table between {BEGIN} and {END}") from None
    rows = {m[1]: line for line in old.splitlines() if (m := re.match(r"\| `([^`]+)` \|", line))}
    rows.update({r.id: table_row(r) for r in results})
    lines = [*HEADER, *(rows[id] for id in sorted(rows))]
    return head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail
