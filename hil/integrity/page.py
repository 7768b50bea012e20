"""The campaign's page: one HTML file, plots inside, nothing loaded from anywhere.

What it shows: the figures with their goals, what faults do (effects), what was caught by target, dtype and shape
with 95 % intervals, what each detector is worth alone and all together, the overhead with the noise of this
machine, and where the ledger is. It follows the reader's light or dark setting, as the bench's other report does.
"""

import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from . import plots
from .account import Account, Line
from .intervals import Share
from .ledger import CSV, PARQUET
from .shapes import SHAPES
from .tally import Figure

FILE: Final = "report.html"
RIVAL: Final = (
    "Compared with orbital-runtime (STATUS, July 2026; NVIDIA L4): its figure on bfloat16 activations is 11.8 % of "
    "silent corruption removed, over its classes 69.3 %. Another subject, other faults: a mark, no duel."
)
JUDGED: Final = {True: "pass", False: "fail", None: "not judged"}
ENDINGS: Final = {"whole": "PASS", "partial": "INCONCLUSIVE", "invalid": "INVALID"}


def write(found: Account, folder: Path) -> Path:
    """Write the page into the folder, whole or not at all."""
    path = folder / FILE
    temporary = folder / f"{FILE}.tmp"
    temporary.write_text(page(found, folder), encoding="utf-8")
    os.replace(temporary, path)
    return path


def page(found: Account, folder: Path) -> str:
    """The whole page as text."""
    outcome = "FAIL" if found.missed and found.ending != "invalid" else ENDINGS[found.ending]
    text = resources.files("hil").joinpath("templates/integrity.html").read_text(encoding="utf-8")
    style = resources.files("hil").joinpath("templates/report.html").read_text(encoding="utf-8")
    return Template(text).substitute(
        style=style[style.index("<style>") : style.index("</style>") + len("</style>")],
        outcome=outcome,
        outcome_text=outcome if found.ending == "whole" else f"{outcome}: {found.ending}",
        lead=escape(lead(found)),
        tiles="\n".join(_tile(figure) for figure in found.figures),
        figures="\n".join(_figure_row(figure) for figure in found.figures),
        coverage=plots.coverage(found.by_target),
        effects=plots.effects(found.by_target),
        detectors=plots.detectors(found.by_target),
        overhead=plots.overhead(found.measured.overhead) if found.measured.overhead else _none("No overhead"),
        cells=_cells(found.by_cell),
        priors=_priors(found.by_prior),
        rival=escape(RIVAL),
        injectors=_injectors(found),
        facts="\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in _facts(found, folder)),
    )


def lead(found: Account) -> str:
    """The campaign in two sentences."""
    whole = Share(
        hits=sum(line.count.coverage.hits for line in found.by_target),
        total=sum(line.count.coverage.total for line in found.by_target),
    )
    said = (
        f"{found.injections:,} injections, {whole.total:,} of them harmful, {whole.hits:,} of these caught: "
        f"{whole} (95 %)."
    )
    if found.ending != "whole":
        said += f" The campaign is {found.ending}: {found.reason}."
    elif found.missed:
        said += f" Not reached: {', '.join(figure.id for figure in found.missed)}."
    else:
        said += " Every goal that could be judged is met."
    return said


def _tile(figure: Figure) -> str:
    value = "–" if figure.value is None else f"{figure.value:.5g}"
    mark = {True: "goal met", False: "goal missed", None: "not judged"}[figure.met]
    sign = "≥" if figure.better == "higher" else "≤"
    return (
        f'<div class="tile"><div class="name">{escape(figure.id)}</div><div class="value">{value}'
        f"<small> {escape(figure.unit)}</small></div>"
        f'<div class="note">{mark}, {sign} {figure.goal:g}</div></div>'
    )


