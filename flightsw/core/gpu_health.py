"""Health of the card as it tells it itself: ECC counters and XID reports, turned into events and parameters.

The probe's counters begin anew when it, the driver or the card starts again; a count that went down is such a
beginning, and what it shows is new. Counts that were there before this daemon's first sample are history: volatile
ECC counts begin with the driver, XID reports with the probe, which starts with the daemon.

ECC. Uncorrected errors are reported at once, corrected ones, which a sound card has now and then and a failing one
in floods, at most every ``ECC_REPORT_S``.

XID. Each number is an event with NVIDIA's meaning. A fault seldom comes alone: a double bit error (48) is followed
by its recording (63) and the clean-up of what ran (45) within milliseconds. ``xid`` therefore is the newest *grave*
number of the last ``xid_hold_s``, and the newest mild one only when there was no grave one; then it is 0 again, so
that a watchpoint on it clears.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.xid import XID_MILD, xid_meaning

from .events import Event
from .inputs import GpuSample
from .limits import NEVER

ECC_REPORT_S: Final = 10.0
"""Corrected ECC errors are reported at most this often (machine clock)."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the card's own reports are kept."""

    xid_hold_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    """The parameter gpu.xid shows an XID for this long (machine clock); then it is 0 again."""


class State(Struct, frozen=True, kw_only=True):
    """Counters as last sampled, what has not been reported yet, and the XID that is shown (0 is none).

    ``xid_count``, and of ECC errors ``corrected_count`` and ``uncorrected_count``, count since boot of the daemon;
    ``xid_supported`` says whether the card reports XIDs at all.
    """

    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    sequence: int = -1
    corrected_pending: int = 0
    corrected_reported_s: float = NEVER
    xid_sampled: int = 0
    xid_supported: bool = False
    xid: int = 0
    xid_s: float = NEVER
    xid_count: int = 0
    corrected_count: int = 0
    uncorrected_count: int = 0


def step(state: State, config: Config, sample: GpuSample | None, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """State after this frame; ``sample`` is the probe's reading that is new in it, if one is."""
    found: list[Event] = []
    corrected, uncorrected = state.ecc_corrected, state.ecc_uncorrected
    pending, reported_s = state.corrected_pending, state.corrected_reported_s
    sampled, supported, count = state.xid_sampled, state.xid_supported, state.xid_count
    xid, xid_s, sequence = state.xid, state.xid_s, state.sequence
    corrected_count, uncorrected_count = state.corrected_count, state.uncorrected_count
    if sample is not None:
        if sample.sequence < sequence:
            # The probe itself has started again, and counts XIDs from zero.
            sampled = 0
        sequence = sample.sequence
        new = _increase(corrected, sample.ecc_corrected)
        pending, corrected_count = pending + new, corrected_count + new
        if (new := _increase(uncorrected, sample.ecc_uncorrected)) > 0:
            uncorrected_count += new
            found.append(Event("GPU_ECC", {"count": new, "total": sample.ecc_uncorrected or 0}))
        # A reading that failed leaves the counter as it was.
        corrected = corrected if sample.ecc_corrected is None else sample.ecc_corrected
        uncorrected = uncorrected if sample.ecc_uncorrected is None else sample.ecc_uncorrected
        if sample.xid_count is not None:
            supported = True
            fresh = _increase(sampled, sample.xid_count)
            sampled, count = sample.xid_count, count + fresh
            known = sample.xids[-fresh:] if fresh else ()
            if fresh > len(known):
                found.append(Event("GPU_XID_LOST", {"count": fresh - len(known)}))
            for number in known:
                found.append(Event("GPU_XID", {"xid": number, "meaning": xid_meaning(number)}))
                if number not in XID_MILD or xid in XID_MILD or now_s - xid_s > config.xid_hold_s:
                    xid, xid_s = number, now_s
        elif "xid" in sample.unsupported:
            supported = False
    if pending and now_s - reported_s >= ECC_REPORT_S:
        found.append(Event("GPU_ECC_CORRECTED", {"count": pending, "total": corrected or 0}))
        pending, reported_s = 0, now_s
    if now_s - xid_s > config.xid_hold_s:
        xid = 0
    return (
        State(
            ecc_corrected=corrected,
            ecc_uncorrected=uncorrected,
            sequence=sequence,
            corrected_pending=pending,
            corrected_reported_s=reported_s,
            xid_sampled=sampled,
            xid_supported=supported,
            xid=xid,
            xid_s=xid_s,
            xid_count=count,
            corrected_count=corrected_count,
            uncorrected_count=uncorrected_count,
        ),
        tuple(found),
    )


def _increase(before: int | None, after: int | None) -> int:
    """New errors between two counts: none without both, all of them after a beginning."""
    if before is None or after is None:
        return 0
    return after - before if after >= before else after
