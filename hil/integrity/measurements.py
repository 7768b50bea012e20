"""What a campaign measured beside its ledger: false alarms, overhead, scrub speed, answers; ``measurements.json``.

Each is a value with its circumstances, written as soon as it is there. What was not measured is None, and says so
in the report: an absent figure is not a good one.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from .tally import Figure

FILE: Final = "measurements.json"
CHECKS_WANTED: Final = 1_000_000
SCRUB_GOAL: Final = {"cpu": 1.0, "cuda": 2400.0}
"""10⁹ bytes per second. On a processor only that it is no snail: its memory is not what the card's is."""

CLOCK: Final = {"cpu": "processor time of one thread", "cuda": "wall time"}
"""What overhead is measured in."""


class FalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """Alarms on undisturbed passes, each of them on other data."""

    checks: int
    alarms: int
    passes: int
    by_subject: dict[str, int]
    """Checks."""
    said: tuple[str, ...] = ()
    """What the first alarms said."""


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of one level on one workload: time over the mean of two unprotected twins, minus 1, in per cent.

    Processor time of one thread; on a card wall time.
    """

    workload: str
    kind: str
    """train or infer."""
    level: str
    percent: float
    """Median of the rounds."""
    low: float
    high: float
    """Quartiles of the rounds."""
    control_low: float
    control_high: float
    """Quartiles of one unprotected twin over the other, in the same rounds: what is below is noise."""
    rounds: int
    passes: int
    """Of a round."""
    device: str = "cpu"
    small: bool = False
    """Shown beside the figure, and not the figure itself."""


class Scrub(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of verifying resident state."""

    gb_per_s: float
    bytes: int
    device: str
    plain_gb_per_s: float
    """Of a bare int64 sum over the same memory: what reading alone costs."""


class Injector(msgspec.Struct, frozen=True, kw_only=True):
    """A second injector: what ran, or why not."""

    name: str
    version: str
    ran: bool
    text: str


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    false_alarms: FalseAlarms | None = None
    overhead: tuple[Overhead, ...] = ()
    scrub: Scrub | None = None
    injectors: tuple[Injector, ...] = ()

    def figures(self) -> list[Figure]:
        """Figures with their goals, of what was measured."""
        found: list[Figure] = []
        if self.false_alarms is not None:
            seen = self.false_alarms
            found.append(
                Figure(
                    id="false_alarms",
                    value=float(seen.alarms),
                    unit=f"in {seen.checks} checks",
                    goal=0.0,
                    better="lower",
                    text=f"{seen.passes} undisturbed passes; {CHECKS_WANTED:,} checks in a full run",
                )
            )
        for kind in ("train", "infer"):
            storms = [row for row in self.overhead if row.kind == kind and row.level == "storm" and not row.small]
            if storms:
                worst = max(storms, key=lambda row: row.percent)
                beside = "; ".join(
                    f"{row.workload} {row.level} {row.percent:+.1f} %" for row in self.overhead if row.kind == kind
                )
                found.append(
                    Figure(
                        id=f"overhead.{kind}",
                        value=worst.percent,
                        unit="%",
                        goal=15.0,
                        better="lower",
                        text=f"{worst.workload}; {CLOCK[worst.device]}; "
                        f"A/A {worst.control_low:+.1f} to {worst.control_high:+.1f} %; {beside}",
                    )
                )
        if self.scrub is not None:
            seen_scrub = self.scrub
            found.append(
                Figure(
                    id="scrub.gb_per_s",
                    value=seen_scrub.gb_per_s,
                    unit="GB/s",
                    goal=SCRUB_GOAL[seen_scrub.device],
                    better="higher",
                    text=f"{seen_scrub.bytes >> 20} MiB on {seen_scrub.device}; a bare sum of the same memory "
                    f"{seen_scrub.plain_gb_per_s:.1f}",
                )
            )
        return found


def load(folder: Path) -> Measurements:
    """Measurements of a folder; none when there is no file."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Measurements)
    except FileNotFoundError:
        return Measurements()


def save(folder: Path, found: Measurements) -> None:
    """Write them, whole or not at all."""
    temporary = folder / f"{FILE}.tmp"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    os.replace(temporary, folder / FILE)
