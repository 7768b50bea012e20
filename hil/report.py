"""The report of a run: ``summary.json`` for scripts, ``report.html`` for people, from one summary and one verdict.

The page is one file: style and plots are inside, nothing is loaded from anywhere. It follows the reader's light
or dark setting, folds to a telephone's width, and prints. Every text that came over a wire is escaped.
"""

import json
import os
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Final

from . import figures
from .evidence import Evidence
from .summary import summarise
from .verdict import Check, Outcome, Verdict

THOUSANDS: Final = "\u202f"
"""Between groups of three digits: a narrow space that does not break."""
HIDDEN_EVENTS: Final = frozenset({"GOVERNOR_LIMIT"})
EVENTS_MAX: Final = 400
REPLIES_MAX: Final = 12
COUNTED: Final = {"packets": "packet", "checkpoints": "checkpoint", "replies": "reply"}
"""Units that are whole numbers of things, and what one of them is."""
OUTCOME_TEXT: Final = {Outcome.NOT_APPLICABLE: "not applicable"}


def write(evidence: Evidence, verdict: Verdict, out: Path) -> dict[str, Any]:
    """Write both files into ``out``; returns the summary. Raises ``OSError``."""
    out.mkdir(parents=True, exist_ok=True)
    summary = summarise(evidence, verdict)
    _replace(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _replace(out / "report.html", page(evidence, verdict, summary))
    return summary


def _replace(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def page(evidence: Evidence, verdict: Verdict, summary: dict[str, Any]) -> str:
    """The whole page as text."""
    template = Template(resources.files("hil").joinpath("templates/report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_safe(evidence.scenario.title),
        outcome=verdict.outcome.value,
        outcome_text=verdict.outcome.value,
        lead=_safe(lead(evidence, verdict, summary)),
        tiles="\n".join(_tiles(summary)),
        figure=figures.draw(evidence),
        caption=_safe(_caption(evidence)),
        checks="\n".join(_check_row(check) for check in verdict.checks),
        faults=_fault_table(evidence),
        replies=_reply_cards(evidence),
        commands=_command_table(evidence),
        events=_event_table(evidence),
        facts="\n".join(f"<dt>{_safe(k)}</dt><dd>{_safe(v)}</dd>" for k, v in _facts(evidence, summary)),
    )


def lead(evidence: Evidence, verdict: Verdict, summary: dict[str, Any]) -> str:
    """The run in two sentences; also what a terminal shows first."""
    orbits = f"{summary['orbits']:g} {_noun(summary['orbits'], 'orbit')}"
    flown = f"{orbits} of {evidence.orbit} in {summary['wall_s'] / 60:.1f} minutes"
    work = _many(summary["train_steps"], "training step")
    if summary["loss_first"] is not None:
        work += f" (loss {summary['loss_first']:.2f} → {summary['loss_last']:.2f})"
    replies = summary["inference_replies"]
    work += f" and {replies} inference {_noun(replies, 'reply', 'replies')}"
    broken = [check.requirement for check in verdict.checks if check.outcome not in _FINE]
    ending = "Every requirement held." if not broken else "Not fulfilled: " + "; ".join(broken) + "."
    return f"{flown}, warp {evidence.warp:g}: {work}. {ending}"


_FINE: Final = frozenset({Outcome.PASS, Outcome.NOT_APPLICABLE})


def _tiles(summary: dict[str, Any]) -> list[str]:
    twin = {True: "equal", False: "different", None: "not compared"}[summary["twin_digest_equal"]]
    fired = sum(fault["fired"] for fault in summary["faults"])
    mended = sum(c["outcome"] == "PASS" for c in summary["invariants"] if c["id"].startswith("fault."))
    loss = "–" if summary["loss_last"] is None else f"{summary['loss_last']:.2f}"
    loss_note = "" if summary["loss_first"] is None else f"from {summary['loss_first']:.2f}"
    kills = f"{_many(summary['worker_kills'], 'worker kill')}, "
    kills += f"{_many(summary['checkpoints_rejected'], 'checkpoint')} rejected"
    ways = f"{_count(summary['packets_live'])} live, {_count(summary['packets_playback'])} by playback"
    eclipses = f"{summary['eclipses']} in {summary['orbits']:g} {_noun(summary['orbits'], 'orbit')}"
    gpu_limit = f"limit {summary['gpu_temp_limit_degc']:g} °C"
    return [
        _tile("Least state of charge", _percent(summary["soc_min"]), f"floor {100.0 * summary['soc_floor']:.0f} %"),
        _tile("Greatest GPU temperature", _unit(summary["gpu_temp_max_degc"], "°C"), gpu_limit),
        _tile("Eclipse", _unit(summary["eclipse_s"] / 60.0, "min"), eclipses),
        _tile(
            "Training steps", _count(summary["train_steps"]), _many(summary["checkpoints_committed"], "checkpoint")
        ),
        _tile("Training loss", loss, loss_note),
        _tile(
            "Inference replies",
            str(summary["inference_replies"]),
            f"of {_many(summary['inference_requests'], 'request')}",
        ),
        _tile("Faults mended", f"{mended}<small> of {fired} fired</small>", kills),
        _tile(
            "Weights and the twin's",
            twin,
            f"{_many(summary['twin_checkpoints_compared'], 'checkpoint')}, bit for bit",
        ),
        _tile("Packets on the ground", _count(summary["packets_archived"]), ways),
        _tile(
            "Acknowledged and lost",
            str(summary["packets_lost_acknowledged"]),
            f"of {_count(summary['packets_acknowledged'])} acknowledged",
        ),
    ]


def _tile(name: str, value: str, note: str) -> str:
    """A tile; ``value`` is markup of ours, the rest is text."""
    return (
        f'<div class="tile"><div class="name">{_safe(name)}</div><div class="value">{value}</div>'
        f'<div class="note">{_safe(note)}</div></div>'
    )


def _check_row(check: Check) -> str:
    text = OUTCOME_TEXT.get(check.outcome, check.outcome.value)
    cells = "".join(
        f'<td class="n">{_figure(v, check.unit)}</td>' for v in (check.value, check.limit, check.margin)
    )
    return (
        f'<tr><td class="o {check.outcome.value}">{text}</td><td>{_safe(check.requirement)}</td>{cells}'
        f"<td>{_safe(check.detail)}</td></tr>"
    )


def _fault_table(evidence: Evidence) -> str:
    if not evidence.faults:
        return '<p class="lead">This scenario injects no faults.</p>'
    rows = "\n".join(
        f"<tr><td><b>{_safe(fault.id)}</b></td><td>{_safe(fault.kind)}</td>"
        f'<td class="t">{_minutes(evidence, fault.fired_s) if fault.fired else "–"}</td>'
        f"<td>{'yes' if fault.fired else 'no'}</td><td>{_safe(fault.outcome)}</td>"
        f"<td>{_safe('; '.join(part for part in (fault.detail, _deed(fault.evidence)) if part))}</td></tr>"
        for fault in evidence.faults
    )
    head = "<th>Fault</th><th>Kind</th><th>At, min</th><th>Fired</th><th>Outcome</th><th>Evidence</th>"
    return _table(head, rows)


def _deed(seen: dict[str, Any]) -> str:
    """What the injector did, in words."""
    if "file" in seen:
        return (
            f"bit {seen['bit']} of byte {seen['byte']} of {seen['file']} was flipped, then pid {seen['pid']} killed"
        )
    if "pid" in seen:
        return f"{seen.get('signal', 'a signal')} to pid {seen['pid']}"
    if "magnitude" in seen:
        return f"magnitude {seen['magnitude']:g}"
    return ""


def _reply_cards(evidence: Evidence) -> str:
    replies = evidence.archived.replies
    if not replies:
        return '<p class="lead">No inference reply reached the archive in this run.</p>'
    cards = [
        f'<div class="card reply"><div class="meta">{_minutes(evidence, reply.world_s)} min · generation '
        f"{reply.generation} · {reply.tokens} tokens · {_safe(reply.finish)}</div>"
        f"<pre><b>{_safe(reply.prompt)}</b>{_safe(reply.text)}</pre></div>"
        for reply in replies[:REPLIES_MAX]
    ]
    rest = len(replies) - REPLIES_MAX
    more = f'<p class="lead">{rest} more are in the archive.</p>' if rest > 0 else ""
    return f'<div class="replies">{"".join(cards)}</div>{more}'


def _command_table(evidence: Evidence) -> str:
    if not evidence.commands:
        return '<p class="lead">The operator sent nothing in this run.</p>'
    rows = "\n".join(
        f'<tr><td class="t">{_minutes(evidence, c.sent_s)}</td><td>{_safe(c.id)}</td>'
        f"<td><code>{_safe(c.name)}</code></td>"
        f"<td>{_safe(c.outcome)}</td><td>{_safe(c.detail)}</td></tr>"
        for c in evidence.commands
    )
    head = "<th>At, min</th><th>Item</th><th>Telecommand</th><th>Outcome</th><th>Detail</th>"
    table = _table(head, rows, card=False)
    return f"<details class='card'><summary>{len(evidence.commands)} sent</summary>{table}</details>"


def _event_table(evidence: Evidence) -> str:
    shown = [event for event in evidence.onboard.events if event.name not in HIDDEN_EVENTS]
    received = {(e.boot, e.sequence) for e in evidence.archived.events}
    rows = "\n".join(
        f'<tr><td class="t">{_minutes(evidence, e.world_s)}</td>'
        f'<td class="s{e.severity}"><code>{_safe(e.name)}</code></td>'
        f"<td>{'yes' if (e.boot, e.sequence) in received else 'not yet'}</td><td>{_safe(e.text)}</td></tr>"
        for e in shown[:EVENTS_MAX]
    )
    cut = f", the first {EVENTS_MAX} are shown" if len(shown) > EVENTS_MAX else ""
    head = "<th>At, min</th><th>Event</th><th>On ground</th><th>Text</th>"
    return (
        f"<details class='card' open><summary>{len(shown)} event reports{cut}</summary>"
        f"{_table(head, rows, card=False)}</details>"
    )


def _table(head: str, rows: str, *, card: bool = True) -> str:
    body = f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="{"card " if card else ""}scroll">{body}</div>'


def _caption(evidence: Evidence) -> str:
    parts = ["Shaded: eclipse."] if evidence.eclipses else ["This orbit has no eclipse in the run."]
    if evidence.faults:
        parts.append("Dashed vertical lines: faults.")
    parts.append(
        "Array, GPU power, charge and temperatures are the plant's truth; budget, throughput, loss and mode are the"
    )
    parts.append("spacecraft's own housekeeping.")
    return " ".join(parts)


def _facts(evidence: Evidence, summary: dict[str, Any]) -> list[tuple[str, str]]:
    station = ", ".join(
        f"{name} {start_s / 60:.0f}–{end_s / 60:.0f} min" for start_s, end_s, name in evidence.passes
    )
    modes = ", ".join(
        f"{name} {seconds / 60:.1f} min" for name, seconds in summary["mode_time_s"].items() if seconds
    )
    again = (
        f"hil run {evidence.scenario.name} --seed {evidence.seed} --link {evidence.link} "
        f"--device {evidence.device} --warp {evidence.warp:g}"
    )
    return [
        ("Run again", again),
        ("Started", evidence.started_utc),
        ("Commit", evidence.commit or "not a git checkout"),
        ("Machine", ", ".join(f"{key} {value}" for key, value in evidence.machine.items())),
        ("Versions", ", ".join(f"{key} {value}" for key, value in evidence.versions.items())),
        ("Computed on", f"{evidence.device}; card: {evidence.card}"),
        ("Passes", station or "none in this run"),
        ("Time in mode", modes or "no housekeeping was recorded"),
        (
            "Channel",
            f"{summary['packets_lost_in_channel']} of {summary['packets_sent']} downlink packets lost on the way",
        ),
    ]


def _minutes(evidence: Evidence, world_s: float | None) -> str:
    return "–" if world_s is None else f"{(world_s - evidence.run[0]) / 60.0:.1f}"


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit in COUNTED:
        return f"{value:.0f} {COUNTED[unit] if value == 1.0 else unit}"
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return _safe(f"{text} {unit}".strip())


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.1f}<small> %</small>"


def _unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f}<small> {unit}</small>"


def _noun(number: float, one: str, many: str = "") -> str:
    return one if number == 1 else many or f"{one}s"


def _many(number: int, one: str) -> str:
    return f"{number} {_noun(number, one)}"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", THOUSANDS)


def _safe(text: str) -> str:
    """Text as it can stand in a page: markup is escaped, control characters become escapes, line breaks stay."""
    return escape(_printable(text))


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() or c in f"\n\t{THOUSANDS}" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
