"""Drawings that follow the page: one style, and marker colours that become CSS variables.

matplotlib writes colours into the SVG. A page has a light and a dark theme, so a drawing is made with marker
colours that appear nowhere else, and each is replaced by the variable of its name, which the page defines.
"""

import re
from collections.abc import Mapping
from typing import Any


def style(ink: Mapping[str, str]) -> dict[Any, Any]:
    """Settings of matplotlib for a drawing in these inks; they have at least text, muted and grid."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "gpusat",
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.edgecolor": ink["grid"],
        "axes.labelcolor": ink["text"],
        "xtick.color": ink["muted"],
        "ytick.color": ink["muted"],
        "text.color": ink["text"],
        "grid.color": ink["grid"],
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def themed(svg: str, ink: Mapping[str, str], label: str) -> str:
    """The drawing itself, without XML prologue and fixed size, its marker colours as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{label}"', svg, count=1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for name, marker in ink.items():
        svg = svg.replace(marker, f"var(--{name})")
    return svg
