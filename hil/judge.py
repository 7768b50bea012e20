"""The judge: from evidence to a verdict, by one table of requirements.

It runs after the flight and looks at nothing but ``Evidence``. Every requirement is judged in every run, whatever
the scenario was made for. Summary, terminal table, report and exit code are views of the one ``Verdict``.

Outcomes
--------
- PASS          held, and was really put to the test.
- FAIL          broken; the satellite's fault.
- INVALID       the bench's own fault, or a fault that was not seen to fire: the run proves nothing.
- INCONCLUSIVE  no violation seen, but too little evidence: nothing compared, samples missing, flight cut short.
- NOT_APPLICABLE  this orbit has no eclipse, no pass: there is nothing to hold, and nothing is claimed.

The worst one of FAIL, INVALID, INCONCLUSIVE, PASS is the run's. FAIL stands over INVALID because a limit that the
plant's truth breaks is broken, whichever fault failed to fire.
"""

import math
from collections.abc import Callable, Iterator
from enum import StrEnum, unique
from typing import Final

import msgspec

from flightsw.link.dictionary import JOB_STATES

from .evidence import Evidence, FaultRecord, held

SLIP_MAX_FRACTION: Final = 0.10
"""Share of the run by which the bench may hold the world back before its timing is not worth judging."""
WAITING: Final = "waiting"
"""Outcome of an outage after which the run offers no pass: nothing is lost, nothing is proven."""
PLAYBACK_CHANCE_S: Final = 60.0
"""Contact after an outage, mission seconds, from which on its packets must have been played back."""
THROTTLE_RATIO_MAX: Final = 0.8
"""GPU power in eclipse over GPU power in sunlight that counts as visible throttling."""


RUNNING: Final = float(JOB_STATES.index("RUNNING"))


@unique
class Outcome(StrEnum):
    """Outcome of one requirement, and of the run."""

    PASS = "PASS"
    FAIL = "FAIL"
    INVALID = "INVALID"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "NOT_APPLICABLE"


EXIT_CODES: Final = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INVALID: 2, Outcome.INCONCLUSIVE: 3}
WORST_FIRST: Final = (Outcome.FAIL, Outcome.INVALID, Outcome.INCONCLUSIVE, Outcome.PASS)

# What a fault must have led to, by its kind.
EXPECTED_OUTCOME: Final = {
    "worker_kill": "recovered",
    "checkpoint_flip": "rejected",
    "radiator_degrade": "contained",
    "radio_outage": "played_back",
    "battery_bias": "contained",
}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One judged requirement. ``margin`` is positive when there is room left, in ``unit``."""

    id: str
    requirement: str
    outcome: Outcome
    value: float | None = None
    limit: float | None = None
    margin: float | None = None
    unit: str = ""
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The run's outcome and everything it rests on."""

    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 INVALID, 3 INCONCLUSIVE."""
        return EXIT_CODES[self.outcome]

    def of(self, outcome: Outcome) -> list[Check]:
        """The checks with this outcome."""
        return [check for check in self.checks if check.outcome is outcome]


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run. Also writes each fault's ``outcome`` into its record, once and here only."""
    checks = tuple(check for rule in RULES for check in rule(evidence))
    outcomes = {check.outcome for check in checks}
    worst = next((outcome for outcome in WORST_FIRST if outcome in outcomes), Outcome.INCONCLUSIVE)
    return Verdict(outcome=worst, checks=checks)


def _bounded(
    id: str, requirement: str, values: list[float], limit: float, unit: str, *, upper: bool
) -> Iterator[Check]:
    """An extreme of the plant's truth against its limit; a gap or NaN in the samples proves nothing."""
    if not values or not all(map(math.isfinite, values)):
        detail = (
            "the plant's truth has no samples" if not values else "the plant's truth has samples without a value"
        )
        yield Check(
            id=id, requirement=requirement, outcome=Outcome.INCONCLUSIVE, limit=limit, unit=unit, detail=detail
        )
        return
    value = max(values) if upper else min(values)
    margin = limit - value if upper else value - limit
    yield Check(
        id=id,
        requirement=requirement,
        outcome=Outcome.PASS if margin >= 0.0 else Outcome.FAIL,
        value=value,
        limit=limit,
        margin=margin,
        unit=unit,
        detail=f"over {len(values)} samples of the plant's truth",
    )


def _soc(evidence: Evidence) -> Iterator[Check]:
    limit = evidence.scenario.invariants.soc_floor
    text = "The true state of charge never falls under its floor"
    return _bounded("soc_floor", text, evidence.column("soc_fraction"), limit, "", upper=False)


