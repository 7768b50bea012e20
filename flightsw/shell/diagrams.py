"""Pictures of the tables: ``python -m flightsw.shell.diagrams`` writes them into ``flightsw/README.md``.

The mode table, the ladder of load shedding and the shipped tables of limits are drawn from the tables themselves,
as Mermaid, which GitHub and most editors show as pictures, and as plain tables beside them. They stand between
markers in the handbook; a test compares them, so handbook and code cannot drift apart.
"""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from flightsw.core import executive
from flightsw.core.fdir_table import shipped
from flightsw.core.mode import CAUSES, TRANSITIONS, Transition
from flightsw.core.shed_table import DEPTHS, RUNGS, VOLTAGES, Rung
from flightsw.core.shed_table import Config as SheddingConfig
from flightsw.link.limit_tables import Actionpoint, ActionTable, Response, Watchpoint, WatchTable
from flightsw.link.schema import Mode

README: Final = Path(__file__).parent.parent / "README.md"
SERVICE: Final = (Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK)
DOMAINS: Final = {
    "power": "Power",
    "thermal": "Heat",
    "gpu": "Card and work",
    "link": "Links",
    "storage": "Storage",
    "task": "Tasks of the daemon",
}
REASONS_PER_LINE: Final = 3
KEPT: Final = "kept over the restart"


def written(text: str) -> str:
    """The handbook with every generated section made anew; ``ValueError`` when a marker is missing."""
    watch, action = shipped(executive.Config())
    drawn = (("modes", modes()), ("shedding", shedding(SheddingConfig())), ("limits", limits(watch, action)))
    for name, content in drawn:
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{README.name} lacks the markers of {name!r}: {begin.strip()} … {end}")
        text = f"{head}{begin}\n{content}\n{end}{tail}"
    return text


def modes() -> str:
    """The mode table as a state diagram, and the causes of SAFE as a table."""
    edges: dict[tuple[tuple[Mode, ...], Mode], list[str]] = {}
    for row in TRANSITIONS:
        for sources in _sources(row):
            reasons = edges.setdefault((sources, row.target), [])
            # The rows that resume SAFE after a restart differ only in its cause.
            reason = KEPT if row.reason.endswith(f", {KEPT}") else row.reason
            if reason not in reasons:
                reasons.append(reason)
    lines = ["stateDiagram-v2", "    direction LR", "    [*] --> BOOT", "    state SERVICE {"]
    lines += [f"        {m.name}" for m in SERVICE]
    inside = [(e, r) for e, r in edges.items() if set(e[0]) < set(SERVICE) and e[1] in SERVICE]
    outside = [(e, r) for e, r in edges.items() if (e, r) not in inside]
    lines += [f"        {_edge(e, r)}" for e, r in inside]
    lines += ["    }", *(f"    {_edge(e, r)}" for e, r in outside)]
    rows = [
        (f"`{name}`", c.text, "off" if c.sheds_rail else "stays", "by itself" if c.automatic else "telecommand")
        for name, c in CAUSES.items()
    ]
    return f"{_mermaid(lines)}\n\n{_table(('cause of SAFE', 'reason', 'GPU rail', 'left'), rows)}"


def shedding(config: SheddingConfig) -> str:
    """The ladder of load shedding: down at once, up rung by rung, and where each rung is entered and left."""
    lines = ["stateDiagram-v2", "    direction LR", "    [*] --> NOMINAL"]
    rows = []
    for row, before in zip(RUNGS[1:], RUNGS, strict=False):
        dwell = f"{getattr(config, row.dwell):g} s" if row.dwell else "at once"
        lines.append(f"    {before.rung.name} --> {row.rung.name}: asked for")
        lines.append(f"    {row.rung.name} --> {before.rung.name}: not asked for, {dwell}")
        enter = left = ("the floor in code, or GPU_OFF did not help", "by the rules of SAFE")
        if row.rung < Rung.SAFE:
            depth, volts = (getattr(config, names[row.rung - 1]) for names in (DEPTHS, VOLTAGES))
            asks = {
                Rung.SHED: f", bus ≤ {config.off_v:g} V at once, sensors stale or in doubt",
                Rung.GPU_OFF: f", these for {config.stale_off_s:g} s, rail dropped by the power board",
            }
            enter = (f"depth ≥ {depth:g}, bus ≤ {volts:g} V{asks.get(row.rung, '')}", "")
            out_v = volts + config.hysteresis_v
            left = ("", f"depth ≤ {depth - config.hysteresis_depth:g}, bus ≥ {out_v:g} V, then {dwell}")
        rows.append((f"`{row.rung.name}`", enter[0], left[1], row.text))
    head = ("rung", "asked for by any of", "left", "what it does")
    return f"{_mermaid(lines)}\n\n{_table(head, rows)}"


