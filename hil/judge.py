"""The judge: from evidence to a verdict, by one table of requirements.

It runs after the flight and looks at nothing but ``Evidence``. Every requirement is judged in every run, whatever
the scenario was made for. Summary, terminal table, report and exit code are views of the one ``Verdict``. How
faults ended is judged in ``judge_faults``.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final

from flightsw.link.dictionary import JOB_STATES

from .evidence import Evidence, held
from .judge_faults import WHOLE, judge_faults
from .verdict import WORST_FIRST, Check, Outcome, Verdict

SLIP_MAX_FRACTION: Final = 0.10
"""Share of the run by which the bench may hold the world back before its timing is not worth judging."""
THROTTLE_RATIO_MAX: Final = 0.8
"""GPU power in eclipse over GPU power in sunlight that counts as visible throttling."""
RUNNING: Final = float(JOB_STATES.index("RUNNING"))


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run. Also writes each fault's ``outcome`` into its record, once."""
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


def _answers(evidence: Evidence) -> Iterator[Check]:
    if not evidence.scenario.invariants.answers_twin:
        return
    text = "Every released answer is the one that an undisturbed worker gives on the same weights"
    wrong = [answer for answer in evidence.answers if answer.text != answer.twin_text]
    released = answered(evidence)
    if wrong:
        outcome = Outcome.FAIL
        detail = (
            f"request {wrong[0].request}: {wrong[0].text[:40]!r} on board, {wrong[0].twin_text[:40]!r} in the twin"
        )
    elif evidence.answers_detail or len(evidence.answers) < released:
        outcome = Outcome.INCONCLUSIVE
        detail = evidence.answers_detail or f"{len(evidence.answers)} of {released} answers were compared"
    elif not evidence.passes:
        outcome, detail = Outcome.NOT_APPLICABLE, "no pass in this run, so no request could be sent"
    elif not released:
        outcome, detail = Outcome.INCONCLUSIVE, "no answer was released: nothing was put to the test"
    else:
        outcome, detail = Outcome.PASS, f"{len(evidence.answers)} answers equal letter for letter"
    yield Check(
        id="answers_twin",
        requirement=text,
        outcome=outcome,
        value=float(len(wrong)),
        limit=0.0,
        margin=0.0 - len(wrong),
        unit="answers",
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
    complete = not evidence.interrupted and math.isfinite(flown) and flown >= WHOLE
    yield Check(
        id="flown_to_the_end",
        requirement="The run covers its whole planned time",
        outcome=Outcome.PASS if complete else Outcome.INCONCLUSIVE,
        value=flown if math.isfinite(flown) else None,
        limit=1.0,
        detail="interrupted by the operator" if evidence.interrupted else f"{flown:.0%} of the planned time",
    )


RULES: Final[tuple[Callable[[Evidence], Iterator[Check]], ...]] = (
    _soc,
    _gpu_temperature,
    _radiator_temperature,
    _acknowledged_loss,
    _twin,
    _throttling,
    _replies,
    _answers,
    judge_faults,
    _daemon,
    _bench,
)
