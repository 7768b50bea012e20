"""How each fault ended, and whether it ended as it must: one function and one expected outcome per kind.

A fault's end is read from the recorder's events and series, the ground's archive and the plant's truth. A fault
that was not seen to fire proves nothing and makes the run INVALID.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

from .evidence import Evidence, FaultRecord
from .verdict import Check, Outcome

WAITING: Final = "waiting"
"""Outcome of an outage after which the run offers no pass: nothing is lost, nothing is proven."""
WHOLE: Final = 0.999
"""Share of the planned time from which on a flight is a whole one."""
PLAYBACK_CHANCE_S: Final = 60.0
"""Contact after an outage, mission seconds, from which on its packets must have been played back."""

ABSENT: Final = frozenset({"not_recovered", "not_reported", "unnoticed", "detected", "claimed"})
"""Outcomes in which something had not come yet. They are the satellite's fault when it had its time."""

REPAIRED_EVENT: Final = "INTEGRITY_REPAIRED"
DAMAGE_EVENTS: Final = (REPAIRED_EVENT, "INTEGRITY_RECOMPUTED", "INTEGRITY_CONTAINED", "INTEGRITY_OPEN")
"""Events by which the daemon tells that a worker found damage."""

# What a fault must have led to, by its kind.
EXPECTED_OUTCOME: Final = {
    "worker_kill": "recovered",
    "checkpoint_flip": "rejected",
    "radiator_degrade": "contained",
    "radio_outage": "played_back",
    "battery_bias": "contained",
    "gpu_ecc": "reported",
    "gpu_xid": "reported",
    "weight_flip": "repaired",
}


def judge_faults(evidence: Evidence) -> Iterator[Check]:
    """One check per fault; writes each one's ``outcome`` and ``detail`` into its record, here only."""
    for fault in evidence.faults:
        expected = EXPECTED_OUTCOME[fault.kind]
        requirement = f"Fault {fault.id} ({fault.kind}) ends as {expected}"
        if fault.not_applicable:
            fault.outcome, fault.detail = "not_applicable", fault.not_applicable
            outcome = Outcome.NOT_APPLICABLE
        elif not fault.fired:
            fault.outcome, outcome = "not_fired", Outcome.INVALID
            fault.detail = fault.detail or "it was not seen to fire"
        else:
            fault.outcome, fault.detail = OUTCOME_OF[fault.kind](fault, evidence)
            outcome = Outcome.PASS if fault.outcome == expected else Outcome.FAIL
            if outcome is Outcome.FAIL and fault.outcome in ABSENT and _cut_short(evidence):
                outcome = Outcome.INCONCLUSIVE
                fault.detail += "; the flight was cut short, so it may have been to come"
            if fault.outcome == WAITING:
                outcome = Outcome.NOT_APPLICABLE
        yield Check(id=f"fault.{fault.id}", requirement=requirement, outcome=outcome, detail=fault.detail)


def _cut_short(evidence: Evidence) -> bool:
    """Ended by the operator or by the bench's own trouble. A daemon that died had its time, and used it so."""
    flown = (evidence.flown_until_s - evidence.run[0]) / (evidence.run[1] - evidence.run[0])
    return not evidence.daemon_died and (evidence.interrupted or not flown >= WHOLE)


def _kill_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """A killed worker is back when a WORKER_READY of its job follows, and training went on from there."""
    assert fault.fired_s is not None
    ready = _ready_after(fault, evidence)
    if ready is None:
        return "not_recovered", "no WORKER_READY of this job after the kill"
    generation, step, at_s = ready
    times, steps = evidence.onboard.series.get("train.step", ([], []))
    later = [value for time, value in zip(times, steps, strict=True) if time > at_s and math.isfinite(value)]
    if fault.evidence.get("job") == "train" and (not later or max(later) <= step):
        return "not_recovered", f"training did not go on after step {step}"
    return "recovered", f"back after {at_s - fault.fired_s:.0f} mission s at step {step}, generation {generation}"


def _flip_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """The flipped generation must be named in a CHECKPOINT_REJECTED, and an older one restored."""
    assert fault.fired_s is not None
    generation = fault.evidence.get("generation")
    rejected = any(
        event.name == "CHECKPOINT_REJECTED"
        and event.fields.get("generation") == generation
        and event.world_s >= fault.fired_s
        for event in evidence.onboard.events
    )
    ready = _ready_after(fault, evidence)
    if not rejected and ready is None:
        return "not_recovered", f"no rejection of generation {generation} was reported, and no worker came back"
    if not rejected and ready is not None:
        return (
            "accepted",
            f"no rejection of generation {generation} was reported, generation {ready[0]} was restored",
        )
    if ready is None:
        return "not_recovered", f"generation {generation} was rejected, but the worker did not come back"
    if ready[0] >= int(generation or 0):
        return "accepted", f"generation {ready[0]} was restored, {generation} was corrupt"
    return "rejected", f"generation {generation} rejected, generation {ready[0]} restored at step {ready[1]}"


