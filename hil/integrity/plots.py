"""The page's plots as SVG, in the page's own colours.

Colours are drawn as marker values and become CSS variables in the finished text, so that a drawing follows the page
into light and dark; text stays text. Coverage is drawn on a scale of nines: equal steps are equal factors of what
gets through.
"""

import io
import math
import re
from collections.abc import Sequence
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..svg import style, themed
from .account import Line
from .intervals import Share
from .ledger_table import EFFECTS
from .measurements import Overhead

INK: Final = {
    "text": "#010201",
    "muted": "#010202",
    "grid": "#010203",
    "soc": "#010204",
    "limit": "#010205",
    "hot": "#010206",
    "array": "#010207",
    "gpu": "#010208",
    "radiator": "#010209",
    "bus": "#01020a",
    "fault": "#01020b",
    "eclipse": "#01020c",
}
EFFECT_INK: Final = {
    "masked": ("bus", 0.3),
    "sdc": ("array", 1.0),
    "critical": ("hot", 1.0),
    "due": ("radiator", 1.0),
    "hang": ("fault", 1.0),
}
"""And how much of it."""
CONTROL_ALPHA: Final = 0.3
"""Of the band of unprotected against unprotected; it has to be seen on a dark card, too."""
NINES_MAX: Final = 4.0
"""Right end of the coverage scale: 99.99 %."""
TICKS: Final = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
ROW_IN: Final = 0.27
WIDTH_IN: Final = 9.8
LABELS_IN: Final = 3.3
HEADING_PT: Final = 72.0 * (LABELS_IN - 0.2)
"""How far left of the axes a heading begins."""