def _gpu_temperature(evidence: Evidence) -> Iterator[Check]:
    limit = evidence.scenario.invariants.gpu_temp_limit_degc
    text = "The true GPU temperature never rises over its limit"
    return _bounded("gpu_temperature", text, evidence.column("gpu_temp_degc"), limit, "°C", upper=True)


def _radiator_temperature(evidence: Evidence) -> Iterator[Check]:
    limit = evidence.scenario.invariants.radiator_temp_limit_degc
    text = "The true radiator temperature never rises over its limit"
    return _bounded("radiator_temperature", text, evidence.column("radiator_temp_degc"), limit, "°C", upper=True)


def _acknowledged_loss(evidence: Evidence) -> Iterator[Check]:
    text = "No packet that the ground acknowledged is missing in its archive"
    acknowledged = evidence.onboard.acknowledged
    lost = lost_acknowledged(evidence)
    if lost:
        outcome, detail = Outcome.FAIL, "lost (boot, apid, sequence): " + ", ".join(map(str, lost[:5]))
    elif evidence.onboard.unreadable:
        outcome, detail = Outcome.INCONCLUSIVE, "the recorder could not be read in full"
    elif acknowledged:
        outcome, detail = Outcome.PASS, f"{len(acknowledged)} acknowledged packets, all archived"
    elif not evidence.passes:
        outcome, detail = Outcome.NOT_APPLICABLE, "no pass in this run"
    else:
        outcome, detail = Outcome.INCONCLUSIVE, "no packet was acknowledged: nothing was put to the test"
    yield Check(
        id="acknowledged_loss",
        requirement=text,
        outcome=outcome,
        value=float(len(lost)),
        limit=0.0,
        margin=0.0 - len(lost),
        unit="packets",
        detail=detail,
    )


def lost_acknowledged(evidence: Evidence) -> list[tuple[int, int, int]]:
    """Packets that the recorder holds as acknowledged and the archive does not have."""
    return sorted(evidence.onboard.acknowledged - evidence.archived.identities)


def _twin(evidence: Evidence) -> Iterator[Check]:
    text = "Every committed checkpoint equals the undisturbed twin's weights at the same step"
    twin, needed = evidence.twin, evidence.scenario.invariants.checkpoints_min
    if not evidence.scenario.invariants.twin:
        outcome, detail = Outcome.NOT_APPLICABLE, "this scenario flies no twin"
    elif twin.mismatches:
        generation, step, own, other = twin.mismatches[0]
        outcome = Outcome.FAIL
        detail = f"generation {generation}, step {step}: {own[:12]}… on board, {other[:12]}… in the twin"
    elif not twin.compared:
        outcome, detail = Outcome.INCONCLUSIVE, twin.detail or "no checkpoint was compared"
    elif twin.missing:
        outcome = Outcome.INCONCLUSIVE
        detail = f"the twin has no digest for step {twin.missing[0][1]}: {twin.detail or 'it stopped early'}"
    elif len(twin.compared) < needed:
        outcome, detail = Outcome.INCONCLUSIVE, f"{len(twin.compared)} checkpoints compared, {needed} are needed"
    else:
        outcome, detail = Outcome.PASS, f"{len(twin.compared)} checkpoints equal bit for bit"
    yield Check(
        id="twin_digest",
        requirement=text,
        outcome=outcome,
        value=float(len(twin.compared) - len(twin.mismatches)),
        limit=float(needed),
        margin=float(len(twin.compared) - len(twin.mismatches) - needed),
        unit="checkpoints",
        detail=detail,
    )


def _throttling(evidence: Evidence) -> Iterator[Check]:
    if not evidence.scenario.invariants.throttling:
        return
    text = "The GPU is throttled visibly in eclipse"
    working = list(_working(evidence))
    bright = [watts for sun, watts in working if sun > 0.99]
    dark = [watts for sun, watts in working if sun < 0.01]
    if not evidence.eclipses:
        yield Check(
            id="throttling", requirement=text, outcome=Outcome.NOT_APPLICABLE, detail="no eclipse in this run"
        )
        return
    if not bright or not dark or sum(bright) <= 0.0:
        yield Check(
            id="throttling",
            requirement=text,
            outcome=Outcome.INCONCLUSIVE,
            detail=f"no training was seen in {'eclipse' if bright else 'sunlight'}",
        )
        return
    bright_w, dark_w = sum(bright) / len(bright), sum(dark) / len(dark)
    ratio = dark_w / bright_w
    yield Check(
        id="throttling",
        requirement=text,
        outcome=Outcome.PASS if ratio <= THROTTLE_RATIO_MAX else Outcome.FAIL,
        value=ratio,
        limit=THROTTLE_RATIO_MAX,
        margin=THROTTLE_RATIO_MAX - ratio,
        detail=f"mean GPU power {dark_w:.0f} W in eclipse, {bright_w:.0f} W in sunlight",
    )