def _ready_after(fault: FaultRecord, evidence: Evidence) -> tuple[int, int, float] | None:
    """(generation, step, mission time) of the job's first WORKER_READY after the fault."""
    for event in evidence.onboard.events:
        if (
            event.name == "WORKER_READY"
            and event.fields.get("job") == fault.evidence.get("job")
            and event.world_s > (fault.fired_s or 0.0)
        ):
            return int(event.fields.get("generation", -1)), int(event.fields.get("step", 0)), event.world_s
    return None


def _outage_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """Every packet that the outage took must be in the archive, and none can have come but by playback."""
    lost = {(int(b), int(a), int(s)) for b, a, s in fault.evidence.get("lost", [])}
    missing = lost - evidence.archived.identities
    held_on_board = evidence.onboard.identities - evidence.onboard.acknowledged
    since_s = fault.ended_s if fault.ended_s is not None else evidence.flown_until_s
    chance_s = sum(max(0.0, end_s - max(start_s, since_s)) for start_s, end_s, _ in evidence.passes)
    if missing and missing <= held_on_board and chance_s < PLAYBACK_CHANCE_S:
        return WAITING, f"{len(missing)} packets wait on board: this run has no later pass to play them back in"
    if missing:
        return "lost", f"{len(missing)} of {len(lost)} packets that the outage took never reached the archive"
    return "played_back", f"all {len(lost)} packets that the outage took were played back"


def _contained_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """Floor and limits held from the fault's beginning to the end of the run, by the plant's truth."""
    limits, start_s = evidence.scenario.invariants, fault.fired_s or 0.0
    times = evidence.column("world_s")
    worst: list[str] = []
    for name, limit, upper in (
        ("soc_fraction", limits.soc_floor, False),
        ("gpu_temp_degc", limits.gpu_temp_limit_degc, True),
        ("radiator_temp_degc", limits.radiator_temp_limit_degc, True),
    ):
        values = [v for t, v in zip(times, evidence.column(name), strict=True) if t >= start_s]
        if not values:
            return "not_observed", "no truth was sampled after the fault"
        extreme = max(values) if upper else min(values)
        if extreme > limit if upper else extreme < limit:
            return "not_contained", f"{name} reached {extreme:.3f}, its limit is {limit:g}"
        worst.append(f"{name} {extreme:.3f}")
    return "contained", "all limits held: " + ", ".join(worst)


def _xid_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """The daemon must report this XID by its number."""
    xid, since_s = fault.evidence.get("xid"), fault.fired_s or 0.0
    for event in evidence.onboard.events:
        if event.name == "GPU_XID" and event.fields.get("xid") == xid and event.world_s >= since_s:
            return "reported", f"GPU_XID {xid} {event.world_s - since_s:.0f} mission s later"
    return "not_reported", f"no GPU_XID {xid} after the fault"


def _ecc_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """The daemon must report as many new errors of this kind as the card counted."""
    kind, wanted, since_s = fault.evidence.get("ecc"), int(fault.evidence.get("count", 0)), fault.fired_s or 0.0
    name = "GPU_ECC" if kind == "uncorrected" else "GPU_ECC_CORRECTED"
    found = sum(
        int(event.fields.get("count", 0))
        for event in evidence.onboard.events
        if event.name == name and event.world_s >= since_s
    )
    outcome = "reported" if found >= wanted else "not_reported"
    return outcome, f"{found} of {wanted} {kind} errors reported by {name}"


def _weight_outcome(fault: FaultRecord, evidence: Evidence) -> tuple[str, str]:
    """The daemon must report a repair of this job, and the bench must have seen the old value in memory again."""
    job, since_s = fault.evidence.get("job"), fault.fired_s or 0.0
    noticed = [
        event
        for event in evidence.onboard.events
        if event.name in DAMAGE_EVENTS and event.fields.get("job") == job and event.world_s >= since_s
    ]
    if not noticed:
        return "unnoticed", f"no {', '.join(DAMAGE_EVENTS)} of job {job} after the flip"
    repaired = next((event for event in noticed if event.name == REPAIRED_EVENT), None)
    restored_s = fault.evidence.get("restored_s")
    if repaired is None:
        return "detected", f"{noticed[0].name} {noticed[0].world_s - since_s:.0f} mission s later, no repair"
    if restored_s is None:
        return "claimed", f"{REPAIRED_EVENT} was reported, but no damaged copy held its old value again"
    return "repaired", (
        f"{REPAIRED_EVENT} by {repaired.fields.get('detector')} in {repaired.fields.get('where')}; the old value "
        f"was in memory again {restored_s - since_s:.0f} mission s after the flip"
    )


OUTCOME_OF: Final[dict[str, Callable[[FaultRecord, Evidence], tuple[str, str]]]] = {
    "worker_kill": _kill_outcome,
    "checkpoint_flip": _flip_outcome,
    "radiator_degrade": _contained_outcome,
    "radio_outage": _outage_outcome,
    "battery_bias": _contained_outcome,
    "gpu_ecc": _ecc_outcome,
    "gpu_xid": _xid_outcome,
    "weight_flip": _weight_outcome,
}
