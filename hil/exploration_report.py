"""What an exploration ends with: what was reached and tried, what does not hold, and the shortest way there."""

import msgspec

from .exploration_rules import Power


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """What does not hold, and the shortest way there."""

    walk: str
    rule: str
    trace: tuple[str, ...]


class WalkReport(msgspec.Struct, frozen=True, kw_only=True):
    """One walk."""

    name: str
    states: int
    transitions: int
    faults_tried: int
    exits_tried: int
    samples: int
    seconds: float


class ExploreReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole exploration."""

    walks: tuple[WalkReport, ...]
    rows: int
    rows_taken: int
    rows_unreachable: dict[str, str]
    rows_missed: tuple[str, ...]
    power: Power
    violations: tuple[Violation, ...]
    seconds: float
    processor_s: float

    @property
    def states(self) -> int:
        """States reached, over all walks."""
        return sum(walk.states for walk in self.walks)

    @property
    def transitions(self) -> int:
        """Transitions taken, over all walks."""
        return sum(walk.transitions for walk in self.walks)

    @property
    def ok(self) -> bool:
        """Whether everything holds and nothing was missed."""
        return not self.violations and not self.rows_missed


def lines(report: ExploreReport) -> list[str]:
    """The report in words; every violation with its trace."""
    r = report
    out = [
        f"{walk.name:24s}{walk.states:6d} states {walk.transitions:7d} transitions {walk.faults_tried:6d} faults "
        f"and {walk.exits_tried:5d} ends of SAFE tried {walk.seconds:6.1f} s"
        for walk in r.walks
    ]
    out.append(
        f"together  {r.states} states, {r.transitions} transitions in {r.seconds:.1f} s ({r.processor_s:.1f} s of "
        f"processor); {r.rows_taken} of {r.rows} rows of the tables taken"
    )
    out.append(
        f"power     SAFE draws {r.power.shed_w:g} W with the rail off and {r.power.idle_w:g} W with it on; over an "
        f"orbit {r.power.shed_share:.0%} and {r.power.idle_share:.0%} of the array carry it, the worst has "
        f"{r.power.worst_share:.0%}"
    )
    out += [f"unreachable  {row}: {why}" for row, why in r.rows_unreachable.items()]
    out += [f"not taken    {row}" for row in r.rows_missed]
    for violation in r.violations:
        out.append(f"broken    {violation.rule}")
        out.append(f"          in the walk {violation.walk!r}, shortest way:")
        out += [f"            {step}" for step in violation.trace]
    out.append(f"verdict   {'PROVED' if r.ok else 'NOT PROVED'}")
    return out
