"""The figures of a run, as ``summary.json`` holds them: one flat account, computed from evidence and verdict only.

Times are mission seconds, packet counts are packets. What does not apply to this orbit is null, which is neither
zero nor a failure.
"""

import math
from typing import Any

from flightsw.link.schema import Mode

from .evidence import EventRecord, Evidence, held
from .judge import answered, lost_acknowledged
from .scenario import Interval
from .verdict import Verdict


def summarise(evidence: Evidence, verdict: Verdict) -> dict[str, Any]:
    """Everything a script or a reader may want to know about a run."""
    onboard, archived, twin = evidence.onboard, evidence.archived, evidence.twin
    losses = _finite(onboard.series.get("train.loss", ([], []))[1])
    steps = _finite(onboard.series.get("train.step", ([], []))[1])
    invariants = evidence.scenario.invariants
    sent = evidence.channel.get("down", {})
    return {
        "scenario": evidence.scenario.name,
        "title": evidence.scenario.title,
        "verdict": verdict.outcome.value,
        "exit_code": verdict.exit_code,
        "interrupted": evidence.interrupted,
        "seed": evidence.seed,
        "link": evidence.link,
        "device": evidence.device,
        "card": evidence.card,
        "orbit": evidence.orbit,
        "orbit_period_s": evidence.orbit_period_s,
        "warp": evidence.warp,
        "orbits": round(flown_s(evidence) / evidence.orbit_period_s, 3),
        "flown_s": round(flown_s(evidence), 1),
        "wall_s": round(evidence.wall_s, 1),
        "eclipses": len(evidence.eclipses),
        "eclipse_s": round(sum(end_s - start_s for start_s, end_s in evidence.eclipses), 1),
        "passes": len(evidence.passes),
        "mode_time_s": mode_time_s(evidence),
        "soc_min": _extreme(evidence.column("soc_fraction"), min, 4),
        "soc_floor": invariants.soc_floor,
        "gpu_temp_max_degc": _extreme(evidence.column("gpu_temp_degc"), max, 2),
        "gpu_temp_limit_degc": invariants.gpu_temp_limit_degc,
        "radiator_temp_max_degc": _extreme(evidence.column("radiator_temp_degc"), max, 2),
        "radiator_temp_limit_degc": invariants.radiator_temp_limit_degc,
        "gpu_energy_wh": round(_energy_wh(evidence), 1),
        "train_steps": int(max(steps, default=0)),
        "loss_first": round(losses[0], 4) if losses else None,
        "loss_last": round(losses[-1], 4) if losses else None,
        "inference_requests": sum(command.name == "job.infer" for command in evidence.commands),
        "inference_replies": answered(evidence),
        "checkpoints_committed": len(events(evidence, "CHECKPOINT_COMMITTED")),
        "checkpoints_rejected": len({e.fields.get("generation") for e in events(evidence, "CHECKPOINT_REJECTED")}),
        "worker_kills": sum("killed_s" in fault.evidence and fault.fired for fault in evidence.faults),
        "twin_digest_equal": twin_digest_equal(evidence),
        "twin_checkpoints_compared": len(twin.compared),
        "twin_steps": twin.steps,
        "packets_recorded": onboard.packets,
        "packets_sent": sent.get("offered", 0),
        "packets_lost_in_channel": sum(n for key, n in sent.items() if key.startswith(("lost", "dropped"))),
        "packets_archived": len(archived.identities),
        "packets_live": len(archived.live),
        "packets_playback": len(archived.playback - archived.live),
        "packets_acknowledged": len(onboard.acknowledged),
        "packets_lost_acknowledged": len(lost_acknowledged(evidence)),
        "telecommands": [
            {"id": c.id, "name": c.name, "sent_s": round(c.sent_s, 1), "outcome": c.outcome}
            for c in evidence.commands
        ],
        "faults": [
            {
                "id": fault.id,
                "kind": fault.kind,
                "fired": fault.fired,
                "outcome": fault.outcome,
                "planned_s": _rounded(fault.planned_s, 1),
                "fired_s": _rounded(fault.fired_s, 1),
                "detail": fault.detail,
                "evidence": {k: v for k, v in fault.evidence.items() if k != "lost"},
            }
            for fault in evidence.faults
        ],
        "invariants": [
            {
                "id": check.id,
                "requirement": check.requirement,
                "outcome": check.outcome.value,
                "value": _rounded(check.value, 4),
                "limit": check.limit,
                "margin": _rounded(check.margin, 4),
                "unit": check.unit,
                "detail": check.detail,
            }
            for check in verdict.checks
        ],
        "bench": {
            "slip_s": round(evidence.health.slip_s, 3),
            "tick_late_max_s": round(evidence.health.late_max_s, 3),
            "ticks": evidence.health.ticks,
            "faults": evidence.health.faults,
        },
        "machine": evidence.machine,
        "versions": evidence.versions,
        "commit": evidence.commit or None,
        "started_utc": evidence.started_utc,
    }


def flown_s(evidence: Evidence) -> float:
    """Mission seconds that were flown."""
    return evidence.flown_until_s - evidence.run[0] if math.isfinite(evidence.flown_until_s) else 0.0


def events(evidence: Evidence, name: str) -> list[EventRecord]:
    """The event reports of this name that the spacecraft recorded."""
    return [event for event in evidence.onboard.events if event.name == name]


def twin_digest_equal(evidence: Evidence) -> bool | None:
    """True when every committed checkpoint equals the twin's; None when nothing was compared."""
    twin = evidence.twin
    if not twin.compared:
        return None
    return not twin.mismatches and not twin.missing


def mode_time_s(evidence: Evidence) -> dict[str, float]:
    """Mission seconds in each mode, by the spacecraft's own housekeeping."""
    spent = {mode.name: 0.0 for mode in Mode}
    for value, start_s, end_s in mode_spans(evidence):
        spent[value] += end_s - start_s
    return {name: round(seconds, 1) for name, seconds in spent.items()}


def mode_spans(evidence: Evidence) -> list[tuple[str, float, float]]:
    """(mode, from, to) as the housekeeping shows it, equal neighbours joined."""
    times, values = evidence.onboard.series.get("mode", ([], []))
    known = {float(mode): mode.name for mode in Mode}
    spans: list[tuple[str, float, float]] = []
    for value, start_s, end_s in held(times, values, evidence.flown_until_s):
        name = known.get(value)
        if name is None:
            continue
        if spans and spans[-1][0] == name and spans[-1][2] == start_s:
            spans[-1] = (name, spans[-1][1], end_s)
        else:
            spans.append((name, start_s, end_s))
    return spans


def dark_spans(times: list[float], sun: list[float]) -> list[Interval]:
    """Intervals in which less than half of the Sun's disc was seen."""
    spans: list[Interval] = []
    for value, start_s, end_s in held(times, sun, times[-1] if times else 0.0):
        if value >= 0.5:
            continue
        if spans and spans[-1][1] == start_s:
            spans[-1] = (spans[-1][0], end_s)
        else:
            spans.append((start_s, end_s))
    return spans


def _energy_wh(evidence: Evidence) -> float:
    """GPU energy over mission time, trapezoid over the truth's samples."""
    times, power = evidence.column("world_s"), evidence.column("gpu_power_w")
    joules = sum(0.5 * (power[i] + power[i + 1]) * (times[i + 1] - times[i]) for i in range(len(times) - 1))
    return joules / 3600.0


def _finite(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _extreme(values: list[float], pick: Any, digits: int) -> float | None:
    finite = _finite(values)
    return round(pick(finite), digits) if finite else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
