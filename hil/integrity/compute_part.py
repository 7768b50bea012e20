"""Faults in arithmetic and in transit: within a pass, found by the checks around its operations.

The injector has two sides. *Below* the protection it damages what the arithmetic gives, before any check and, for a
product of half precision, before it is rounded; *above* it damages what the program gets back, on its way to the
next operation. With the level at off the same guard lets everything through, so the harm of a fault is seen in the
very form of arithmetic that is protected: the float32 products of a bfloat16 job belong to the job and not to its
level.

What each detector is worth alone is found by a level that has nothing else: the table of levels is a table, and
this process is the campaign's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.levels import LEVELS, Vigilance
from flightsw.gpu.integrity.protect import Guard, protect
from flightsw.link.integrity import Level

from . import judging
from .injection import Fired, Injection
from .injector import Shot, inject
from .judging import Observation
from .ledger_table import End
from .plan import PlanError
from .subjects import Around
from .testees import Roster

LEVEL: Final = Level.STORM
ALONE: Final = {
    "checksum": Vigilance(checksum_every=1),
    "repeat": Vigilance(repeat_every=1),
    "transit": Vigilance(transit_every=1),
}
"""Levels that have one detector only."""
BORROWED: Final = Level.WATCH
"""The row of the table that they take for a moment."""
PROGRAM: Final = "finite"
"""The program's own check: a result that is not finite is never used, with integrity or without."""


class Trial:
    """One testee under a guard, and what that said last."""

    def __init__(self, testees: Roster, subject: str, make: Callable[..., Guard] = protect) -> None:
        known = self._known = testees.named(subject)
        self.info = known.info
        self._findings: list[Finding] = []
        module = known.testee.subject.module
        assert module is not None, "every testee has one"
        known.testee.restore()
        self.guard = make(module, level=Level.OFF, report=self._findings.append)
        known.testee.under(self.guard, self._findings.append)
        self.twin = self._run(Level.OFF)
        for level in (Level.OFF, LEVEL):
            if (again := self._run(level)) != self.twin or self._findings:
                said = f"{self._findings[0]}" if self._findings else again.detail or "other bits"
                raise PlanError(f"subject {known.info.name}: undisturbed at level {level.name.lower()}: {said}")

    def one(self, injection: Injection) -> tuple[Fired, End]:
        """Inject, judge, and leave everything as it was. Raises ``NeverFired``."""
        subject = self._known.testee.subject
        bare = inject(injection, subject)
        effect = judging.effect(self.twin, self._run(Level.OFF, bare))
        bare.evidence()
        shot = inject(injection, subject)
        seen = self._run(LEVEL, shot)
        fired = shot.evidence(told=subject.told)
        detectors: list[str] = list(dict.fromkeys(finding.detector for finding in self._findings))
        noticed = bool(detectors)
        # An exception under an alarm leaves nothing to use; one without is what the program gave.
        withheld = seen.ending == "withheld" or (noticed and seen.ending in ("error", "hang"))
        verdict = judging.verdict(self.twin, None if withheld else seen, noticed=noticed)
        return fired, End(
            outcome=verdict.outcome,
            effect=effect,
            level=LEVEL.name.lower(),
            detectors=tuple(detectors),
            released=verdict.released,
            latency_passes=0 if noticed else -1,
            detail="; ".join(f"{f.outcome} {f.where}: {f.detail}" for f in self._findings)[:200],
        )

    def alone(self, injection: Injection) -> tuple[str, ...] | None:
        """Detectors that notice the fault when they are alone. Nobody is told of operations unless all are at
        work."""
        if self._known.testee.subject.told:
            return None
        found = []
        for name, vigilance in ALONE.items():
            with borrowed(vigilance):
                self._run(BORROWED, inject(injection, self._known.testee.subject))
            if self._findings:
                found.append(name)
        seen = self._run(Level.OFF, inject(injection, self._known.testee.subject))
        if not seen.finite or seen.ending == "error":
            found.append(PROGRAM)
        return tuple(found)

    def close(self) -> None:
        """Take the guard away; the testee is as it was."""
        self.guard.close()

    def _run(self, level: Level, shot: Shot | None = None) -> Observation:
        """One run from the pristine state at a level; the findings are left in ``_findings``."""
        testee, guard = self._known.testee, self.guard
        testee.restore()
        guard.level = level
        if testee.moves:
            guard.adopt()
        testee.begin(looking=level is not Level.OFF)
        self._findings.clear()

        @contextmanager
        def passing() -> Iterator[None]:
            if shot is None:
                with guard.running():
                    yield
            else:
                with shot.below(), guard.running(), shot.above():
                    yield

        @contextmanager
        def updating() -> Iterator[None]:
            guard.before_update()
            yield
            guard.after_update()

        seen = testee.run(Around(passing=passing, settled=guard.settle, updating=updating, sound=testee.sound))
        if seen.ending != "done":
            guard.settle()  # What an exception left unsettled is not the next run's.
        testee.restore()
        return seen


@contextmanager
def borrowed(vigilance: Vigilance) -> Iterator[None]:
    """Another row in the table of levels, for a moment."""
    before = LEVELS[BORROWED]
    LEVELS[BORROWED] = vigilance
    try:
        yield
    finally:
        LEVELS[BORROWED] = before
