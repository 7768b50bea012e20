"""What a ledger says: counts by target, dtype and shape, shares with their intervals, and the goals.

Everything is counted from the ledger's rows and ``alone.csv``; nothing is remembered by the campaign. So a report
can be made from any ledger, whole or partial, by anybody.

*Coverage* is the share of harmful faults that were caught (``judging``). State faults are counted whatever their
prior. ``state.repaired`` is counted over the published shares of shapes: repair puts back one word, and how often
two are hit is the prior's business. The even prior, which has more of them, stands beside it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from . import alone
from .intervals import Share
from .judging import caught
from .ledger import read
from .ledger_table import EFFECTS
from .plan import HARMFUL_WANTED, Part, place_of
from .shapes import EVEN, PUBLISHED

TOLD: Final = "float32, told"
ARITHMETIC: Final = {
    "float32": "float32", "bfloat16": "bfloat16", "mixed": "bfloat16", "dropout": "float32", "told": TOLD,
}  # fmt: skip
"""Of a subject, by the end of its name; what is handed over (``subjects_told``) apart."""
COMPARED: Final = "bfloat16"
"""The compute goals are for this arithmetic."""
COVERAGE_GOALS: Final[tuple[tuple[str, Part, str, float, float], ...]] = (
    ("state", "state", "*", 100.0, 99.9),
    ("compute", "compute", COMPARED, 99.0, 99.0),
    ("told", "compute", TOLD, 99.0, 99.0),
)
"""Figure, part, arithmetic (* is all), goals in per cent of the share and of the lower end of its interval."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of one injection."""

    id: str
    part: Part
    injector: str
    prior: str
    target: str
    dtype: str
    shape: str
    effect: str
    outcome: str
    changed: bool
    repaired: bool
    caught: bool
    released: bool
    detectors: tuple[str, ...]
    alone: frozenset[str] | None
    """None when nobody looked."""

    @property
    def harmful(self) -> bool:
        """Whether it had to be caught."""
        return self.effect != "masked"


def rows(folder: Path) -> list[Row]:
    """Rows of a folder's ledger. Raises ``LedgerError``."""
    by_itself = alone.read(folder)
    return [_row(cells, by_itself.get(str(cells["id"]))) for cells in read(folder)]


def _row(cells: Mapping[str, Any], by_itself: frozenset[str] | None) -> Row:
    part, subject = place_of(cells["id"])
    arithmetic = ARITHMETIC.get(subject.rpartition("-")[2], "float32")
    return Row(
        id=cells["id"],
        part=part,
        injector=cells["injector"],
        prior=cells["prior"].partition(":")[0],
        target=cells["target"],
        dtype=cells["dtype"] if part == "state" else arithmetic,
        shape=cells["shape"],
        effect=cells["effect"],
        outcome=cells["outcome"],
        changed=cells["old"] != cells["new"],
        repaired=cells["repaired"],
        caught=caught(cells["outcome"], cells["released"]),
        released=cells["released"],
        detectors=tuple(cells["detectors"].split("+")) if cells["detectors"] else (),
        alone=by_itself,
    )


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of some rows."""

    total: int
    effects: dict[str, int]
    outcomes: dict[str, int]
    coverage: Share
    """Of harmful faults."""
    noticed: Share
    """Of faults that changed a bit, harmful or not."""
    repaired: Share
    """Of harmful faults, in place."""
    alone: dict[str, Share]
    """Of harmful faults, by each detector without the others."""


def count(some: Iterable[Row]) -> Count:
    """Count rows."""
    held = list(some)
    bad = [row for row in held if row.harmful]
    changed = [row for row in held if row.changed]
    looked = [row for row in bad if row.alone is not None]
    names = sorted({name for row in looked for name in row.alone or ()})
    effects = Counter(row.effect for row in held)
    return Count(
        total=len(held),
        effects={effect: effects[effect] for effect in EFFECTS},
        outcomes=dict(Counter(row.outcome for row in held)),
        coverage=Share(hits=sum(row.caught for row in bad), total=len(bad)),
        noticed=Share(hits=sum(bool(row.detectors) for row in changed), total=len(changed)),
        repaired=Share(hits=sum(row.repaired for row in bad), total=len(bad)),
        alone={
            name: Share(hits=sum(name in (row.alone or ()) for row in looked), total=len(looked)) for name in names
        },
    )


Key = tuple[str, ...]


def grouped(some: Iterable[Row], *keys: str) -> Iterator[tuple[Key, Count]]:
    """Counts by the values of some columns, in order of those values."""
    groups: dict[Key, list[Row]] = {}
    for row in some:
        groups.setdefault(tuple(str(getattr(row, key)) for key in keys), []).append(row)
    for key in sorted(groups):
        yield key, count(groups[key])


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure with its goal; ``value`` None was not measured, ``judged`` False has too few faults to be held."""

    id: str
    value: float | None
    unit: str
    goal: float
    better: Literal["higher", "lower"]
    text: str
    judged: bool = True

    @property
    def met(self) -> bool | None:
        """None when there is nothing to judge."""
        if self.value is None or not self.judged:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


def coverage_figures(some: list[Row]) -> list[Figure]:
    """Figures of coverage and repair, in per cent."""
    found: list[Figure] = []
    for name, part, arithmetic, goal, low_goal in COVERAGE_GOALS:
        of_part = [
            row for row in some if row.part == part and row.injector == "own" and arithmetic in ("*", row.dtype)
        ]
        share = count(of_part).coverage
        if not share.total:
            continue
        wanted = HARMFUL_WANTED[part]
        text = f"{share.hits:,} of {share.total:,} harmful faults: {share} (95 %)"
        found.append(
            Figure(
                id=f"{name}.coverage", value=100.0 * share.value, unit="%", goal=goal, better="higher", text=text
            )
        )
        # A lower bound needs its number of faults: fewer, without a miss, are no failure.
        found.append(
            Figure(
                id=f"{name}.coverage_low",
                value=100.0 * share.low,
                unit="%",
                goal=low_goal,
                better="higher",
                text=f"lower end of the interval; {wanted:,} faults are needed for it",
                judged=share.total >= wanted or share.hits < share.total,
            )
        )
    state = [row for row in some if row.part == "state" and row.injector == "own"]
    by_prior = {
        prior: count(row for row in state if row.prior == prior).repaired for prior in ("published", "even")
    }
    share = by_prior[PUBLISHED.name]
    if share.total:
        found.append(
            Figure(
                id="state.repaired",
                value=100.0 * share.value,
                unit="%",
                goal=95.0,
                better="higher",
                text=f"published shares of shapes: {share}; every shape alike: {by_prior[EVEN.name]}",
            )
        )
    answers = [row for row in some if row.part == "answers"]
    if answers:
        bad = [row for row in answers if row.harmful]
        found.append(
            Figure(
                id="tainted_answers",
                value=float(sum(row.released for row in answers)),
                unit=f"of {len(answers)} faults",
                goal=0.0,
                better="lower",
                text=f"served under fire; without protection {len(bad)} of these faults spoil an answer",
            )
        )
    return found
