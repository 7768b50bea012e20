"""The report as one HTML file that needs nothing else: the tables of ``report`` and plots of a few parameters.

A plot keeps the smallest and the largest value of each bucket of samples, so that no peak is lost.
"""

import html
import math
from collections.abc import Callable
from typing import Final

from flightsw.link.dictionary import PARAMETER_BY_NAME

from .reader import ArchiveReader
from .report import headline, sections
from .summary import Summary

PLOT_POINTS: Final = 400
PLOTS: Final = ("eps.soc_fraction", "thermal.gpu_degc", "gpu.power_w", "train.loss")


def page(summary: Summary, reader: ArchiveReader) -> str:
    """One HTML file that needs nothing else."""
    escape = html.escape
    body = ["<h1>Ground report</h1><table class=head>"]
    body += [f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in headline(summary)]
    body.append("</table>")
    body += [_plot(reader, name) for name in PLOTS]
    for title, header, rows, right in sections(summary):
        if not rows:
            continue
        align = [" class=r" if i in right else "" for i in range(len(header))]
        body.append(f"<h2>{escape(title)}</h2><table><tr>")
        body += [f"<th{a}>{escape(cell)}</th>" for a, cell in zip(align, header, strict=True)]
        for row in rows:
            body.append("</tr><tr>")
            body += [f"<td{a}>{escape(cell)}</td>" for a, cell in zip(align, row, strict=True)]
        body.append("</tr></table>")
    head = "<!doctype html><html lang=en><meta charset=utf-8><title>Ground report</title>"
    return f"{head}{_STYLE}{''.join(body)}</html>\n"


def _plot(reader: ArchiveReader, name: str) -> str:
    """An inline SVG of one parameter over mission time; limits dashed."""
    parameter = PARAMETER_BY_NAME[name]
    series = reader.series(name)
    points = [(t, v) for t, v in zip(*series, strict=True) if math.isfinite(v)]
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return ""
    points = _decimate(points)
    width, height = 860, 120
    low, high = min(v for _, v in points), max(v for _, v in points)
    high = high if high > low else low + 1.0
    start, end = points[0][0], points[-1][0]
    x: Callable[[float], float] = lambda t: 60 + (t - start) / (end - start) * (width - 70)  # noqa: E731
    y: Callable[[float], float] = lambda v: 10 + (high - v) / (high - low) * (height - 30)  # noqa: E731
    line = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)
    limits = parameter.limits
    dashes = "".join(
        f"<line x1=60 x2={width - 10} y1={y(v):.1f} y2={y(v):.1f} class={css} />"
        for css, bounds in (
            ("yellow", (limits.yellow_low, limits.yellow_high) if limits else ()),
            ("red", (limits.red_low, limits.red_high) if limits else ()),
        )
        for v in bounds
        if v is not None and low <= v <= high
    )
    return (
        f"<h2>{html.escape(name)} {html.escape(parameter.unit)}</h2>"
        f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{html.escape(name)}'>"
        f"{dashes}<polyline points='{line}'/>"
        f"<text x=4 y=16>{high:.4g}</text><text x=4 y={height - 20}>{low:.4g}</text>"
        f"<text x=60 y={height - 4}>{start:.0f} s</text>"
        f"<text x={width - 10} y={height - 4} text-anchor=end>{end:.0f} s mission time</text></svg>"
    )


def _decimate(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Smallest and largest of each bucket, so that no peak is lost."""
    size = -(-2 * len(points) // PLOT_POINTS)
    if size <= 2:
        return points
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept


_STYLE: Final = (
    "<style>body{font:14px/1.4 system-ui,sans-serif;margin:2em auto;max-width:1000px;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:2px 10px;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}th{background:#f4f6f8}.r{text-align:right}"
    "h2{margin-top:1.5em;font-size:1.1em}svg{width:100%;height:auto;background:#fafbfc}"
    "polyline{fill:none;stroke:#1565c0;stroke-width:1.2}line{stroke-dasharray:4 3}.yellow{stroke:#e6a100}"
    ".red{stroke:#c62828}text{font-size:11px;fill:#555}</style>"
)