def limits(watch: WatchTable, action: ActionTable) -> str:
    """The shipped limits: by domain a table, and the same as a flow chart."""
    points = {point.id: point for point in watch.watchpoints}
    parts = []
    for domain, title in DOMAINS.items():
        ladders = _ladders(a for a in action.actionpoints if a.domain == domain)
        rows = [(_condition(rungs[0], points), "<br>".join(map(_rung, rungs))) for rungs in ladders]
        chart = ["flowchart LR", *itertools.chain.from_iterable(_chain(rungs, points) for rungs in ladders)]
        table = _table(("when", "then, after so long (id)"), rows)
        picture = f"<details><summary>{title} as a flow chart</summary>\n\n{_mermaid(chart)}\n\n</details>"
        parts.append(f"**{title}**\n\n{table}\n\n{picture}")
    return "\n\n".join(parts)


def _sources(row: Transition) -> list[tuple[Mode, ...]]:
    """The modes a row starts from; all that serve are one. SAFE into SAFE, a change of owner, is no edge."""
    sources = [m for m in Mode if m in row.sources and m is not row.target]
    if set(SERVICE) <= set(sources):
        return [SERVICE, *((m,) for m in sources if m not in SERVICE)]
    return [(m,) for m in sources]


def _edge(edge: tuple[tuple[Mode, ...], Mode], reasons: list[str]) -> str:
    sources, target = edge
    source = "SERVICE" if len(sources) > 1 else sources[0].name
    starts = range(0, len(reasons), REASONS_PER_LINE)
    lines = [", ".join(reasons[start : start + REASONS_PER_LINE]) for start in starts]
    return f"{source} --> {target.name}: {'<br>'.join(lines)}"


def _ladders(actions: Iterable[Actionpoint]) -> list[list[Actionpoint]]:
    """Actionpoints by their condition, each ladder in the order of its times."""
    ladders: dict[tuple[int | str, ...], list[Actionpoint]] = {}
    for point in actions:
        ladders.setdefault(point.condition, []).append(point)
    return [sorted(rungs, key=lambda p: (p.persistence_s, p.level)) for rungs in ladders.values()]


def _condition(point: Actionpoint, points: dict[int, Watchpoint]) -> str:
    stack: list[str] = []
    before = 0
    for token in point.condition:
        if isinstance(token, int):
            before = token
            stack.append(_limit(points[token]))
        elif token in ("and", "or"):
            right = stack.pop()
            stack[-1] = f"{stack[-1]} {token} {right}"
        else:
            stack[-1] = f"{points[before].parameter} is stale" if token == "stale" else f"not ({stack[-1]})"
    return stack[0]


def _limit(point: Watchpoint) -> str:
    what = f"rate of {point.parameter}" if point.quantity == "rate" else point.parameter
    text = f"{what} {point.operator} {point.trip:.6g}"
    if point.clear is not None:
        text += f" (until {point.clear:.6g})"
    return text + (f", {point.samples} samples" if point.samples > 1 else "")


def _rung(point: Actionpoint) -> str:
    once = ", once" if point.repeat == "once" else ""
    return f"{point.persistence_s:g} s: **{_response(point)}**{once} ({point.id})"


def _response(point: Actionpoint) -> str:
    match point.response:
        case Response.SAFE:
            return "SAFE"
        case Response.THROTTLE:
            return f"throttle to {point.argument:g}"
        case Response.POWER_CYCLE:
            return f"power cycle of {point.argument:g} s"
        case Response.SEQUENCE:
            return f"sequence rts{int(point.argument):02}"
    return point.response.value.replace("_", " ")


def _chain(rungs: list[Actionpoint], points: dict[int, Watchpoint]) -> list[str]:
    """One ladder: the condition, then each rung behind the one before it."""
    first = rungs[0]
    before = f"c{first.id}"
    lines = [f'    {before}["{_escaped(_condition(first, points))}"]']
    for point in rungs:
        node = f"a{point.id}"
        lines.append(f'    {before} -->|"after {point.persistence_s:g} s"| {node}(["{_response(point)}"])')
        before = node
    return lines


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _mermaid(lines: Iterable[str]) -> str:
    return "\n".join(("```mermaid", *lines, "```"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{README} is up to date\n")
