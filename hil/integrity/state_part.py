"""Faults in resident state: between two passes, found by the digests and put right in place.

The fault is injected twice, into the same bits: once for its effect on a program without protection, and once for
what the digests say. In between everything is put back, unseen by torch's version counters, as a particle would.
After the digests have looked, memory is compared with the pristine copy byte by byte: *repaired* is not what a
detector says of itself.
"""

from collections.abc import Callable
from typing import Final

from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.regions import regions_of
from flightsw.gpu.integrity.resident import Resident
from flightsw.link.integrity import Level

from . import judging
from .injection import Fired, Injection
from .injector import inject
from .ledger_table import End
from .testees import Roster

LEVEL: Final = Level.STORM.name.lower()


class Trial:
    """One testee, its digests, and what they said last."""

    def __init__(self, testees: Roster, subject: str, make: Callable[..., Resident] = Resident) -> None:
        known = self._known = testees.named(subject)
        self.info = known.info
        self._findings: list[Finding] = []
        known.testee.restore()
        regions = regions_of(known.testee.guarded())
        if regions.left_out:
            raise ValueError(f"subject {known.info.name}: not guarded: {regions.left_out[0]}")
        self.resident = make(regions, self._findings.append)
        self.resident.adopt()

    def one(self, injection: Injection) -> tuple[Fired, End]:
        """Inject, judge, and leave everything as it was. Raises ``NeverFired``."""
        testee, twin = self._known.testee, self._known.twin
        testee.restore()
        first = inject(injection, testee.subject)
        first.strike()
        effect = judging.effect(twin, testee.run())
        testee.restore()
        if testee.moves:
            self.resident.adopt()  # The run has written to it as programs do, and told torch.
        second = inject(injection, testee.subject)
        fired = second.strike()
        self._findings.clear()
        good = self.resident.verify()
        repaired = testee.intact()
        noticed = bool(self._findings)
        # What is good is used: the program goes on with it, and its result is what counts.
        used = (twin if repaired else testee.run()) if good else None
        verdict = judging.verdict(twin, used, noticed=noticed)
        testee.restore()
        if not good:
            self.resident.adopt()
        return fired, End(
            outcome=verdict.outcome,
            effect=effect,
            level=LEVEL,
            detectors=tuple(dict.fromkeys(finding.detector for finding in self._findings)),
            repaired=noticed and repaired and fired.changed,
            released=verdict.released,
            latency_passes=0 if noticed else -1,
            detail="; ".join(f"{f.outcome} {f.where}: {f.detail}" for f in self._findings)[:200],
        )

    def alone(self, injection: Injection) -> tuple[str, ...]:
        """What sees the same fault without the digests: whether the result is finite, so far.

        Raises nothing: a program that fails is an answer.
        """
        testee = self._known.testee
        testee.restore()
        shot = inject(injection, testee.subject)
        shot.strike()
        seen = testee.run()
        testee.restore()
        if testee.moves:
            self.resident.adopt()
        return ("digest", *(() if seen.finite and seen.ending == "done" else ("finite",)))