def coverage(lines: Sequence[Line]) -> str:
    """One row for a target and dtype: share caught and its interval."""
    shown = [line for line in lines if line.count.coverage.total]
    figure, axes = _figure(len(shown))
    for place, line in enumerate(shown):
        share = line.count.coverage
        ink = INK["soc" if share.hits == share.total else "limit"]
        axes.plot([nines(share.low), nines(share.high)], [place, place], color=ink, lw=4.0, alpha=0.35)
        axes.plot([nines(share.value)], [place], "o", color=ink, ms=5.0, mew=0, clip_on=False)
        note = f"{share.hits:,} of {share.total:,}"
        axes.annotate(note, (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8.5, color=INK["muted"])  # fmt: skip
    axes.set_xlim(0.0, NINES_MAX)
    said = [f"{100.0 * tick:g} %" for tick in TICKS]
    axes.set_xticks([nines(tick) for tick in TICKS], [*said[:-1], f"≥ {said[-1]}"])
    _rows(axes, [_name(line) for line in shown])
    return _svg(figure, "Coverage of harmful faults")


def effects(lines: Sequence[Line]) -> str:
    """Stacked shares of the effects."""
    figure, axes = _figure(len(lines), legend=True)
    for place, line in enumerate(lines):
        left = 0.0
        for effect in EFFECTS:
            share = 100.0 * line.count.effects[effect] / max(line.count.total, 1)
            ink, alpha = EFFECT_INK[effect]
            axes.barh(place, share, left=left, height=0.62, color=INK[ink], alpha=alpha, lw=0,
                      label=effect if place == 0 else None)  # fmt: skip
            left += share
        axes.annotate(f"{line.count.total:,}", (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8.5, color=INK["muted"])  # fmt: skip
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("% of faults")
    _rows(axes, [_name(line) for line in lines])
    if lines:
        _legend(axes)
    return _svg(figure, "Effects of faults without protection")


def detectors(lines: Sequence[Line]) -> str:
    """For each part: every detector alone, with its interval, and all together."""
    rows: list[tuple[str, Share, bool]] = []
    for part, injector in dict.fromkeys((line.part, line.injector) for line in lines):
        own = [line for line in lines if (line.part, line.injector) == (part, injector)]
        names = sorted({name for line in own for name in line.count.alone})
        label = part if injector == "own" else f"{part} ({injector})"
        for name in names:
            looked = [line.count.alone[name] for line in own if name in line.count.alone]
            others = [line for line in own if line.count.alone and name not in line.count.alone]
            total = sum(share.total for share in looked) + sum(
                next(iter(line.count.alone.values())).total for line in others
            )
            rows.append((f"{label}: {name}", Share(hits=sum(share.hits for share in looked), total=total), False))
        caught = [line.count.coverage for line in own]
        together = Share(hits=sum(share.hits for share in caught), total=sum(share.total for share in caught))
        if together.total:
            rows.append((f"{label}: together", together, True))
    figure, axes = _figure(len(rows))
    for place, (_, share, is_sum) in enumerate(rows):
        ink = INK["soc" if is_sum else "gpu"]
        axes.barh(place, 100.0 * share.value, height=0.55, color=ink, alpha=0.9 if is_sum else 0.55, lw=0)
        axes.plot([100.0 * share.low, 100.0 * share.high], [place, place], color=INK["text"], lw=1.2)
        axes.annotate(share.percent, (1.0, place), xycoords=("axes fraction", "data"),
                      xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
                      color=INK["muted"])  # fmt: skip
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("% of harmful faults noticed")
    _rows(axes, [name for name, _, _ in rows])
    return _svg(figure, "Detectors alone and together")


def overhead(measured: Sequence[Overhead]) -> str:
    """One row for a level under each workload, with the band of unprotected against unprotected."""
    rows: list[Overhead | str] = []
    for one in measured:
        workload = f"{one.kind}, {one.workload}"
        rows += [one] if workload in rows else [workload, one]
    figure, axes = _figure(len(rows))
    for place, row in enumerate(rows):
        if isinstance(row, str):  # What is measured stands above its levels: it is too long to stand beside one.
            axes.annotate(row, (0.0, place), xycoords=("axes fraction", "data"), xytext=(-HEADING_PT, 0),
                          textcoords="offset points", va="center", fontweight="bold",
                          color=INK["text"])  # fmt: skip
            continue
        axes.plot([0.0, 0.0], [place - 0.5, place + 0.5], color=INK["muted"], lw=0.8)
        axes.barh(place, row.control_high - row.control_low, left=row.control_low, height=0.8,
                  color=INK["bus"], alpha=CONTROL_ALPHA, lw=0)  # fmt: skip
        axes.plot([row.low, row.high], [place, place], color=INK["gpu"], lw=4.0, alpha=0.4)
        axes.plot([row.percent], [place], "o", color=INK["gpu"], ms=5.0, mew=0)
        axes.annotate(f"{row.percent:+.1f} %", (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8.5, color=INK["muted"])  # fmt: skip
    axes.set_xlabel("% more than unprotected")
    _rows(axes, ["" if isinstance(row, str) else row.level for row in rows])
    return _svg(figure, "Overhead of protection")


def nines(share: float) -> float:
    """Place of a share (0 to 1) on the scale of nines, ended at ``NINES_MAX``."""
    missed = 1.0 - share
    return NINES_MAX if missed <= 10.0**-NINES_MAX else -math.log10(missed)


def _name(line: Line) -> str:
    part = line.part if line.injector == "own" else line.injector
    return f"{part}: {line.values[0].replace('_', ' ')}, {line.values[1]}"


def _figure(rows: int, *, legend: bool = False) -> tuple[Figure, Axes]:
    height = ROW_IN * max(rows, 1) + (1.0 if legend else 0.75)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_IN, height))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((
            LABELS_IN / WIDTH_IN, 0.55 / height, 1.0 - (LABELS_IN + 1.1) / WIDTH_IN, ROW_IN * max(rows, 1) / height,
        ))  # fmt: skip
    axes.set_ylim(max(rows, 1) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0)
    return figure, axes


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set_color(INK["text"])


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(EFFECTS), frameon=False, fontsize=8.5,
                labelcolor=INK["text"])  # fmt: skip


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = themed(buffer.getvalue(), INK, label)
    # Several drawings stand in one page: what one defines must not be found by another.
    slug = re.sub(r"\W+", "-", label.lower())
    text = re.sub(r'id="([^"]+)"', rf'id="{slug}-\1"', text)
    text = re.sub(r'(xlink:href="#|href="#|url\(#)', rf"\1{slug}-", text)
    return text


_STYLE: Final = style(INK) | {"axes.spines.left": False}
