"""What is looked at in a pass, and what was found: the one place where a verdict becomes a finding.

*Deferred.* On a device an alarm that the host has to read stops the queue at every operation. There, verdicts wait
on the device; ``settle`` reads them all at once, and an alarm taints the pass. The pass that follows an alarm is
looked at in place, so that a doubt can be resolved when its owner runs it again.
"""

from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from flightsw.gpu.integrity import checksum
from flightsw.gpu.integrity.finding import Detector, Finding, Outcome, Report
from flightsw.gpu.integrity.results import same

FINDINGS_MAX: Final = 64
"""Findings of one pass that are reported; further ones only taint it."""


class Look(msgspec.Struct, frozen=True):
    """What is looked at in one pass."""

    checksum: bool = False
    repeat: bool = False
    transit: bool = False

    def __bool__(self) -> bool:
        return self.checksum or self.repeat or self.transit


EVERYTHING: Final = Look(checksum=True, repeat=True, transit=True)


class Tally(msgspec.Struct):
    """Totals since the guard began."""

    checks: int = 0
    """Verdicts: products checked, results compared, digests verified."""
    doubts: int = 0
    """Clean products that crossed the likely bound."""
    findings: int = 0


class Verdicts:
    """Of one pass after the other; ``waiting`` while verdicts may not be read."""

    def __init__(self, report: Report, *, deferred: bool) -> None:
        self.look = Look()
        self.layer = ""
        """Layer that is running, where somebody follows that; for people."""
        self.waiting = deferred
        self.tainted = False
        self.tally = Tally()
        self._report = report
        self._deferred = deferred
        self._immediate_next = False
        self._reported = 0
        self._margins: list[tuple[Tensor, Any]] = []
        self._flags: list[tuple[Tensor, Detector, Any]] = []

    def begin(self, look: Look) -> None:
        """A pass begins."""
        self.look = look
        self.waiting = self._deferred and not self._immediate_next
        self._reported = 0

    def settle(self) -> bool:
        """Read what is still on the device; whether no pass since the last call is tainted."""
        margins, self._margins = self._margins, []
        flags, self._flags = self._flags, []
        if margins:
            read = torch.stack([margin for margin, _ in margins]).tolist()
            for (low, high), (_, where) in zip(read, margins, strict=True):
                if not checksum.sound(low, high):
                    self.taint("checksum", where, "sums of a product do not match those of its operands")
        if flags:
            raised = torch.stack([flag for flag, _, _ in flags]).tolist()
            for bad, (_, detector, where) in zip(raised, flags, strict=True):
                if bad:
                    self.taint(detector, where, "two readings differ")
        clean, self.tainted = not self.tainted, False
        self._immediate_next = not clean
        return clean

    def sound(self, low_high: Tensor, where: Any) -> bool:
        """Whether a margin passes; while waiting it does, for now."""
        if self.waiting:
            self._margins.append((low_high, where))
            return True
        return checksum.sound(*low_high.tolist())

    def alike(self, first: list[Any], second: list[Any], detector: Detector, where: Any) -> bool:
        """Whether two fingerprints are the same; while waiting they are, for now."""
        if not self.waiting:
            return same(first, second)
        for one, two in zip(first, second, strict=True):
            if isinstance(one, Tensor):
                self._flags.append(((one != two).any(), detector, where))
        return True

    def taint(self, detector: Detector, where: Any, detail: str) -> None:
        """Nothing that came of this pass may be used."""
        self.tainted = True
        self.find(detector, "contained", where, detail)

    def find(self, detector: Detector, outcome: Outcome, where: Any, detail: str) -> None:
        """Report a finding."""
        self.tally.findings += 1
        self._reported += 1
        if self._reported <= FINDINGS_MAX:
            self._report(Finding(detector=detector, outcome=outcome, where=str(where), detail=detail))