def _figure_row(figure: Figure) -> str:
    outcome = {True: "PASS", False: "FAIL", None: "NOT_APPLICABLE"}[figure.met]
    value = "–" if figure.value is None else f"{figure.value:.5g} {figure.unit}"
    sign = "≥" if figure.better == "higher" else "≤"
    return (
        f'<tr><td class="o {outcome}">{JUDGED[figure.met]}</td>'
        f'<td><code>{escape(figure.id)}</code></td><td class="n">{escape(value)}</td>'
        f'<td class="n">{sign} {figure.goal:g}</td><td>{escape(figure.text)}</td></tr>'
    )


def _cells(lines: Sequence[Line]) -> str:
    """Harmful faults caught of how many, by shape; the lower bound beneath."""
    rows: dict[tuple[str, ...], dict[str, Share]] = {}
    for line in lines:
        *what, shape = line.values
        rows.setdefault((line.part, line.injector, *what), {})[shape] = line.count.coverage
    head = _heads("Part", "Target", "Dtype") + _heads(*SHAPES, numbers=True)
    body = "\n".join(
        f"<tr><td>{escape(_part(part, injector))}</td>"
        + "".join(f"<td>{escape(text)}</td>" for text in what)
        + "".join(_cell(found.get(shape)) for shape in SHAPES)
        + "</tr>"
        for (part, injector, *what), found in rows.items()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _heads(*names: str, numbers: bool = False) -> str:
    return "".join(
        f'<th class="n">{escape(name)}</th>' if numbers else f"<th>{escape(name)}</th>" for name in names
    )


def _cell(share: Share | None) -> str:
    if share is None or not share.total:
        return '<td class="n t">–</td>'
    good = "PASS" if share.hits == share.total else "FAIL"
    return (
        f'<td class="n"><span class="o {good}">{share.hits:,} of {share.total:,}</span><br>'
        f'<span class="t">≥ {100.0 * share.low:.1f} %</span></td>'
    )


def _priors(lines: Sequence[Line]) -> str:
    head = _heads("Part", "Prior", "Dtype")
    head += _heads("Faults", "Harmful", "Caught", "Repaired in place", numbers=True)
    body = "\n".join(
        f"<tr><td>{escape(_part(line.part, line.injector))}</td><td>{escape(line.values[0])}</td>"
        f"<td>{escape(line.values[1])}</td>"
        f'<td class="n">{line.count.total:,}</td><td class="n">{line.count.coverage.total:,}</td>'
        f'<td class="n">{escape(str(line.count.coverage))}</td>'
        f'<td class="n">{escape(str(line.count.repaired)) if line.part == "state" else "–"}</td></tr>'
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _injectors(found: Account) -> str:
    if not found.measured.injectors:
        return _none("No second injector")
    rows = "\n".join(
        f"<tr><td>{escape(one.name)} {escape(one.version)}</td><td>{'ran' if one.ran else 'did not run'}</td>"
        f"<td>{escape(one.text)}</td></tr>"
        for one in found.measured.injectors
    )
    return f'<div class="card scroll"><table class="wide"><tbody>{rows}</tbody></table></div>'


def _part(part: str, injector: str) -> str:
    return part if injector == "own" else f"{part}, by {injector}"


def _none(what: str) -> str:
    return f'<p class="lead">{escape(what)} was measured in this campaign.</p>'


def _facts(found: Account, folder: Path) -> list[tuple[str, str]]:
    files = [name for name in (CSV, PARQUET, "alone.csv", "injections.txt") if (folder / name).exists()]
    return [
        ("Run again", found.command),
        (
            "Replay one injection",
            f"hil campaign integrity --only ID (ids are in {CSV}; what a second injector chose is not drawn again)",
        ),
        ("Commit", found.commit or "not a git checkout"),
        ("Machine", ", ".join(f"{key} {value}" for key, value in found.machine.items())),
        ("Versions", ", ".join(f"{key} {value}" for key, value in found.versions.items())),
        ("Ledger", ", ".join(files) or "none"),
        (
            "Real upsets",
            "True upsets of a card's memory cannot be made on the ground; faults here are written bits.",
        ),
    ]
