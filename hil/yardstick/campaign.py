"""``hil governor-bench`` without its command line: make what is missing, then judge everybody alike.

Three kinds of work, each kept as it is finished: what a clairvoyant could have delivered, the proved bound on that
(for a random sample of the scenarios; it is the dearest part), and the runs of the rivals. A second call with the
same folder only does what is missing, so an interruption costs the scenario in hand.
"""

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from . import certificates
from .certificates import Bound, Clairvoyant
from .records import PROJECT, YARDSTICK_VERSION, Line, Records
from .scenarios import ORBITS, SETS
from .score import RIVALS, Run, Score, runner, runs, score, shares
from .work import spread

SAMPLE_SEED: Final = 4
"""Draws the scenarios whose bound is proved when not all are."""
GAP_LIMIT: Final = 0.1
"""Percent; the gap that the yardstick promises."""

Progress = Callable[[str, int, int], None]
"""What is being done, how many are done, of how many."""

L = TypeVar("L", bound=Line)


class OrderError(ValueError):
    """An order that cannot be carried out; says what is allowed."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: a set, its first ``scenarios``, the rivals, and for how many scenarios the bound is proved."""

    set_name: str = "report"
    scenarios: int = 1000
    rivals: tuple[str, ...] = tuple(RIVALS)
    bounds: int = 100
    jobs: int = 2
    folder: Path

    def __post_init__(self) -> None:
        if self.set_name not in SETS:
            raise OrderError(f"--set {self.set_name}: unknown; allowed are {', '.join(SETS)}")
        size = len(SETS[self.set_name])
        if not 1 <= self.scenarios <= size:
            raise OrderError(f"--scenarios {self.scenarios}: the set {self.set_name} has 1 to {size}")
        unknown = [name for name in self.rivals if name not in RIVALS]
        if unknown:
            raise OrderError(f"--rivals {','.join(unknown)}: unknown; allowed are {', '.join(RIVALS)}")
        if not self.rivals:
            raise OrderError("--rivals: name at least one")
        if self.bounds < 0:
            raise OrderError(f"--bounds {self.bounds}: allowed are 0 and more")

    @property
    def numbers(self) -> list[int]:
        """Scenarios of this order."""
        return list(SETS[self.set_name])[: self.scenarios]

    @property
    def sample(self) -> list[int]:
        """Those whose bound is proved."""
        drawn = np.random.default_rng(SAMPLE_SEED).permutation(self.scenarios)[: self.bounds]
        return [self.numbers[index] for index in sorted(drawn.tolist())]


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """The clairvoyant's own quality: percent between what was flown and what is proved impossible to exceed."""

    scenarios: int
    mean: float
    worst: float
    over_limit: int
    processor_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of one order."""

    set_name: str
    scenarios: int
    commit: str
    yardstick_version: str
    achievable_mean: float
    reference_mean: float
    gap: Gap | None
    scores: tuple[Score, ...]

    @property
    def eclipse_classes(self) -> list[str]:
        """Classes of eclipse length that have a scenario."""
        return list(self.scores[0].by_eclipse)

    @property
    def held(self) -> bool:
        """Whether no flight governor broke a limit and no gap is over what is promised."""
        flown = all(not row.broken for row in self.scores if RIVALS[row.rival].flight)
        return flown and (self.gap is None or not self.gap.over_limit)

    def lines(self) -> list[str]:
        """What belongs under the table, in words."""
        orbits = ORBITS * self.scenarios
        said = [
            f"clairvoyant  mean throughput {self.achievable_mean:.4f}, flown without a violation; the reference's"
            f" own figure {self.reference_mean:.4f} averages over sunlit edges and cannot be flown"
        ]
        if self.gap is not None:
            said.append(
                f"bound        proved for {self.gap.scenarios} of {self.scenarios}: mean gap {self.gap.mean:.3f} %,"
                f" worst {self.gap.worst:.3f} %, {self.gap.over_limit} over {GAP_LIMIT:g} %"
                f" ({self.gap.processor_s:.1f} s each)"
            )
        clean = [row for row in self.scores if row.violation_rate_bound is not None]
        if clean:
            said.append(
                f"violations   none in {orbits} orbits bounds their rate at {clean[0].violation_rate_bound:.3%}"
                " an orbit (95 %, rule of three)"
            )
        said.append(f"commit       {self.commit or 'unknown'}, yardstick {self.yardstick_version}")
        return said


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The records behind a report."""

    best: dict[int, Clairvoyant]
    flown: dict[str, list[Run]]

    def shares(self, rival: str) -> list[float]:
        """Percent of the clairvoyant in each scenario."""
        return shares(self.flown[rival], self.best)


def carry_out(order: Order, progress: Progress) -> tuple[Report, Results]:
    """Do what is missing and report. KeyboardInterrupt leaves what was finished on disk."""
    numbers = order.numbers
    best = certificates.clairvoyants(order.folder, order.set_name)
    _complete(best, numbers, certificates.clairvoyant, "clairvoyant", order.jobs, progress)
    proved = certificates.bounds(order.folder, order.set_name)
    _complete(proved, order.sample, certificates.bound, "certified bound", order.jobs, progress)
    flown: dict[str, list[Run]] = {}
    for name in order.rivals:
        kept = runs(order.folder, order.set_name, RIVALS[name])
        _complete(kept, numbers, runner(RIVALS[name]), RIVALS[name].label, order.jobs, progress)
        flown[name] = [kept.found[number] for number in numbers]
    results = Results(best=best.found, flown=flown)
    scores = [score(RIVALS[name], flown[name], best.found) for name in order.rivals]
    report = Report(
        set_name=order.set_name,
        scenarios=len(numbers),
        commit=_commit(),
        yardstick_version=YARDSTICK_VERSION,
        achievable_mean=float(np.mean([best.found[number].achievable for number in numbers])),
        reference_mean=float(np.mean([best.found[number].reference for number in numbers])),
        gap=_gap([proved.found[number] for number in numbers if number in proved.found]),
        scores=tuple(sorted(scores, key=lambda row: row.mean)),
    )
    return report, results


def _complete(
    kept: Records[L], wanted: Iterable[int], work: Callable[[int], L], label: str, jobs: int, progress: Progress
) -> None:
    wanted = list(wanted)
    missing = kept.missing(wanted)
    done = len(wanted) - len(missing)
    progress(label, done, len(wanted))
    for record in spread(work, missing, jobs):
        kept.add(record)
        done += 1
        progress(label, done, len(wanted))


def _gap(proved: Sequence[Bound]) -> Gap | None:
    if not proved:
        return None
    gaps = [bound.gap for bound in proved]
    return Gap(
        scenarios=len(gaps),
        mean=float(np.mean(gaps)),
        worst=max(gaps),
        over_limit=sum(gap > GAP_LIMIT for gap in gaps),
        processor_s=float(np.mean([bound.seconds for bound in proved])),
    )


def _commit() -> str:
    """Commit of the project, with a mark when the tree differs from it; empty outside a repository."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            timeout=10.0,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()