def _working(evidence: Evidence) -> Iterator[tuple[float, float]]:
    """(sun fraction, GPU watts) of the truth's samples at which the training job was running: a card that has
    nothing to do is not throttled."""
    states = list(held(*evidence.onboard.series.get("train.state", ([], [])), evidence.flown_until_s))
    spans = [(start_s, end_s) for state, start_s, end_s in states if state == RUNNING]
    columns = (evidence.column(name) for name in ("world_s", "sun_fraction", "gpu_power_w"))
    index = 0
    for world_s, sun, watts in zip(*columns, strict=True):
        while index < len(spans) and spans[index][1] <= world_s:
            index += 1
        if index < len(spans) and spans[index][0] <= world_s:
            yield sun, watts


def _replies(evidence: Evidence) -> Iterator[Check]:
    needed, got = evidence.scenario.invariants.replies_min, answered(evidence)
    if needed == 0:
        return
    outcome = Outcome.PASS if got >= needed else Outcome.FAIL
    detail = f"{got} replies archived"
    if not evidence.passes:
        outcome, detail = Outcome.NOT_APPLICABLE, "no pass in this run, so no request could be sent"
    yield Check(
        id="inference_replies",
        requirement="Inference requests of the operator are answered",
        outcome=outcome,
        value=float(got),
        limit=float(needed),
        margin=float(got - needed),
        unit="replies",
        detail=detail,
    )


def answered(evidence: Evidence) -> int:
    """Requests whose answer is in the archive; a failed one is no answer."""
    return sum(reply.finish != "failed" for reply in evidence.archived.replies)


def _daemon(evidence: Evidence) -> Iterator[Check]:
    died = evidence.daemon_died
    yield Check(
        id="daemon_alive",
        requirement="The flight daemon flies to the end of the run",
        outcome=Outcome.FAIL if died else Outcome.PASS,
        detail=died or "it ended when it was asked to",
    )


def _bench(evidence: Evidence) -> Iterator[Check]:
    start_s, end_s = evidence.run
    slip = evidence.health.slip_s / max(evidence.wall_s, 1e-9)
    problems = list(evidence.health.faults)
    if slip > SLIP_MAX_FRACTION:
        problems.append(f"the bench held the world back for {evidence.health.slip_s:.1f} s: machine too busy")
    yield Check(
        id="bench_health",
        requirement="The bench kept its own time and its instruments worked",
        outcome=Outcome.INVALID if problems else Outcome.PASS,
        value=slip,
        limit=SLIP_MAX_FRACTION,
        margin=SLIP_MAX_FRACTION - slip,
        detail="; ".join(problems) or f"greatest lateness of a tick {evidence.health.late_max_s * 1e3:.0f} ms",
    )
    flown = (evidence.flown_until_s - start_s) / (end_s - start_s)
    complete = not evidence.interrupted and math.isfinite(flown) and flown >= 0.999
    yield Check(
        id="flown_to_the_end",
        requirement="The run covers its whole planned time",
        outcome=Outcome.PASS if complete else Outcome.INCONCLUSIVE,
        value=flown if math.isfinite(flown) else None,
        limit=1.0,
        detail="interrupted by the operator" if evidence.interrupted else f"{flown:.0%} of the planned time",
    )


def _faults(evidence: Evidence) -> Iterator[Check]:
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
            if fault.outcome == WAITING:
                outcome = Outcome.NOT_APPLICABLE
        yield Check(id=f"fault.{fault.id}", requirement=requirement, outcome=outcome, detail=fault.detail)


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
    if not rejected:
        restored = f", generation {ready[0]} was restored" if ready else ""
        return "accepted", f"no rejection of generation {generation} was reported{restored}"
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


OUTCOME_OF: Final[dict[str, Callable[[FaultRecord, Evidence], tuple[str, str]]]] = {
    "worker_kill": _kill_outcome,
    "checkpoint_flip": _flip_outcome,
    "radiator_degrade": _contained_outcome,
    "radio_outage": _outage_outcome,
    "battery_bias": _contained_outcome,
}

RULES: Final[tuple[Callable[[Evidence], Iterator[Check]], ...]] = (
    _soc,
    _gpu_temperature,
    _radiator_temperature,
    _acknowledged_loss,
    _twin,
    _throttling,
    _replies,
    _faults,
    _daemon,
    _bench,
)
